/*
 * The packet generator: plays up to a million clients from one UDP socket.
 *
 * The socket is bound to 0.0.0.0; each flow has its own source address, set per packet by
 * IP_PKTINFO: in 127.0.0.0/8, or wherever a namespace has a route of type local. A reply is
 * recognised by the address it came to and by the flow named in its body. So neither this
 * program nor the kernel holds a socket per client, and the figures are the forwarder's. One
 * thread; results are one line of JSON on stdout.
 */
#include "generator.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#define LOOPBACK_END 0x80000000u /* behind 127.0.0.0/8 */
#define MULTICAST 0xE0000000u    /* 224.0.0.0 */

struct generator gen;

static const char *const mode_names[] = {"media", "checks", "forged", "noise"};

static const char usage[] =
    "usage: generator --target IP:PORT --tokens FILE [--flows N] [--rate PPS, 0 saturates]\n"
    "  [--window W] [--seconds S] [--size BYTES or LOW-HIGH] [--burst B]\n"
    "  [--mode media|checks|forged|noise] [--owners K] [--skip-setup] [--setup-rate PPS]\n"
    "  [--setup-limit S, beyond the time that the rate takes] [--check-interval S, 0 for none]\n"
    "  [--order roundrobin|random] [--port P] [--source-base IP] [--cpu N] [--spp]\n"
    "  [--live] [--live-every S]";

static const struct option long_options[] = {
    {"target", required_argument, NULL, 't'}, {"tokens", required_argument, NULL, 'T'},
    {"flows", required_argument, NULL, 'f'}, {"rate", required_argument, NULL, 'r'},
    {"window", required_argument, NULL, 'w'}, {"seconds", required_argument, NULL, 's'},
    {"size", required_argument, NULL, 'z'}, {"burst", required_argument, NULL, 'b'},
    {"mode", required_argument, NULL, 'm'}, {"owners", required_argument, NULL, 'k'},
    {"skip-setup", no_argument, NULL, 'S'}, {"setup-rate", required_argument, NULL, 'R'},
    {"check-interval", required_argument, NULL, 'i'}, {"order", required_argument, NULL, 'o'},
    {"port", required_argument, NULL, 'p'}, {"source-base", required_argument, NULL, 'a'},
    {"setup-limit", required_argument, NULL, 'L'},
    {"cpu", required_argument, NULL, 'c'}, {"spp", no_argument, NULL, 'H'},
    {"live", no_argument, NULL, 'l'}, {"live-every", required_argument, NULL, 'e'}, {0}};

static double parse_seconds(const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0 && value < 1e7)) die("not a number of seconds: %s", text);
    return value;
}

static void parse_size(struct options *options, char *text) {
    char *dash = strchr(text, '-');
    if (dash) *dash = 0;
    options->size_low = (int)parse_number(text, MEDIA_MIN, PAYLOAD_MAX);
    options->size_high = dash ? (int)parse_number(dash + 1, options->size_low, PAYLOAD_MAX) : options->size_low;
}

static enum mode parse_mode(const char *text) {
    for (int i = 0; i < 4; i++)
        if (!strcmp(text, mode_names[i])) return (enum mode)i;
    die("--mode %s: want media, checks, forged or noise", text);
}

static bool parse_order(const char *text) {
    bool random = !strcmp(text, "random");
    if (!random && strcmp(text, "roundrobin")) die("--order %s: want roundrobin or random", text);
    return random;
}

static uint32_t parse_source(const char *text) {
    struct in_addr address;
    if (inet_pton(AF_INET, text, &address) != 1 || ntohl(address.s_addr) >= MULTICAST)
        die("--source-base %s: want a host's IPv4 address", text);
    return ntohl(address.s_addr);
}

static void set_option(struct options *options, int option, char *text) {
    switch (option) {
    case 't': options->target = parse_address(text); break;
    case 'T': options->tokens_file = text; break;
    case 'f': options->flows = parse_number(text, 1, 1000000); break;
    case 'r': options->rate = parse_number(text, 0, 10000000); break;
    case 'w': options->window = parse_number(text, 1, 100000); break;
    case 's': options->seconds = parse_seconds(text); break;
    case 'z': parse_size(options, text); break;
    case 'b': options->burst = parse_number(text, 1, BATCH); break;
    case 'm': options->mode = parse_mode(text); break;
    case 'k': options->owners = parse_number(text, 1, 65535); break;
    case 'S': options->skip_setup = true; break;
    case 'R': options->setup_rate = parse_number(text, 1, 1000000); break;
    case 'L': options->setup_limit = parse_seconds(text); break;
    case 'i': options->check_interval = parse_seconds(text); break;
    case 'o': options->random_order = parse_order(text); break;
    case 'p': options->port = parse_number(text, 0, 65535); break;
    case 'a': options->source_base = parse_source(text); break;
    case 'c': options->cpu = (int)parse_number(text, -1, 1023); break;
    case 'H': options->spp = true; break;
    case 'l': options->live = true; break;
    case 'e': options->live_every = parse_seconds(text); break;
    default: die("%s", usage);
    }
}

static void parse_options(int argc, char **argv) {
    struct options *options = &gen.options;
    *options = (struct options){
        .flows = 1000, .rate = 10000, .window = 512, .burst = 8, .owners = 1, .setup_rate = 40000,
        .seconds = 3, .setup_limit = 10, .check_interval = 2.5, .live_every = 1, .size_low = 160, .size_high = 160, .cpu = -1,
        .source_base = parse_source("127.16.0.0")};
    for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;)
        set_option(options, option, optarg);
    if (optind < argc || !options->target.sin_port || !options->tokens_file) die("%s", usage);
    if (options->burst > options->window) options->burst = options->window;
    bool loopback = options->source_base >> 24 == 127;
    if (options->source_base + (uint64_t)options->flows > (loopback ? LOOPBACK_END : MULTICAST) - 1)
        die("--source-base: too few addresses above it for %ld flows", options->flows);
}

static void read_tokens(void) {
    char line[128];
    FILE *file = fopen(gen.options.tokens_file, "r");
    if (!file) die("--tokens %s: %s", gen.options.tokens_file, strerror(errno));
    gen.tokens = calloc((size_t)gen.options.flows, sizeof *gen.tokens);
    if (!gen.tokens) die("out of memory");
    while (gen.token_count < gen.options.flows && fgets(line, sizeof line, file)) {
        size_t length = strcspn(line, "\r\n");
        if (!length) continue;
        if (length >= sizeof *gen.tokens) die("--tokens: a token of %zu characters", length);
        memcpy(gen.tokens[gen.token_count++], line, length);
    }
    fclose(file);
    if (!gen.token_count) die("--tokens %s: no token in it", gen.options.tokens_file);
}

/* Random per run, so that what a former run left in flight is told from this run's. */
static void seed_run(void) {
    gen.random = mix64(now_ns() ^ (uint64_t)getpid() << 32) | 1;
    gen.run = (uint32_t)next_random() | 1;
}

static void prepare(void) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons((uint16_t)gen.options.port)};
    pin_cpu(gen.options.cpu);
    stop_on_signals();
    end_load_on_signal();
    prctl(PR_SET_TIMERSLACK, 1);
    read_tokens();
    seed_run();
    gen.flows = calloc((size_t)gen.options.flows, sizeof *gen.flows);
    if (!gen.flows) die("out of memory");
    gen.fd = udp_socket(any, false, true);
    gen.port = local_address(gen.fd).sin_port;
    batch_init(&gen.in, true, true, true);
    batch_init(&gen.out, false, true, true);
    for (int i = 0; i < BATCH; i++) {
        gen.out.messages[i].msg_hdr.msg_name = &gen.options.target;
        gen.out.messages[i].msg_hdr.msg_namelen = sizeof gen.options.target;
    }
}

static void report_counters(void) {
    const struct counters *c = &gen.counters;
    long lost = (long)c->sent - (long)c->received;
    printf("\"sent\": %lu, \"received\": %lu, \"lost\": %ld, \"corrupted\": %lu, \"misdirected\": %lu, "
           "\"duplicated\": %lu, \"reordered\": %lu, \"foreign\": %lu, \"checks_sent\": %lu, "
           "\"checks_answered\": %lu, \"checks_duplicated\": %lu, \"send_errors\": %lu, ",
           c->sent, c->received, lost, c->corrupted, c->misdirected, c->duplicated, c->reordered,
           c->foreign, c->checks_sent, c->checks_answered, c->checks_duplicated, c->send_errors);
}

static void report(double setup_s, double load_s, uint64_t received_in_time) {
    const struct counters *c = &gen.counters;
    double per_second = load_s > 0 ? 1 / load_s : 0;
    printf("{\"mode\": \"%s\", \"flows\": %ld, \"port\": %d, ", mode_names[gen.options.mode],
           gen.options.flows, ntohs(gen.port));
    report_counters();
    printf("\"setup_s\": %.3f, \"load_s\": %.3f, \"offered_pps\": %.0f, \"received_pps\": %.0f, "
           "\"latest_send_us\": %.1f, ",
           setup_s, load_s, (double)c->sent * per_second, (double)received_in_time * per_second,
           (double)c->latest_send_ns / 1e3);
    printf("\"rtt_us\": {\"p50\": %.1f, \"p99\": %.1f, \"p99_9\": %.1f, \"max\": %.1f}, "
           "\"longest_gap_ms\": %.1f, \"median_gap_ms\": %.1f}\n",
           rtt_percentile_us(0.5), rtt_percentile_us(0.99), rtt_percentile_us(0.999),
           (double)c->rtt_max_ns / 1e3, (double)c->longest_gap_ns / 1e6, median_gap_ms());
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    prepare();
    bool setup = gen.options.mode == MEDIA && !gen.options.skip_setup;
    double setup_s = setup ? set_up_flows() : 0;
    double load_s = run_load();
    uint64_t end_ns = now_ns(), received = gen.counters.received;
    wait_for_stragglers();
    close_gaps(end_ns);
    report(setup_s, load_s, received);
    return 0;
}
