// Signals: handlers and masks, stacks of their own, timers, threads, and the way out of a fault.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t count, nested;
static volatile pthread_t ran;
static volatile uintptr_t place;
static char stack[64 << 10];
static sigjmp_buf back;

static int wrong(const char *what) {
    printf("wrong: %s\n", what);
    return 1;
}

static void counting(int number) {
    count++;
    ran = pthread_self();
    place = (uintptr_t)&number;
    if (number == SIGUSR1 && nested == 0) {
        nested = 1;
        raise(SIGUSR2);
    }
}

static void escaping(int number) { siglongjmp(back, number); }

static void handle(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(number, &action, NULL);
}

static void *looping(void *stop) {
    while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED))
        ;
    return NULL;
}

static int delivery(void) {
    handle(SIGUSR1, counting, 0);
    handle(SIGUSR2, counting, SA_ONSTACK);
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&other, NULL);
    double before = 1.25;
    raise(SIGUSR1);
    if (count != 2 || before * 4 != 5.0)
        return wrong("a signal within a signal");
    raise(SIGUSR2);
    if (place < (uintptr_t)stack || place >= (uintptr_t)stack + sizeof stack)
        return wrong("a handler's own stack");
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    count = 0;
    raise(SIGUSR2);
    if (count != 0)
        return wrong("a blocked signal was delivered");
    sigsuspend(&old);
    if (count != 1)
        return wrong("sigsuspend");
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return 0;
}

static int timers(void) {
    handle(SIGALRM, counting, 0);
    count = 0;
    struct itimerval every = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &every, NULL);
    // A loop that makes no call is interrupted all the same.
    while (count < 5)
        ;
    setitimer(ITIMER_REAL, &never, NULL);
    // One that is disarmed sends nothing any more.
    struct itimerval quick = {{0, 50}, {0, 50}};
    for (int round = 0; round < 40; round++) {
        int first = count;
        setitimer(ITIMER_REAL, &quick, NULL);
        while (count == first)
            ;
        setitimer(ITIMER_REAL, &never, NULL);
        int last = count;
        struct timespec moment = {0, 300000};
        nanosleep(&moment, NULL);
        if (count != last)
            return wrong("a timer that was disarmed");
    }
    alarm(1);
    struct timespec long_time = {20, 0};
    if (nanosleep(&long_time, &long_time) != -1 || errno != EINTR || long_time.tv_sec > 19)
        return wrong("a sleep that a signal ends");
    return 0;
}

static int threads(void) {
    int stop = 0;
    pthread_t thread;
    if (pthread_create(&thread, NULL, looping, &stop) != 0)
        return wrong("no thread");
    for (int i = 0; i < 20; i++) {
        count = 0;
        pthread_kill(thread, SIGUSR2);
        while (count == 0)
            usleep(100);
        if (!pthread_equal(ran, thread))
            return wrong("a signal went to another thread");
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    return 0;
}

static int faults(void) {
    char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    handle(SIGSEGV, escaping, 0);
    handle(SIGFPE, escaping, 0);
    handle(SIGILL, escaping, 0);
    for (int i = 0; i < 20; i++) {
        if (sigsetjmp(back, 1) == 0) {
            *(volatile char *)page = 1;
            return wrong("a write to nothing");
        }
        volatile int zero = 0, number = 100;
        if (sigsetjmp(back, 1) == 0) {
            number = number / zero;
            return wrong("a division by zero");
        }
        if (sigsetjmp(back, 1) == 0) {
            __asm__ volatile("ud2");
            return wrong("no instruction");
        }
    }
    return 0;
}

int main(void) {
    if (delivery() || timers() || threads() || faults())
        return 1;
    printf("signals hold\n");
    return 0;
}
