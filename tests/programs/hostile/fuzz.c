// Random but plausible system calls on several threads, while one more thread rewrites what they point to.
// ARGV: seed, seconds, threads. Or: "sweep" SEED TURNS, every call of the list in turn.
// Says how many calls it has made each second, on descriptor 900; the last line counts.
#include "common.h"
#include "signatures.h"
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

#define REPORT 900
#define THREADS 16
#define PLAY (16 << 20)
#define AREA 65536

static char *play;                  // mapped, unmapped and protected at will
static char *area;                  // structures, rewritten at all times; behind it nothing is mapped
static char *readonly, *writable;   // a page each, with a hole behind
static const uint64_t zeros[64];    // an empty signal set
static volatile int over;
static volatile long counts[THREADS + 1];
static volatile int tids[THREADS + 1];
static volatile int last[THREADS + 1];
static volatile int unused_tid;
static pid_t self;

static uint64_t next(uint64_t *state) {
    uint64_t x = *state;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return *state = x;
}

static const uint64_t wild[] = {
    0, 1, 4095, 0x200000 /* the machine's own */, 0x3ff000, 0x3fffff, 0x50000000 /* nothing there */, 0xbefffffcULL, 0xbf000000ULL,
    0x3ff000ULL /* doorbell */, 0xbfe00000ULL /* its frame */, 0xfee00000ULL /* APIC */, 0xfffbc000ULL, 0xffffffffULL, 0xfffffffffcULL, 0x1000000000ULL /* the end */,
    0x7ffffffffffcULL, 0x7fffffffffffffffULL, 0x8000000000000000ULL, 0xffff800000000000ULL, 0xffffffffff600000ULL, -4096ULL, -1ULL,
};
static const char *const paths[] = {
    "/tmp/a", "/tmp/b", "/tmp/d", "/tmp/d/e", "/tmp", "/", "/proc/self", "/proc/self/maps", "/proc/self/fd", "/proc/self/status", "/proc",
    "/dev/null", "/dev/zero", "/dev/urandom", "/dev/full", "/dev", "/usr", "/usr/bin", "/usr/lib", "/etc/ld.so.cache", "a", "d/..", "..",
    "", ".", "/tmp/link", "/tmp/none/x", "/proc/self/fd/3", "/proc/self/exe", "/tmp/d/../../usr/bin/env", "/dev/nexus", "/tmp/s",
    "/proc/self/task", "/proc/self/cwd/x", "/proc/meminfo", "/proc/self/mem", "/dev/fd/5", "/dev/shm/x", "system.posix_acl_access", "user.x",
};
#define PICK(list) list[next(r) % (sizeof list / sizeof *list)]

static uint64_t place(uint64_t *r) {
    switch (next(r) % 16) {
    case 0: return PICK(wild);
    case 1: return (uint64_t)readonly + 4096 - next(r) % 64;
    case 2: return (uint64_t)writable + 4096 - next(r) % 64;
    case 3: return (uint64_t)area + AREA - next(r) % 256;
    case 4: return (uint64_t)play + next(r) % PLAY;
    default: return (uint64_t)area + next(r) % (AREA - 8192) / 8 * 8;
    }
}

static uint64_t number(uint64_t *r) {
    static const uint64_t edges[] = {0, 1, 2, 3, 4, 7, 8, 16, 255, 4095, 4096, 4097, 65536, 1 << 20, 0x7fffffff, 0x80000000, 0xffffffff,
                                     1ULL << 40, 0x7fffffffffffffff, 1ULL << 63, -1ULL, -2ULL, -22ULL, -4096ULL};
    return next(r) % 4 ? PICK(edges) : next(r) >> next(r) % 64;
}

static uint64_t path(uint64_t *r) {
    if (next(r) % 12 == 0)
        return place(r);
    if (next(r) % 8)
        return (uint64_t)PICK(paths);
    // One that is being rewritten.
    char *at = area + 1024 * (next(r) % 8);
    strcpy(at, PICK(paths));
    return (uint64_t)at;
}

static int descriptor(uint64_t *r) { return (int)(next(r) % 16 ? next(r) % 48 : next(r) % 3 ? next(r) % 64 : number(r)); }

static uint64_t argument(char kind, uint64_t *r) {
    static const int opens[] = {0, 1, 2, 0100, 0102, 01102, 02000, 0200000, 0400000, 04000, 010000000, 020200000, 02000000, 0100000};
    static const int commands[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1024, 1030, 1031, 1032, 1033, 36, 37, 38};
    static const int requests[] = {0x541b, 0x5421, 0x5450, 0x5451, 0x5401, 0x5413, 0x5412, 0xae80, 0x80086601};
    static const int archs[] = {0x1003, 0x1004, 0x1011, 0x1012, 0x3001, 0, -1};
    static const int controls[] = {1, 2, 3, 4, 15, 16, 22, 23, 24, 36, 37, 38, 39, 40, 53, 0x53564d41, 47, 999};
    switch (kind) {
    case 'f': return (uint64_t)descriptor(r);
    case 'F': return next(r) % 2 ? (uint64_t)-100 : (uint64_t)descriptor(r);
    case 'D': return next(r) % 60 + 3; // never what this program reports by
    case 'p': return path(r);
    case 'X': return (uint64_t)(next(r) % 2 ? "/tmp/none" : "/dev/null");
    case 'b': case 'w': case 'a': case 'N': case 'S': return place(r);
    case 'q': return next(r) % 2 ? 0 : (uint64_t)PICK(wild);
    case 'E': return next(r) % 4 ? 0 : next(r) % 4 ? (uint64_t)zeros : PICK(wild);
    case 'v': case 'h': case 'T': case 't': return next(r) % 8 ? (uint64_t)area + next(r) % (AREA / 64 - 64) * 64 : place(r);
    case 'y': return next(r) % 8 ? (uint64_t)area + next(r) % 64 * 4 : place(r);
    case 'Y': return next(r) % 16 | (next(r) % 2 ? 128 : 0) | (next(r) % 8 ? 0 : 256);
    case 'g': return next(r) % 8 == 0 ? PICK(wild) : ((uint64_t)play + next(r) % (PLAY - (1 << 20))) & ~4095ULL;
    case 'L': return next(r) % 16 ? (next(r) % 64 + 1) << 12 : number(r) % (1 << 20);
    case 'P': return next(r) % 8;
    case 'M': return 0x10 | (next(r) % 4 ? 0x20 : 0) | (next(r) % 3 ? 2 : 1) | (next(r) % 4 ? 0 : 0x4000);
    case 'd': return next(r) % 26;
    case 'l': return next(r) % 4 ? next(r) % 4096 : number(r);
    case 'c': return next(r) % 8 ? next(r) % 16 : number(r);
    case 'j': return next(r) % 4 ? 0 : next(r) % 3;
    case 'o': return (uint64_t)(PICK(opens) | PICK(opens));
    case 'm': return next(r) % 2 ? 0700 : next(r) & 0177777;
    case 'W': return next(r) % 8;
    case 'k': return (uint64_t)PICK(commands);
    case 'K': return (uint64_t)PICK(requests);
    case 'R': return (uint64_t)PICK(archs);
    case 'O': return (uint64_t)PICK(controls);
    case 'r': return 8 + next(r) % 10; // not what this program lives on: files, stack, CPU time
    case 'e': return next(r) % 5;
    case 's': {
        uint64_t signal = next(r) % 70;
        return signal == 9 || signal == 19 || signal == 32 || signal == 33 || signal == 11 || signal == 7 || signal == 4 || signal == 8 ? 0 : signal;
    }
    case 'z': return next(r) % 16 ? 8 : number(r);
    case 'n': return next(r) % 2 ? (uint64_t)self : next(r) % 2 ? (uint64_t)tids[next(r) % THREADS] : number(r);
    case 'u': return next(r) % 2 ? 0 : next(r) % 2 ? 1000 : -1ULL;
    case 'A': return next(r) % 4 ? 16 : number(r);
    case 'i': return next(r) % 2 ? next(r) % 8 : number(r);
    default: return number(r);
    }
}

// The rewriting thread: vectors, times, addresses and messages in the area turn from good to bad and back.
static void *rewrite(void *seed) {
    uint64_t state = (uint64_t)seed * 2654435761u + 99, *r = &state;
    while (!over) {
        uint64_t *at = (uint64_t *)(area + next(r) % (AREA - 256) / 8 * 8);
        switch (next(r) % 6) {
        case 0: // a vector or two
            at[0] = place(r), at[1] = argument('l', r), at[2] = place(r), at[3] = argument('l', r);
            break;
        case 1: // a short time, or no time at all
            at[0] = 0, at[1] = next(r) % 8 ? next(r) % 100000 : number(r), at[2] = 0, at[3] = next(r) % 100000;
            break;
        case 2: { // an address
            const sa_family_t families[] = {AF_UNIX, AF_UNIX, AF_INET, AF_INET6};
            struct sockaddr_un name = {.sun_family = PICK(families)};
            strcpy(name.sun_path, next(r) % 2 ? "/tmp/s" : PICK(paths));
            memcpy(at, &name, 64);
            break;
        }
        case 3: { // a message
            struct msghdr message = {.msg_name = (void *)place(r), .msg_namelen = (unsigned)argument('A', r), .msg_iov = (void *)place(r),
                                     .msg_iovlen = argument('c', r), .msg_control = (void *)place(r), .msg_controllen = argument('l', r)};
            memcpy(at, &message, sizeof message);
            break;
        }
        case 4: // descriptors, as poll takes them
            for (int i = 0; i < 4; i++)
                at[i] = (uint64_t)(unsigned)descriptor(r) | next(r) << 32;
            break;
        default: memset(at, (int)next(r), 64);
        }
        mprotect(writable, 4096, next(r) % 4 ? PROT_READ | PROT_WRITE : PROT_NONE);
        for (volatile int wait = 0; wait < 300; wait++)
            ;
    }
    return seed;
}

static void one(const struct signature *what, int slot, uint64_t *r) {
    uint64_t a[6];
    for (int i = 0; i < 6; i++)
        a[i] = (size_t)i < strlen(what->arguments) ? argument(what->arguments[i], r) : next(r);
    last[slot] = what->number;
    long result = raw(what->number, a[0], a[1], a[2], a[3], a[4], a[5]);
    counts[slot]++;
    // What would take the ground away: memory mapped where it leaks, every signal blocked, an alternative stack that is none.
    if ((what->number == 9 || what->number == 25) && result > 0 && ((uint64_t)result < (uint64_t)play || (uint64_t)result >= (uint64_t)play + PLAY))
        raw(SYS_munmap, (uint64_t)result, a[1] < a[2] && what->number == 25 ? a[2] : a[1], 0, 0, 0, 0);
    if (what->number == 14)
        raw(SYS_rt_sigprocmask, SIG_SETMASK, (uint64_t)zeros, 0, 8, 0, 0);
    if (what->number == 131) {
        stack_t none = {.ss_flags = SS_DISABLE};
        raw(SYS_sigaltstack, (uint64_t)&none, 0, 0, 0, 0, 0);
    }
    if (what->number == 273)
        raw(SYS_set_robust_list, 0, 24, 0, 0, 0, 0);
    if (what->number == 218)
        raw(SYS_set_tid_address, (uint64_t)&unused_tid, 0, 0, 0, 0, 0);
}

static long seed_of_all;

static void *work(void *which) {
    int slot = (int)(long)which;
    uint64_t state = (uint64_t)(seed_of_all * 1000003 + slot + 1) * 0x9e3779b97f4a7c15ULL | 1;
    tids[slot] = (int)raw(SYS_gettid, 0, 0, 0, 0, 0, 0);
    while (!over) {
        one(&signatures[next(&state) % SIGNATURES], slot, &state);
        pthread_t thread;
        if (next(&state) % 4096 == 0 && pthread_create(&thread, NULL, nothing, NULL) == 0)
            pthread_detach(thread);
    }
    return which;
}

static void wake(int unused) { (void)unused; }

static long total(void) {
    long sum = 0;
    for (int i = 0; i <= THREADS; i++)
        sum += counts[i];
    return sum;
}

static void fault(int signal) {
    // The program's own memory is at stake in some of what it does: it ends here, and its host goes on.
    char text[128];
    int length = snprintf(text, sizeof text, "%ld calls, then signal %d\n", total(), signal);
    raw(SYS_write, REPORT, (uint64_t)text, (uint64_t)length, 0, 0, 0);
    raw(SYS_exit_group, 3, 0, 0, 0, 0, 0);
}

static void prepare(void) {
    play = mmap(NULL, PLAY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    area = mmap(NULL, AREA + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (play == MAP_FAILED || area == MAP_FAILED || mprotect(area + AREA, 4096, PROT_NONE))
        exit(90);
    readonly = page_before_hole(PROT_READ), writable = page_before_hole(PROT_READ | PROT_WRITE);
    self = getpid();
    for (int number = 1; number < 65; number++) {
        int fatal = number == SIGSEGV || number == SIGBUS || number == SIGILL || number == SIGFPE;
        struct sigaction action = {.sa_handler = fatal ? fault : wake};
        sigaction(number, &action, NULL);
    }
    if (dup2(1, REPORT) < 0 || mkdir("/tmp/d", 0700) || symlink("/tmp/a", "/tmp/link"))
        exit(91);
    int ends[2];
    close(0), close(1), close(2); // what it writes at random is not to be read by anybody
    open("/dev/null", O_RDWR), open("/dev/null", O_RDWR), open("/dev/null", O_RDWR);
    if (pipe2(ends, O_NONBLOCK) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) || socketpair(AF_UNIX, SOCK_DGRAM, 0, ends))
        exit(92);
    open("/tmp/a", O_RDWR | O_CREAT, 0600), open("/usr", O_RDONLY | O_DIRECTORY), open("/tmp", O_RDONLY | O_DIRECTORY);
    raw(SYS_epoll_create1, 0, 0, 0, 0, 0, 0), raw(SYS_timerfd_create, 1, 0, 0, 0, 0, 0), raw(SYS_eventfd2, 3, 04000, 0, 0, 0, 0);
    socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0), socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
}

static uint64_t now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

// Every call of the list, this many times each, one after another.
static void *sweep(void *turns) {
    uint64_t state = (uint64_t)seed_of_all * 0x9e3779b97f4a7c15ULL | 1;
    tids[0] = (int)raw(SYS_gettid, 0, 0, 0, 0, 0, 0);
    for (size_t i = 0; i < SIGNATURES && !over; i++)
        for (long turn = 0; turn < (long)turns; turn++)
            one(&signatures[i], 0, &state);
    over = 1;
    return turns;
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 90;
    int sweeping = !strcmp(argv[1], "sweep");
    seed_of_all = atol(argv[sweeping ? 2 : 1]);
    long threads = sweeping ? 1 : atol(argv[3]);
    uint64_t end = now_ms() + (sweeping ? 100000 : (uint64_t)(atof(argv[2]) * 1000));
    prepare();
    pthread_t made[THREADS + 1];
    pthread_create(&made[THREADS], NULL, rewrite, (void *)seed_of_all);
    for (long i = 0; i < threads && i < THREADS; i++)
        if (pthread_create(&made[i], NULL, sweeping ? sweep : work, sweeping ? (void *)atol(argv[3]) : (void *)i))
            return 93;
    uint64_t told = now_ms();
    long seen[THREADS] = {0};
    while (!over && now_ms() < end) {
        // Whoever waits in a call is woken: there is nothing to come.
        struct timespec pause = {0, 2000000};
        raw(SYS_nanosleep, (uint64_t)&pause, 0, 0, 0, 0, 0);
        for (int i = 0; i < threads; i++) {
            if (seen[i] == counts[i] && tids[i])
                raw(SYS_tgkill, (uint64_t)self, (uint64_t)tids[i], SIGUSR1, 0, 0, 0);
            seen[i] = counts[i];
        }
        if (now_ms() > told + 1000) {
            told = now_ms();
            dprintf(REPORT, "%ld calls\n", total());
        }
    }
    int complete = over;
    over = 1;
    dprintf(REPORT, "%ld calls, the last: %d %d %d %d\n", total(), last[0], last[1], last[2], last[3]);
    raw(SYS_exit_group, sweeping && !complete ? 94 : 0, 0, 0, 0, 0, 0);
}
