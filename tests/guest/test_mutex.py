import threading
import time

import pytest
from nexus.guest.device import mutex as module
from nexus.guest.device.native import native


class PythonMutex(module.PythonLatch):
    acquire = module.Mutex.acquire
    _withdraw = module.Mutex._withdraw


@pytest.fixture(params=[module.Mutex, PythonMutex])
def Mutex(request):
    assert issubclass(module.Mutex, native.Latch)
    return request.param


def test_excludes_and_wakes_everybody(Mutex):
    mutex, inside, most, total = Mutex(), [], [], []

    def work():
        for turn in range(200):
            with mutex:
                inside.append(1)
                most.append(len(inside))
                if turn % 50 == 0:
                    time.sleep(0.0005)
                total.append(1)
                inside.pop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert max(most) == 1
    assert len(total) == 16 * 200


def test_try_acquire(Mutex):
    mutex = Mutex()
    assert mutex.try_acquire()
    assert not mutex.try_acquire()
    mutex.release()
    assert mutex.try_acquire()


def test_a_waiter_is_woken_by_the_release(Mutex):
    mutex, seen = Mutex(), []
    mutex.acquire()
    thread = threading.Thread(target=lambda: (mutex.acquire(), seen.append(1), mutex.release()), daemon=True)
    thread.start()
    time.sleep(0.05)
    assert not seen
    mutex.release()
    thread.join(5)
    assert seen == [1]


def test_a_thread_that_has_it_is_told():
    """Not a hang: a finalizer, or a signal's handler, in the middle of what the lock is held for."""
    mutex = module.Mutex()
    with mutex, pytest.raises(RuntimeError, match="in the middle of another"), mutex:
        pass
    with mutex:
        pass
