// No way to a network or another process: every family and type of socket, and every call that makes or reaches processes of the host's kind.
// UNIX, IPv4 and IPv6 sockets are there, and reach nothing outside the instance.
#include "common.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

/* How many of the ways out of a socket lead somewhere. */
static int ways_out(int fd, int family) {
    int found = 0;
    if (family == AF_INET) {
        const char *const hosts[] = {"192.0.2.1", "10.0.0.1", "169.254.169.254", "8.8.8.8", "224.0.0.1", "255.255.255.255"};
        for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
            struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(53)};
            inet_pton(AF_INET, hosts[i], &to.sin_addr);
            found += connect(fd, (struct sockaddr *)&to, sizeof to) == 0;
            found += sendto(fd, "x", 1, MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof to) == 1;
            found += bind(fd, (struct sockaddr *)&to, sizeof to) == 0;
        }
        return found;
    }
    if (family == AF_INET6) {
        const char *const hosts[] = {"2001:db8::1",        "fd00:ec2::254",       "fd00::1",        "fe80::1",     "2606:4700::1111",
                                     "::ffff:10.0.0.1",    "::ffff:169.254.169.254", "::169.254.169.254", "ff02::1",
                                     "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"};
        for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++)
            for (unsigned scope = 0; scope < 4; scope++) {
                struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(53), .sin6_scope_id = scope};
                inet_pton(AF_INET6, hosts[i], &to.sin6_addr);
                found += connect(fd, (struct sockaddr *)&to, sizeof to) == 0;
                found += sendto(fd, "x", 1, MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof to) == 1;
                found += bind(fd, (struct sockaddr *)&to, sizeof to) == 0;
            }
        return found;
    }
    const char *const names[] = {"/run/systemd/notify", "/dev/log", "/var/run/docker.sock", "\0/tmp/.X11-unix/X0"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        memcpy(to.sun_path, names[i], 18);
        found += connect(fd, (struct sockaddr *)&to, sizeof to) == 0;
    }
    return found;
}

int main(void) {
    long tried = 0;
    const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, 10, SOCK_STREAM | SOCK_CLOEXEC, -1};
    for (int family = -1; family < 64; family++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++, tried++) {
            int made = socket(family, types[t], 0);
            int inside = family == AF_UNIX || family == AF_INET || family == AF_INET6;
            if (made >= 0 && (!inside || ways_out(made, family))) {
                printf("wrong: socket(%d, %d) gives %d\n", family, types[t], made);
                return 1;
            }
            if (made >= 0) close(made);
        }
    char *none[] = {NULL};
    const long results[] = {
        raw(SYS_clone, 0x10000000 /* CLONE_NEWUSER */, 0, 0, 0, 0, 0),
        raw(SYS_execve, (uint64_t) "/proc/1/exe", (uint64_t)none, (uint64_t)none, 0, 0, 0),
        raw(SYS_execve, (uint64_t) "/root/.profile", (uint64_t)none, (uint64_t)none, 0, 0, 0),
        raw(SYS_clone, 0x00004000 | SIGCHLD /* CLONE_VFORK alone */, 0, 0, 0, 0, 0),
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
