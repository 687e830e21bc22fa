"""Paths as calls take them that make, move and remove names; prints what a host's kernel and a microVM must agree on."""

import errno
import os

os.chdir(os.environ.get("TMPDIR", "/tmp"))
os.mkdir("names")
os.chdir("names")


def told(call, *arguments):
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


def opened(path, flags):
    def call():
        os.close(os.open(path, flags))
        return "opened"

    return told(call)


LINKS = {"to-d": "d", "to-f": "f", "dangling": "none"}


def renew():
    if os.path.lexists("moved"):
        for name in ("d", "f", *LINKS):
            if not os.path.lexists(name):
                os.rename("moved", name)
                break
    if not os.path.isdir("d"):
        os.mkdir("d")
    if not os.path.isfile("f"):
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY))
    for name, target in LINKS.items():
        if not os.path.islink(name):
            os.symlink(target, name)


# What a path ends in, for each call: a name, a name with a slash, dots.
CALLS = {
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "symlink": lambda path: os.symlink("target", path),
    "link": lambda path: os.link("f", path),
    "rename": lambda path: os.rename(path, "moved"),
    "rename f": lambda path: os.rename("f", path),
    "rename d": lambda path: os.rename("d", path),
}
PATHS = (
    "d/",
    "f/",
    "to-d/",
    "to-f/",
    "dangling/",
    "d/.",
    "d/..",
    "f/.",
    "f/..",
    "to-d/.",
    "new/.",
    "new/..",
    "new/x/",
    ".",
    "..",
)
for name, call in CALLS.items():
    for path in PATHS:
        renew()
        print(name, path, told(call, path), sorted(os.listdir()))
renew()
for path in ("d", "d/", "d/.", "d/..", "f/", "new/", "new/.", "to-d/"):
    print("create", path, opened(path, os.O_CREAT), opened(path, os.O_CREAT | os.O_EXCL))
print(told(os.mkdir, "new/"), told(os.rename, "d", "moved/"), sorted(os.listdir()))
renew()

# Through files, past the longest name, to nowhere.
for path in ("f/../d", "f/./x", "f/.", "new/..", "dangling/..", "to-d/..", "d/../f"):
    print(path, told(lambda path=path: os.stat(path).st_mode & 0o170000))
for path in ("x" * 255, "x" * 256, "f/" + "x" * 256, "new/" + "x" * 256, "d/" + "x" * 256):
    print(len(path), told(os.stat, path), told(os.mkdir, path), told(os.symlink, "target", path))
print(told(os.symlink, "", "empty"), told(os.readlink, "to-d/"), told(os.lstat, "to-f/"))

# The numbers of a listing are those of stat.
for directory in (".", "/usr/lib"):
    with os.scandir(directory) as entries:
        print(all(entry.inode() == os.lstat(entry.path).st_ino for entry in entries))


# Of processes that want the same name one gets it.
def by_two(work):
    """What two processes count."""
    children = []
    for which in range(2):
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            os.write(writer, str(work(which)).encode())
            os._exit(0)
        children.append((child, reader))
    counts = [int(os.read(reader, 100)) for _, reader in children]
    for child, _ in children:
        os.waitpid(child, 0)
    return sum(counts)


def claim(which):
    count = 0
    for n in range(500):
        try:
            os.rename(f"job-{n}", f"done-{n}-{which}")
            count += 1
        except FileNotFoundError:
            pass
    return count


def create(which):
    count = 0
    for n in range(500):
        os.close(os.open(f"made-{n}", os.O_CREAT | os.O_WRONLY))
        count += 1
    return count


for n in range(500):
    os.symlink("target", f"job-{n}")
print(by_two(claim), by_two(create), len(os.listdir()))
