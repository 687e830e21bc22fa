// The vDSO's clocks and CPU number: right, and without an exit; with the argument "fallback": right, by system calls.
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define TIMES 1000
#define ROUNDS 7

static int wrong(const char *what) {
    printf("wrong: %s\n", what);
    return 1;
}

static uint64_t ns(struct timespec t) { return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec; }

static uint64_t asked(clockid_t clock) {
    struct timespec t;
    syscall(SYS_clock_gettime, clock, &t);
    return ns(t);
}

static uint64_t read_clock(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return ns(t);
}

// Between two answers of the host's kernel lies what the guest reads by itself.
static int agrees(clockid_t clock) {
    uint64_t last = 0;
    for (int i = 0; i < 200; i++) {
        uint64_t before = asked(clock), now = read_clock(clock), after = asked(clock);
        if (now < before || now > after || now < last)
            return 0;
        last = now;
    }
    return 1;
}

static void by_clock(void) { read_clock(CLOCK_MONOTONIC); }
static void by_cpu(void) { (void)sched_getcpu(); }
static void by_exit(void) { syscall(SYS_getppid); }

// The least of several rounds: the machine has others to serve.
static uint64_t price(void (*call)(void)) {
    uint64_t least = UINT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t began = read_clock(CLOCK_MONOTONIC);
        for (int i = 0; i < TIMES; i++)
            call();
        uint64_t took = read_clock(CLOCK_MONOTONIC) - began;
        least = took < least ? took : least;
    }
    return least / TIMES;
}

int main(int argc, char **argv) {
    int fallback = argc > 1 && strcmp(argv[1], "fallback") == 0;
    if (!getauxval(AT_SYSINFO_EHDR))
        return wrong("no vDSO");
    if (!agrees(CLOCK_MONOTONIC) || !agrees(CLOCK_REALTIME) || !agrees(CLOCK_BOOTTIME))
        return wrong("a clock differs from the kernel's");
    struct timeval day;
    gettimeofday(&day, NULL);
    time_t now = time(NULL), kernel = (time_t)(asked(CLOCK_REALTIME) / 1000000000);
    if (day.tv_sec > now || now - day.tv_sec > 5 || now > kernel || kernel - now > 5)
        return wrong("gettimeofday or time");
    uint64_t began = read_clock(CLOCK_MONOTONIC);
    usleep(50000);
    if (read_clock(CLOCK_MONOTONIC) - began < 50000000)
        return wrong("less time went by than was slept");

    unsigned cpu = 99, node = 99;
    cpu_set_t set;
    syscall(SYS_getcpu, &cpu, &node, NULL);
    sched_getaffinity(0, sizeof set, &set);
    if (sched_getcpu() != (int)cpu || cpu != 0 || node != 0 || !CPU_ISSET(cpu, &set))
        return wrong("the CPU's number");

    uint64_t call = price(by_exit), clock = price(by_clock), number = price(by_cpu);
    printf("ns: system call %lu, clock %lu, CPU number %lu\n", call, clock, number);
    if (number > call / 3)
        return wrong("the CPU's number takes an exit");
    if (fallback ? clock < call / 3 : clock > call / 3)
        return wrong(fallback ? "the clock is read without an exit" : "the clock takes an exit");
    printf("clock holds, %s\n", fallback ? "by system calls" : "without exits");
    return 0;
}
