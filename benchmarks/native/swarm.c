/*
 * The calls of the swarm and its clock. Everything that Python calls stands here.
 *
 * Call i of n is due i * 20 / n ms into each period, so that packets leave as evenly as those of independent clients;
 * what falls due within one tick leaves together. Between ticks the thread sleeps: what arrives meanwhile carries the
 * kernel's time of arrival, so nothing is lost in accuracy and a wake-up is shared by many packets.
 */
#include "swarm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000u
#define FIRST_SEQUENCE_MASK 0x7FFF /* RFC 3711, 3.3.1: a first number in the upper half may lose the roll-over count */
#define IDLE_NS 2000000u           /* the longest sleep */
#define CATCH_UP 1.25              /* how many times as fast it sends until it has caught up ... */
#define AT_ONCE_NS 2000000u        /* ... and for how long's worth at once */
#define LATE_NS (5 * (double)PERIOD_NS)    /* further behind than this it gives up catching up */

_Static_assert(sizeof(union control) >= CMSG_SPACE(sizeof(struct timespec)), "a timestamp fits a control buffer");
_Static_assert(sizeof(struct swarm_body) <= PAYLOAD_LOW, "the body fits the smallest payload");

uint64_t wall_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void open_sockets(struct swarm *swarm) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    for (int i = 0; i < swarm->sockets; i++) {
        swarm->fds[i] = udp_socket(at, false, false);
        if (setsockopt(swarm->fds[i], SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one)) die("SO_TIMESTAMPNS");
        batch_init(&swarm->out[i], true, false, true);
    }
    batch_init(&swarm->in, true, true, true);
    /* Behind the header a packet then stands as aligned as libsrtp likes it. */
    for (int i = 0; swarm->spp && i < BATCH; i++)
        swarm->in.vectors[i].iov_base = batch_data(&swarm->in, i) - SPP_BYTES;
}

static void *grab(size_t count, size_t bytes) {
    void *memory = calloc(count, bytes);
    if (!memory) die("out of memory");
    return memory;
}

struct swarm *swarm_new(uint32_t capacity, int sockets, bool spp, uint64_t tick_ns,
                        const struct swarm_functions *srtp) {
    struct swarm *swarm = grab(1, sizeof *swarm);
    swarm->capacity = capacity;
    swarm->sockets = sockets < 1 ? 1 : sockets > SOCKETS_MAX ? SOCKETS_MAX : sockets;
    swarm->spp = spp;
    swarm->tick_ns = tick_ns ? tick_ns : 1;
    swarm->srtp = *srtp;
    swarm->run = (uint32_t)mix64(wall_ns());
    swarm->calls = grab(capacity, sizeof *swarm->calls);
    swarm->live = grab(capacity, sizeof *swarm->live);
    swarm->checks = grab(capacity, sizeof *swarm->checks);
    swarm->routes = grab(ROUTES, sizeof *swarm->routes);
    swarm->pending = grab(PENDING, sizeof *swarm->pending);
    memset(swarm->routes, 0xFF, ROUTES * sizeof *swarm->routes);
    open_sockets(swarm);
    prctl(PR_SET_TIMERSLACK, 1);
    return swarm;
}

void swarm_free(struct swarm *swarm) {
    for (int i = 0; i < swarm->sockets; i++) {
        close(swarm->fds[i]);
        free(swarm->out[i].slots);
    }
    free(swarm->in.slots);
    free(swarm->calls);
    free(swarm->live);
    free(swarm->checks);
    free(swarm->routes);
    free(swarm->pending);
    free(swarm);
}

int swarm_socket(const struct swarm *swarm, int index) { return swarm->fds[index]; }
const struct swarm_totals *swarm_totals(const struct swarm *swarm) { return &swarm->totals; }
uint64_t swarm_received(const struct swarm *swarm, uint32_t slot) { return swarm->calls[slot].received; }

/* --- one call --- */

/* -1 if the slot is taken or the route would be ambiguous. */
int swarm_open(struct swarm *swarm, uint32_t slot, const struct swarm_peer *peer) {
    uint32_t route = swarm->spp ? ntohl(peer->client) & (ROUTES - 1) : ntohs(peer->server_port);
    if (slot >= swarm->capacity || swarm->calls[slot].used || swarm->routes[route] >= 0) return -1;
    struct call *call = &swarm->calls[slot];
    *call = (struct call){.used = true, .route = route, .socket = (uint16_t)(peer->socket % swarm->sockets),
                          .serial = ++swarm->serial};
    call->server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = peer->server_port,
                                        .sin_addr.s_addr = peer->server};
    spp_write(call->header, peer->client, peer->client_port, peer->proxy, peer->proxy_port);
    swarm->routes[route] = (int32_t)slot;
    return 0;
}

void swarm_keys(struct swarm *swarm, uint32_t slot, void *tx, void *rx, uint32_t ssrc, int payload_type) {
    struct call *call = &swarm->calls[slot];
    call->tx = tx, call->rx = rx, call->ssrc = ssrc;
    call->sequence = (uint16_t)(mix64(ssrc) & FIRST_SEQUENCE_MASK);
    call->payload_type = (uint8_t)payload_type;
}

/* The variants of the call's check, one after the other. */
int swarm_checks(struct swarm *swarm, uint32_t slot, const uint8_t *checks, uint32_t each) {
    if (each > CHECK_MAX) return -1;
    for (int i = 0; i < CHECK_VARIANTS; i++) memcpy(swarm->checks[slot][i], checks + (size_t)i * each, each);
    swarm->calls[slot].check_bytes = (uint8_t)each;
    return 0;
}

int swarm_send(struct swarm *swarm, uint32_t slot, const uint8_t *data, uint32_t length) {
    int result = queue_bytes(swarm, slot, data, length);
    flush_queues(swarm);
    return result;
}

/* One packet of media now: until the first echo Python asks for each. */
void swarm_media(struct swarm *swarm, uint32_t slot) {
    if (swarm->calls[slot].tx) queue_media(swarm, slot, wall_ns());
    flush_queues(swarm);
}

void swarm_live(struct swarm *swarm, uint32_t slot) {
    struct call *call = &swarm->calls[slot];
    if (call->live) return;
    call->live = true;
    swarm->live[swarm->live_count++] = slot;
}

void swarm_close(struct swarm *swarm, uint32_t slot) {
    struct call *call = &swarm->calls[slot];
    uint32_t at = 0;
    while (at < swarm->live_count && swarm->live[at] != slot) at++;
    if (at < swarm->live_count) swarm->live[at] = swarm->live[--swarm->live_count];
    swarm->routes[call->route] = -1;
    call->used = call->live = false;
    call->tx = call->rx = NULL;
}

/* --- what arrived --- */

void swarm_receive(struct swarm *swarm) {
    for (int i = 0; i < swarm->sockets; i++) {
        int count;
        do {
            count = batch_receive(swarm->fds[i], &swarm->in);
            uint64_t wall = count ? wall_ns() : 0;
            for (int k = 0; k < count; k++) judge(swarm, k, wall);
        } while (count == BATCH);
    }
}

/* The oldest datagram that waits for Python; -1 if there is none. Length 0 is no datagram but the news that the
 * first packet of the call has come back. */
int swarm_take(struct swarm *swarm, uint32_t *slot, uint64_t *arrival, uint8_t *data) {
    if (swarm->pending_tail == swarm->pending_head) return -1;
    const struct pending *entry = &swarm->pending[swarm->pending_tail++ % PENDING];
    *slot = entry->slot;
    *arrival = entry->arrival_ns;
    memcpy(data, entry->data, entry->length);
    return (int)entry->length;
}

/* --- the clock --- */

static uint32_t next_turn(struct swarm *swarm, uint32_t *cursor) {
    if (*cursor >= swarm->live_count) *cursor = 0;
    return swarm->live[(*cursor)++];
}

/* How many of what is sent every `period` by each live call are due; advances `due` by as many. */
static int take_due(struct swarm *swarm, double *due, double period, double now, int most) {
    if (!swarm->live_count) {
        *due = 0;
        return 0;
    }
    double step = period / swarm->live_count;
    int count = 0;
    if (*due == 0 || now - *due > LATE_NS) {
        swarm->totals.stalls += *due != 0;
        *due = now;
    }
    for (; count < most && *due <= now; count++) *due += step;
    return count;
}

/* A swarm that lost its CPU makes up for it little by little: clients that know nothing of each other would not all
 * send what they missed at the same moment, and the server's latency would be that of the swarm's stall. */
static int media_most(struct swarm *swarm, uint64_t now) {
    uint64_t passed = now - swarm->media_at;
    swarm->media_at = now;
    if (!swarm->live_count) return 0;
    double most = 1 + (passed < AT_ONCE_NS ? passed : AT_ONCE_NS) * CATCH_UP * swarm->live_count / PERIOD_NS;
    return most < BATCH ? (int)most : BATCH;
}

static bool send_media(struct swarm *swarm, uint64_t now) {
    double due = swarm->media_due, late = (double)now - due;
    int count = take_due(swarm, &swarm->media_due, PERIOD_NS, (double)now, media_most(swarm, now));
    uint64_t wall = count ? wall_ns() : 0;
    if (due > 0 && count && late > (double)swarm->totals.latest_send_ns) swarm->totals.latest_send_ns = (uint64_t)late;
    for (int i = 0; i < count; i++) queue_media(swarm, next_turn(swarm, &swarm->media_cursor), wall);
    return count == BATCH;
}

/* Consent checks, which keep a call alive at its server, and reports. Also called while Python sets calls up. */
void swarm_tend(struct swarm *swarm) {
    double now = (double)now_ns();
    int checks = take_due(swarm, &swarm->check_due, CHECK_NS, now, BATCH);
    for (int i = 0; i < checks; i++) queue_check(swarm, next_turn(swarm, &swarm->check_cursor));
    if (swarm->srtp.protect_rtcp) {
        int reports = take_due(swarm, &swarm->report_due, REPORT_NS, now, BATCH);
        uint64_t wall = reports ? wall_ns() : 0;
        for (int i = 0; i < reports; i++) queue_report(swarm, next_turn(swarm, &swarm->report_cursor), wall);
    }
    flush_queues(swarm);
}

static void sleep_until(uint64_t when) {
    struct timespec at = {.tv_sec = (time_t)(when / SECOND), .tv_nsec = (long)(when % SECOND)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) continue;
}

/* When something is due, rounded up to a tick; soon in any case, for what arrives. */
static uint64_t next_wake(const struct swarm *swarm, uint64_t now, bool media) {
    uint64_t wake = now + IDLE_NS;
    if (media && swarm->live_count && swarm->media_due < (double)wake) wake = (uint64_t)swarm->media_due + 1;
    if (wake <= now) wake = now + 1;
    uint64_t over = wake % swarm->tick_ns;
    return over ? wake + swarm->tick_ns - over : wake;
}

/* Runs for a while; without `media` only checks, reports and what arrives. The schedule lives on in `swarm`, so runs
 * that follow one another at once make one even load. */
void swarm_run(struct swarm *swarm, uint64_t duration_ns, bool media) {
    uint64_t now = now_ns();
    const uint64_t end = now + duration_ns;
    while (now < end) {
        bool more = media && send_media(swarm, now);
        swarm_tend(swarm);
        swarm_receive(swarm);
        now = now_ns();
        if (more) continue;
        uint64_t wake = next_wake(swarm, now, media);
        sleep_until(wake < end ? wake : end);
        now = now_ns();
    }
}

/* A part of the run begins. */
void swarm_mark(struct swarm *swarm) { memcpy(swarm->latency_marked, swarm->latency, sizeof swarm->latency); }

/* Counts from here; what is still under way is told by its run and counted as stale. */
void swarm_reset(struct swarm *swarm) {
    memset(&swarm->totals, 0, sizeof swarm->totals);
    memset(swarm->latency, 0, sizeof swarm->latency);
    swarm_mark(swarm);
    swarm->run++;
}

/* The schedule begins anew at the next run: a pause is not to be caught up with. */
void swarm_pause(struct swarm *swarm) { swarm->media_due = 0; }

/* Of the whole run, or since the mark. */
double swarm_latency_us(const struct swarm *swarm, double share, bool marked) {
    uint64_t counts[64 * HISTOGRAM_STEPS], total = 0, below = 0;
    const unsigned buckets = sizeof counts / sizeof *counts;
    for (unsigned i = 0; i < buckets; i++) {
        counts[i] = swarm->latency[i] - (marked ? swarm->latency_marked[i] : 0);
        total += counts[i];
    }
    for (unsigned i = 0; i < buckets; i++) {
        below += counts[i];
        if (total && (double)below >= share * (double)total)
            return (double)((uint64_t)(HISTOGRAM_STEPS + i % HISTOGRAM_STEPS) << i / HISTOGRAM_STEPS) / 1e3;
    }
    return 0;
}
