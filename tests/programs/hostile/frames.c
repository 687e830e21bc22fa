// Threads, signal frames and futexes made of rubbish; the argument names which. The guest may end by a signal, its host may not.
#include "common.h"
#include <sys/syscall.h>
#include <ucontext.h>

static void rubbish(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    ucontext_t *frame = context;
    // Where it goes on: the machine's pages, at CPL 0's segments, with every flag set.
    frame->uc_mcontext.gregs[REG_RIP] = 0x200000;
    frame->uc_mcontext.gregs[REG_EFL] = -1;
    frame->uc_mcontext.gregs[REG_CSGSFS] = 0x0010001000100008;
    memset(frame->uc_mcontext.fpregs, 0xff, sizeof *frame->uc_mcontext.fpregs);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    char *page = page_before_hole(PROT_READ | PROT_WRITE);
    if (!strcmp(what, "sigreturn"))
        __asm__ volatile("mov %0, %%rsp\n\tmov $15, %%eax\n\tsyscall" : : "r"(page + 4000) : "memory");
    if (!strcmp(what, "sigreturn-hole"))
        __asm__ volatile("mov $0x50000000, %%rsp\n\tmov $15, %%eax\n\tsyscall" : : : "memory");
    if (!strcmp(what, "frame")) {
        struct sigaction action = {.sa_sigaction = rubbish, .sa_flags = SA_SIGINFO};
        sigaction(SIGUSR1, &action, NULL);
        raise(SIGUSR1);
    }
    if (!strcmp(what, "no-stack")) {
        // A handler whose alternate stack is not there.
        stack_t nowhere = {.ss_sp = (void *)0x50000000, .ss_size = 65536};
        struct sigaction action = {.sa_sigaction = rubbish, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        sigaltstack(&nowhere, NULL);
        sigaction(SIGUSR1, &action, NULL);
        raise(SIGUSR1);
    }
    if (!strcmp(what, "clone")) {
        const uint64_t flags = 0x3d0f00; // as pthread_create's
        raw(SYS_clone, flags, 0x50000000, 0x50000000, 0x50000000, 0x8000000000000000ULL, 0);
        raw(SYS_clone, flags, -1ULL, -1ULL, -1ULL, -1ULL, 0);
        usleep(300000);
    }
    if (!strcmp(what, "base")) {
        raw(SYS_arch_prctl, 0x1001, 0xffff800000000000ULL, 0, 0, 0, 0); // ARCH_SET_GS
        raw(SYS_arch_prctl, 0x1002, 0xffff800000000000ULL, 0, 0, 0, 0); // ARCH_SET_FS
        raw(SYS_arch_prctl, 0x1002, 0x200000, 0, 0, 0, 0);
        return *(volatile int *)0x50000000;
    }
    if (!strcmp(what, "storm")) {
        // Signals to itself from two threads while it enters and leaves handlers.
        struct sigaction action = {.sa_handler = SIG_IGN};
        sigaction(SIGUSR2, &action, NULL);
        for (int i = 0; i < 5000; i++) {
            raw(SYS_tkill, (uint64_t)raw(SYS_gettid, 0, 0, 0, 0, 0, 0), SIGUSR2, 0, 0, 0, 0);
            raw(SYS_futex, (uint64_t)page, 1, 1 << 30, 0, 0, 0);
            raw(SYS_futex, (uint64_t)page + 1, 0, 0, 0, 0, 0);
        }
        printf("goes on\n");
        return sane() ? 0 : 93;
    }
    return 94;
}
