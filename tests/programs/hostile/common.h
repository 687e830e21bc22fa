// What the hostile programs share: raw system calls, and surviving a fault.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// As the kernel answers: a result, or an error number below zero.
static inline long raw(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
    register uint64_t r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

// A page of this protection, then one that is not accessible. Returns the first.
static inline char *page_before_hole(int protection) {
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        exit(90);
    memset(pages, 'x', 4096);
    if (mprotect(pages, 4096, protection) || mprotect(pages + 4096, 4096, PROT_NONE))
        exit(91);
    return pages;
}

// Memory, files, pipes and threads still work: what a hostile program must not have broken for itself.
static void *nothing(void *value) { return value; }

static inline int sane(void) {
    char text[8] = {0};
    int ends[2];
    pthread_t thread;
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return 0;
    page[4095] = 1;
    munmap(page, 4096);
    int file = open("/tmp/sane", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, "content", 7) != 7 || pread(file, text, 7, 0) != 7 || strcmp(text, "content") != 0)
        return 0;
    close(file);
    if (pipe(ends) || write(ends[1], "x", 1) != 1 || read(ends[0], text, 1) != 1)
        return 0;
    close(ends[0]);
    close(ends[1]);
    return pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0;
}
