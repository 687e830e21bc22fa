// Ways out of the roots. ARGV[1]: a directory that is shown read-only, with traps in it. ARGV[2]: a file outside of it that
// holds the word SECRET.
#include "common.h"
#include <dirent.h>
#include <sys/syscall.h>

static int wrong;

// What a path gives, if anything.
static void try_at(int directory, const char *path, int flags) {
    char text[256] = {0};
    int file = openat(directory, path, flags | O_NONBLOCK | O_CLOEXEC);
    if (file < 0)
        return;
    if (read(file, text, sizeof text - 1) > 0 && strstr(text, "SECRET")) {
        printf("wrong: %s leads outside\n", path);
        wrong++;
    }
    close(file);
}

static void refused(const char *what, long result) {
    if (result >= 0) {
        printf("wrong: %s succeeds\n", what);
        wrong++;
    }
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 90;
    const char *root = argv[1], *outside = argv[2];
    char path[8192];
    int directory = open(root, O_RDONLY | O_DIRECTORY);
    if (directory < 0)
        return 91;
    int allowed = openat(directory, "allowed", O_RDONLY);
    if (allowed < 0)
        return 92; // else nothing that follows says anything
    close(allowed);
    try_at(AT_FDCWD, outside, O_RDONLY);
    for (int up = 1; up < 12; up++) {
        char *at = path + sprintf(path, "%s", root);
        for (int i = 0; i < up; i++)
            at += sprintf(at, "/..");
        sprintf(at, "%s", outside);
        try_at(AT_FDCWD, path, O_RDONLY);
        try_at(directory, path + strlen(root) + 1, O_RDONLY);
    }
    const char *traps[] = {"absolute", "relative", "climbing", "chained/secret", "folder/secret", "proc/self/root", "magic"};
    for (size_t i = 0; i < sizeof traps / sizeof *traps; i++)
        try_at(directory, traps[i], O_RDONLY);
    // Links of its own making, and directories that it enters.
    if (symlink(outside, "/tmp/link") || symlink("/", "/tmp/top"))
        return 93;
    try_at(AT_FDCWD, "/tmp/link", O_RDONLY);
    sprintf(path, "/tmp/top%s", outside);
    try_at(AT_FDCWD, path, O_RDONLY);
    const char *prefixes[] = {"/proc/self/root", "/proc/1/root", "/proc/self/cwd", "/proc/self/fd/0/..", "/dev/fd/0/../../..", "/proc/thread-self/root"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        sprintf(path, "%s%s", prefixes[i], outside);
        try_at(AT_FDCWD, path, O_RDONLY);
    }
    if (fchdir(directory) == 0) {
        try_at(AT_FDCWD, "../outside/secret", O_RDONLY);
        try_at(AT_FDCWD, "./folder/../../outside/secret", O_RDONLY);
    }
    // Special files answer at once, with an error.
    refused("a FIFO", openat(directory, "fifo", O_RDONLY));
    refused("a FIFO, for writing", openat(directory, "fifo", O_WRONLY));
    refused("a UNIX socket's file", openat(directory, "socket", O_RDWR));
    refused("a device in a root", openat(directory, "device", O_RDWR));
    const char *host[] = {"/dev/kvm", "/dev/mem", "/dev/kmsg", "/dev/vda", "/proc/kcore", "/proc/1/environ", "/proc/self/mem",
                          "/proc/1/maps", "/sys/kernel", "/etc/shadow", "/root", "/home", "/var/lib"};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        refused(host[i], open(host[i], O_RDONLY | O_NONBLOCK));
    // Nothing in a read-only root changes.
    refused("writing", openat(directory, "allowed", O_WRONLY));
    refused("writing and reading", openat(directory, "allowed", O_RDWR));
    refused("truncating by open", openat(directory, "allowed", O_RDONLY | O_TRUNC));
    refused("creating", openat(directory, "new", O_WRONLY | O_CREAT, 0600));
    refused("creating an unnamed file", openat(directory, ".", O_RDWR | O_TMPFILE, 0600));
    refused("unlinkat", unlinkat(directory, "allowed", 0));
    refused("mkdirat", mkdirat(directory, "new", 0700));
    refused("renameat", renameat(directory, "allowed", directory, "other"));
    refused("renameat out of it", renameat(directory, "allowed", AT_FDCWD, "/tmp/allowed"));
    refused("linkat out of it", linkat(directory, "allowed", AT_FDCWD, "/tmp/allowed", 0));
    refused("symlinkat", symlinkat("x", directory, "new"));
    refused("fchmodat", fchmodat(directory, "allowed", 0777, 0));
    refused("mknodat", mknodat(directory, "new", S_IFIFO | 0600, 0));
    sprintf(path, "%s/allowed", root);
    refused("truncate", truncate(path, 0));
    int file = openat(directory, "allowed", O_RDONLY);
    refused("write to a file opened for reading", write(file, "x", 1));
    refused("ftruncate", ftruncate(file, 0));
    refused("fallocate", posix_fallocate(file, 0, 100) == 0 ? 0 : -1);
    refused("a shared writable mapping", mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) == MAP_FAILED ? -1 : 0);
    // A private copy may be changed; the file may not.
    char *copy = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (copy != MAP_FAILED)
        copy[0] = '!';
    refused("open_by_handle_at", raw(SYS_open_by_handle_at, (uint64_t)directory, (uint64_t)path, 0, 0, 0, 0));
    refused("mount", raw(SYS_mount, (uint64_t) "x", (uint64_t) "/tmp", (uint64_t) "tmpfs", 0, 0, 0));
    refused("chroot", raw(SYS_chroot, (uint64_t)root, 0, 0, 0, 0, 0));
    if (!wrong)
        printf("no way out\n");
    return wrong;
}
