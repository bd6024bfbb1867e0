/*
 * The floor: what the system calls alone cost that forwarding a packet on sockets needs.
 *
 * Measured is the thread CPU time of recvmmsg(64) and sendmmsg(64) as the bare forwarder makes
 * them, in alternation up (160 bytes in with name and PKTINFO, 198 out to one address) and
 * down (198 bytes in with name, 160 out to many addresses with the source set by PKTINFO). A
 * second thread on another CPU plays clients and backend meanwhile, because a forwarder under
 * load never works alone: its packets were written by another CPU, the queues it reads are
 * being appended to, and where two CPUs are threads of one core each slows the other. With
 * --alone one thread does all in turn: the same calls with warm caches and nobody else.
 *
 * Included: the calls, and on loopback the receiver's softirq, which the sender of a packet
 * pays (so a part of this floor is the receivers' and would not exist on a network card, whose
 * driver has costs of its own). Not included: waiting (epoll_wait), batches that are not full,
 * the internal header and re-arming the messages, and reading the clock, which is subtracted.
 */
#include "common.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define CLIENTS 10000
#define SOURCE_BASE 0x7F100000u   /* 127.16.0.0 */
#define PAYLOAD 160
#define AHEAD (8 * BATCH)         /* datagrams the other side keeps waiting for us */
#define ROUNDS_MAX (1 << 20)

static struct {
    int public_fd, internal_fd, clients_fd, backend_fd;
    struct sockaddr_in public_address, internal_address, backend_address, clients_address;
    struct batch in, up_out, down_out;               /* the forwarder's */
    struct batch from_clients, from_backend, drain;  /* the other side's */
    atomic_ulong fed_up, taken_up, fed_down, taken_down;
    atomic_bool done;
    uint64_t errors, clock_ns, rounds, full;
    int other_cpu;
    float *samples;
} bench;

/* ---- the other side: clients and backend ---- */

static void feed_up(void) {
    static uint32_t client;
    if (atomic_load(&bench.fed_up) - atomic_load(&bench.taken_up) > AHEAD - BATCH) return;
    for (uint32_t i = 0; i < BATCH; i++)
        control_source(&bench.from_clients.controls[i], htonl(SOURCE_BASE + (client + i) % CLIENTS));
    client = (client + BATCH) % CLIENTS;
    batch_send(bench.clients_fd, &bench.from_clients, BATCH, &bench.errors);
    atomic_fetch_add(&bench.fed_up, BATCH);
}

static void feed_down(void) {
    if (atomic_load(&bench.fed_down) - atomic_load(&bench.taken_down) > AHEAD - BATCH) return;
    batch_send(bench.backend_fd, &bench.from_backend, BATCH, &bench.errors);
    atomic_fetch_add(&bench.fed_down, BATCH);
}

static void play_other_side(void) {
    feed_up();
    feed_down();
    while (batch_receive(bench.clients_fd, &bench.drain) == BATCH) continue;
    while (batch_receive(bench.backend_fd, &bench.drain) == BATCH) continue;
}

static void *other_thread(void *unused) {
    pin_cpu(bench.other_cpu);
    while (!atomic_load(&bench.done)) play_other_side();
    return unused;
}

/* ---- the forwarder's calls ---- */

static void await_full_batch(atomic_ulong *fed, const atomic_ulong *taken, bool alone) {
    while (atomic_load(fed) - atomic_load(taken) < BATCH && !stop_requested)
        if (alone) play_other_side();
}

/* The measured pair of calls. What must be done to the messages between them is done outside. */
static void measure(int from, int to, struct batch *out, atomic_ulong *taken) {
    uint64_t start = thread_cpu_ns();
    int count = batch_receive(from, &bench.in);
    uint64_t spent = thread_cpu_ns() - start;
    for (int i = 0; i < BATCH; i++) {
        if (out->messages[i].msg_hdr.msg_control == NULL) continue;
        control_source(&out->controls[i], htonl(INADDR_LOOPBACK));
        out->names[i].sin_addr.s_addr = htonl(SOURCE_BASE + (uint32_t)((bench.rounds * BATCH + (unsigned)i) % CLIENTS));
        out->names[i].sin_port = bench.clients_address.sin_port;
    }
    start = thread_cpu_ns();
    batch_send(to, out, BATCH, &bench.errors);
    spent += thread_cpu_ns() - start;
    atomic_fetch_add(taken, (unsigned long)count);
    bench.rounds++;
    if (count == BATCH && bench.full < ROUNDS_MAX)
        bench.samples[bench.full++] = (float)(spent - 2 * bench.clock_ns) / BATCH;
}

static void calibrate_clock(void) {
    uint64_t start = thread_cpu_ns();
    for (int i = 0; i < 10000; i++) thread_cpu_ns();
    bench.clock_ns = (thread_cpu_ns() - start) / 10000;
}

static void run(double seconds, bool alone) {
    const uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    while (now_ns() < end && !stop_requested) {
        await_full_batch(&bench.fed_up, &bench.taken_up, alone);
        measure(bench.public_fd, bench.internal_fd, &bench.up_out, &bench.taken_up);
        await_full_batch(&bench.fed_down, &bench.taken_down, alone);
        measure(bench.internal_fd, bench.public_fd, &bench.down_out, &bench.taken_down);
    }
}

/* ---- preparation and report ---- */

static void aim(struct batch *batch, struct sockaddr_in *to, uint8_t *bytes, size_t length) {
    for (int i = 0; i < BATCH; i++) {
        struct msghdr *header = &batch->messages[i].msg_hdr;
        batch->vectors[i] = (struct iovec){.iov_base = bytes + (size_t)i * SLOT_BYTES, .iov_len = length};
        if (to) header->msg_name = to, header->msg_namelen = sizeof *to;
    }
}

static void open_sockets(void) {
    struct sockaddr_in any = parse_address("0.0.0.0:0"), local = parse_address("127.0.0.1:0");
    bench.public_fd = udp_socket(any, true, true);
    bench.internal_fd = udp_socket(local, false, false);
    bench.clients_fd = udp_socket(any, false, true);
    bench.backend_fd = udp_socket(local, false, false);
    bench.public_address = local_address(bench.public_fd);
    bench.public_address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bench.internal_address = local_address(bench.internal_fd);
    bench.clients_address = local_address(bench.clients_fd);
    bench.backend_address = local_address(bench.backend_fd);
}

static void prepare(void) {
    open_sockets();
    batch_init(&bench.in, true, true, true);
    batch_init(&bench.drain, true, true, true);
    batch_init(&bench.up_out, false, false, false);
    batch_init(&bench.down_out, true, true, false);
    batch_init(&bench.from_clients, false, true, true);
    batch_init(&bench.from_backend, false, false, true);
    aim(&bench.up_out, &bench.backend_address, batch_data(&bench.in, 0) - SPP_BYTES, PAYLOAD + SPP_BYTES);
    aim(&bench.down_out, NULL, batch_data(&bench.in, 0) + SPP_BYTES, PAYLOAD);
    aim(&bench.from_clients, &bench.public_address, batch_data(&bench.from_clients, 0), PAYLOAD);
    aim(&bench.from_backend, &bench.internal_address, batch_data(&bench.from_backend, 0), PAYLOAD + SPP_BYTES);
    bench.samples = calloc(ROUNDS_MAX, sizeof *bench.samples);
    if (!bench.samples) die("out of memory");
    calibrate_clock();
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(bool alone) {
    double sum = 0;
    if (!bench.full) die("floor: not one full batch");
    qsort(bench.samples, bench.full, sizeof *bench.samples, by_value);
    for (uint64_t i = 0; i < bench.full; i++) sum += bench.samples[i];
    printf("{\"alone\": %s, \"rounds\": %lu, \"full\": %lu, \"median_ns\": %.1f, \"mean_ns\": %.1f, "
           "\"p10_ns\": %.1f, \"p90_ns\": %.1f, \"clock_ns\": %lu, \"send_errors\": %lu}\n",
           alone ? "true" : "false", bench.rounds, bench.full, bench.samples[bench.full / 2],
           sum / (double)bench.full, bench.samples[bench.full / 10], bench.samples[bench.full * 9 / 10],
           bench.clock_ns, bench.errors);
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"cpu", required_argument, NULL, 'c'}, {"other-cpu", required_argument, NULL, 'o'},
        {"milliseconds", required_argument, NULL, 'm'}, {"alone", no_argument, NULL, 'a'}, {0}};
    long milliseconds = 1000;
    int cpu = -1;
    bool alone = false;
    bench.other_cpu = -1;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'c': cpu = (int)parse_number(optarg, -1, 1023); break;
        case 'o': bench.other_cpu = (int)parse_number(optarg, -1, 1023); break;
        case 'm': milliseconds = parse_number(optarg, 1, 60000); break;
        case 'a': alone = true; break;
        default: die("usage: floor [--cpu N] [--other-cpu N] [--milliseconds MS] [--alone]");
        }
    }
    pthread_t other;
    stop_on_signals();
    prepare();
    if (!alone && pthread_create(&other, NULL, other_thread, NULL)) die("floor: no thread");
    pin_cpu(cpu);
    run((double)milliseconds / 1e3, alone);
    atomic_store(&bench.done, true);
    if (!alone) pthread_join(other, NULL);
    report(alone);
    return 0;
}
