// Takes all memory that it can get, as fast as it can, in the way that ARGV[1] names, on ARGV[2] threads.
// Says how many KiB it got, where it is told that there is no more.
#include "common.h"
#include <sys/socket.h>
#include <sys/syscall.h>
#include <stdatomic.h>

#define NOTHING ((char *)MAP_FAILED)
#define MIB ((size_t)1 << 20)
static const char *what;
static atomic_long kib;

static char *map(size_t length, int protection, int flags, int file) {
    return mmap(NULL, length, protection, flags | (file < 0 ? MAP_ANONYMOUS : 0), file, 0);
}

static void touch(char *at, size_t length) {
    for (size_t i = 0; i < length; i += 4096)
        at[i] = 1;
    atomic_fetch_add(&kib, (long)(length >> 10));
}

#define IS(name) (!strcmp(what, name))
#define RW (PROT_READ | PROT_WRITE)

// One more piece; whether there was one.
static int more(size_t turn) {
    char *at = NOTHING;
    size_t length = MIB;
    if (IS("small")) at = map(length = 16384, RW, MAP_PRIVATE, -1);
    if (IS("shared")) at = map(length, RW, MAP_SHARED, -1);
    if (IS("zero")) { int file = open("/dev/zero", O_RDWR); at = map(length, RW, MAP_SHARED, file); close(file); }
    if (IS("reserved")) at = map(length = 64 * MIB, RW, MAP_PRIVATE | MAP_NORESERVE, -1);
    if (IS("stacks")) at = map(length = 8 * MIB, RW, MAP_PRIVATE | MAP_STACK, -1);
    if (IS("protected") && (at = map(length = 16 * MIB, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE, -1)) != NOTHING)
        if (mprotect(at, length, RW)) return 0;
    // Used, then hidden: it is still there.
    if (IS("hidden") && (at = map(length, RW, MAP_PRIVATE, -1)) != NOTHING) {
        touch(at, length);
        return mprotect(at, length, PROT_NONE) == 0;
    }
    // Of each piece one page stays mapped, which keeps all of it in memory.
    if (IS("remainder") && (at = map(length, RW, MAP_SHARED, -1)) != NOTHING) {
        touch(at, length);
        return munmap(at + 4096, length - 4096) == 0;
    }
    if (IS("copies")) { int file = open("/proc/self/exe", O_RDONLY); length = 512 << 10; at = map(length, RW, MAP_PRIVATE, file); close(file); }
    if (IS("grown") && (at = map(4096, RW, MAP_PRIVATE, -1)) != NOTHING)
        at = mremap(at, 4096, length, MREMAP_MAYMOVE);
    if (IS("heap") && // one thread only: the C library keeps its end without a lock
         (at = sbrk((intptr_t)length)) == (void *)-1) return 0;
    if (IS("memfd")) { int file = (int)raw(SYS_memfd_create, (uint64_t) "m", 0, 0, 0, 0, 0); if (ftruncate(file, (off_t)length)) return 0; at = map(length, RW, MAP_SHARED, file); }
    if (IS("moved") && (at = map(2 * length, RW, MAP_PRIVATE, -1)) != NOTHING) munmap(at, length), at += length;
    if (IS("pipes") || IS("sockets")) {
        int ends[2];
        static char block[65536];
        if (IS("pipes") ? pipe2(ends, O_NONBLOCK) : socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends)) return 0;
        if (IS("pipes") && turn % 2) fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
        for (int side = IS("pipes"); side < 2; side++)
            for (ssize_t wrote; (wrote = write(ends[side], block, sizeof block)) > 0;)
                atomic_fetch_add(&kib, (long)(wrote >> 10));
        return 1;
    }
    if (IS("names")) {
        char target[4000], name[300];
        memset(target, 'x', sizeof target - 1), target[sizeof target - 1] = 0;
        sprintf(name, "/tmp/%d-%zu", (int)raw(SYS_gettid, 0, 0, 0, 0, 0, 0), turn);
        atomic_fetch_add(&kib, 4);
        return symlink(target, name) == 0;
    }
    if (at == NOTHING) return 0;
    touch(at, length);
    return 1;
}

static void *grab(void *unused) {
    for (size_t turn = 0; more(turn) && atomic_load(&kib) < 32L << 20; turn++)
        ;
    return unused;
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 90;
    what = argv[1];
    pthread_t threads[8];
    long count = atol(argv[2]);
    for (long i = 1; i < count && i < 8; i++)
        if (pthread_create(&threads[i], NULL, grab, NULL))
            return 91;
    grab(NULL);
    printf("%ld KiB\n", atomic_load(&kib));
    return atomic_load(&kib) >= 32L << 20 ? 94 : 0;
}
