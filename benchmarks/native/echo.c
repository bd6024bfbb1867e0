/*
 * A backend behind the relay or the bare forwarder: answers on the internal leg.
 *
 * A STUN Binding Request goes back as its own success response (type 0x0101, same transaction),
 * everything else unchanged, each behind the very header it came with, to where it came from.
 * Counts what a forwarder could do wrong: packets that name another owner, bad headers.
 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>

static struct {
    int fd;
    long owner;
    bool sink;
    struct batch batch;
    struct batch out;
    uint64_t packets, checks, misrouted, bad_headers, sent, send_errors;
} backend;

static void count_owner(const uint8_t *payload, size_t length) {
    struct body body;
    if (length < (size_t)MEDIA_MIN || payload[0] != 0x80) return;
    memcpy(&body, payload + RTP_BYTES, sizeof body);
    if (body.magic == BODY_MAGIC && backend.owner >= 0 && body.owner != backend.owner)
        backend.misrouted++;
}

/* Returns whether the packet is to be answered, after turning it into its answer. */
static bool answer(uint8_t *packet, size_t length) {
    backend.packets++;
    if (!spp_good(packet, length)) {
        backend.bad_headers++;
        return false;
    }
    uint8_t *payload = packet + SPP_BYTES;
    if (stun_is(payload, length - SPP_BYTES, 0x0001)) {
        backend.checks++;
        payload[0] = payload[1] = 0x01;
    } else {
        count_owner(payload, length - SPP_BYTES);
    }
    return !backend.sink;
}

static int serve(void) {
    struct batch *in = &backend.batch, *out = &backend.out;
    int count = batch_receive(backend.fd, in), ready = 0;
    for (int i = 0; i < count; i++) {
        size_t length = in->messages[i].msg_len;
        if (!answer(batch_data(in, i), length)) continue;
        out->messages[ready].msg_hdr.msg_name = &in->names[i];
        out->vectors[ready++] = (struct iovec){.iov_base = batch_data(in, i), .iov_len = length};
    }
    if (ready) backend.sent += (uint64_t)batch_send(backend.fd, out, ready, &backend.send_errors);
    return count;
}

static struct sockaddr_in parse_options(int argc, char **argv) {
    static const struct option options[] = {
        {"listen", required_argument, NULL, 'l'}, {"owner-index", required_argument, NULL, 'o'},
        {"sink", no_argument, NULL, 's'}, {"cpu", required_argument, NULL, 'c'}, {0}};
    struct sockaddr_in listen = parse_address("127.0.0.1:0");
    backend.owner = -1;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'l': listen = parse_address(optarg); break;
        case 'o': backend.owner = parse_number(optarg, 0, 65535); break;
        case 's': backend.sink = true; break;
        case 'c': pin_cpu((int)parse_number(optarg, -1, 1023)); break;
        default: die("usage: echo [--listen IP:PORT] [--owner-index K] [--sink] [--cpu N]");
        }
    }
    return listen;
}

int main(int argc, char **argv) {
    struct sockaddr_in listen = parse_options(argc, argv);
    stop_on_signals();
    backend.fd = udp_socket(listen, false, false);
    batch_init(&backend.batch, true, false, true);
    batch_init(&backend.out, true, false, false);
    print_listening(backend.fd);
    struct pollfd waiting = {.fd = backend.fd, .events = POLLIN};
    while (!stop_requested) {
        if (poll(&waiting, 1, WAIT_MS) <= 0) continue;
        while (serve() == BATCH && !stop_requested) continue;
    }
    printf("{\"packets\": %lu, \"checks\": %lu, \"misrouted\": %lu, \"bad_headers\": %lu, "
           "\"sent\": %lu, \"send_errors\": %lu}\n",
           backend.packets, backend.checks, backend.misrouted, backend.bad_headers,
           backend.sent, backend.send_errors);
    return 0;
}
