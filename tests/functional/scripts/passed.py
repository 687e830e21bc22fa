"""Descriptors that travel through sockets and are never received."""

import os
import select
import socket


def ended(reading):
    return select.select([reading], [], [], 1)[0] == [reading]


def send(through, passed):
    socket.send_fds(through, [b"x"], passed)


reading, writing = os.pipe()
one, other = socket.socketpair()
send(one, [writing])
os.close(writing)
one.close()
print("one end closed", select.select([reading], [], [], 0)[0])
other.close()
print("both closed", ended(reading))

reading, writing = os.pipe()
one, other = socket.socketpair()
send(one, [writing])
os.close(writing)
other.recv(1)
print("received without them", ended(reading))

# Sockets with messages of their own, one in the other.
reading, writing = os.pipe()
passed = [writing]
for _ in range(20):
    one, other = socket.socketpair()
    send(one, passed)
    for fd in passed:
        os.close(fd)
    passed = [one.detach(), other.detach()]
for fd in passed:
    os.close(fd)
print("a chain", ended(reading))

server = socket.socket(socket.AF_UNIX)
server.bind("\0passed")
server.listen()
reading, writing = os.pipe()
client = socket.socket(socket.AF_UNIX)
client.connect("\0passed")
send(client, [writing])
os.close(writing)
client.close()
server.close()
print("never accepted", ended(reading))

for _ in range(300):
    one, other = socket.socketpair()
    send(one, [0, 1])
    one.close()
    other.close()
print("many")
one, other = socket.socketpair()
send(one, [1])
for flags in (socket.MSG_PEEK, 0):
    print([len(data) for _, _, data in other.recvmsg(1, socket.CMSG_LEN(16), flags)[1]])
