// Code that changes itself, the stub that serves calls, and every port. Says what was wrong, or that nothing was.
#include "common.h"
#include <sys/syscall.h>

static sigjmp_buf back;
static volatile int got;
static void handler(int number) {
    got = number;
    siglongjmp(back, 1);
}

static int wrong;
static void must_be_told(const char *what, unsigned long where) {
    printf("wrong: %s %#lx: nothing happened\n", what, where);
    wrong++;
}

// Code written while it is executable, executed, written again: the new code runs, as on any x86.
static int self_modifying(void) {
    uint8_t *code = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        return 1;
    for (uint32_t turn = 0; turn < 20000; turn++) {
        uint8_t *at = code + turn % 4000; // over the border of the page as well
        const uint8_t text[] = {0xb8, (uint8_t)turn, (uint8_t)(turn >> 8), 0, 0, 0xc3}; // mov eax, turn; ret
        memcpy(at, text, sizeof text);
        if (((uint32_t(*)(void))at)() != (turn & 0xffff))
            return 1;
    }
    // A call whose very instruction is rewritten by its result, and one that unmaps the code it stands on.
    memcpy(code + 100, (uint8_t[]){0x0f, 0x05, 0x90, 0x90, 0xc3}, 5); // syscall; nop; nop; ret
    int ends[2];
    if (pipe(ends) || write(ends[1], "\x0f\x0b", 2) != 2)
        return 1;
    if (sigsetjmp(back, 1) == 0) {
        register uint64_t place __asm__("rsi") = (uint64_t)(code + 102); // read over the nops: ud2
        __asm__ volatile("call *%0" : : "r"(code + 100), "a"(SYS_read), "D"(ends[0]), "r"(place), "d"(2) : "rcx", "r11", "memory");
        return 1;
    }
    if (got != SIGILL)
        return 1;
    memcpy(code + 4090, (uint8_t[]){0x0f, 0x05, 0xc3}, 3);
    if (sigsetjmp(back, 1) == 0) {
        register uint64_t length __asm__("rsi") = 8192;
        __asm__ volatile("call *%0" : : "r"(code + 4090), "a"(SYS_munmap), "D"(code), "r"(length) : "rcx", "r11", "memory");
        return 1;
    }
    return got != SIGSEGV;
}

// The machine's pages: no byte of them can be written, by an instruction or by a call; jumping into them is told.
static void the_stub(void) {
    int zero = open("/dev/zero", O_RDONLY);
    for (unsigned long page = 0x200000; page < 0x400000; page += 4096) {
        if (read(zero, (void *)page, 1) >= 0)
            must_be_told("read() into", page);
        if (mprotect((void *)page, 4096, PROT_READ | PROT_WRITE) == 0 || munmap((void *)page, 4096) == 0)
            must_be_told("mprotect or munmap of", page);
        if (mmap((void *)page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
            must_be_told("mmap over", page);
        if (sigsetjmp(back, 1) == 0) {
            *(volatile char *)page = 0;
            must_be_told("writing", page);
        }
    }
    // Into the middle of whatever is there, with system call numbers in place.
    for (unsigned long at = 0x200000; at < 0x203000; at += 3)
        if (sigsetjmp(back, 1) == 0) {
            __asm__ volatile("push %%rbp\n\tcall *%0\n\tpop %%rbp" : : "r"(at), "a"(SYS_getpid) : "rcx", "r11", "memory", "cc", "rdx");
            must_be_told("a call of", at);
        }
}

static void every_port(void) {
    static char buffer[16];
    for (unsigned long port = 0; port < 0x10000; port++) {
        // The port of the stub is open where the stub runs at CPL 3; `own-port` tries that one.
        if (port == 0x10)
            continue;
#define TRY(what, text, ...) \
    if (sigsetjmp(back, 1) == 0) { \
        __asm__ volatile(text : : __VA_ARGS__ : "memory"); \
        must_be_told(what, port); \
    }
        if (port % 512 == 0 || port < 0x24 || (port & 0xfffc) == 0x5658 || (port & 0xfff8) == 0xcf8 || port > 0xfffc) {
            TRY("outb", "outb %%al, %%dx", "a"(0), "d"(port))
            TRY("outw", "outw %%ax, %%dx", "a"(0), "d"(port))
            TRY("outl", "outl %%eax, %%dx", "a"(0), "d"(port))
            TRY("inb", "inb %%dx, %%al", "a"(0), "d"(port))
            TRY("inw", "inw %%dx, %%ax", "a"(0), "d"(port))
            TRY("inl", "inl %%dx, %%eax", "a"(0), "d"(port))
            TRY("outsb", "outsb", "S"(buffer), "d"(port))
            TRY("outsw", "outsw", "S"(buffer), "d"(port))
            TRY("outsl", "outsl", "S"(buffer), "d"(port))
            TRY("insb", "insb", "D"(buffer), "d"(port))
            TRY("insl", "insl", "D"(buffer), "d"(port))
        }
    }
}

// The stub's own port, from elsewhere: a call, a fault, or the end of this guest.
static void own_port(int how) {
    static char buffer[16];
    if (sigsetjmp(back, 1))
        return;
    switch (how) {
    case 0: __asm__ volatile("outb %%al, $0x10" : : "a"(SYS_getpid) : "rcx", "r11", "memory"); break;
    case 1: __asm__ volatile("outw %%ax, $0x10" : : "a"(SYS_getpid) : "rcx", "r11", "memory"); break;
    case 2: __asm__ volatile("outl %%eax, $0x10" : : "a"(SYS_getpid) : "rcx", "r11", "memory"); break;
    case 3: __asm__ volatile("inb $0x10, %%al" : : : "rax", "memory"); break;
    case 4: __asm__ volatile("inl $0x10, %%eax" : : : "rax", "memory"); break;
    case 5: __asm__ volatile("mov $4096, %%ecx\n\trep outsb" : : "S"(buffer), "d"(0x10) : "rcx", "memory"); break;
    case 6: __asm__ volatile("mov $4, %%ecx\n\trep outsl" : : "S"(buffer), "d"(0x10) : "rcx", "memory"); break;
    case 7: __asm__ volatile("mov $4, %%ecx\n\trep insb" : : "D"(buffer), "d"(0x10) : "rcx", "memory"); break;
    default: __asm__ volatile("outb %%al, $0x11" : : "a"(14) : "memory");
    }
}

int main(int argc, char **argv) {
    struct sigaction action = {.sa_handler = handler};
    const int signals[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "code") && self_modifying())
        wrong++;
    if (!strcmp(what, "stub"))
        the_stub();
    if (!strcmp(what, "ports"))
        every_port();
    if (!strcmp(what, "own-port") && argc > 2)
        own_port(atoi(argv[2]));
    if (!sane())
        return 93;
    if (!wrong)
        printf("nothing wrong\n");
    return wrong != 0;
}
