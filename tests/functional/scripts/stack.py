"""The first thread's stack: what it may take, and that nothing lies where it would overflow to."""

import ctypes
import faulthandler
import mmap
import os
import resource
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
GUARD = 1 << 20
FIXED = 0x10
inside = ctypes.c_void_p.in_dll(libc, "__libc_stack_end").value


def mappings():
    with open("/proc/self/maps") as lines:
        for line in lines:
            start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
            yield start, end


def bottom():
    return next(start for start, end in mappings() if start <= inside < end)


def is_clear():
    low = bottom()
    return not any(low - GUARD < end <= low for _, end in mappings())


resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
faulthandler.disable()
many = [mmap.mmap(-1, size << 10) for size in (4, 64, 300, 1000, 5000, 20000) for _ in range(6)]
print("many mappings", is_clear())
print("the stack", inside - bottom() <= 8 << 20)

anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
place = bottom() - 65536
got = libc.mmap(place, 4096, 3, anonymous, -1, 0)
print("by a hint", got != place, is_clear())
got = libc.mmap(place, 4096, 3, anonymous | FIXED, -1, 0)
print("by force", got == place, libc.munmap(place, 4096))


def overflow():
    faulthandler._stack_overflow()


child = os.fork()
if child == 0:
    print("a copy", is_clear(), flush=True)
    overflow()
    os._exit(0)
print("overflow of a copy", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
program = "import faulthandler; faulthandler.enable(); faulthandler._stack_overflow()"
done = subprocess.run([sys.executable, "-I", "-c", program], stderr=subprocess.PIPE, text=True, check=False)
print("overflow of a program", done.returncode, done.stderr.splitlines()[0])
