// vfork, posix_spawn, exec in place, fork: what the programs share and what they do not.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char self[] = "/proc/self/exe";
static volatile int own = 1;

static int wrong(const char *what) {
    printf("wrong: %s (%s)\n", what, strerror(errno));
    fflush(stdout);
    return 1;
}

static int status_of(pid_t pid) {
    int status = 0;
    if (waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// What a program that was executed does: write to the descriptor named, and end with a status.
static int child(int fd, int status) {
    return write(fd, "through", 7) == 7 ? status : 99;
}

static int programs(void) {
    int ends[2];
    char number[16], text[16] = "";
    if (pipe(ends) != 0)
        return wrong("pipe");
    snprintf(number, sizeof number, "%d", ends[1]);
    char *arguments[] = {self, "child", number, "5", NULL};

    pid_t pid = vfork();
    if (pid == 0) {
        execv(self, arguments);
        _exit(98);
    }
    if (status_of(pid) != 5 || read(ends[0], text, sizeof text) != 7)
        return wrong("vfork and exec");

    if (posix_spawn(&pid, self, NULL, NULL, arguments, environ) != 0)
        return wrong("posix_spawn");
    if (status_of(pid) != 5 || read(ends[0], text, sizeof text) != 7)
        return wrong("what posix_spawn started");

    pid = fork();
    if (pid == 0) {
        execv(self, arguments); // in place of a copy
        _exit(98);
    }
    if (status_of(pid) != 5 || read(ends[0], text, sizeof text) != 7 || strcmp(text, "through") != 0)
        return wrong("fork and exec");
    close(ends[0]);
    close(ends[1]);
    return 0;
}

static int copies(void) {
    int *shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *large = malloc(3 << 20);
    memset(large, 7, 3 << 20);
    static __thread int local = 3;
    pid_t pid = fork();
    if (pid == 0) {
        int same = own == 1 && local == 3 && large[2 << 20] == 7 && getppid() != getpid();
        own = local = large[2 << 20] = 9;
        shared[1] = 4;
        // The parent waits here.
        __atomic_store_n(shared, 1, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, shared, FUTEX_WAKE, 1, NULL, NULL, 0);
        _exit(same ? 6 : 97);
    }
    while (__atomic_load_n(shared, __ATOMIC_SEQ_CST) == 0)
        syscall(SYS_futex, shared, FUTEX_WAIT, 0, NULL, NULL, 0);
    if (status_of(pid) != 6)
        return wrong("the copy");
    if (own != 1 || local != 3 || large[2 << 20] != 7 || shared[1] != 4)
        return wrong("what the copy wrote");
    pid = fork();
    if (pid == 0)
        for (;;)
            pause();
    if (kill(pid, SIGTERM) != 0 || status_of(pid) != 128 + SIGTERM)
        return wrong("a copy that is ended");
    for (int i = 0; i < 10; i++) {
        pid = fork();
        if (pid == 0)
            _exit(i);
        if (status_of(pid) != i)
            return wrong("copies one after another");
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "child") == 0)
        return child(atoi(argv[2]), atoi(argv[3]));
    if (programs() != 0 || copies() != 0)
        return 1;
    printf("processes hold\n");
    return 0;
}
