/*
 * The bare forwarder: what the relay does to a packet, minus every decision.
 *
 * Same sockets and options as a relay worker, same batches, same header on the internal leg,
 * same system calls; no demux, no token, no flow table, no counters but three. Everything
 * from a client goes to the one --next-hop; everything from inside goes to the client that its
 * header names (so it is an open reflector, for loopback only). The difference between the
 * relay and this program in one interleaved run is the price of the relay's decisions.
 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <sys/epoll.h>

static struct {
    int public_fd, internal_fd;
    struct sockaddr_in public_address, next_hop;
    bool wildcard;
    struct batch up_in, up_out, down_in, down_out;
    uint64_t up, down, batches, waits, bad_headers, send_errors;
} bare;

/* Client to next hop: the header goes into the headroom, the payload stays where it is. */
static int forward_up(void) {
    struct batch *in = &bare.up_in, *out = &bare.up_out;
    int count = batch_receive(bare.public_fd, in);
    for (int i = 0; i < count; i++) {
        struct msghdr *header = &in->messages[i].msg_hdr;
        uint32_t local = bare.public_address.sin_addr.s_addr;
        if (bare.wildcard) local = control_destination(&in->controls[i], header->msg_controllen);
        uint8_t *at = batch_data(in, i) - SPP_BYTES;
        spp_write(at, in->names[i].sin_addr.s_addr, in->names[i].sin_port, local,
                  bare.public_address.sin_port);
        out->vectors[i] = (struct iovec){.iov_base = at, .iov_len = in->messages[i].msg_len + SPP_BYTES};
    }
    if (!count) return 0;
    bare.up += (uint64_t)batch_send(bare.internal_fd, out, count, &bare.send_errors);
    bare.batches++;
    return count;
}

/* Next hop to client: the header says to whom, and from which of our addresses. */
static int forward_down(void) {
    struct batch *in = &bare.down_in, *out = &bare.down_out;
    int count = batch_receive(bare.internal_fd, in), ready = 0;
    for (int i = 0; i < count; i++) {
        uint8_t *at = batch_data(in, i);
        size_t length = in->messages[i].msg_len;
        if (!spp_good(at, length)) {
            bare.bad_headers++;
            continue;
        }
        memcpy(&out->names[ready].sin_addr, at + 14, 4);
        memcpy(&out->names[ready].sin_port, at + 34, 2);
        if (bare.wildcard) {
            uint32_t local;
            memcpy(&local, at + 30, 4);
            control_source(&out->controls[ready], local);
        }
        out->vectors[ready++] = (struct iovec){.iov_base = at + SPP_BYTES, .iov_len = length - SPP_BYTES};
    }
    if (!count) return 0;
    bare.down += (uint64_t)batch_send(bare.public_fd, out, ready, &bare.send_errors);
    bare.batches++;
    return count;
}

static int watch(int fd) {
    static int epoll_fd = -1;
    if (epoll_fd < 0) epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) die("epoll: %s", strerror(errno));
    return epoll_fd;
}

/* A full batch says that there is more: straight on, without asking the kernel. Both directions
 * get their turn each time, whichever was full: were only the full one repeated, an overloaded
 * way up would starve the way down, whose queue then overflows (seen: 85 % lost). */
static void run(int epoll_fd) {
    struct epoll_event events[2];
    while (!stop_requested) {
        int count = epoll_wait(epoll_fd, events, 2, WAIT_MS);
        bool up = false, down = false;
        bare.waits++;
        for (int i = 0; i < count; i++) {
            up |= events[i].data.fd == bare.public_fd;
            down |= events[i].data.fd == bare.internal_fd;
        }
        while ((up || down) && !stop_requested) {
            bool more = up && forward_up() == BATCH;
            more |= down && forward_down() == BATCH;
            up = down = more;
        }
    }
}

static void prepare_batches(void) {
    batch_init(&bare.up_in, true, bare.wildcard, true);
    batch_init(&bare.up_out, false, false, false);
    batch_init(&bare.down_in, true, false, true);
    batch_init(&bare.down_out, true, bare.wildcard, false);
    for (int i = 0; i < BATCH; i++) {
        bare.up_out.messages[i].msg_hdr.msg_name = &bare.next_hop;
        bare.up_out.messages[i].msg_hdr.msg_namelen = sizeof bare.next_hop;
    }
}

static void parse_options(int argc, char **argv, struct sockaddr_in *listen, struct sockaddr_in *internal) {
    static const struct option options[] = {
        {"listen", required_argument, NULL, 'l'}, {"internal", required_argument, NULL, 'i'},
        {"next-hop", required_argument, NULL, 'n'}, {"cpu", required_argument, NULL, 'c'}, {0}};
    *listen = *internal = parse_address("127.0.0.1:0");
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'l': *listen = parse_address(optarg); break;
        case 'i': *internal = parse_address(optarg); break;
        case 'n': bare.next_hop = parse_address(optarg); break;
        case 'c': pin_cpu((int)parse_number(optarg, -1, 1023)); break;
        default: die("usage: bare --next-hop IP:PORT [--listen IP:PORT] [--internal IP:PORT] [--cpu N]");
        }
    }
    if (!bare.next_hop.sin_port) die("bare: --next-hop IP:PORT is required");
}

int main(int argc, char **argv) {
    struct sockaddr_in listen, internal;
    parse_options(argc, argv, &listen, &internal);
    stop_on_signals();
    bare.wildcard = listen.sin_addr.s_addr == INADDR_ANY;
    bare.public_fd = udp_socket(listen, true, bare.wildcard);
    bare.internal_fd = udp_socket(internal, false, false);
    bare.public_address = local_address(bare.public_fd);
    prepare_batches();
    watch(bare.public_fd);
    int epoll_fd = watch(bare.internal_fd);
    print_listening(bare.public_fd);
    run(epoll_fd);
    printf("{\"up\": %lu, \"down\": %lu, \"batches\": %lu, \"waits\": %lu, "
           "\"bad_headers\": %lu, \"send_errors\": %lu}\n",
           bare.up, bare.down, bare.batches, bare.waits, bare.bad_headers, bare.send_errors);
    return 0;
}
