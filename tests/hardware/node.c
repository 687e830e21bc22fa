// Plays the node to `nexus-vmm serve`: takes a snapshot of tests/programs/snapshot.c, restores it three times, damages it.
//
// node VMM PROGRAMS DIRECTORY
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARENA (8 << 20)
#define HEAP 0x4000
#define SIGNALS 0x180
// Milliseconds, under emulation.
#define PATIENCE 30000

static const char *vmm, *programs, *directory;

struct instance {
    pid_t pid;
    char *arena;
    int doorbell, report;
};

static void die(const char *what) {
    printf("wrong: %s\n", what);
    exit(1);
}

static int config(const char *mode) {
    char text[4096];
    int length = snprintf(
        text, sizeof text,
        "{\"version\":1,\"mode\":\"%s\",\"memory_mib\":128,\"max_threads\":8,\"tmp_mib\":16,\"cpus\":1,\"hostname\":\"nexus\","
        "\"roots\":[{\"guest\":\"/programs\",\"host\":\"%s\",\"writable\":false}],"
        "\"program\":{\"path\":\"/programs/snapshot\",\"argv\":[\"snapshot\"],\"env\":{},\"cwd\":\"/\"},"
        "\"device\":{\"arena\":3,\"doorbell\":4},\"report\":5,\"snapshot\":\"%s/snap\","
        "\"jail\":{\"uid\":null,\"landlock\":true}}",
        mode, programs, directory);
    int fd = memfd_create("config", 0);
    if (fd < 0 || write(fd, text, (size_t)length) != length || lseek(fd, 0, SEEK_SET) != 0)
        die("config");
    return fd;
}

static struct instance start(const char *mode) {
    struct instance it;
    int pipes[2];
    int arena = memfd_create("arena", MFD_ALLOW_SEALING);
    if (arena < 0 || ftruncate(arena, ARENA) != 0 || pipe(pipes) != 0)
        die("descriptors");
    fcntl(arena, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    it.arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED, arena, 0);
    memcpy(it.arena, "NEXUSARN", 8);
    *(uint32_t *)(it.arena + 8) = 1;
    *(uint32_t *)(it.arena + 12) = ARENA;
    it.doorbell = eventfd(0, 0);
    it.report = pipes[0];
    int document = config(mode);
    int wanted[] = {arena, it.doorbell, pipes[1], document};
    fflush(stdout);
    it.pid = fork();
    if (it.pid == 0) {
        for (int i = 0; i < 4; i++)
            wanted[i] = fcntl(wanted[i], F_DUPFD, 32);
        for (int i = 0; i < 4; i++)
            dup2(wanted[i], 3 + i);
        for (int fd = 7; fd < 64; fd++)
            close(fd);
        execl(vmm, vmm, "serve", "--config-fd", "6", NULL);
        _exit(127);
    }
    close(arena);
    close(pipes[1]);
    close(document);
    return it;
}

static int finish(struct instance *it, char *report, size_t size) {
    size_t length = 0;
    ssize_t n;
    while (length + 1 < size && (n = read(it->report, report + length, size - 1 - length)) > 0)
        length += (size_t)n;
    report[length] = 0;
    int status = 0;
    waitpid(it->pid, &status, 0);
    munmap(it->arena, ARENA);
    close(it->doorbell);
    close(it->report);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void initialise(void) {
    char report[65536], path[512];
    snprintf(path, sizeof path, "%s/snap", directory);
    if (mkdir(path, 0700) != 0)
        die("no place for the snapshot");
    struct instance it = start("initialise");
    int status = finish(&it, report, sizeof report);
    if (status != 0 || !strstr(report, "\"snapshot\"")) {
        printf("status %d, report: %s\n", status, report);
        die("the snapshot was not taken");
    }
    printf("taken\n");
}

static void restore(int number) {
    char report[65536];
    struct instance it = start("restore");
    struct pollfd bell = {.fd = it.doorbell, .events = POLLIN};
    if (poll(&bell, 1, PATIENCE) != 1 || strcmp(it.arena + HEAP, "restored") != 0) {
        int status = finish(&it, report, sizeof report);
        printf("status %d, report: %s\n", status, report);
        die("no doorbell");
    }
    snprintf(it.arena + HEAP + 64, 64, "clone %d", number);
    uint32_t *signals = (uint32_t *)(it.arena + SIGNALS);
    __atomic_add_fetch(signals, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, signals, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    int status = finish(&it, report, sizeof report);
    if (status != 5 || !strstr(report, "\"ready\"")) {
        printf("status %d, report: %s\n", status, report);
        die("the restored instance did not end as it must");
    }
}

// Flip one bit in the middle of every file, one file at a time: each must be refused, and be accepted again once mended.
static int verify(void) {
    char path[512];
    snprintf(path, sizeof path, "%s/snap", directory);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execl(vmm, vmm, "verify", path, NULL);
        _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void flip(const char *path) {
    int fd = open(path, O_RDWR);
    struct stat about;
    unsigned char byte;
    if (fd < 0 || fstat(fd, &about) != 0)
        die("a file of the snapshot");
    off_t middle = about.st_size / 2;
    if (pread(fd, &byte, 1, middle) != 1)
        die("reading a file of the snapshot");
    byte ^= 1;
    if (pwrite(fd, &byte, 1, middle) != 1)
        die("writing a file of the snapshot");
    close(fd);
}

static void damage(void) {
    char path[1024];
    snprintf(path, sizeof path, "%s/snap", directory);
    if (verify() != 0)
        die("an intact snapshot is refused");
    DIR *files = opendir(path);
    struct dirent *entry;
    int count = 0;
    while (files && (entry = readdir(files))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/snap/%s", directory, entry->d_name);
        flip(path);
        if (verify() == 0)
            die("a damaged snapshot is accepted");
        flip(path);
        count++;
    }
    if (count == 0 || verify() != 0)
        die("a mended snapshot is refused");
    printf("damage is noticed in every file\n");
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    vmm = argv[1];
    programs = argv[2];
    directory = argv[3];
    mkdir(directory, 0755);
    initialise();
    for (int number = 1; number <= 3; number++)
        restore(number);
    damage();
    printf("snapshot holds\n");
    return 0;
}
