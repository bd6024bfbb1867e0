/*
 * The client swarm: the ends of many WebRTC calls, seen from the packets' side. A library, loaded by
 * benchmarks/swarm_native.py, which mirrors the structs marked so.
 *
 * Python does what happens once in a call (signaling, STUN messages, DTLS); whatever is not media, a report or an
 * answer to a consent check waits for it in `pending`. swarm.c owns the calls and the clock, swarm_packets.c builds
 * what is sent, swarm_judge.c looks at what arrives. One thread; nothing here is thread-safe.
 */
#ifndef UFRAG_BENCH_SWARM_H
#define UFRAG_BENCH_SWARM_H

#include "common.h"

#define PERIOD_NS 20000000u        /* one packet of 20 ms a call */
#define CHECK_NS 2500000000u       /* consent checks as browsers send them */
#define REPORT_NS 5000000000u      /* an RTCP report */
#define SOCKETS_MAX 8
#define ROUTES (1u << 17)          /* of a client's address in 198.18.0.0/15, or a server port: both fit 17 bits */
#define CHECK_VARIANTS 4           /* prebuilt checks that differ in their transaction ids */
#define CHECK_MAX 192
#define PENDING 2048
#define PENDING_MAX 2048
#define PAYLOAD_LOW 80             /* bytes of an Opus frame, drawn between these */
#define PAYLOAD_HIGH 120
#define HISTOGRAM_STEPS 64         /* per power of two: 1.6 % resolution */

typedef int (*srtp_function)(void *session, void *packet, int *length);

/* Mirrored by Python. Addresses of libsrtp's functions; without the last two no report is sent. */
struct swarm_functions {
    srtp_function protect, unprotect, protect_rtcp, unprotect_rtcp;
};

/* Mirrored by Python; addresses and ports in network order. */
struct swarm_peer {
    uint32_t server, client, proxy;
    uint16_t server_port, client_port, proxy_port;
    uint16_t socket;
};

/* Mirrored by Python. */
struct swarm_totals {
    uint64_t sent, received, duplicated, reordered, corrupted, misdirected, stale, early;
    uint64_t unauthentic, unknown, overrun, send_errors;
    uint64_t checks_sent, checks_answered, checks_refused, reports_sent, reports_received, byes;
    uint64_t latency_max_ns, latest_send_ns, stalls;
};

/* What stands in the payload of a packet; host order, both ends are this program. */
struct swarm_body {
    uint32_t magic, run, slot, number;
    uint64_t send_ns;              /* of the real-time clock, as the kernel's receive timestamps */
    uint32_t size, serial;         /* of the payload; of the call that had this slot */
};
#define SWARM_MAGIC 0x73776172u

struct call {
    void *tx, *rx;                 /* libsrtp sessions, NULL before the handshake */
    struct sockaddr_in server;
    uint8_t header[SPP_BYTES];
    bool used, live;               /* live: media and checks go by the clock of swarm_run */
    uint8_t payload_type, check_bytes;
    uint16_t socket, sequence;
    uint32_t ssrc, timestamp, route, serial;
    uint32_t number, highest, check_number;
    uint64_t seen, received;       /* `seen`: bit n is set if number `highest - n` has come back */
    uint32_t remote_ssrc, remote_sequence, last_report;
    uint64_t last_report_ns;
};

struct pending {
    uint32_t slot, length;
    uint64_t arrival_ns;
    uint8_t data[PENDING_MAX];
};

struct swarm {
    struct swarm_functions srtp;
    struct swarm_totals totals;
    uint32_t capacity, run, live_count, serial;
    uint32_t media_cursor, check_cursor, report_cursor;
    int sockets;
    bool spp;
    double media_due, check_due, report_due;   /* ns of the monotonic clock */
    uint64_t media_at;                         /* when media was last looked after */
    uint64_t tick_ns;
    int fds[SOCKETS_MAX], queued[SOCKETS_MAX];
    struct call *calls;
    uint32_t *live;                            /* slots in the order of their turns */
    uint8_t (*checks)[CHECK_VARIANTS][CHECK_MAX];
    int32_t *routes;
    struct batch in, out[SOCKETS_MAX];
    struct pending *pending;
    uint64_t pending_head, pending_tail;
    uint64_t latency[64 * HISTOGRAM_STEPS];
    uint64_t latency_marked[64 * HISTOGRAM_STEPS];    /* what it was when the present part of the run began */
};

/* swarm.c */
uint64_t wall_ns(void);

/* swarm_packets.c */
uint32_t payload_size(uint32_t slot, uint32_t number);
void queue_media(struct swarm *swarm, uint32_t slot, uint64_t wall);
void queue_check(struct swarm *swarm, uint32_t slot);
void queue_report(struct swarm *swarm, uint32_t slot, uint64_t wall);
int queue_bytes(struct swarm *swarm, uint32_t slot, const uint8_t *data, size_t length);
void flush_queues(struct swarm *swarm);

/* swarm_judge.c */
void judge(struct swarm *swarm, int index, uint64_t wall);

#endif
