// One attempt at the machine itself, named by the argument: privileged instructions, gates, segments, ports, its own pages.
// Says "signal N" when told of it, "nothing happened" when not.
#include "common.h"

static sigjmp_buf back;
static volatile int got;

static void handler(int number) {
    __asm__ volatile("pushfq\n\tandq $~0x40000, (%%rsp)\n\tpopfq" : : : "memory", "cc"); // alignment checks end here
    got = number;
    siglongjmp(back, 1);
}

static char *page;

// Machine code made at run time: vectors and selectors are operands.
static void execute(const uint8_t *bytes, size_t length) {
    memcpy(page, bytes, length);
    page[length] = (char)0xc3;
    if (mprotect(page, 4096, PROT_READ | PROT_EXEC))
        exit(91);
    ((void (*)(void))page)();
}

static void far_jump(uint16_t selector, uint64_t target) {
    struct __attribute__((packed)) {
        uint64_t offset;
        uint16_t selector;
    } pointer = {target, selector};
    __asm__ volatile("rex.W ljmp *%0" : : "m"(pointer));
}

static void load_segment(uint16_t selector) { __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es\n\tmov %0, %%ss" : : "r"(selector)); }

static void iret(uint16_t cs, uint16_t ss) {
    __asm__ volatile("mov %%rsp, %%rcx\n\tpush %1\n\tpush %%rcx\n\tpushfq\n\tpush %0\n\tlea 1f(%%rip), %%rax\n\tpush %%rax\n\tiretq\n1:"
                     : : "r"((uint64_t)cs), "r"((uint64_t)ss) : "rax", "rcx", "memory");
}

// A call to a hypervisor by number. Where it is no fault it must be refused, as KVM does at CPL 3: -EPERM.
#define HYPERCALL(opcode, number)                                                                              \
    do {                                                                                                       \
        long answer = (long)(number);                                                                          \
        __asm__ volatile(".byte 0x0f, 0x01, " opcode : "+a"(answer) : "b"(0), "c"(0), "d"(0), "S"(0) : "memory"); \
        printf("hypercall %s\n", answer == -1 ? "refused" : "answered");                                       \
    } while (0)

static void provoke(const char *what, uint64_t value) {
    uint8_t vector = (uint8_t)value;
#define IS(name) if (!strcmp(what, name))
#define ASM(name, ...) IS(name) { __asm__ volatile(__VA_ARGS__); return; }
    uint64_t table[2] = {0, 0};
    IS("int") { execute((uint8_t[]){0xcd, vector}, 2); return; }
    IS("ljmp") { page[0] = (char)0xc3; mprotect(page, 4096, PROT_READ | PROT_EXEC); far_jump((uint16_t)value, (uint64_t)page); return; }
    IS("segment") { load_segment((uint16_t)value); return; }
    IS("iret") { iret((uint16_t)value, 0x2b); return; }
    IS("iret-stack") { iret(0x33, (uint16_t)value); return; }
    IS("jump") { ((void (*)(void))value)(); return; }
    IS("out8") { __asm__ volatile("outb %%al, %%dx" : : "a"(0), "d"(value)); return; }
    IS("out16") { __asm__ volatile("outw %%ax, %%dx" : : "a"(0), "d"(value)); return; }
    IS("in16") { __asm__ volatile("inw %%dx, %%ax" : : "a"(0), "d"(value)); return; }
    IS("in32") { __asm__ volatile("inl %%dx, %%eax" : : "a"(0), "d"(value)); return; }
    IS("outs16") { __asm__ volatile("mov $2048, %%ecx\n\trep outsw" : : "d"(value), "S"(page) : "rcx"); return; }
    IS("outs32") { __asm__ volatile("mov $1024, %%ecx\n\trep outsl" : : "d"(value), "S"(page) : "rcx"); return; }
    IS("ins16") { __asm__ volatile("mov $2048, %%ecx\n\trep insw" : : "d"(value), "D"(page) : "rcx", "memory"); return; }
    IS("ins32") { __asm__ volatile("mov $1024, %%ecx\n\trep insl" : : "d"(value), "D"(page) : "rcx", "memory"); return; }
    IS("out32") { __asm__ volatile("outl %%eax, %%dx" : : "a"(0), "d"(value)); return; }
    IS("in8") { __asm__ volatile("inb %%dx, %%al" : : "a"(0), "d"(value)); return; }
    IS("outs") { __asm__ volatile("mov $4096, %%ecx\n\trep outsb" : : "d"(value), "S"(page) : "rcx"); return; }
    IS("ins") { __asm__ volatile("mov $4096, %%ecx\n\trep insb" : : "d"(value), "D"(page) : "rcx", "memory"); return; }
    IS("wrmsr") { __asm__ volatile("wrmsr" : : "c"(value), "a"(0), "d"(0)); return; }
    IS("rdmsr") { __asm__ volatile("rdmsr" : : "c"(value) : "eax", "edx"); return; }
    ASM("cr0", "mov %%cr0, %%rax\n\tmov %%rax, %%cr0" : : : "rax")
    ASM("cr3", "mov %%cr3, %%rax\n\tmov %%rax, %%cr3" : : : "rax")
    ASM("cr4", "mov %%cr4, %%rax\n\tmov %%rax, %%cr4" : : : "rax")
    ASM("cr8", "mov %%cr8, %%rax\n\tmov %%rax, %%cr8" : : : "rax")
    ASM("dr7", "mov %%dr7, %%rax\n\tmov %%rax, %%dr7" : : : "rax")
    ASM("lgdt", "lgdt %0" : : "m"(table))
    ASM("lidt", "lidt %0" : : "m"(table))
    ASM("lldt", "lldt %%ax" : : "a"(0))
    ASM("ltr", "ltr %%ax" : : "a"(0x28))
    ASM("lmsw", "lmsw %%ax" : : "a"(1))
    ASM("invlpg", "invlpg (%%rax)" : : "a"(page))
    ASM("invd", "invd")
    ASM("wbinvd", "wbinvd")
    ASM("clts", "clts")
    ASM("hlt", "hlt")
    ASM("cli", "cli")
    ASM("sti", "sti")
    ASM("swapgs", "swapgs")
    ASM("sysretq", "sysretq")
    ASM("sysexit", "sysexitl")
    ASM("sysenter", "sysenter")
    IS("vmcall") { HYPERCALL("0xc1", value); return; }
    IS("vmmcall") { HYPERCALL("0xd9", value); return; }
    ASM("vmrun", ".byte 0x0f, 0x01, 0xd8" : : "a"(page))
    ASM("clgi", ".byte 0x0f, 0x01, 0xdd")
    ASM("xsetbv", "xsetbv" : : "c"(0), "a"(7), "d"(0))
    ASM("rdpmc", "rdpmc" : : "c"(0) : "eax", "edx")
    ASM("monitor", "monitor" : : "a"(page), "c"(0), "d"(0))
    ASM("mwait", "mwait" : : "a"(0), "c"(0))
    ASM("wrpkru", ".byte 0x0f, 0x01, 0xef" : : "a"(0), "c"(0), "d"(0))
    ASM("rsm", ".byte 0x0f, 0xaa")
    ASM("popf", "pushfq\n\torq $0x3000, (%%rsp)\n\tpopfq" : : : "memory", "cc")
    ASM("nested-task", "pushfq\n\torq $0x4000, (%%rsp)\n\tpopfq\n\tiretq" : : : "memory", "cc")
    ASM("trap-flag", "pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tnop\n\tnop" : : : "memory", "cc")
    ASM("alignment", "pushfq\n\torq $0x40000, (%%rsp)\n\tpopfq\n\tmov 1(%%rsp), %%eax" : : : "eax", "memory", "cc")
    ASM("non-canonical", "movabs $0x8000000000000000, %%rax\n\tmov (%%rax), %%rax" : : : "rax")
    ASM("non-canonical-stack", "movabs $0x8000000000000000, %%rsp\n\tpush %%rax" : : : "memory")
    ASM("no-stack-call", "mov $0x50000000, %%rsp\n\tsyscall" : : "a"(39) : "rcx", "r11", "memory")
    ASM("wild-base", "wrfsbase %%rax\n\tmov %%fs:0, %%rax" : : "a"(0x200000ULL))
    exit(92);
}

// All that a program survives, one after another in one guest. What lands at CPL 0 shows by the code segment, or by not being told.
static int swept, silent;

static void attempt(const char *what, uint64_t value, int may_be_silent) {
    static const char *volatile name;
    static volatile uint64_t operand;
    static volatile int quiet;
    name = what, operand = value, quiet = may_be_silent;
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
    swept++;
    if (sigsetjmp(back, 1) == 0) {
        provoke(name, operand);
        if (!quiet) {
            printf("wrong: %s %#lx: nothing happened\n", name, (unsigned long)operand);
            silent++;
        }
    }
    uint16_t segment;
    __asm__ volatile("mov %%cs, %0" : "=r"(segment));
    if ((segment & 3) != 3) {
        printf("wrong: %s %#lx: at CPL %d\n", name, (unsigned long)operand, segment & 3);
        exit(96);
    }
}

static int sweep(void) {
    static const char *const names[] = {
        "cr0", "cr3", "cr4", "cr8", "dr7", "lgdt", "lidt", "lldt", "ltr", "lmsw", "invlpg", "invd", "wbinvd", "clts", "hlt", "cli", "sti",
        "swapgs", "sysretq", "sysexit", "vmrun", "clgi", "xsetbv", "rdpmc", "monitor", "mwait", "rsm", "nested-task", "non-canonical",
        "non-canonical-stack",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        attempt(names[i], 0, 0);
    static const char *const selectors[] = {"ljmp", "segment", "iret", "iret-stack"};
    for (size_t i = 0; i < sizeof selectors / sizeof *selectors; i++)
        for (uint64_t selector = 0; selector < 0x60; selector++)
            attempt(selectors[i], selector, 1);
    for (uint64_t vector = 0; vector < 256; vector++)
        attempt("int", vector, 1);
    static const char *const ports[] = {"out8", "out16", "out32", "in8", "outs", "ins"};
    static const uint16_t numbers[] = {0x20, 0x64, 0x80, 0x3f8, 0xcf8, 0x510, 0x5658, 0xffff};
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++)
        for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++)
            attempt(ports[i], numbers[n], 0);
    static const uint32_t registers[] = {0x10, 0x1b, 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000084, 0xc0000101, 0x4b564d00, 0x40000000};
    for (size_t i = 0; i < sizeof registers / sizeof *registers; i++) {
        attempt("rdmsr", registers[i], 0);
        attempt("wrmsr", registers[i], 0);
    }
    // Every page of the machine's own, at its start and in the middle.
    for (uint64_t place = 0x200000; place < 0x400000; place += 2048)
        attempt("jump", place, 0);
    printf("%d attempts, %d wrong\n", swept, silent);
    return silent != 0;
}

// Ways of reaching ports, taken in turn from the first one on, at every port.
// The signal is never left: its handler jumps, and it stays unblocked (SA_NODEFER).
static int every_port(uint64_t first) {
    static const char *const ways[] = {"out8", "out16", "out32", "in8", "in16", "in32",
                                       "outs", "outs16", "outs32", "ins", "ins16", "ins32"};
    static volatile uint64_t port;
    for (port = 0; port < 65536; port++) {
        const char *volatile way = ways[(port + first) % 12];
        // By a byte written here system calls leave. Other uses of its byte end the guest: `patched own-port` tries them.
        if (port == 0x10 && (port + first) % 3 == 0)
            continue;
        swept++;
        if (sigsetjmp(back, 0) == 0) {
            provoke(way, port);
            printf("wrong: %s %#lx: nothing happened\n", way, (unsigned long)port);
            silent++;
        }
    }
    printf("%d attempts, %d wrong\n", swept, silent);
    return silent != 0;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 90;
    static char stack[65536];
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&other, NULL);
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    if (!strcmp(argv[1], "ports"))
        action.sa_flags |= SA_NODEFER;
    const int signals[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!strcmp(argv[1], "sweep"))
        return sweep() || !sane();
    if (!strcmp(argv[1], "ports") && argc > 2)
        return every_port(strtoull(argv[2], NULL, 0)) || !sane();
    if (sigsetjmp(back, 1) == 0) {
        provoke(argv[1], argc > 2 ? strtoull(argv[2], NULL, 0) : 0);
        printf("nothing happened\n");
    } else {
        printf("signal %d\n", got);
    }
    uint16_t segment;
    __asm__ volatile("mov %%cs, %0" : "=r"(segment));
    printf("at CPL %d\n", segment & 3);
    return sane() ? 0 : 93;
}
