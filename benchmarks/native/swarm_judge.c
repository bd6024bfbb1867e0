/*
 * What the swarm makes of each datagram: whose it is, what it is, and whether it is what that call is owed.
 *
 * A packet of media is right if it authenticates, names the call it arrived for, and has the size it was sent with.
 * Everything that needs Python (STUN requests, answers to checks that Python sent, DTLS) goes to `pending`.
 */
#include "swarm.h"

#include <arpa/inet.h>
#include <time.h>

#define REPORT_TYPES_LOW 64        /* RFC 5761, 4: RTCP is told from RTP by its packet type without the top bit */
#define REPORT_TYPES_HIGH 95

static uint32_t get32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return ntohl(value);
}

static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static void put_pending(struct swarm *swarm, uint32_t slot, const uint8_t *at, size_t length, uint64_t arrival) {
    if (swarm->pending_head - swarm->pending_tail == PENDING || length > PENDING_MAX) {
        swarm->totals.overrun++;
        return;
    }
    struct pending *entry = &swarm->pending[swarm->pending_head++ % PENDING];
    *entry = (struct pending){.slot = slot, .length = (uint32_t)length, .arrival_ns = arrival};
    if (length) memcpy(entry->data, at, length);
}

static void record_latency(struct swarm *swarm, uint64_t value) {
    unsigned power = 63 - (unsigned)__builtin_clzll(value | HISTOGRAM_STEPS);
    unsigned shift = power - 6, step = (unsigned)(value >> shift) - HISTOGRAM_STEPS;
    if (value < HISTOGRAM_STEPS) step = 0;
    swarm->latency[(power - 6) * HISTOGRAM_STEPS + step]++;
    if (value > swarm->totals.latency_max_ns) swarm->totals.latency_max_ns = value;
}

/* False for a duplicate. */
static bool record_number(struct swarm *swarm, struct call *call, uint32_t number) {
    if (number > call->highest) {
        uint32_t ahead = number - call->highest;
        call->seen = ahead < 64 ? call->seen << ahead | 1 : 1;
        call->highest = number;
        return true;
    }
    uint32_t behind = call->highest - number;
    if (behind < 64 && call->seen >> behind & 1) return false;
    if (behind < 64) call->seen |= (uint64_t)1 << behind;
    swarm->totals.reordered++;
    return true;
}

/* Where the payload begins, or 0: CSRCs and a header extension stand before it (RFC 3550, 5.1 and 5.3.1). */
static size_t payload_at(const uint8_t *at, size_t length) {
    size_t start = RTP_BYTES + 4u * (at[0] & 15);
    if (length < start + 4) return 0;
    if (at[0] & 0x10) start += 4 + 4u * get16(at + start + 2);
    return start <= length ? start : 0;
}

static void accept_media(struct swarm *swarm, uint32_t slot, const struct swarm_body *body, uint64_t arrival) {
    struct call *call = &swarm->calls[slot];
    struct swarm_totals *totals = &swarm->totals;
    if (!record_number(swarm, call, body->number)) {
        totals->duplicated++;
        return;
    }
    if (call->received++ == 0) put_pending(swarm, slot, NULL, 0, arrival);
    if (body->run != swarm->run) {
        totals->stale++;
        return;
    }
    totals->received++;
    record_latency(swarm, arrival > body->send_ns ? arrival - body->send_ns : 0);
}

static void judge_media(struct swarm *swarm, uint32_t slot, uint8_t *at, size_t bytes, uint64_t arrival) {
    struct call *call = &swarm->calls[slot];
    struct swarm_body body;
    int length = (int)bytes;
    if (!call->rx) {
        swarm->totals.early++;
        return;
    }
    if (bytes < RTP_BYTES || swarm->srtp.unprotect(call->rx, at, &length)) {
        swarm->totals.unauthentic++;
        return;
    }
    size_t start = payload_at(at, (size_t)length), size = (size_t)length - start;
    call->remote_ssrc = get32(at + 8);
    call->remote_sequence = get16(at + 2);
    if (!start || size < sizeof body || size > PAYLOAD_HIGH) {
        swarm->totals.corrupted++;
        return;
    }
    memcpy(&body, at + start, sizeof body);
    if (body.magic != SWARM_MAGIC || body.size != size || size != payload_size(body.slot, body.number))
        swarm->totals.corrupted++;
    else if (body.slot != slot || body.serial != call->serial || body.number > call->number)
        swarm->totals.misdirected++;
    else
        accept_media(swarm, slot, &body, arrival);
}

/* Remembers the middle of a sender report's NTP time, for the answer; counts goodbyes. */
static void read_report(struct swarm *swarm, struct call *call, const uint8_t *at, size_t length, uint64_t arrival) {
    for (size_t bytes; length >= 8; at += bytes, length -= bytes) {
        bytes = 4u * (get16(at + 2) + 1u);
        if (bytes > length) return;
        if (at[1] == 203) swarm->totals.byes++;
        if (at[1] != 200 || bytes < 28) continue;
        call->last_report = get32(at + 10);
        call->last_report_ns = arrival;
    }
}

static void judge_report(struct swarm *swarm, uint32_t slot, uint8_t *at, size_t bytes, uint64_t arrival) {
    struct call *call = &swarm->calls[slot];
    int length = (int)bytes;
    if (!call->rx || !swarm->srtp.unprotect_rtcp) {
        swarm->totals.early++;
    } else if (swarm->srtp.unprotect_rtcp(call->rx, at, &length)) {
        swarm->totals.unauthentic++;
    } else {
        swarm->totals.reports_received++;
        read_report(swarm, call, at, (size_t)length, arrival);
    }
}

/* The transaction of one of the last two checks: an older one would say nothing about the present. */
static bool is_own_check(const struct swarm *swarm, uint32_t slot, const uint8_t *transaction) {
    const struct call *call = &swarm->calls[slot];
    for (uint32_t back = 1; back <= 2 && back <= call->check_number; back++) {
        const uint8_t *check = swarm->checks[slot][(call->check_number - back) % CHECK_VARIANTS];
        if (!memcmp(check + 8, transaction, 12)) return true;
    }
    return false;
}

static void judge_stun(struct swarm *swarm, uint32_t slot, const uint8_t *at, size_t length, uint64_t arrival) {
    bool own = length >= 20 && is_own_check(swarm, slot, at + 8);
    if (own && stun_is(at, length, 0x0101))
        swarm->totals.checks_answered++;
    else if (own && stun_is(at, length, 0x0111))
        swarm->totals.checks_refused++;
    else
        put_pending(swarm, slot, at, length, arrival);
}

/* Strips the internal leg's header. The slot is found by the part of the address that a call owns, then compared. */
static struct call *find_call(struct swarm *swarm, int index, uint8_t **at, size_t *length, uint32_t *slot) {
    uint32_t route = ntohs(swarm->in.names[index].sin_port);
    if (swarm->spp) {
        if (!spp_good(*at, *length)) return NULL;
        route = get32(*at + 14) & (ROUTES - 1);
    }
    if (swarm->routes[route] < 0) return NULL;
    *slot = (uint32_t)swarm->routes[route];
    struct call *call = &swarm->calls[*slot];
    if (swarm->spp) {
        if (memcmp(*at, call->header, SPP_BYTES)) return NULL;
        *at += SPP_BYTES, *length -= SPP_BYTES;
    }
    return call;
}

/* The kernel's time of arrival: latency then does not contain how late this program looked. */
static uint64_t arrival_ns(struct swarm *swarm, int index, uint64_t wall) {
    const struct cmsghdr *header = CMSG_FIRSTHDR(&swarm->in.messages[index].msg_hdr);
    struct timespec stamp;
    if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SO_TIMESTAMPNS) return wall;
    memcpy(&stamp, CMSG_DATA(header), sizeof stamp);
    return (uint64_t)stamp.tv_sec * 1000000000u + (uint64_t)stamp.tv_nsec;
}

void judge(struct swarm *swarm, int index, uint64_t wall) {
    uint8_t *at = swarm->in.vectors[index].iov_base;
    size_t length = swarm->in.messages[index].msg_len;
    uint64_t arrival = arrival_ns(swarm, index, wall);
    uint32_t slot;
    if (!find_call(swarm, index, &at, &length, &slot) || !length) {
        swarm->totals.unknown++;
    } else if (at[0] < 4) {
        judge_stun(swarm, slot, at, length, arrival);
    } else if (at[0] < 64) {
        put_pending(swarm, slot, at, length, arrival);
    } else if (at[0] >> 6 == 2 && length >= 8) {
        unsigned type = at[1] & 0x7F;
        bool report = type >= REPORT_TYPES_LOW && type <= REPORT_TYPES_HIGH;
        (report ? judge_report : judge_media)(swarm, slot, at, length, arrival);
    } else {
        swarm->totals.unknown++;
    }
}
