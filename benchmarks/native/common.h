/*
 * What the benchmark programs share: sockets opened as the relay opens its own, batches of
 * datagrams, the 38-byte header of the internal leg, clocks, and the bodies of the packets
 * that the generator sends and the echo backend looks into.
 *
 * These programs are IPv4 only, run on Linux, and speak the wire format by their own code on
 * purpose: a second implementation would notice if the relay's changed by accident.
 */
#ifndef UFRAG_BENCH_COMMON_H
#define UFRAG_BENCH_COMMON_H

#define _GNU_SOURCE

#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define BATCH 64          /* datagrams per recvmmsg and sendmmsg, as in the relay */
#define HEADROOM 64       /* bytes kept free before each datagram, for the header */
#define SPP_BYTES 38      /* Simple Proxy Protocol header */
#define SPP_MAGIC 0x56EC
#define SOCKET_BUFFER_BYTES (4 << 20)
/* An odd number of cache lines: with 2,048 the first lines of all datagrams would share two
 * sets of the first-level cache. */
#define SLOT_BYTES (33 * 64)
#define PAYLOAD_MAX 1472
#define WAIT_MS 250       /* bounds a signal that arrives just before a wait */

union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))];
};

/* Up to BATCH datagrams for one system call. `names` and `controls` are used only where the
 * caller asked for them; the buffers belong to the batch that receives. */
struct batch {
    struct mmsghdr messages[BATCH];
    struct iovec vectors[BATCH];
    struct sockaddr_in names[BATCH];
    union control controls[BATCH];
    uint8_t *slots;
    int used;              /* messages whose lengths the last receive has overwritten */
};

/* What stands in the body of a media packet after its 12 bytes of RTP header; all fields in
 * host order, since both ends are on this machine. */
struct body {
    uint32_t magic;
    uint32_t run;
    uint32_t flow;
    uint16_t owner;
    uint16_t size;         /* of the whole payload, RTP header included */
    uint64_t send_ns;
    uint32_t sequence;
    uint32_t filler_check; /* seeds the filler together with flow and sequence */
};
#define BODY_MAGIC 0x75667267u
#define RTP_BYTES 12
#define MEDIA_MIN ((int)(RTP_BYTES + sizeof(struct body)))

extern volatile sig_atomic_t stop_requested;

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);
uint64_t thread_cpu_ns(void);
void pin_cpu(int cpu);
void stop_on_signals(void);
struct sockaddr_in parse_address(const char *text);
long parse_number(const char *text, long low, long high);

int udp_socket(struct sockaddr_in at, bool reuse_port, bool want_pktinfo);
struct sockaddr_in local_address(int fd);
void print_listening(int fd);

void batch_init(struct batch *batch, bool names, bool controls, bool slots);
int batch_receive(int fd, struct batch *batch);
int batch_send(int fd, struct batch *batch, int count, uint64_t *errors);

static inline uint8_t *batch_data(const struct batch *batch, int i) {
    return batch->slots + (size_t)i * SLOT_BYTES + HEADROOM;
}

/* The address the datagram was sent to, or 0 when the kernel did not say. */
static inline uint32_t control_destination(const union control *control, size_t length) {
    struct in_pktinfo info;
    if (length < sizeof control->bytes || control->header.cmsg_type != IP_PKTINFO) return 0;
    memcpy(&info, CMSG_DATA(&control->header), sizeof info);
    return info.ipi_addr.s_addr;
}

/* Only the source address is set; the interface index stays 0 from batch_init, so the route
 * decides. */
static inline void control_source(union control *control, uint32_t address) {
    memcpy(CMSG_DATA(&control->header) + offsetof(struct in_pktinfo, ipi_spec_dst), &address, 4);
}

static inline void spp_write(uint8_t *at, uint32_t client, uint16_t client_port,
                             uint32_t proxy, uint16_t proxy_port) {
    static const uint8_t mapped[14] = {0x56, 0xEC, [12] = 0xFF, [13] = 0xFF};
    memcpy(at, mapped, 14);
    memcpy(at + 14, &client, 4);
    memcpy(at + 18, mapped + 2, 12);
    memcpy(at + 30, &proxy, 4);
    memcpy(at + 34, &client_port, 2);
    memcpy(at + 36, &proxy_port, 2);
}

static inline bool spp_good(const uint8_t *at, size_t length) {
    return length >= SPP_BYTES && at[0] == (SPP_MAGIC >> 8) && at[1] == (SPP_MAGIC & 0xFF);
}

static inline bool stun_is(const uint8_t *packet, size_t length, unsigned type) {
    static const uint8_t cookie[4] = {0x21, 0x12, 0xA4, 0x42};
    return length >= 20 && packet[0] == type >> 8 && packet[1] == (type & 0xFF) &&
           memcmp(packet + 4, cookie, 4) == 0;
}

static inline uint64_t mix64(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

#endif
