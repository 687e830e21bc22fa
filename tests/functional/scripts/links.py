"""Symbolic links as such: opened without being followed, and archived."""

import errno
import os
import stat
import subprocess
import tempfile

os.chdir(tempfile.mkdtemp())
os.mkdir("d")
with open("d/f", "w") as file:
    file.write("x")
os.symlink("f", "d/link")
os.symlink("nowhere", "d/dangling")


def named(call, *arguments, **options):
    try:
        return call(*arguments, **options)
    except OSError as error:
        return errno.errorcode[error.errno]


for path in ("d/link", "d/dangling", "/bin/sh" if os.path.islink("/bin/sh") else "d/link"):
    print(named(os.open, path, os.O_RDONLY | os.O_NOFOLLOW), end=" ")
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    print(stat.S_ISLNK(os.fstat(fd).st_mode), named(os.read, fd, 1), named(os.open, f"/proc/self/fd/{fd}", os.O_RDONLY))
    os.close(fd)
fd = os.open("d/link", os.O_PATH | os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
print(named(os.write, fd, b"y"), os.stat("d/f").st_size)

archive = ["tar", "cf", "a.tar", "d"], ["tar", "xf", "a.tar"], ["tar", "xpf", "a.tar"], ["cp", "-a", "d", "e"]
for command in archive:
    print(command, subprocess.run(command, check=False).returncode)
    if command[1] == "cf":
        subprocess.run(["rm", "-r", "d"], check=True)
print([(name, os.readlink(f"e/{name}")) for name in ("link", "dangling")])
