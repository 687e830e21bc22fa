// First process of the hardware lane's machine: loads KVM, runs each line of /tests, and switches off.
//
// A line of /tests is NAME, a tab, and the command's words separated by tabs. What a command writes goes to the console
// between "@@BEGIN NAME" and "@@END NAME STATUS"; the judging is done outside.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

// Seconds one command may take under emulation.
#define LIMIT 60

static void load(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0)
        printf("@@PANIC cannot load %s: %s\n", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void load_modules(void) {
    char path[256];
    FILE *list = fopen("/modules", "re");
    while (list && fgets(path, sizeof path, list)) {
        path[strcspn(path, "\n")] = 0;
        load(path);
    }
    if (list)
        fclose(list);
}

static void on_alarm(int signal_number) {
    (void)signal_number;
}

static int run(char **argv) {
    pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        int null = open("/dev/null", O_RDONLY);
        dup2(null, 0);
        dup2(1, 2);
        execv(argv[0], argv);
        printf("cannot execute %s: %s\n", argv[0], strerror(errno));
        fflush(stdout);
        _exit(127);
    }
    int status = 0;
    alarm(LIMIT);
    if (waitpid(child, &status, 0) < 0) {
        printf("\nit took longer than %d s\n", LIMIT);
        kill(-child, SIGKILL);
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
    }
    alarm(0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void run_tests(void) {
    char line[4096];
    FILE *tests = fopen("/tests", "re");
    while (tests && fgets(line, sizeof line, tests)) {
        char *argv[64];
        int count = 0;
        line[strcspn(line, "\n")] = 0;
        char *name = strtok(line, "\t");
        char *word;
        while (count < 63 && (word = strtok(NULL, "\t")))
            argv[count++] = word;
        argv[count] = NULL;
        if (!name || !count)
            continue;
        printf("@@BEGIN %s\n", name);
        fflush(stdout);
        int status = run(argv);
        printf("\n@@END %s %d\n", name, status);
        fflush(stdout);
    }
    if (tests)
        fclose(tests);
}

int main(void) {
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/dev", 0755);
    mkdir("/tmp", 01777);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
    // The kernel's console may not have been there when this process started.
    int console = open("/dev/console", O_RDWR);
    if (console >= 0) {
        dup2(console, 1);
        dup2(console, 2);
    }
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    setenv("PATH", "/bin", 1);
    load_modules();
    run_tests();
    printf("@@DONE\n");
    fflush(stdout);
    tcdrain(1);
    reboot(RB_POWER_OFF);
    return 0;
}
