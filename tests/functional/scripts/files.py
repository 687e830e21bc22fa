"""Files as programs use them; prints what a host's kernel and a microVM must agree on."""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import stat
import time

os.chdir(os.environ.get("TMPDIR", "/tmp"))
libc = ctypes.CDLL(None, use_errno=True)


def refused(call, *arguments, **named):
    try:
        return call(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno]


def renameat2(a, b, flags):
    done = libc.renameat2(-100, a.encode(), -100, b.encode(), flags)
    return errno.errorcode[ctypes.get_errno()] if done else "done"


def write(name, text):
    with open(name, "w") as file:
        file.write(text)


def read(name):
    with open(name) as file:
        return file.read()


# Names: exchange, no replacement, links, the rules of rename.
write("a", "A")
write("b", "B")
os.makedirs("d/e")
print(renameat2("a", "b", 1), renameat2("a", "b", 2), read("a"), read("b"))
print(renameat2("a", "d", 2), os.path.isdir("a"), read("d"), renameat2("a", "none", 2), renameat2("a", "a/x", 2))
os.rename("d", "file")
os.rename("a", "d")
os.link("file", "again")
os.rename("file", "again")
print(sorted(os.listdir()), os.stat("file").st_nlink, os.path.samefile("file", "again"))
print(
    refused(os.rename, "d", "file"), refused(os.rename, "file", "d"), refused(os.rename, "d", "d/e/f"), refused(os.rmdir, "d")
)
print(refused(os.open, "new/", os.O_CREAT | os.O_WRONLY), refused(os.open, "file/", os.O_RDONLY), refused(os.unlink, "d"))
print(refused(os.mkdir, "file"), refused(os.open, "file", os.O_CREAT | os.O_EXCL), refused(os.open, "d", os.O_WRONLY))
os.symlink("file", "link")
print(os.readlink("link"), refused(os.open, "link", os.O_NOFOLLOW), stat.S_ISLNK(os.lstat("link").st_mode), read("link"))

# A file without a name gets one.
fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
os.write(fd, b"unnamed")
print(
    refused(os.link, f"/proc/self/fd/{fd}", "named"), libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, b"named", 0x400)
)
print(read("named"), os.fstat(fd).st_nlink)
os.close(fd)

# Modes, owners, times.
before = os.umask(0o027)
write("masked", "")
os.mkdir("masked.d", 0o777)
os.umask(before)
print(oct(os.stat("masked").st_mode), oct(os.stat("masked.d").st_mode), oct(before))
os.chmod("masked", 0o4751)
print(oct(os.stat("masked").st_mode), refused(os.chown, "masked", os.getuid(), -1), refused(os.chown, "none", -1, -1))
os.utime("masked", ns=(1_000_000_001, 2_000_000_002))
print(os.stat("masked").st_atime_ns, os.stat("masked").st_mtime_ns, time.time() - os.stat("masked").st_ctime < 60)
os.mkfifo("fifo")
print(stat.S_ISFIFO(os.stat("fifo").st_mode), refused(os.mkfifo, "fifo"))
print(refused(os.getxattr, "masked", "user.none") in ("ENOTSUP", "ENODATA"))

# Positions, holes, appending, vectors.
fd = os.open("data", os.O_CREAT | os.O_RDWR)
print(os.pwritev(fd, [b"abc", b"def"], 2), os.lseek(fd, 0, os.SEEK_END), os.preadv(fd, [bytearray(3), bytearray(9)], 1))
print(os.pread(fd, 10, 0), os.ftruncate(fd, 4), os.fstat(fd).st_size, refused(os.lseek, fd, -1, os.SEEK_SET))
end = os.open("data", os.O_WRONLY | os.O_APPEND)
print(os.write(end, b"xyz"), os.pread(fd, 10, 4), refused(os.read, end, 1), fcntl.fcntl(end, fcntl.F_GETFL) & os.O_APPEND != 0)
os.posix_fallocate(fd, 0, 100)
print(os.fstat(fd).st_size)
os.close(end)

# Copies inside the kernel.
target = os.open("target", os.O_CREAT | os.O_RDWR)
print(os.copy_file_range(fd, target, 5, 0, 1), os.pread(target, 10, 0), os.lseek(fd, 0, os.SEEK_CUR))
print(refused(os.copy_file_range, fd, fd, 50, 0, 10), os.sendfile(target, fd, 0, 3), os.fstat(target).st_size)
os.close(target)

# Mappings: shared is the file, private is a copy, and a file may grow beneath its mapping.
with mmap.mmap(fd, 100) as shared, mmap.mmap(fd, 100, access=mmap.ACCESS_COPY) as private:
    private[0:3] = b"own"
    shared[4:7] = b"map"
    print(os.pread(fd, 7, 0), private[0:7])
    shared.resize(9000)
    shared[8999:9000] = b"!"
    print(os.fstat(fd).st_size, os.pread(fd, 1, 8999), refused(shared.flush, 1, 4096))
os.close(fd)
fd = os.memfd_create("m")
os.ftruncate(fd, 4096)
with mmap.mmap(fd, 4096) as one, mmap.mmap(fd, 4096) as two:
    one[0:1] = b"s"
    print(two[0:1])
os.close(fd)

# Locks of whole files exclude other openings, in the same process too.
one, two, three = (os.open("data", os.O_RDWR) for _ in range(3))
fcntl.flock(one, fcntl.LOCK_EX)
print(refused(fcntl.flock, two, fcntl.LOCK_SH | fcntl.LOCK_NB))
os.close(one)
print(refused(fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB), fcntl.lockf(three, fcntl.LOCK_EX | fcntl.LOCK_NB))
os.close(two)

# A directory that loses entries while it is read.
os.mkdir("many")
for n in range(3000):
    os.close(os.open(f"many/{n}", os.O_CREAT))
    if n % 2:
        os.unlink(f"many/{n}")
with os.scandir("many") as entries:
    for entry in entries:
        os.unlink(entry)
print(os.listdir("many"))

# Devices and the process's own files.
full = os.open("/dev/full", os.O_RDWR)
print(os.read(full, 2), refused(os.write, full, b"x"))
print(os.read(os.open("/dev/zero", os.O_RDONLY), 3), os.write(os.open("/dev/null", os.O_WRONLY), b"gone"))
print(os.stat("/dev/null").st_rdev == os.makedev(1, 3), stat.S_ISCHR(os.stat("/dev/urandom").st_mode), len(os.urandom(7)))
write("/dev/shm/nexus-test", "shared")
print(read("/dev/shm/nexus-test"))
os.unlink("/dev/shm/nexus-test")
with open("data") as file:
    print(
        str(file.fileno()) in os.listdir("/proc/self/fd"),
        os.stat(f"/proc/self/fd/{file.fileno()}").st_ino == os.fstat(file.fileno()).st_ino,
    )
print(read("/proc/self/cmdline").split("\0")[0] != "", read("/proc/self/stat").split()[0] == str(os.getpid()))
print("python" in read("/proc/self/maps"), f"Pid:\t{os.getpid()}\n" in read("/proc/self/status"))
print(
    os.readlink("/proc/self/exe") == os.path.realpath(__import__("sys").executable), os.path.exists(f"/proc/{os.getpid()}/maps")
)

# Limits, room.
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], resource.prlimit(0, resource.RLIMIT_NOFILE)[0], refused(os.dup2, 0, 64))
room = os.statvfs(".")
print(room.f_bavail > 0, room.f_blocks >= room.f_bfree, room.f_namemax)
reader, writer = os.pipe()
print(fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096), fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ))
