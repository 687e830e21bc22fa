// A second thread rewrites what a call is reading: its path, its vectors, its mapping. ARGV[1]: a file that must stay unreachable.
#include "common.h"
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

static volatile int over;
static char path[4096];
static const char *outside;
static struct iovec vectors[8];
static char *moving;

static void *rewrite(void *unused) {
    for (unsigned turn = 0; !over; turn++) {
        strcpy(path, "/tmp/inside");
        vectors[turn % 8].iov_len = turn & 1 ? 16 : (size_t)1 << 62;
        vectors[turn % 8].iov_base = turn & 2 ? path : (void *)0x200000;
        strcpy(path, outside);
        mprotect(moving, 4096, turn & 1 ? PROT_NONE : PROT_READ | PROT_WRITE);
        mmap(moving + 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        munmap(moving + 4096, 4096);
        vectors[turn % 8].iov_base = moving + 4090;
    }
    return unused;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 90;
    outside = argv[1];
    moving = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int inside = open("/tmp/inside", O_RDWR | O_CREAT, 0600), ends[2];
    if (moving == MAP_FAILED || inside < 0 || write(inside, "inside", 6) != 6 || pipe2(ends, O_NONBLOCK))
        return 91;
    strcpy(path, "/tmp/inside");
    for (int i = 0; i < 8; i++)
        vectors[i] = (struct iovec){path, 16};
    pthread_t thread;
    if (pthread_create(&thread, NULL, rewrite, NULL))
        return 92;
    long opened = 0, calls = 0;
    time_t until = time(NULL) + 3;
    while (time(NULL) < until) {
        for (int i = 0; i < 50; i++, calls += 6) {
            char text[64] = {0};
            long file = raw(SYS_open, (uint64_t)path, O_RDONLY, 0, 0, 0, 0);
            if (file >= 0) {
                opened++;
                if (read((int)file, text, 63) > 0 && strncmp(text, "inside", 6) != 0) {
                    printf("wrong: read %s\n", text);
                    return 1;
                }
                close((int)file);
            }
            raw(SYS_writev, (uint64_t)ends[1], (uint64_t)vectors, 8, 0, 0, 0);
            raw(SYS_readv, (uint64_t)ends[0], (uint64_t)vectors, 8, 0, 0, 0);
            raw(SYS_pread64, (uint64_t)inside, (uint64_t)moving + 4090, 12, 0, 0, 0);
            raw(SYS_getcwd, (uint64_t)moving + 4095, 64, 0, 0, 0, 0);
            raw(SYS_getrandom, (uint64_t)moving, 8192, 0, 0, 0, 0);
        }
    }
    over = 1;
    pthread_join(thread, NULL);
    if (!sane())
        return 93;
    printf("%ld calls, %ld files opened, none of them outside\n", calls, opened);
    return 0;
}
