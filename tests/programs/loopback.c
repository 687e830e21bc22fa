// Sockets inside the instance: TCP and UDP over the loopback, UNIX names, descriptors that travel, epoll.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BYTES (1 << 20)

static struct sockaddr_in address;

static int wrong(const char *what) {
    printf("wrong: %s\n", what);
    return 1;
}

static void *sender(void *unused) {
    static char data[BYTES];
    memset(data, 'x', sizeof data);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        for (size_t at = 0; at < sizeof data;) {
            ssize_t n = write(fd, data + at, sizeof data - at);
            if (n <= 0)
                break;
            at += (size_t)n;
        }
    close(fd);
    return unused;
}

static int stream(void) {
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4) ||
        getsockname(listener, (struct sockaddr *)&address, &size))
        return wrong("a listening socket");
    int poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    pthread_t thread;
    pthread_create(&thread, NULL, sender, NULL);
    if (epoll_wait(poller, &event, 1, 20000) != 1 || event.data.fd != listener)
        return wrong("epoll and a connection");
    int fd = accept(listener, NULL, NULL);
    static char data[65536];
    long sum = 0;
    for (ssize_t n; (n = read(fd, data, sizeof data)) > 0;)
        sum += n;
    pthread_join(thread, NULL);
    close(fd);
    close(listener);
    return sum == BYTES ? 0 : wrong("bytes are lost");
}

static int datagrams(void) {
    struct sockaddr_in one = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, from;
    socklen_t size = sizeof one;
    int a = socket(AF_INET, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM, 0);
    bind(a, (struct sockaddr *)&one, size);
    getsockname(a, (struct sockaddr *)&one, &size);
    char text[16] = "";
    if (sendto(b, "hello", 5, 0, (struct sockaddr *)&one, size) != 5 ||
        recvfrom(a, text, sizeof text, 0, (struct sockaddr *)&from, &size) != 5 || from.sin_port == 0)
        return wrong("datagrams");
    close(a);
    close(b);
    return 0;
}

static int descriptors(void) {
    int pair[2], ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || pipe(ends))
        return wrong("a pair");
    char byte = 'b', control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(head), &ends[1], sizeof(int));
    if (sendmsg(pair[0], &message, 0) != 1)
        return wrong("sending a descriptor");
    close(ends[1]);
    memset(control, 0, sizeof control);
    int fd;
    if (recvmsg(pair[1], &message, 0) != 1)
        return wrong("receiving a descriptor");
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    if (write(fd, "z", 1) != 1 || read(ends[0], &byte, 1) != 1 || byte != 'z')
        return wrong("a descriptor that travelled");
    return 0;
}

int main(void) {
    if (stream() || datagrams() || descriptors())
        return 1;
    printf("loopback holds\n");
    return 0;
}
