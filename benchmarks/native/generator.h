/*
 * The parts of the generator: what it was asked for, what it knows of each flow, what it
 * counted. generator.c reads options and reports, generator_packets.c builds packets and
 * judges replies, generator_load.c decides when to send.
 */
#ifndef UFRAG_BENCH_GENERATOR_H
#define UFRAG_BENCH_GENERATOR_H

#include "common.h"

enum mode { MEDIA, CHECKS, FORGED, NOISE };

struct options {
    struct sockaddr_in target;
    const char *tokens_file;
    long flows, rate, window, burst, owners, setup_rate, port;
    double seconds, check_interval, setup_limit, live_every;
    int size_low, size_high, cpu;
    enum mode mode;
    bool skip_setup, random_order, live, spp;
    uint32_t source_base;      /* host order */
};

/* The last 64 numbers that came back are remembered, to tell a duplicate from one that is late. */
struct window {
    uint64_t seen;             /* bit n: `highest - n` has come back */
    uint32_t highest;          /* 0 for none */
    uint32_t sent;             /* the last number that left; the first is 1 */
};

struct flow {
    uint64_t last_reply_ns;    /* before the first reply: when its first packet left */
    uint64_t longest_gap_ns;
    struct window media, checks;
};

struct counters {
    uint64_t sent, received, corrupted, misdirected, duplicated, reordered, foreign;
    uint64_t checks_sent, checks_answered, checks_duplicated, send_errors;
    uint64_t rtt_max_ns, longest_gap_ns, latest_send_ns, slowest_ns; /* the last since it was told */
};

/* Packets in flight are counted by the 100 ms in which they left; what has not come back by
 * the end of the following 100 ms no longer holds the window (it may still be counted). */
#define EPOCH_NS 100000000u
struct epoch {
    uint64_t number, sent, back;
};

#define HISTOGRAM_STEPS 64     /* per power of two: 1.6 % resolution */
struct generator {
    struct options options;
    struct counters counters;
    struct flow *flows;
    char (*tokens)[64];
    long token_count, established;
    int fd;
    uint16_t port;             /* own, network order */
    uint32_t run;
    uint64_t start_ns, random;
    struct epoch epochs[4];
    struct batch in, out;
    uint64_t rtt[64 * HISTOGRAM_STEPS];
};

extern struct generator gen;

/* generator_packets.c */
void queue_media(int slot, long flow, uint64_t now);
void queue_check(int slot, long flow, enum mode mode);
void flush_queue(int count);
void record_gap(struct flow *flow, uint64_t now);
int receive_replies(void);
uint64_t next_random(void);
double rtt_percentile_us(double share);

/* generator_load.c */
double set_up_flows(void);
double run_load(void);
void end_load_on_signal(void);
void wait_for_stragglers(void);
void close_gaps(uint64_t end_ns);
double median_gap_ms(void);

#endif
