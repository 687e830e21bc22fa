// Structures, strings and buffers whose end is not there: EFAULT, or the part that is there, and nothing else.
#include "common.h"
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/syscall.h>

static int wrong;

static void faults(const char *name, long result) {
    if (result != -EFAULT) {
        printf("wrong: %s answers %ld\n", name, result);
        wrong++;
    }
}

// At most what there is room for.
static void at_most(const char *name, long result, long room) {
    if (result != -EFAULT && (result < 0 || result > room)) {
        printf("wrong: %s answers %ld with room for %ld\n", name, result, room);
        wrong++;
    }
}

#define CALL(name, a, b, c, d) raw(SYS_##name, (uint64_t)(a), (uint64_t)(b), (uint64_t)(c), (uint64_t)(d), 0, 0)

int main(void) {
    char *page = page_before_hole(PROT_READ | PROT_WRITE), *end = page + 4096;
    int file = open("/tmp/file", O_RDWR | O_CREAT, 0600), ends[2];
    static char zeros[16384];
    if (file < 0 || write(file, zeros, sizeof zeros) != sizeof zeros || pipe(ends))
        return 90;

    at_most("pread64", CALL(pread64, file, end - 100, 8192, 0), 100);
    at_most("pwrite64", CALL(pwrite64, file, end - 100, 8192, 0), 100);
    at_most("getrandom", CALL(getrandom, end - 100, 200, 0, 0), 100);
    at_most("write to a pipe", CALL(write, ends[1], end - 100, 4096, 0), 100);
    struct iovec parts[2] = {{end - 8, 8}, {end, 8}};
    at_most("writev", CALL(writev, ends[1], parts, 2, 0), 8);
    memset(end - 16, 0xff, 16); // a length that would be EINVAL, were it judged before the next one is read
    faults("writev of vectors beyond", CALL(writev, ends[1], end - 16, 2, 0));
    parts[0].iov_len = parts[1].iov_len = SIZE_MAX;
    long result = CALL(writev, ends[1], parts, 2, 0);
    if (result != -EINVAL && result != -EFAULT)
        wrong++, printf("wrong: writev of absurd lengths answers %ld\n", result);

    memset(page, 'x', 4096);
    faults("open of a name without end", CALL(open, end - 5, O_RDONLY, 0, 0));
    faults("readlink of a name without end", CALL(readlink, end - 5, page, 100, 0));
    faults("fstat", CALL(fstat, file, end - 16, 0, 0));
    faults("uname", CALL(uname, end - 100, 0, 0, 0));
    faults("clock_gettime", CALL(clock_gettime, 1, end - 8, 0, 0));
    faults("nanosleep", CALL(nanosleep, end - 8, 0, 0, 0));
    faults("rt_sigaction", CALL(rt_sigaction, 10, end - 16, 0, 8));
    faults("rt_sigprocmask", CALL(rt_sigprocmask, 0, end - 4, 0, 8));
    faults("sigaltstack", CALL(sigaltstack, end - 8, 0, 0, 0));
    faults("pipe2", CALL(pipe2, end - 4, 0, 0, 0));
    faults("poll", CALL(poll, end - 4, 1, 0, 0));
    faults("futex", CALL(futex, end, 0, 1, 0));
    faults("getcwd", CALL(getcwd, end - 1, 100, 0, 0));
    faults("sysinfo", CALL(sysinfo, end - 8, 0, 0, 0));
    // Addresses: all of one is there or none, and no more of it is written than there is room for.
    int six = socket(AF_INET6, SOCK_DGRAM, 0), bound = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 loopback = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t *room = (socklen_t *)page;
    for (int length = 2; length <= 128; length++) {
        memcpy(end - 28, &loopback, sizeof loopback);
        char *at = end - length + 1;
        faults("bind", CALL(bind, six, at, length, 0));
        faults("connect", CALL(connect, six, at, length, 0));
        faults("sendto", raw(SYS_sendto, (uint64_t)six, (uint64_t)page, 1, 0, (uint64_t)at, (uint64_t)length));
        *room = (socklen_t)length;
        if (length <= 28)
            faults("getsockname", CALL(getsockname, six, at, room, 0));
        faults("getsockname without a length", CALL(getsockname, six, page, end - 3, 0));
    }
    memcpy(end - 24, &loopback, 24);
    if (CALL(bind, bound, end - 24, 24, 0) != 0)
        wrong++, printf("wrong: an address that ends at the hole is not read\n");
    *room = 28;
    if (CALL(getsockname, bound, end - 28, room, 0) != 0 || *room != 28)
        wrong++, printf("wrong: an address that ends at the hole is not written\n");
    int directory = open("/usr", O_RDONLY | O_DIRECTORY);
    if (directory < 0)
        directory = open("/tmp", O_RDONLY | O_DIRECTORY);
    result = CALL(getdents64, directory, end - 8, 8192, 0);
    if (result != -EFAULT && result != -EINVAL)
        wrong++, printf("wrong: getdents64 answers %ld\n", result);
    // What ends just before the hole is whole.
    strcpy(end - 5, "/tmp");
    if (CALL(access, end - 5, 0, 0, 0) != 0)
        wrong++, printf("wrong: a name that ends at the hole is not read\n");
    if (!sane())
        return 93;
    if (!wrong)
        printf("no call went beyond\n");
    return wrong;
}
