/*
 * The shared code of the benchmark programs; common.h says what each part is for.
 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

volatile sig_atomic_t stop_requested;

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t read_clock(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t now_ns(void) { return read_clock(CLOCK_MONOTONIC); }

uint64_t thread_cpu_ns(void) { return read_clock(CLOCK_THREAD_CPUTIME_ID); }

void pin_cpu(int cpu) {
    cpu_set_t set;
    if (cpu < 0) return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) die("--cpu %d: %s", cpu, strerror(errno));
}

static void on_signal(int number) {
    (void)number;
    stop_requested = 1;
}

/* Without SA_RESTART, so that a waiting call returns. The programs also die with the process
 * that started them: a killed benchmark leaves nothing running. */
void stop_on_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
}

struct sockaddr_in parse_address(const char *text) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[64];
    const char *colon = strrchr(text, ':');
    if (!colon || (size_t)(colon - text) >= sizeof host) die("not an IP:PORT: %s", text);
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = 0;
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) die("not an IPv4 address: %s", host);
    address.sin_port = htons((uint16_t)parse_number(colon + 1, 0, 65535));
    return address;
}

long parse_number(const char *text, long low, long high) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high)
        die("%s: want a number from %ld to %ld", text, low, high);
    return value;
}

/* The forced variant is root's way past rmem_max; elsewhere the kernel's limit holds. */
static void set_buffer(int fd, int forced, int plain) {
    int bytes = SOCKET_BUFFER_BYTES;
    if (setsockopt(fd, SOL_SOCKET, forced, &bytes, sizeof bytes) &&
        setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof bytes))
        die("socket buffer: %s", strerror(errno));
}

int udp_socket(struct sockaddr_in at, bool reuse_port, bool want_pktinfo) {
    int one = 1, dont = IP_PMTUDISC_DONT;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket: %s", strerror(errno));
    set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF);
    set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF);
    if (setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &dont, sizeof dont) ||
        (reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one)) ||
        (want_pktinfo && setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof one)))
        die("setsockopt: %s", strerror(errno));
    if (bind(fd, (struct sockaddr *)&at, sizeof at))
        die("bind to %s:%d: %s", inet_ntoa(at.sin_addr), ntohs(at.sin_port), strerror(errno));
    return fd;
}

struct sockaddr_in local_address(int fd) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &length)) die("getsockname");
    return address;
}

/* The first line of a server program: whoever started it waits for this. */
void print_listening(int fd) {
    struct sockaddr_in address = local_address(fd);
    printf("listening %s:%d\n", inet_ntoa(address.sin_addr), ntohs(address.sin_port));
    fflush(stdout);
}

void batch_init(struct batch *batch, bool names, bool controls, bool slots) {
    memset(batch, 0, sizeof *batch);
    if (slots) {
        batch->slots = aligned_alloc(64, (size_t)BATCH * SLOT_BYTES);
        if (!batch->slots) die("out of memory");
        memset(batch->slots, 0, (size_t)BATCH * SLOT_BYTES);
    }
    for (int i = 0; i < BATCH; i++) {
        struct msghdr *header = &batch->messages[i].msg_hdr;
        union control *control = &batch->controls[i];
        batch->names[i].sin_family = AF_INET;
        control->header = (struct cmsghdr){CMSG_LEN(sizeof(struct in_pktinfo)), IPPROTO_IP, IP_PKTINFO};
        batch->vectors[i].iov_base = slots ? batch_data(batch, i) : NULL;
        batch->vectors[i].iov_len = SLOT_BYTES - HEADROOM;
        header->msg_iov = &batch->vectors[i];
        header->msg_iovlen = 1;
        header->msg_name = names ? &batch->names[i] : NULL;
        header->msg_namelen = names ? sizeof(struct sockaddr_in) : 0;
        header->msg_control = controls ? control->bytes : NULL;
        header->msg_controllen = controls ? sizeof control->bytes : 0;
    }
}

/* Returns 0 when there is nothing. The kernel overwrites the lengths of what it fills in;
 * only those are restored before the next call. */
int batch_receive(int fd, struct batch *batch) {
    for (int i = 0; i < batch->used; i++) {
        struct msghdr *header = &batch->messages[i].msg_hdr;
        if (header->msg_name) header->msg_namelen = sizeof(struct sockaddr_in);
        if (header->msg_control) header->msg_controllen = sizeof(union control);
    }
    int count = recvmmsg(fd, batch->messages, BATCH, MSG_DONTWAIT, NULL);
    batch->used = count > 0 ? count : 0;
    if (count < 0 && errno != EAGAIN && errno != EINTR) die("recvmmsg: %s", strerror(errno));
    return batch->used;
}

/* sendmmsg returns a short count and hides the errno: what fails again when it is the first
 * of a call is skipped, exactly one. */
int batch_send(int fd, struct batch *batch, int count, uint64_t *errors) {
    int done = 0, failed = 0;
    while (done < count) {
        int sent = sendmmsg(fd, batch->messages + done, (unsigned)(count - done), 0);
        if (sent > 0) {
            done += sent;
        } else {
            done++, failed++;
        }
    }
    *errors += (uint64_t)failed;
    return count - failed;
}
