/*
 * When the generator sends: the set-up of the flows, then the load at a rate or by a window.
 *
 * At a rate it is an open loop: packet n is due at start + n / rate whatever comes back; what
 * it could not send in time is sent late, and how late is reported. Saturating it is a closed
 * loop: a fixed number of packets in flight.
 */
#include "generator.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#define SECOND 1000000000u
#define SETUP_BURST 32
#define SETUP_RETRY_NS (SECOND / 4)
#define RECEIVES_PER_TURN 4     /* batches read before it is the sender's turn again */
#define STRAGGLERS_NS SECOND

static long cursor;             /* the flow whose turn it is */
static long check_cursor;       /* the same for the checks during the run */
static double checks_begun;     /* how many of those were sent */
static volatile sig_atomic_t enough;

static void on_enough(int number) {
    (void)number;
    enough = 1;
}

/* SIGUSR1 ends the load before its time, not the program: what is under way is awaited. */
void end_load_on_signal(void) { sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_enough}, NULL); }

static void wait_until(uint64_t when, uint64_t now) {
    struct pollfd waiting = {.fd = gen.fd, .events = POLLIN};
    uint64_t left = when > now ? when - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left / SECOND), .tv_nsec = (long)(left % SECOND)};
    ppoll(&waiting, 1, &timeout, NULL);
}

static void receive_turn(void) {
    for (int i = 0; i < RECEIVES_PER_TURN && receive_replies() == BATCH; i++) continue;
}

/* One burst of checks for flows from `cursor` on that have no answer yet. */
static void send_setup_burst(void) {
    int count = 0;
    for (; cursor < gen.options.flows && count < SETUP_BURST; cursor++)
        if (!gen.flows[cursor].checks.highest) queue_check(count++, cursor, MEDIA);
    if (count) flush_queue(count);
    gen.counters.checks_sent += (uint64_t)count;
}

/* Passes over the flows, paced, until each has had an answer. Returns the seconds it took. */
double set_up_flows(void) {
    const uint64_t start = now_ns(), step = (uint64_t)SETUP_BURST * SECOND / (uint64_t)gen.options.setup_rate;
    const uint64_t limit =
        (uint64_t)(gen.options.setup_limit * 1e9) + 3 * step * (uint64_t)gen.options.flows / SETUP_BURST;
    uint64_t next = start, now = start;
    while (gen.established < gen.options.flows && !stop_requested) {
        if (now - start > limit)
            die("set-up: %ld of %ld flows had no answer to a check after %.1f s",
                gen.options.flows - gen.established, gen.options.flows, (double)(now - start) / 1e9);
        if (now >= next) {
            if (cursor == gen.options.flows) cursor = 0;
            send_setup_burst();
            next = now + (cursor < gen.options.flows ? step : SETUP_RETRY_NS);
        }
        wait_until(next, now);
        receive_turn();
        now = now_ns();
    }
    cursor = 0;
    return (double)(now_ns() - start) / 1e9;
}

static struct epoch *epoch_at(uint64_t now) {
    uint64_t number = (now - gen.start_ns) / EPOCH_NS;
    struct epoch *epoch = &gen.epochs[number % 4];
    if (epoch->number != number) *epoch = (struct epoch){.number = number};
    return epoch;
}

static long in_flight(uint64_t now) {
    const struct epoch *current = epoch_at(now), *before = &gen.epochs[(current->number + 3) % 4];
    long flying = (long)(current->sent - current->back);
    if (current->number && before->number == current->number - 1) flying += (long)(before->sent - before->back);
    return flying;
}

static long next_flow(void) {
    if (gen.options.random_order) return (long)(next_random() % (uint64_t)gen.options.flows);
    long flow = cursor;
    cursor = cursor + 1 == gen.options.flows ? 0 : cursor + 1;
    return flow;
}

static void send_burst(int count) {
    uint64_t now = now_ns();
    for (int i = 0; i < count; i++) {
        if (gen.options.mode == MEDIA)
            queue_media(i, next_flow(), now);
        else
            queue_check(i, next_flow(), gen.options.mode);
    }
    flush_queue(count);
    epoch_at(now)->sent += (uint64_t)count;
    gen.counters.sent += (uint64_t)count;
}

/* A fresh check per flow every interval, as browsers send them, spread evenly over it. */
static void send_due_checks(uint64_t now) {
    if (gen.options.mode != MEDIA || gen.options.check_interval <= 0) return;
    double due = (double)(now - gen.start_ns) / 1e9 * (double)gen.options.flows / gen.options.check_interval;
    int count = 0;
    for (; count < SETUP_BURST && checks_begun + 1 <= due; checks_begun++) {
        queue_check(count++, check_cursor, MEDIA);
        check_cursor = check_cursor + 1 == gen.options.flows ? 0 : check_cursor + 1;
    }
    if (count) flush_queue(count);
    gen.counters.checks_sent += (uint64_t)count;
}

/* How many packets may leave now; and when to look again if none. */
static int allowance(uint64_t now, uint64_t *look_again) {
    const struct options *options = &gen.options;
    if (options->rate) {
        double interval = 1e9 / (double)options->rate;
        uint64_t due = gen.start_ns + (uint64_t)((double)(gen.counters.sent + (uint64_t)options->burst) * interval);
        *look_again = due;
        if (now < due) return 0;
        if (now - due > gen.counters.latest_send_ns) gen.counters.latest_send_ns = now - due;
        return (int)options->burst;
    }
    *look_again = now + EPOCH_NS / 4;
    if (options->mode != MEDIA) return BATCH;
    long free = options->window - in_flight(now);
    if (free < options->burst) return 0;
    return free < BATCH ? (int)free : BATCH;
}

static void report_live(uint64_t now) {
    static struct counters before;
    static uint64_t next;
    struct counters *counters = &gen.counters;
    const uint64_t every = (uint64_t)(gen.options.live_every * SECOND);
    if (!next) next = gen.start_ns + every;
    if (!gen.options.live || now < next) return;
    printf("{\"live\": true, \"clock_ns\": %lu, \"t_s\": %.3f, \"sent\": %lu, \"received\": %lu, \"checks_sent\": %lu, "
           "\"checks_answered\": %lu, \"corrupted\": %lu, \"misdirected\": %lu, \"longest_gap_ms\": %.1f, "
           "\"slowest_ms\": %.2f}\n",
           now, (double)(now - gen.start_ns) / 1e9, counters->sent - before.sent, counters->received - before.received,
           counters->checks_sent - before.checks_sent, counters->checks_answered - before.checks_answered,
           counters->corrupted, counters->misdirected, (double)counters->longest_gap_ns / 1e6,
           (double)counters->slowest_ns / 1e6);
    fflush(stdout);
    counters->slowest_ns = 0;
    before = *counters;
    next += every;
}

/* Returns the seconds it sent for. */
double run_load(void) {
    uint64_t now = gen.start_ns = now_ns(), look_again;
    const uint64_t end = now + (uint64_t)(gen.options.seconds * 1e9);
    while (now < end && !stop_requested && !enough) {
        receive_turn();
        now = now_ns();
        int count = allowance(now, &look_again);
        if (count) send_burst(count);
        send_due_checks(now);
        report_live(now);
        if (!count) wait_until(look_again < end ? look_again : end, now);
    }
    return (double)(now - gen.start_ns) / 1e9;
}

void wait_for_stragglers(void) {
    if (gen.options.mode == FORGED || gen.options.mode == NOISE) return;
    const uint64_t end = now_ns() + STRAGGLERS_NS;
    for (uint64_t now = now_ns(); now < end && !stop_requested; now = now_ns()) {
        receive_turn();
        if (gen.counters.received >= gen.counters.sent &&
            gen.counters.checks_answered >= gen.counters.checks_sent) return;
        wait_until(end, now);
    }
}

/* A flow that went silent and stayed silent has a gap too: up to the end of the sending. */
void close_gaps(uint64_t end_ns) {
    for (long i = 0; i < gen.options.flows; i++) {
        struct flow *flow = &gen.flows[i];
        if (flow->media.sent && flow->last_reply_ns < end_ns) record_gap(flow, end_ns);
    }
}

static int by_gap(const void *one, const void *other) {
    uint64_t a = ((const struct flow *)one)->longest_gap_ns, b = ((const struct flow *)other)->longest_gap_ns;
    return (a > b) - (a < b);
}

/* Of each flow's longest. The last word: afterwards the flows are in another order. */
double median_gap_ms(void) {
    qsort(gen.flows, (size_t)gen.options.flows, sizeof *gen.flows, by_gap);
    return (double)gen.flows[gen.options.flows / 2].longest_gap_ns / 1e6;
}
