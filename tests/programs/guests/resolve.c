/* Names that the C library looks up: each argument, with its addresses in order, or the error. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
        int error = getaddrinfo(argv[i], "80", &hints, &found);
        if (error) {
            printf("%s %s\n", argv[i], error == EAI_NONAME ? "no name" : error == EAI_AGAIN ? "try again" : "error");
            continue;
        }
        printf("%s", argv[i]);
        for (struct addrinfo *one = found; one; one = one->ai_next) {
            char text[INET6_ADDRSTRLEN] = "?";
            if (one->ai_family == AF_INET)
                inet_ntop(AF_INET, &((struct sockaddr_in *)one->ai_addr)->sin_addr, text, sizeof text);
            if (one->ai_family == AF_INET6)
                inet_ntop(AF_INET6, &((struct sockaddr_in6 *)one->ai_addr)->sin6_addr, text, sizeof text);
            printf(" %s", text);
        }
        puts("");
        freeaddrinfo(found);
    }
    return 0;
}
