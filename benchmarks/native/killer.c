/*
 * Kills a process at a named point of its work, for tests of what outlives it.
 *
 * It traces the main thread of a program that takes datagrams by recvmmsg and hands them on by
 * sendmmsg, stops it at the point, and sends SIGKILL while it is stopped: not one instruction
 * more is run. What it did until then is one line of JSON on stdout.
 *
 *   none         nothing is done: only whether tracing is permitted
 *   received     a recvmmsg has taken packets, none of them was looked at
 *   half-sent    a sendmmsg was cut to half of its messages, which have left
 *   sent         a sendmmsg has returned, what it returned was not looked at
 *   instruction  after a recvmmsg that took packets, --steps instructions for each (of the first 4)
 *   function     --steps instructions after the thread came to the instruction at --address
 *   anywhere     not traced: after --after-us this program, of higher priority and on the same
 *                CPU, kills the thread where the clock has just interrupted its work
 *
 * With --twice its successor, the next child of its parent, is killed after its first sendmmsg.
 * With --checks the packets taken must begin with a STUN Binding Request. --skip passes over so
 * many occasions first. When this program ends, however it ends, the kernel lets go whom it
 * traced, so nobody stays stopped.
 */
#include "common.h"
#include "killer.h"

#include <elf.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>

enum point { NONE, RECEIVED, HALF_SENT, SENT, INSTRUCTION, FUNCTION, ANYWHERE, POINTS };
static const char *const point_names[] = {"none", "received", "half-sent", "sent", "instruction", "function", "anywhere"};

#define STEPPED_PACKETS 4 /* more would hold the worker for too long */

typedef struct __ptrace_syscall_info syscall_info;

static struct {
    pid_t pid;
    enum point at;
    long skip, steps, address, after_us, limit_s;
    bool checks, twice;
} options = {.limit_s = 10};

/* Of the traced thread: the call it is in, and what it did last. */
static struct {
    syscall_info call;
    int signal;                /* to be handed on when it goes on */
    long taken, sent, stepped; /* packets of its last recvmmsg; messages sent of them; instructions since */
    bool resuming;             /* its first packets are those of its predecessor */
    uint64_t taken_ns;
} traced;

/* What stands where there is a breakpoint now. */
static struct {
    void *address;
    long word;
} given_up;

static const char *priority = "none";

/* ---- stops */

static long trace(int request, void *address, void *data) {
    errno = 0;
    long result = ptrace(request, options.pid, address, data);
    if (errno) die("ptrace request %#x: %s", request, strerror(errno));
    return result;
}

/* The thread would die of a breakpoint that stays when we go. */
static void give_up(void) {
    int status;
    if (!given_up.address || ptrace(PTRACE_INTERRUPT, options.pid, NULL, NULL)) return;
    while (waitpid(options.pid, &status, __WALL) < 0 && errno == EINTR) continue;
    if (ptrace(PTRACE_POKETEXT, options.pid, given_up.address, (void *)given_up.word)) perror("the breakpoint stays");
}

static void await_stop(void) {
    int status;
    while (waitpid(options.pid, &status, __WALL) < 0)
        if (errno != EINTR || stop_requested) {
            give_up();
            die("%s: not reached in %ld s", point_names[options.at], options.limit_s);
        }
    if (!WIFSTOPPED(status)) die("it ended by itself");
    bool own = WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == (SIGTRAP | 0x80) || status >> 16;
    traced.signal = own ? 0 : WSTOPSIG(status);
}

static void go_on(int request) {
    trace(request, NULL, (void *)(long)traced.signal);
    await_stop();
}

static syscall_info where(void) {
    syscall_info info = {0};
    trace(PTRACE_GET_SYSCALL_INFO, (void *)sizeof info, &info);
    return info;
}

static void seize(void) {
    if (ptrace(PTRACE_SEIZE, options.pid, NULL, (void *)PTRACE_O_TRACESYSGOOD))
        die("tracing is not permitted: %s", strerror(errno));
    trace(PTRACE_INTERRUPT, NULL, NULL);
    await_stop();
}

/* ---- what the thread does */

static void read_traced(uint64_t at, void *to, size_t length) {
    struct iovec local = {to, length}, remote = {(void *)at, length};
    if (process_vm_readv(options.pid, &local, 1, &remote, 1, 0) != (ssize_t)length) die("cannot read its memory");
}

static bool begins_with_check(uint64_t messages) {
    struct mmsghdr first;
    struct iovec vector;
    uint8_t packet[20];
    read_traced(messages, &first, sizeof first);
    read_traced((uint64_t)first.msg_hdr.msg_iov, &vector, sizeof vector);
    if (first.msg_len < sizeof packet) return false;
    read_traced((uint64_t)vector.iov_base, packet, sizeof packet);
    return stun_is(packet, first.msg_len, 0x0001);
}

/* Lets the thread go on to the next end of a system call of these two; how many messages it was. */
static long next_call(void) {
    for (;;) {
        go_on(PTRACE_SYSCALL);
        syscall_info now = where();
        if (now.op == PTRACE_SYSCALL_INFO_ENTRY) {
            traced.call = now;
            if (now.entry.nr == SYS_sendmmsg) return 0;
        } else if (now.op == PTRACE_SYSCALL_INFO_EXIT && traced.call.op == PTRACE_SYSCALL_INFO_ENTRY) {
            uint64_t number = traced.call.entry.nr;
            traced.call.op = PTRACE_SYSCALL_INFO_EXIT;
            if (number != SYS_recvmmsg && number != SYS_sendmmsg) continue;
            if (now.exit.rval > 0) return now.exit.rval;
        }
    }
}

static void registers(int request, struct user_regs_struct *all) {
    struct iovec vector = {all, sizeof *all};
    trace(request, (void *)NT_PRSTATUS, &vector);
}

static void halve(void) {
    struct user_regs_struct all;
    registers(PTRACE_GETREGSET, &all);
    MESSAGES_ASKED(all) /= 2;
    registers(PTRACE_SETREGSET, &all);
}

/* A breakpoint, met once and taken away: nothing of the thread is changed but the time. */
static void reach_address(void) {
    void *address = (void *)options.address;
    struct user_regs_struct all;
    const long word = trace(PTRACE_PEEKTEXT, address, NULL);
    trace(PTRACE_POKETEXT, address, (void *)WITH_BREAKPOINT(word));
    given_up.address = address, given_up.word = word;
    do {
        go_on(PTRACE_CONT);
        registers(PTRACE_GETREGSET, &all);
    } while (PROGRAM_COUNTER(all) != (unsigned long)options.address + PAST_BREAKPOINT);
    PROGRAM_COUNTER(all) = (unsigned long)options.address;
    registers(PTRACE_SETREGSET, &all);
    trace(PTRACE_POKETEXT, address, (void *)word);
    given_up.address = NULL;
    traced.taken = 1; /* of its batch more is not known; none of it has left */
    traced.taken_ns = now_ns();
}

static void note(long messages) {
    if (traced.call.entry.nr == SYS_sendmmsg) {
        traced.sent += messages;
        return;
    }
    traced.taken = messages;
    traced.sent = traced.stepped = 0;
    traced.taken_ns = now_ns();
}

/* Whether the thread is where it was to be brought. */
static bool reached(long messages) {
    const bool sending = traced.call.entry.nr == SYS_sendmmsg, entering = messages == 0;
    switch (options.at) {
    case HALF_SENT:
        if (!sending || !entering || traced.call.entry.args[2] < 2 || options.skip-- > 0) return false;
        halve();
        note(next_call());
        return true;
    case SENT: return sending && !entering && options.skip-- <= 0;
    default:
        return !sending && !(options.checks && !begins_with_check(traced.call.entry.args[1])) && options.skip-- <= 0;
    }
}

static void reach(void) {
    for (;;) {
        long messages = next_call();
        if (stop_requested) die("%s: not reached in %ld s", point_names[options.at], options.limit_s);
        if (messages) note(messages);
        if ((traced.taken || traced.resuming) && reached(messages)) return;
    }
}

/* Each step is two switches between the two: across CPUs they take several times as long. */
static void share_cpu(void) {
    cpu_set_t set;
    if (!sched_getaffinity(options.pid, sizeof set, &set)) sched_setaffinity(0, sizeof set, &set);
}

/* A system call counts as one instruction, and is gone through by its two stops: so what it sent is known. */
static void step(void) {
    const long most = options.steps * (traced.taken < STEPPED_PACKETS ? traced.taken : STEPPED_PACKETS);
    share_cpu();
    for (; traced.stepped < most; traced.stepped++) {
        syscall_info now = where();
        if (IS_SYSTEM_CALL(trace(PTRACE_PEEKTEXT, (void *)now.instruction_pointer, NULL))) {
            go_on(PTRACE_SYSCALL);
            traced.call = where();
            go_on(PTRACE_SYSCALL);
            now = where();
            if (traced.call.entry.nr == SYS_sendmmsg && now.exit.rval > 0) traced.sent += now.exit.rval;
            if (traced.call.entry.nr == SYS_recvmmsg) traced.sent = 0; /* what was sent before is committed */
        } else {
            go_on(PTRACE_SINGLESTEP);
        }
    }
}

/* ---- killing */

static void rise(void) {
    share_cpu();
    if (!sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 50}))
        priority = "fifo";
    else if (!setpriority(PRIO_PROCESS, 0, -20))
        priority = "nice";
}

static void sleep_us(long us) {
    struct timespec time = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    nanosleep(&time, NULL);
}

/* Who is not asleep while we have its CPU was put off it by us. */
static bool interrupted(void) {
    char path[32], stat[256];
    snprintf(path, sizeof path, "/proc/%d/stat", options.pid);
    FILE *file = fopen(path, "r");
    if (!file) die("it ended by itself");
    size_t length = fread(stat, 1, sizeof stat - 1, file);
    fclose(file);
    stat[length] = 0;
    const char *name_end = strrchr(stat, ')');
    return name_end && name_end[2] == 'R';
}

/* The pauses differ, as what it does has a rhythm of its own. */
static void ambush(void) {
    rise();
    sleep_us(options.after_us);
    for (long pause = 0; !interrupted(); pause = (pause + 37) % 400) {
        if (stop_requested) die("it did nothing for %ld s", options.limit_s);
        sleep_us(100 + pause);
    }
}

/* The process's parent hears of its end only when the tracer has taken it. */
static uint64_t kill_it(void) {
    uint64_t now = now_ns();
    int status = 0;
    if (kill(options.pid, SIGKILL)) die("kill: %s", strerror(errno));
    if (options.at == ANYWHERE) return now;
    do {
        if (waitpid(options.pid, &status, __WALL) < 0 && errno != EINTR) die("waitpid: %s", strerror(errno));
    } while (!WIFSIGNALED(status) && !WIFEXITED(status));
    return now;
}

/* It is caught while it starts, long before it deals with packets. Returns the messages that it had sent. */
static long kill_successor(pid_t parent, const struct children *before) {
    pid_t successor = 0;
    while (!successor) {
        const struct children now = children_of(parent);
        successor = newcomer(before, &now);
        if (stop_requested) die("it has no successor");
    }
    options.pid = successor;
    options.at = SENT;
    options.skip = 0;
    memset(&traced, 0, sizeof traced);
    traced.resuming = true;
    seize();
    reach();
    kill_it();
    return traced.sent;
}

/* ---- the program */

static enum point parse_point(const char *text) {
    for (int i = 0; i < POINTS; i++)
        if (!strcmp(text, point_names[i])) return (enum point)i;
    die("--at %s: no such point", text);
}

static void parse_options(int argc, char **argv) {
    static const struct option long_options[] = {
        {"pid", required_argument, NULL, 'p'}, {"at", required_argument, NULL, 'a'},
        {"skip", required_argument, NULL, 's'}, {"steps", required_argument, NULL, 'n'},
        {"address", required_argument, NULL, 'A'}, {"after-us", required_argument, NULL, 'u'}, {"limit", required_argument, NULL, 'l'},
        {"checks", no_argument, NULL, 'c'}, {"twice", no_argument, NULL, 't'}, {0}};
    for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        switch (option) {
        case 'p': options.pid = (pid_t)parse_number(optarg, 2, 1 << 22); break;
        case 'a': options.at = parse_point(optarg); break;
        case 's': options.skip = parse_number(optarg, 0, 1000000); break;
        case 'n': options.steps = parse_number(optarg, 0, 100000); break;
        case 'A': options.address = parse_number(optarg, 1, LONG_MAX); break;
        case 'u': options.after_us = parse_number(optarg, 0, 10000000); break;
        case 'l': options.limit_s = parse_number(optarg, 1, 600); break;
        case 'c': options.checks = true; break;
        case 't': options.twice = true; break;
        default: options.pid = 0; optind = argc; break;
        }
    }
    if (!options.pid)
        die("usage: killer --pid P --at none|received|half-sent|sent|instruction|function|anywhere\n"
            "  [--skip N] [--steps N] [--address N] [--after-us N] [--checks] [--twice] [--limit S]");
}

static void on_alarm(int number) {
    (void)number;
    stop_requested = 1;
}

/* The timer goes on ringing, should it ring just before the thread is waited for. */
static void limit_time(void) {
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval timer = {.it_value.tv_sec = options.limit_s, .it_interval.tv_usec = 100000};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
}

static void bring_to_point(void) {
    if (options.at == ANYWHERE) {
        ambush();
        return;
    }
    seize();
    if (options.at == NONE) exit(0);
    if (options.at == FUNCTION)
        reach_address();
    else
        reach();
    if (options.at == INSTRUCTION || options.at == FUNCTION) step();
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    stop_on_signals();
    limit_time();
    const char *at = point_names[options.at];
    bring_to_point();
    pid_t parent = options.twice ? parent_of(options.pid) : 0;
    struct children before = {0};
    if (parent) before = children_of(parent);
    uint64_t killed_ns = kill_it();
    double held_ms = traced.taken_ns ? (double)(killed_ns - traced.taken_ns) / 1e6 : 0;
    printf("{\"at\": \"%s\", \"taken\": %ld, \"stepped\": %ld, \"held_ms\": %.3f, \"killed_ns\": %lu, "
           "\"priority\": \"%s\", ",
           at, traced.taken, traced.stepped, held_ms, killed_ns, priority);
    long sent = traced.sent;
    if (options.twice) sent += kill_successor(parent, &before);
    printf("\"sent\": %ld}\n", sent);
    return 0;
}
