// No way to a network or another process: every family and type of socket, and every call that makes processes.
#include "common.h"
#include <sys/socket.h>
#include <sys/syscall.h>

int main(void) {
    long tried = 0;
    const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, 10, SOCK_STREAM | SOCK_CLOEXEC, -1};
    for (int family = -1; family < 64; family++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++, tried++) {
            int made = socket(family, types[t], 0);
            if (made >= 0) {
                printf("wrong: socket(%d, %d) gives %d\n", family, types[t], made);
                return 1;
            }
        }
    char *none[] = {NULL};
    const long results[] = {
        raw(SYS_fork, 0, 0, 0, 0, 0, 0),
        raw(SYS_vfork, 0, 0, 0, 0, 0, 0),
        raw(SYS_clone, SIGCHLD, 0, 0, 0, 0, 0),
        raw(SYS_clone, 0x10000000 /* CLONE_NEWUSER */, 0, 0, 0, 0, 0),
        raw(SYS_execve, (uint64_t) "/usr/bin/true", (uint64_t)none, (uint64_t)none, 0, 0, 0),
        raw(SYS_ptrace, 0, 0, 0, 0, 0, 0),
        raw(SYS_bpf, 0, 0, 0, 0, 0, 0),
        raw(SYS_io_uring_setup, 8, (uint64_t)none, 0, 0, 0, 0),
        raw(SYS_unshare, 0x10000000, 0, 0, 0, 0, 0),
        raw(SYS_setns, 0, 0, 0, 0, 0, 0),
        raw(SYS_kill, 1000000, 9, 0, 0, 0, 0),
        raw(SYS_process_vm_readv, 1, 0, 0, 0, 0, 0),
        raw(SYS_pidfd_open, 1, 0, 0, 0, 0, 0),
        raw(SYS_perf_event_open, 0, 0, 0, 0, 0, 0),
        raw(SYS_userfaultfd, 0, 0, 0, 0, 0, 0),
        raw(SYS_keyctl, 0, 0, 0, 0, 0, 0),
        raw(SYS_reboot, 0xfee1dead, 672274793, 0x1234567, 0, 0, 0),
    };
    for (size_t i = 0; i < sizeof results / sizeof *results; i++, tried++)
        if (results[i] >= 0) {
            printf("wrong: call %zu of the list gives %ld\n", i, results[i]);
            return 1;
        }
    printf("%ld attempts refused\n", tried);
    return 0;
}
