"""Ten thousand threads one after another, many at once, and what a thread leaves behind that ends with a lock held."""

import ctypes
import threading

total = 0
for _ in range(1250):
    batch = [threading.Thread(target=lambda: None) for _ in range(8)]
    for thread in batch:
        thread.start()
    for thread in batch:
        thread.join()
    total += len(batch)
print(total, threading.active_count())

barrier = threading.Barrier(41)
crowd = [threading.Thread(target=barrier.wait) for _ in range(40)]
for thread in crowd:
    thread.start()
barrier.wait(10)
for thread in crowd:
    thread.join()
print(threading.active_count())

# Nothing of a thread is in the next one: locals and floating-point state are fresh.
local = threading.local()
seen = []


def look():
    seen.append(hasattr(local, "value"))
    local.value = 1


for _ in range(20):
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
print(any(seen))

libc = ctypes.CDLL(None)
attributes = ctypes.create_string_buffer(64)
mutex = ctypes.create_string_buffer(64)
print(libc.pthread_mutexattr_init(attributes), libc.pthread_mutexattr_setrobust(attributes, 1))
print(libc.pthread_mutex_init(mutex, attributes))
thread = threading.Thread(target=lambda: print(libc.pthread_mutex_lock(mutex)))
thread.start()
thread.join()
print("EOWNERDEAD" if libc.pthread_mutex_lock(mutex) == 130 else "not noticed")
print(libc.pthread_mutex_consistent(mutex), libc.pthread_mutex_unlock(mutex))
