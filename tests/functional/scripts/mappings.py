"""Mappings: behind the end of a file, of a file that is open for reading alone, and calls over several of them."""

import ctypes
import errno
import mmap
import os
import resource
import tempfile

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.mprotect.argtypes = libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE = 4096
READ, WRITE = mmap.PROT_READ, mmap.PROT_WRITE
SHARED, PRIVATE, ANONYMOUS, FIXED = mmap.MAP_SHARED, mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS, 0x10
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def status(action):
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def named(result):
    return errno.errorcode[ctypes.get_errno()] if result in (-1, 2**64 - 1) else "done"


def fresh(pages, prot=READ | WRITE, flags=PRIVATE | ANONYMOUS, fd=-1, at=None):
    return libc.mmap(at, pages * PAGE, prot, flags, fd, 0)


with tempfile.TemporaryFile() as file:
    file.truncate(PAGE)
    for flags in (SHARED, PRIVATE):
        at = fresh(2, READ | WRITE, flags, file.fileno())
        write = status(lambda at=at: ctypes.memset(at + PAGE, 1, 1))
        print("behind the end", status(lambda at=at: ctypes.string_at(at + PAGE, 1)), write)
    at = fresh(2, READ, SHARED, file.fileno())
    print("not to be written", status(lambda: ctypes.memset(at, 1, 1)), status(lambda: ctypes.memset(at + PAGE, 1, 1)))

with tempfile.NamedTemporaryFile() as file:
    file.write(bytes(2 * PAGE))
    file.flush()
    fd = os.open(file.name, os.O_RDONLY)
    at = fresh(2, READ, SHARED, fd)
    print("made writable", named(libc.mprotect(at + PAGE, PAGE, READ | WRITE)), named(libc.mprotect(at, PAGE, READ)))
    own = fresh(2, READ, PRIVATE, fd)
    print("a private one", named(libc.mprotect(own, PAGE, READ | WRITE)))
    wide = fresh(2, READ, SHARED, file.fileno())
    print("open for both", named(libc.mprotect(wide, PAGE, READ | WRITE)))

at = fresh(4)
fresh(1, READ | WRITE, SHARED | ANONYMOUS | FIXED, at=at + PAGE)
ctypes.memset(at, 9, 4 * PAGE)
print("not needed", named(libc.madvise(at, 3 * PAGE, mmap.MADV_DONTNEED)), list(ctypes.string_at(at, 4 * PAGE)[::PAGE]))
libc.munmap(ctypes.c_void_p(at + 2 * PAGE), ctypes.c_size_t(PAGE))
ctypes.memset(at, 9, PAGE)
print(
    "over a hole",
    named(libc.madvise(at, 4 * PAGE, mmap.MADV_DONTNEED)),
    [ctypes.string_at(at + n * PAGE, 1)[0] for n in (0, 1, 3)],
)

at = fresh(8)
libc.mprotect(at + 2 * PAGE, PAGE, READ)
print("grown over several", named(libc.mremap(at, 8 * PAGE, 9 * PAGE, 1)))
print("shrunk over several", named(libc.mremap(at, 8 * PAGE, PAGE, 0)), status(lambda: ctypes.string_at(at + PAGE, 1)))
