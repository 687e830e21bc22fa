// Takes all there is of one thing, named by the argument, and shows where that ends and that the guest goes on.
#include "common.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

static long count;

static int ended(const char *what) {
    printf("%s: %ld, then %s\n", what, count, strerror(errno));
    return 0;
}

static int descriptors(const char *what, int (*make)(void)) {
    static int made[100000];
    while (count < 100000 && (made[count] = make()) >= 0)
        count++;
    ended(what);
    for (long i = 0; i < count; i++)
        close(made[i]);
    return count == 100000;
}

static int make_file(void) { return open("/tmp/f", O_RDWR | O_CREAT, 0600); }
static int make_root(void) { return open("/usr", O_RDONLY | O_DIRECTORY); }
static int make_pipe(void) {
    int ends[2]; // the other end stays open until `main` closes all
    return pipe(ends) ? -1 : ends[0];
}
static int make_event(void) { return eventfd(0, 0); }
static int make_epoll(void) { return epoll_create1(0); }
static int make_timer(void) { return timerfd_create(CLOCK_MONOTONIC, 0); }
static int make_memory(void) { return (int)raw(SYS_memfd_create, (uint64_t) "m", 0, 0, 0, 0, 0); }

static volatile int leave;
static void *wait_for_end(void *unused) {
    while (!leave)
        usleep(10000);
    return unused;
}

static int threads(void) {
    static pthread_t made[5000];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    int status = 0;
    while (count < 5000 && (status = pthread_create(&made[count], &small, wait_for_end, NULL)) == 0)
        count++;
    errno = status;
    ended("threads");
    leave = 1;
    for (long i = 0; i < count; i++)
        pthread_join(made[i], NULL);
    return count == 5000;
}

// Every other page protected otherwise: as many mappings as there are pages.
static int mappings(void) {
    static char *blocks[1000];
    long used = 0;
    int full = 0;
    while (!full && used < 1000) {
        char *block = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED)
            break;
        blocks[used++] = block;
        for (int i = 0; i < 256; i += 2, count++)
            if (mprotect(block + i * 4096, 4096, PROT_READ)) {
                full = 1;
                break;
            }
    }
    ended("mappings");
    for (long i = 0; i < used; i++)
        munmap(blocks[i], 1 << 20);
    return used == 1000;
}

static int address_space(void) {
    while (count < 100000 && mmap(NULL, (size_t)1 << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED)
        count++;
    ended("GiB reserved");
    return count == 100000;
}

// The guest is ended at its limit, or told ENOMEM: either is an answer.
static int memory(void) {
    for (; count < 65536; count++) {
        char *block = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED)
            break;
        memset(block, 1, 1 << 20);
    }
    ended("MiB touched");
    exit(count == 65536 ? 94 : 0);
}

static int disk(void) {
    static char block[1 << 20];
    int file = open("/tmp/big", O_RDWR | O_CREAT, 0600);
    for (; count < 65536; count++)
        if (write(file, block, sizeof block) <= 0)
            break;
    ended("MiB written to /tmp");
    close(file);
    unlink("/tmp/big");
    return count == 65536;
}

static int names(void) {
    char path[64];
    for (; count < 10000000; count++) {
        sprintf(path, "/tmp/n%ld", count);
        if (mkdir(path, 0700))
            break;
    }
    ended("directories");
    for (long i = 0; i < 10; i++) {
        sprintf(path, "/tmp/n%ld", i);
        rmdir(path);
    }
    return count == 10000000;
}

static int depth(void) {
    for (; count < 2000; count++)
        if (mkdir("d", 0700) || chdir("d"))
            break;
    ended("levels");
    return chdir("/");
}

static int heap(void) {
    char *block;
    while (count < 65536 && (block = sbrk(1 << 20)) != (void *)-1) {
        memset(block, 1, 1 << 20);
        count++;
    }
    ended("MiB of heap");
    exit(count == 65536 ? 94 : 0);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    int status = 95;
    if (chdir("/tmp"))
        return 90;
    setvbuf(stdout, NULL, _IOLBF, 4096);
    if (!strcmp(what, "files")) status = descriptors(what, make_file);
    if (!strcmp(what, "roots")) status = descriptors(what, make_root);
    if (!strcmp(what, "pipes")) {
        status = descriptors(what, make_pipe);
        for (int fd = 3; fd < 2000; fd++)
            close(fd);
    }
    if (!strcmp(what, "events")) status = descriptors(what, make_event);
    if (!strcmp(what, "epolls")) status = descriptors(what, make_epoll);
    if (!strcmp(what, "timers")) status = descriptors(what, make_timer);
    if (!strcmp(what, "memfds")) status = descriptors(what, make_memory);
    if (!strcmp(what, "threads")) status = threads();
    if (!strcmp(what, "mappings")) status = mappings();
    if (!strcmp(what, "address-space")) status = address_space();
    if (!strcmp(what, "memory")) status = memory();
    if (!strcmp(what, "disk")) status = disk();
    if (!strcmp(what, "names")) status = names();
    if (!strcmp(what, "depth")) status = depth();
    if (!strcmp(what, "heap")) status = heap();
    if (status)
        return status;
    if (strcmp(what, "address-space") && !sane())
        return 93;
    printf("goes on\n");
    return 0;
}
