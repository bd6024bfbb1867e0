/* Of the killer: what differs by processor, and a process's family. */
#ifndef KILLER_H
#define KILLER_H

#include <sys/types.h>

#if defined(__x86_64__)
#define MESSAGES_ASKED(registers) ((registers).rdx)
#define IS_SYSTEM_CALL(word) (((word) & 0xffff) == 0x050f)
#define PROGRAM_COUNTER(registers) ((registers).rip)
#define WITH_BREAKPOINT(word) (((word) & ~0xffl) | 0xcc)
#define PAST_BREAKPOINT 1 /* bytes that the counter is past it when it has been met */
#elif defined(__aarch64__)
#define MESSAGES_ASKED(registers) ((registers).regs[2])
#define IS_SYSTEM_CALL(word) (((word) & 0xffffffff) == 0xd4000001)
#define PROGRAM_COUNTER(registers) ((registers).pc)
#define WITH_BREAKPOINT(word) (((word) & ~0xffffffffl) | 0xd4200000)
#define PAST_BREAKPOINT 0
#else
#error "only the registers of x86_64 and aarch64 are known here"
#endif

#define CHILDREN_MOST 64
struct children {
    int count, pids[CHILDREN_MOST];
};

pid_t parent_of(pid_t pid);
struct children children_of(pid_t parent);
/* A child that was not there before; 0 when there is none. */
pid_t newcomer(const struct children *before, const struct children *now);

#endif
