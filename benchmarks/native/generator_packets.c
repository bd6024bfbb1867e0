/*
 * What the generator puts on the wire, and what it makes of each reply.
 *
 * A reply is judged by its own bytes and by the address it came to: the body is recomputed
 * from the flow, the sequence number and the send time it names, and the flow it names must be
 * the one that owns that address.
 */
#include "generator.h"

#include <arpa/inet.h>

#define CLIENT_UFRAG ":genr"

static uint32_t flow_address(long flow) { return htonl(gen.options.source_base + (uint32_t)flow); }

uint64_t next_random(void) {
    gen.random ^= gen.random << 13;
    gen.random ^= gen.random >> 7;
    gen.random ^= gen.random << 17;
    return gen.random;
}

/* Addresses and frames the datagram that stands at batch_data(slot). */
static void address_packet(int slot, long flow, int length) {
    uint8_t *at = batch_data(&gen.out, slot);
    if (gen.options.spp) {
        at -= SPP_BYTES;
        length += SPP_BYTES;
        spp_write(at, flow_address(flow), gen.port, gen.options.target.sin_addr.s_addr,
                  gen.options.target.sin_port);
    }
    control_source(&gen.out.controls[slot], flow_address(flow));
    gen.out.vectors[slot] = (struct iovec){.iov_base = at, .iov_len = (size_t)length};
}

static void write_rtp(uint8_t *at, uint32_t flow, uint32_t sequence) {
    uint32_t timestamp = htonl(sequence * 960), ssrc = htonl(flow);
    uint16_t number = htons((uint16_t)sequence);
    at[0] = 0x80;
    at[1] = 111;
    memcpy(at + 2, &number, 2);
    memcpy(at + 4, &timestamp, 4);
    memcpy(at + 8, &ssrc, 4);
}

static uint64_t body_seed(const struct body *body) {
    uint64_t first = (uint64_t)body->flow << 32 | body->sequence;
    uint64_t second = (uint64_t)body->owner << 48 ^ (uint64_t)body->size << 32 ^ body->send_ns;
    return mix64(mix64(first + body->run) ^ second);
}

/* Writes the filler, or compares with it: the two must never drift apart. */
static bool filler(uint8_t *at, const uint8_t *end, uint64_t seed, bool write) {
    while (at < end) {
        size_t bytes = end - at < 8 ? (size_t)(end - at) : 8;
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        if (write)
            memcpy(at, &seed, bytes);
        else if (memcmp(at, &seed, bytes))
            return false;
        at += bytes;
    }
    return true;
}

void queue_media(int slot, long flow, uint64_t now) {
    const struct options *options = &gen.options;
    int spread = options->size_high - options->size_low + 1;
    int size = options->size_low + (spread > 1 ? (int)(next_random() % (unsigned)spread) : 0);
    struct flow *state = &gen.flows[flow];
    struct body body = {
        .magic = BODY_MAGIC, .run = gen.run, .flow = (uint32_t)flow,
        .owner = (uint16_t)(flow % gen.token_count % options->owners),
        .size = (uint16_t)size, .send_ns = now, .sequence = ++state->media.sent};
    uint64_t seed = body_seed(&body);
    uint8_t *at = batch_data(&gen.out, slot);
    body.filler_check = (uint32_t)seed;
    write_rtp(at, body.flow, body.sequence);
    memcpy(at + RTP_BYTES, &body, sizeof body);
    filler(at + MEDIA_MIN, at + size, seed, true);
    if (!state->last_reply_ns) state->last_reply_ns = now;
    address_packet(slot, flow, size);
}

static void write_transaction(uint8_t *at, uint32_t flow, uint32_t number) {
    uint64_t first = mix64((uint64_t)flow << 32 | number), second = mix64(first ^ gen.run);
    memcpy(at, &first, 8);
    memcpy(at + 8, &second, 4);
}

static uint8_t *write_attribute(uint8_t *at, unsigned type, const void *value, size_t length) {
    const uint8_t header[4] = {(uint8_t)(type >> 8), (uint8_t)type, (uint8_t)(length >> 8), (uint8_t)length};
    size_t padded = (length + 3) & ~(size_t)3;
    memset(at + 4, 0, padded);
    memcpy(at, header, 4);
    memcpy(at + 4, value, length);
    return at + 4 + padded;
}

/* A forged token is a good one with one letter changed: right in form, wrong in its tag. */
static size_t write_username(char *at, long flow, bool forged) {
    const char *token = gen.tokens[flow % gen.token_count];
    size_t length = strlen(token);
    memcpy(at, token, length);
    if (forged) at[length / 2] = at[length / 2] == 'A' ? 'B' : 'A';
    memcpy(at + length, CLIENT_UFRAG, sizeof CLIENT_UFRAG);
    return length + sizeof CLIENT_UFRAG - 1;
}

/* A check as a client sends it; its MESSAGE-INTEGRITY is a dummy, since nobody between here
 * and the echo backend can verify one. */
void queue_check(int slot, long flow, enum mode mode) {
    static const uint8_t start[8] = {0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42}, integrity[20];
    uint8_t *at = batch_data(&gen.out, slot), *end = at + 20;
    char username[96];
    size_t length = write_username(username, flow, mode == FORGED);
    memcpy(at, start, sizeof start);
    write_transaction(at + 8, (uint32_t)flow, ++gen.flows[flow].checks.sent);
    end = write_attribute(end, 0x0006, username, length);
    end = write_attribute(end, 0x0008, integrity, sizeof integrity);
    at[2] = (uint8_t)((end - at - 20) >> 8);
    at[3] = (uint8_t)(end - at - 20);
    if (mode == NOISE) at[0] = 0x10;
    address_packet(slot, flow, (int)(end - at));
}

void flush_queue(int count) { batch_send(gen.fd, &gen.out, count, &gen.counters.send_errors); }

static void record_rtt(uint64_t rtt) {
    unsigned power = 63 - (unsigned)__builtin_clzll(rtt | HISTOGRAM_STEPS);
    unsigned shift = power - 6, step = (unsigned)(rtt >> shift) - HISTOGRAM_STEPS;
    gen.rtt[(power - 6) * HISTOGRAM_STEPS + step]++;
    if (rtt > gen.counters.rtt_max_ns) gen.counters.rtt_max_ns = rtt;
    if (rtt > gen.counters.slowest_ns) gen.counters.slowest_ns = rtt;
}

double rtt_percentile_us(double share) {
    uint64_t total = 0, below = 0;
    const unsigned buckets = sizeof gen.rtt / sizeof *gen.rtt;
    for (unsigned i = 0; i < buckets; i++) total += gen.rtt[i];
    for (unsigned i = 0; i < buckets; i++) {
        below += gen.rtt[i];
        if (total && (double)below >= share * (double)total) {
            uint64_t base = (uint64_t)(HISTOGRAM_STEPS + i % HISTOGRAM_STEPS) << i / HISTOGRAM_STEPS;
            return (double)base / 1e3;
        }
    }
    return 0;
}

enum coming { DUPLICATE, IN_ORDER, LATE };

static enum coming record(struct window *window, uint32_t number) {
    if (number > window->highest) {
        uint32_t ahead = number - window->highest;
        window->seen = ahead < 64 ? window->seen << ahead | 1 : 1;
        window->highest = number;
        return IN_ORDER;
    }
    uint32_t behind = window->highest - number;
    if (behind < 64 && window->seen >> behind & 1) return DUPLICATE;
    if (behind < 64) window->seen |= (uint64_t)1 << behind;
    return LATE;
}

void record_gap(struct flow *flow, uint64_t now) {
    uint64_t gap = now - flow->last_reply_ns;
    if (gap > flow->longest_gap_ns) flow->longest_gap_ns = gap;
    if (gap > gen.counters.longest_gap_ns) gen.counters.longest_gap_ns = gap;
}

static void accept_media(struct flow *flow, const struct body *body, uint64_t now) {
    struct counters *counters = &gen.counters;
    struct epoch *epoch = &gen.epochs[(body->send_ns - gen.start_ns) / EPOCH_NS % 4];
    enum coming coming = record(&flow->media, body->sequence);
    if (coming == DUPLICATE) {
        counters->duplicated++;
        return;
    }
    counters->reordered += coming == LATE;
    counters->received++;
    if (epoch->number == (body->send_ns - gen.start_ns) / EPOCH_NS) epoch->back++;
    record_gap(flow, now);
    flow->last_reply_ns = now;
    record_rtt(now - body->send_ns);
}

static bool media_intact(uint8_t *at, size_t length, const struct body *body) {
    uint8_t rtp[RTP_BYTES];
    uint64_t seed = body_seed(body);
    write_rtp(rtp, body->flow, body->sequence);
    return body->magic == BODY_MAGIC && body->size == length && body->filler_check == (uint32_t)seed &&
           memcmp(at, rtp, RTP_BYTES) == 0 && filler(at + MEDIA_MIN, at + length, seed, false);
}

static void judge_media(uint8_t *at, size_t length, uint32_t flow, uint64_t now) {
    struct body body = {0};
    if (length >= (size_t)MEDIA_MIN) memcpy(&body, at + RTP_BYTES, sizeof body);
    if (!media_intact(at, length, &body))
        gen.counters.corrupted++;
    else if (body.run != gen.run)
        gen.counters.foreign++;
    else if (body.flow != flow || body.sequence > gen.flows[flow].media.sent)
        gen.counters.misdirected++;
    else
        accept_media(&gen.flows[flow], &body, now);
}

/* An answer is this flow's if its transaction is that of one of the flow's last two checks. */
static void judge_answer(const uint8_t *at, uint32_t index) {
    struct flow *flow = &gen.flows[index];
    uint8_t transaction[12];
    for (uint32_t back = 0; back < 2 && back < flow->checks.sent; back++) {
        uint32_t number = flow->checks.sent - back;
        write_transaction(transaction, index, number);
        if (memcmp(at + 8, transaction, sizeof transaction)) continue;
        gen.established += flow->checks.highest == 0;
        if (record(&flow->checks, number) == DUPLICATE) {
            gen.counters.checks_duplicated++;
        } else {
            gen.counters.checks_answered++;
            gen.counters.received += gen.options.mode != MEDIA;
        }
        return;
    }
    gen.counters.foreign++;
}

static bool strip_header(uint8_t **at, size_t *length, uint32_t flow) {
    uint8_t expected[SPP_BYTES];
    if (!gen.options.spp) return true;
    spp_write(expected, flow_address(flow), gen.port, gen.options.target.sin_addr.s_addr,
              gen.options.target.sin_port);
    if (*length < SPP_BYTES || memcmp(*at, expected, SPP_BYTES)) return false;
    *at += SPP_BYTES;
    *length -= SPP_BYTES;
    return true;
}

static void judge(int slot, uint64_t now) {
    uint8_t *at = batch_data(&gen.in, slot);
    size_t length = gen.in.messages[slot].msg_len;
    uint32_t to = control_destination(&gen.in.controls[slot], gen.in.messages[slot].msg_hdr.msg_controllen);
    uint32_t flow = ntohl(to) - gen.options.source_base;
    if (flow >= (uint32_t)gen.options.flows)
        gen.counters.misdirected++;
    else if (!strip_header(&at, &length, flow))
        gen.counters.corrupted++;
    else if (stun_is(at, length, 0x0101))
        judge_answer(at, flow);
    else if (gen.options.mode == MEDIA)
        judge_media(at, length, flow, now);
    else
        gen.counters.received++;
}

int receive_replies(void) {
    int count = batch_receive(gen.fd, &gen.in);
    uint64_t now = count ? now_ns() : 0;
    for (int i = 0; i < count; i++) judge(i, now);
    return count;
}
