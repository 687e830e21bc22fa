// One fault, named by the argument, and what its signal handler is told.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static sigjmp_buf back;
static volatile int got;
static void *volatile address;
static volatile uintptr_t instruction;

static void handler(int number, siginfo_t *info, void *context) {
    got = number;
    address = info->si_addr;
    instruction = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    siglongjmp(back, 1);
}

extern char at_ud[], at_divide[];

static int provoke(const char *what, char *page) {
    volatile int zero = 0;
    if (!strcmp(what, "read"))
        return *(volatile int *)0x50000000;
    if (!strcmp(what, "write"))
        *(volatile int *)0x50000008 = 1;
    if (!strcmp(what, "readonly"))
        page[0] = 1;
    if (!strcmp(what, "execute"))
        ((void (*)(void))page)();
    if (!strcmp(what, "ud"))
        __asm__ volatile(".globl at_ud\nat_ud: ud2");
    if (!strcmp(what, "divide"))
        __asm__ volatile("xor %%edx, %%edx\n\tmov $1, %%eax\n.globl at_divide\nat_divide: divl %0" : : "m"(zero) : "eax", "edx");
    if (!strcmp(what, "halt"))
        __asm__ volatile("hlt");
    if (!strcmp(what, "port"))
        __asm__ volatile("outb %%al, $0x64" : : "a"(0xfe));
    if (!strcmp(what, "msr"))
        __asm__ volatile("rdmsr" : : "c"(0xc0000082) : "eax", "edx");
    return 0;
}

// The machine's own pages (page tables, descriptor tables, stubs, stacks) lie between 2 and 4 MiB, below all user memory.
// None of them may be written from here.
static int scan(void) {
    static volatile uintptr_t at;
    static volatile int writable, faults;
    for (at = 0x200000; at < 0x400000; at += 4096) {
        if (sigsetjmp(back, 1) == 0) {
            volatile char *byte = (volatile char *)at;
            *byte = *byte;
            printf("writable: %#lx\n", (unsigned long)at);
            writable++;
        } else {
            faults++;
        }
    }
    printf("%d pages refused\n", faults);
    return writable;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    for (int number = 1; number < 32; number++)
        sigaction(number, &action, NULL);
    if (!strcmp(what, "stub")) {
        int writable = scan();
        printf(writable ? "it can write the machine's pages\n" : "no page of the machine can be written\n");
        return writable;
    }
    int execute = !strcmp(what, "execute");
    char *page = mmap(NULL, 4096, PROT_READ | (execute ? PROT_WRITE : 0), MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (execute)
        page[0] = (char)0xc3;
    if (sigsetjmp(back, 1) == 0) {
        provoke(what, page);
        printf("nothing happened\n");
        return 1;
    }
    printf("signal %d address %p\n", got, address);
    if (address == page)
        printf("signal %d at the page\n", got);
    if (instruction == (uintptr_t)at_ud || instruction == (uintptr_t)at_divide)
        printf("signal %d at the instruction\n", got);
    return 0;
}
