"""FIFOs: who waits for whom, what a poll tells, where the end of file is; between threads and between programs."""

import asyncio
import errno
import fcntl
import io
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

os.chdir(tempfile.mkdtemp())
signal.signal(signal.SIGALRM, lambda *_: None)


def refused(call, *arguments):
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


def opened(flags, name="fifo"):
    return refused(os.open, name, flags)


def polled(fd, events=select.POLLIN | select.POLLOUT):
    poll = select.poll()
    poll.register(fd, events)
    return poll.poll(0)[0][1] if poll.poll(0) else 0


def waiting(fd):
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]


def later(action, *arguments):
    def run():
        time.sleep(0.2)
        action(*arguments)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


os.mkfifo("fifo")

# Without the other side: a writer is refused, a reader is at the end of file and polls as nothing yet.
print(opened(os.O_WRONLY | os.O_NONBLOCK))
reader = opened(os.O_RDONLY | os.O_NONBLOCK)
print(os.read(reader, 10), polled(reader), refused(os.write, reader, b"x"), stat.S_ISFIFO(os.fstat(reader).st_mode))
print(refused(os.lseek, reader, 0, 0), refused(os.pread, reader, 1, 0), os.fstat(reader).st_ino == os.stat("fifo").st_ino)

# With a writer: nothing yet, data, the end.
writer = opened(os.O_WRONLY | os.O_NONBLOCK)
print(refused(os.read, reader, 10), polled(reader), polled(writer), refused(os.read, writer, 1))
print(os.write(writer, b"one two"), waiting(reader), polled(reader), os.read(reader, 3), waiting(reader))
os.close(writer)
print(polled(reader), os.read(reader, 10), polled(reader), os.read(reader, 10))

# Another writer after the end; what the last one left comes first.
writer = opened(os.O_WRONLY)
os.write(writer, b"left ")
os.close(writer)
second, third = opened(os.O_WRONLY), opened(os.O_WRONLY)
os.write(second, b"more ")
os.write(third, b"most")
os.close(second)
print(os.read(reader, 100), refused(os.read, reader, 100), polled(reader))

# The last reader leaves: EPIPE; what is in the pipe waits for the next reader while a writer stays.
os.write(third, b"kept")
os.close(reader)
signal.signal(signal.SIGPIPE, lambda *_: print("SIGPIPE"))
print(refused(os.write, third, b"x"), bool(polled(third) & select.POLLERR))
reader = opened(os.O_RDONLY)
print(os.read(reader, 100), os.write(third, b"y"), os.read(reader, 100), polled(third))
os.close(third)
os.close(reader)

# With the last that has it open goes what is in it.
both = opened(os.O_RDWR)
print(os.write(both, b"gone"), polled(both, select.POLLIN), polled(both, select.POLLOUT))
os.close(both)
reader = opened(os.O_RDONLY | os.O_NONBLOCK)
print(os.read(reader, 10))
os.close(reader)

# Who opens waits for the other side; a signal ends the wait or not.
for mine, other in ((os.O_RDONLY, os.O_WRONLY), (os.O_WRONLY, os.O_RDONLY)):
    found = []
    thread = later(lambda other=other, found=found: found.append(opened(other)))
    before = time.monotonic()
    fd = opened(mine)
    print(time.monotonic() - before > 0.1, isinstance(fd, int))
    thread.join()
    os.close(fd)
    os.close(found[0])


class Interrupted(Exception):
    pass


def interrupt(*_):
    raise Interrupted


signal.signal(signal.SIGALRM, interrupt)
for flags in (os.O_RDONLY, os.O_WRONLY):
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        os.open("fifo", flags)
    except Interrupted:
        print("interrupted", opened(os.O_WRONLY | os.O_NONBLOCK))
both = opened(os.O_RDWR)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    os.read(both, 1)
except Interrupted:
    print("interrupted")

# A blocking read waits for data, a blocking write for room; PIPE_BUF goes in whole or not at all.
thread = later(os.write, both, b"late")
print(os.read(both, 10))
thread.join()
writer = opened(os.O_WRONLY | os.O_NONBLOCK)
room = 0
while isinstance(step := refused(os.write, writer, b"x" * 4096), int):
    room += step
print(step, room == fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ), polled(writer), waiting(both) == room)
os.read(both, 100)
print(refused(os.write, writer, b"x" * 4096), refused(os.write, writer, b"x"))
fcntl.fcntl(writer, fcntl.F_SETFL, 0)
got = []


def take(total):
    while total:
        got.append(len(os.read(both, total)))
        total -= got[-1]


thread = later(take, room - 100 + 300_000)
print(os.writev(writer, [b"y" * 100_000, b"", b"z" * 200_000]))
thread.join()
print(sum(got) - room)
print(fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 17), fcntl.fcntl(both, fcntl.F_GETPIPE_SZ))
fd = os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_NONBLOCK)
os.write(writer, b"by its link")
print(os.read(fd, 100), fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK != 0, fcntl.fcntl(both, fcntl.F_GETFL) & os.O_NONBLOCK)
for fd in (fd, writer, both):
    os.close(fd)

# Names: O_PATH, O_CREAT, O_TRUNC, links, unlinking what is open.
fd = opened(os.O_PATH)
print(stat.S_ISFIFO(os.fstat(fd).st_mode), refused(os.read, fd, 1))
os.close(fd)
print(opened(os.O_WRONLY | os.O_NONBLOCK | os.O_TRUNC), opened(os.O_CREAT | os.O_EXCL | os.O_RDWR))
print(opened(os.O_RDONLY | os.O_DIRECTORY), refused(os.truncate, "fifo", 0))
os.symlink("fifo", "link")
os.link("fifo", "hard")
fd, other = opened(os.O_RDWR | os.O_CREAT, "link"), opened(os.O_RDWR, "hard")
os.unlink("fifo")
os.write(fd, b"same")
print(os.read(other, 10), os.fstat(fd).st_nlink)
os.close(fd)
os.close(other)

# Between programs; a child inherits an end.
os.mkfifo("work")
child = subprocess.Popen(["sh", "-c", "while read line; do echo got $line; done < work"], stdout=subprocess.PIPE)
with open("work", "w") as work:
    work.write("one\ntwo\n")
print(child.communicate()[0])
print(subprocess.check_output(["sh", "-c", "cat work & echo a > work; wait; cat < work & echo b > work; wait"]))
print(subprocess.check_output(["sh", "-c", "exec 3<>work; echo c >&3; read x <&3; echo $x"]))
code = "import os; os.write(1, os.read(0, 100).upper())"
inherited = os.open("work", os.O_RDWR)
with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdin=inherited, stdout=subprocess.PIPE) as child:
    os.write(inherited, b"inherited")
    print(child.stdout.read())
os.close(inherited)


# Registered once: after the end of file the next writer's bytes are told of, and after EPIPE the next reader's room.
os.mkfifo("watched")
reader = opened(os.O_RDONLY | os.O_NONBLOCK, "watched")
with select.epoll() as poller, select.epoll() as edges, select.epoll() as gone:
    poller.register(reader, select.EPOLLIN)
    edges.register(reader, select.EPOLLIN | select.EPOLLET)
    gone.register(reader, select.EPOLLIN)
    gone.unregister(reader)
    for message in (b"one", b"two", b"three"):
        writer = opened(os.O_WRONLY | os.O_NONBLOCK, "watched")
        print(poller.poll(0), edges.poll(0) if message == b"one" else "")
        os.write(writer, message)
        print([len(each.poll(1)) for each in (poller, edges)], gone.poll(0), os.read(reader, 10), poller.poll(0))
        os.close(writer)
        print([[event for _, event in each.poll(1)] for each in (poller, edges)], os.read(reader, 10))
    # Another program's bytes.
    subprocess.run(["sh", "-c", "echo four > watched"], check=True)
    print(len(poller.poll(5)), os.read(reader, 10))
    # Who waits meanwhile.
    waits = later(lambda: subprocess.run(["sh", "-c", "echo five > watched"], check=True))
    poller.modify(reader, select.EPOLLIN | select.EPOLLONESHOT)
    while not (events := [event for _, event in poller.poll(5) if event & select.EPOLLIN]):
        poller.modify(reader, select.EPOLLIN | select.EPOLLONESHOT)
    print(bool(events), os.read(reader, 10))
    waits.join()
writer = opened(os.O_WRONLY | os.O_NONBLOCK, "watched")
with select.epoll() as poller:
    poller.register(writer, select.EPOLLOUT)
    os.close(reader)
    print([event for _, event in poller.poll(1)])
    reader = opened(os.O_RDONLY | os.O_NONBLOCK, "watched")
    print([event for _, event in poller.poll(1)])
    os.write(writer, bytes(65536))
    print(poller.poll(0), len(os.read(reader, 65536)), [event for _, event in poller.poll(1)])
os.close(reader)
os.close(writer)


# asyncio's pipes, which wait by epoll.
async def conversation():
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    source = io.FileIO(os.open("work", os.O_RDONLY | os.O_NONBLOCK))
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), source)
    first = asyncio.create_task(stream.readline())
    await asyncio.sleep(0.1)
    print(first.done())
    sink = await asyncio.to_thread(open, "work", "wb", 0)
    sink.write(b"awaited\nrest")
    print(await first)
    sink.close()
    print(await stream.read(), stream.at_eof())
    transport.close()


asyncio.run(conversation())
