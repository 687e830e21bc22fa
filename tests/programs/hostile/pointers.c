// Every system call with wild values in every argument: each answers, none may harm the hypervisor.
#include "common.h"

#define NUMBERS 470

// What ends or blocks this program by design, or takes away what it needs to report. `threads` and `frames` try some of it.
static const int skipped[] = {
    15 /* rt_sigreturn */, 34 /* pause */, 56 /* clone */, 60 /* exit */, 130 /* rt_sigsuspend */,
    57, 58 /* fork and vfork, whose child would go on here as well */, 158 /* arch_prctl */, 219, 231 /* exit_group */, 436 /* close_range */,
};

static int is_skipped(int number) {
    for (size_t i = 0; i < sizeof skipped / sizeof *skipped; i++)
        if (skipped[i] == number)
            return 1;
    // With nothing to wait for and no time limit these wait for ever, rightly.
    return number == 23 || number == 270 || number == 271;
}

// Of the wild addresses those at the end, which are beside its own memory.
enum { OWN = 5 };

int main(void) {
    char *readonly = page_before_hole(PROT_READ), *writable = page_before_hole(PROT_READ | PROT_WRITE);
    const uint64_t wild[] = {
        0, 1, 4095, 4096, 0x200000 /* the machine's own */, 0x3ff000, 0x3fffff, 0x50000000 /* nothing there */,
        0xbefffffcULL, 0xbf000000ULL, 0x3ff000ULL /* doorbell */, 0xbfe00000ULL /* its frame */, 0xfee00000ULL /* APIC */, 0xfffbc000ULL, 0xffffffffULL,
        0x100000000ULL, 0xffffffffcULL, 0x1000000000ULL /* the window's end */, 0x7ffffffffffcULL, 0x7fffffffffffffffULL,
        0x8000000000000000ULL, 0xffff800000000000ULL, 0xffffffffff600000ULL /* vsyscall */, -4096ULL, -1ULL,
        (uint64_t)readonly, (uint64_t)readonly + 4092, (uint64_t)readonly + 4095, (uint64_t)writable + 4092, (uint64_t)writable + 4096,
    };
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    for (int number = 1; number < 65; number++)
        if (number != SIGSEGV && number != SIGBUS)
            sigaction(number, &ignore, NULL);
    int report = dup2(1, 900), ends[2];
    int file = open("/tmp/target", O_RDWR | O_CREAT, 0600);
    if (report < 0 || file < 0 || pipe2(ends, O_NONBLOCK))
        return 92;
    long calls = 0;
    const uint64_t first[] = {(uint64_t)file, (uint64_t)ends[0], (uint64_t)ends[1], (uint64_t)-100 /* AT_FDCWD */, 3};
    for (int number = 0; number < NUMBERS; number++) {
        if (is_skipped(number))
            continue;
        // What the last call opened; else the calls that follow meet the limit of descriptors and nothing more.
        raw(436, 6, (uint64_t)report - 1, 0, 0, 0, 0);
        raw(436, (uint64_t)report + 1, -1ULL, 0, 0, 0, 0);
        for (size_t i = 0; i < sizeof wild / sizeof *wild; i++) {
            uint64_t w = wild[i];
            // Its own memory's address is a possible length, of all that lies behind it.
            if (number >= 9 && number <= 12 && i >= sizeof wild / sizeof *wild - OWN)
                continue;
            raw(number, w, w, w, w, w, w);
            calls++;
            // Never more than one page of its own memory at stake: what unmaps and protects gets wild addresses only.
            if (number >= 9 && number <= 12)
                continue;
            for (size_t k = 0; k < sizeof first / sizeof *first; k++) {
                if (number == 3 || number == 7 || number == 232 || number == 281 || number == 230)
                    break; // closes them, or waits
                raw(number, first[k], w, w, w, w, w);
                raw(number, first[k], w, 8, 0, 0, 0);
                calls += 2;
            }
        }
    }
    raw(436, 6, (uint64_t)report - 1, 0, 0, 0, 0);
    dup2(report, 1);
    if (!sane())
        return 93;
    dprintf(report, "%ld calls answered\n", calls);
    return 0;
}
