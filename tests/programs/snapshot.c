// A guest that has its snapshot taken, and goes on in every instance restored from it. tests/hardware/node.c plays the node.
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

// docs/abi.md, crates/nexus-abi/src/device.rs.
#define WAIT 0x4e01
#define SNAPSHOT 0x4e02
#define SIZE 0x4e03
#define GENERATION 0x4e04
#define DOORBELL_OFFSET (1L << 32)
#define HEAP 0x4000
#define PAGES 2000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int restored, answered;
static __thread uint64_t local;

// Waits in the kernel, as it sees it, while the snapshot is taken.
static void *companion(void *unused) {
    local = 77;
    pthread_mutex_lock(&lock);
    while (!restored)
        pthread_cond_wait(&changed, &lock);
    answered = local == 77;
    pthread_mutex_unlock(&lock);
    return unused;
}

static int fail(const char *what) {
    printf("wrong: %s\n", what);
    fflush(stdout);
    return 1;
}

int main(void) {
    int device = open("/dev/nexus", O_RDWR | O_CLOEXEC);
    if (device < 0)
        return fail("no device");
    long size = ioctl(device, SIZE, 0);
    char *arena = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
    volatile uint32_t *bell = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, device, DOORBELL_OFFSET);
    if (arena == MAP_FAILED || bell == MAP_FAILED)
        return fail("no arena");
    unsigned char *memory = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int page = 0; page < PAGES; page++)
        memset(memory + page * 4096, page % 251, 4096);
    unsigned char *constant = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    constant[0] = 9;
    mprotect(constant, 4096, PROT_READ);
    pthread_t thread;
    if (pthread_create(&thread, NULL, companion, NULL) != 0)
        return fail("no thread");
    usleep(20000);
    local = 42;
    volatile double number = 1.5;
    if (ioctl(device, GENERATION, 0) != 0)
        return fail("generation before");

    int taken = ioctl(device, SNAPSHOT, 0);

    if (taken != 1 || ioctl(device, GENERATION, 0) != 1)
        return fail("generation after");
    for (int page = 0; page < PAGES; page++)
        for (int at = 0; at < 4096; at += 511)
            if (memory[page * 4096 + at] != page % 251)
                return fail("memory");
    if (local != 42 || number * 2 != 3.0 || constant[0] != 9)
        return fail("thread-local storage, floating point or a read-only page");
    pthread_mutex_lock(&lock);
    restored = 1;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    if (!answered)
        return fail("the other thread");
    memory[0] = 200; // private to this instance
    if (arena[HEAP] != 0)
        return fail("the arena is not fresh");
    strcpy(arena + HEAP, "restored");
    *bell = 1;
    if (ioctl(device, WAIT, 20000) != 0)
        return fail("the wait");
    printf("woken: %s\n", arena + HEAP + 64);
    fflush(stdout);
    return 5;
}
