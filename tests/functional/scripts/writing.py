"""What a file is after writes that overlap, fail or are cut short; prints what a host's kernel and a microVM must agree on."""

import ctypes
import errno
import mmap
import os
import subprocess
import sys

os.chdir(os.environ.get("TMPDIR", "/tmp"))
libc = ctypes.CDLL(None, use_errno=True)


def told(call, *arguments):
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


# Processes that append to one file, each by a description of its own and all by one.
APPEND = (
    "import os\nfd = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT)\nfor n in range(6000): os.write(fd, b'a line.\\n')"
)
programs = [subprocess.Popen([sys.executable, "-I", "-S", "-c", APPEND]) for _ in range(3)]
print([program.wait() for program in programs], os.stat("log").st_size)
shared = os.open("shared", os.O_CREAT | os.O_RDWR)
children = []
for _ in range(2):
    if (child := os.fork()) == 0:
        for _ in range(3000):
            os.write(shared, b"a line.\n")
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
print(os.lseek(shared, 0, os.SEEK_CUR), os.fstat(shared).st_size)

# And that read from one description: each byte is one's.
os.lseek(shared, 0, os.SEEK_SET)
reader, writer = os.pipe()
children = []
for _ in range(2):
    if (child := os.fork()) == 0:
        read = 0
        while got := os.read(shared, 8):
            read += len(got)
        os.write(writer, b"%8d" % read)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
print(int(os.read(reader, 8)) + int(os.read(reader, 8)))
os.close(shared)

# Memory that is not there, wholly and in part.
fd = os.open("partial", os.O_CREAT | os.O_RDWR)
memory = mmap.mmap(-1, 8192)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc.mprotect(ctypes.c_void_p(address + 4096), ctypes.c_size_t(4096), 0)
print(libc.write(fd, ctypes.c_void_p(address + 4096), ctypes.c_size_t(4096)), errno.errorcode[ctypes.get_errno()])
print(os.fstat(fd).st_size, os.pwrite(fd, b"", 5000), os.fstat(fd).st_size)
print(libc.write(fd, ctypes.c_void_p(address + 4000), ctypes.c_size_t(200)), os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_CUR))
os.close(fd)

# sendfile: the source moves by what went out.
with open("source", "wb") as file:
    file.write(os.urandom(1 << 18))
source = os.open("source", os.O_RDONLY)
reader, writer = os.pipe()
os.set_blocking(writer, False)
os.write(writer, b"x" * 5000)
sent = os.sendfile(writer, source, None, 1 << 18)
print(0 < sent < 1 << 17, os.lseek(source, 0, os.SEEK_CUR) == sent)
print(told(os.sendfile, writer, source, None, 1 << 18), os.lseek(source, 0, os.SEEK_CUR) == sent)
os.read(reader, 5000)
received = b""
while len(received) < sent:
    received += os.read(reader, 1 << 16)
while (more := os.sendfile(writer, source, None, 1 << 14)) > 0:
    received += os.read(reader, more)
with open("source", "rb") as file:
    print(received == file.read(), told(os.sendfile, writer, reader, None, 1), os.sendfile(writer, source, 7, 5))
print(os.lseek(source, 0, os.SEEK_CUR), os.read(reader, 5) == received[7:12])
print(told(os.sendfile, os.open("source", os.O_WRONLY | os.O_APPEND), source, None, 1))


# What changes a file's length, or might have, is a change of it.
def changes(call, *arguments):
    os.utime("source", (1, 1))
    call(*arguments)
    return os.stat("source").st_mtime > 1


fd = os.open("source", os.O_RDWR)
print(changes(os.truncate, "source", 9), changes(os.ftruncate, fd, 5), changes(os.ftruncate, fd, 5))
print(changes(os.write, fd, b""), changes(os.write, fd, b"x"))
print(changes(lambda: os.close(os.open("source", os.O_WRONLY | os.O_TRUNC))), os.fstat(fd).st_size)
os.posix_fallocate(fd, 0, 100)
os.posix_fallocate(fd, 0, 50)
print(os.fstat(fd).st_size)
