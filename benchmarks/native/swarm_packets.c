/*
 * What the swarm puts on the wire: media, consent checks, reports, and what Python hands over.
 *
 * A packet is built and protected in the slot of the batch it leaves in; the internal leg's header goes before it.
 */
#include "swarm.h"

#include <arpa/inet.h>

#define NTP_EPOCH_S 2208988800u    /* 1900 to 1970 */
#define RATE_HZ 48000u
#define FRAME 960u                 /* 20 ms at 48 kHz */
#define REPORT_BYTES 68            /* sender report with one block (52) and SDES (16) */

static void put16(uint8_t *at, uint16_t value) {
    value = htons(value);
    memcpy(at, &value, sizeof value);
}

static void put32(uint8_t *at, uint32_t value) {
    value = htonl(value);
    memcpy(at, &value, sizeof value);
}

/* Real Opus frames differ in size, which is what defeats segmentation offload; reckoned, so that the judge knows. */
uint32_t payload_size(uint32_t slot, uint32_t number) {
    return PAYLOAD_LOW + (uint32_t)(mix64((uint64_t)slot << 32 | number) % (PAYLOAD_HIGH - PAYLOAD_LOW + 1));
}

static uint8_t *next_slot(struct swarm *swarm, const struct call *call) {
    if (swarm->queued[call->socket] == BATCH) flush_queues(swarm);
    return batch_data(&swarm->out[call->socket], swarm->queued[call->socket]);
}

/* Addresses the datagram that stands at next_slot(). */
static void enqueue(struct swarm *swarm, struct call *call, uint8_t *at, size_t length) {
    struct batch *out = &swarm->out[call->socket];
    int index = swarm->queued[call->socket]++;
    if (swarm->spp) {
        at -= SPP_BYTES, length += SPP_BYTES;
        memcpy(at, call->header, SPP_BYTES);
    }
    out->vectors[index] = (struct iovec){.iov_base = at, .iov_len = length};
    out->messages[index].msg_hdr.msg_name = &call->server;
    out->messages[index].msg_hdr.msg_namelen = sizeof call->server;
}

void flush_queues(struct swarm *swarm) {
    for (int i = 0; i < swarm->sockets; i++) {
        if (swarm->queued[i]) batch_send(swarm->fds[i], &swarm->out[i], swarm->queued[i], &swarm->totals.send_errors);
        swarm->queued[i] = 0;
    }
}

static void write_rtp(uint8_t *at, const struct call *call) {
    at[0] = 0x80;
    at[1] = call->payload_type;
    put16(at + 2, call->sequence);
    put32(at + 4, call->timestamp);
    put32(at + 8, call->ssrc);
}

void queue_media(struct swarm *swarm, uint32_t slot, uint64_t wall) {
    struct call *call = &swarm->calls[slot];
    uint32_t number = ++call->number, size = payload_size(slot, number);
    struct swarm_body body = {.magic = SWARM_MAGIC, .run = swarm->run, .slot = slot, .number = number,
                              .send_ns = wall, .size = size, .serial = call->serial};
    uint8_t *at = next_slot(swarm, call);
    int length = (int)(RTP_BYTES + size);
    write_rtp(at, call);
    memcpy(at + RTP_BYTES, &body, sizeof body);
    memset(at + RTP_BYTES + sizeof body, (uint8_t)number, size - sizeof body);
    call->sequence++;
    call->timestamp += FRAME;
    swarm->totals.sent++;
    if (swarm->srtp.protect(call->tx, at, &length))
        swarm->totals.send_errors++;
    else
        enqueue(swarm, call, at, (size_t)length);
}

/* The integrity of a check does not depend on when it is sent, so Python has built a few ahead. */
void queue_check(struct swarm *swarm, uint32_t slot) {
    struct call *call = &swarm->calls[slot];
    uint8_t *at = next_slot(swarm, call);
    if (!call->check_bytes) return;
    memcpy(at, swarm->checks[slot][call->check_number++ % CHECK_VARIANTS], call->check_bytes);
    enqueue(swarm, call, at, call->check_bytes);
    swarm->totals.checks_sent++;
}

static void write_ntp(uint8_t *at, uint64_t wall) {
    put32(at, (uint32_t)(wall / 1000000000u) + NTP_EPOCH_S);
    put32(at + 4, (uint32_t)((wall % 1000000000u << 32) / 1000000000u));
}

/* The block says that nothing was lost: it is there to be parsed and answered, not to steer anybody. */
static void write_block(uint8_t *at, const struct call *call, uint64_t wall) {
    put32(at, call->remote_ssrc);
    put32(at + 4, 0);
    put32(at + 8, call->remote_sequence);
    put32(at + 12, 0);
    put32(at + 16, call->last_report);
    put32(at + 20, call->last_report ? (uint32_t)(((wall - call->last_report_ns) << 16) / 1000000000u) : 0);
}

void queue_report(struct swarm *swarm, uint32_t slot, uint64_t wall) {
    static const uint8_t cname[8] = {1, 4, 's', 'w', 'r', 'm'};
    struct call *call = &swarm->calls[slot];
    uint8_t *at = next_slot(swarm, call);
    int length = REPORT_BYTES;
    at[0] = 0x81, at[1] = 200;
    put16(at + 2, 12);
    put32(at + 4, call->ssrc);
    write_ntp(at + 8, wall);
    put32(at + 16, call->timestamp);
    put32(at + 20, call->number);
    put32(at + 24, call->number * ((PAYLOAD_LOW + PAYLOAD_HIGH) / 2));
    write_block(at + 28, call, wall);
    at[52] = 0x81, at[53] = 202;
    put16(at + 54, 3);
    put32(at + 56, call->ssrc);
    memcpy(at + 60, cname, sizeof cname);
    if (swarm->srtp.protect_rtcp(call->tx, at, &length)) {
        swarm->totals.send_errors++;
        return;
    }
    enqueue(swarm, call, at, (size_t)length);
    swarm->totals.reports_sent++;
}

int queue_bytes(struct swarm *swarm, uint32_t slot, const uint8_t *data, size_t length) {
    struct call *call = &swarm->calls[slot];
    if (!call->used || length > PAYLOAD_MAX) return -1;
    uint8_t *at = next_slot(swarm, call);
    memcpy(at, data, length);
    enqueue(swarm, call, at, length);
    return 0;
}
