//! Snapshots end to end: taken, restored with their threads, and refused when damaged.
#![allow(clippy::unwrap_used)]

mod common;

use common::{serve, skip};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Another thread, memory and a file of before the snapshot. The C API keeps the interpreter's lock.
const SCRIPT: &str = "
import fcntl, os, sys, threading
go, said = threading.Event(), []
def other():
    local = 0.5
    go.wait()
    said.append(local)
thread = threading.Thread(target=other)
thread.start()
kept = bytearray(b'kept' * 5000)
open('/tmp/note', 'w').write('note')
device = open('/dev/nexus', 'r+b', buffering=0)
restored = fcntl.ioctl(device, 0x4e02, 0)
go.set()
thread.join()
print(restored, fcntl.ioctl(device, 0x4e04, 0), said, bytes(kept[-4:]), open('/tmp/note').read(), os.getpid())
sys.exit(9)
";

fn place(directory: &Path) -> std::path::PathBuf {
    let snapshot = directory.join("snapshot");
    fs::create_dir(&snapshot).unwrap();
    snapshot
}

fn taken(directory: &Path) -> std::path::PathBuf {
    let snapshot = place(directory);
    let (output, report) = serve("initialise", SCRIPT, &snapshot);
    assert_eq!(output.status.code(), Some(0), "{output:?} {report:?}");
    assert!(
        report.iter().any(|line| line["event"] == "snapshot"),
        "{report:?}"
    );
    let mut names: Vec<_> = fs::read_dir(&snapshot)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["metadata", "pages"]);
    snapshot
}

fn verify(snapshot: &Path) -> Option<i32> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nexus-vmm"));
    command.arg("verify").arg(snapshot).stderr(Stdio::null());
    command.status().unwrap().code()
}

#[test]
fn threads_memory_and_files_go_on_in_every_clone() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let snapshot = taken(directory.path());
    assert_eq!(verify(&snapshot), Some(0));
    let mut pids = Vec::new();
    for _ in 0..3 {
        let (output, report) = serve("restore", "", &snapshot);
        let text = String::from_utf8(output.stdout).unwrap();
        let (before, pid) = text.trim().rsplit_once(' ').unwrap();
        assert_eq!(before, "1 1 [0.5] b'kept' note");
        assert_eq!(output.status.code(), Some(9));
        assert_eq!(report[0]["event"], "ready");
        assert_eq!(
            report.last().unwrap(),
            &json!({"event": "exit", "status": 9 << 8})
        );
        pids.push(pid.to_owned());
    }
    pids.dedup();
    assert!(pids.len() > 1, "process ids repeat: {pids:?}");
}

#[test]
fn a_guest_that_ends_before_its_snapshot_leaves_none_that_could_be_used() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let snapshot = place(directory.path());
    let (output, _) = serve("initialise", "pass", &snapshot);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(verify(&snapshot), Some(125));
}

/// What is held in a clone until it is renewed, and what goes on as it would have.
const HELD: &str = "
import fcntl, os, select, signal, sys, threading, time
device = open('/dev/nexus', 'r+b', buffering=0)
began = time.monotonic()
order, results = [], {}
condition = threading.Condition()
ready = [0]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
def note(name, function):
    def run():
        ready[0] += 1
        results[name] = function()
        order.append(name)
    thread = threading.Thread(target=run, name=name)
    thread.start()
    return thread
def waits_for_condition():
    with condition:
        return condition.wait(30)
def polls():
    # A limit of 2 s, counted from before the snapshot.
    select.poll().poll(2000)
    return round(time.monotonic() - began, 1)
def epolls():
    select.epoll().poll(2.0)
    return round(time.monotonic() - began, 1)
def sleeps():
    time.sleep(2)
    return round(time.monotonic() - began, 1)
def spins():
    while not go:
        pass
    return True
go = []
timer = threading.Timer(2, lambda: order.append('timer'))
timer.start()
threads = [note(f.__name__, f) for f in (waits_for_condition, polls, epolls, sleeps, spins)]
threads.append(note('sigwait', lambda: signal.sigwait({signal.SIGUSR1}).name))
pid = os.getpid()
os.kill(pid, signal.SIGUSR2)
while ready[0] < 6:
    time.sleep(0.01)
interval = sys.getswitchinterval()
sys.setswitchinterval(1)
time.sleep(4 * interval)
restored = fcntl.ioctl(device, 0x4e06, bytearray(2048))
sys.setswitchinterval(interval)
order.append('restored')
go.append(1)
# Any other thread would append by now: it would only take what it is waiting for.
end = time.monotonic() + 0.3
while time.monotonic() < end:
    pass
time.sleep(0.1)
order.append('renewed')
fcntl.ioctl(device, 0x4e05, 0)
with condition:
    condition.notify()
os.kill(os.getpid(), signal.SIGUSR1)
for thread in threads + [timer]:
    thread.join()
late = [name for name in ('polls', 'epolls', 'sleeps') if not 2 <= results.pop(name) < 20]
print(restored, order[:2], sorted(order[2:]), late, sorted(results.items()), [s.name for s in signal.sigpending()])
";

#[test]
fn other_threads_are_held_until_renewed_and_then_go_on_where_they_were() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let snapshot = place(directory.path());
    let (output, report) = serve("initialise", HELD, &snapshot);
    assert_eq!(output.status.code(), Some(0), "{output:?} {report:?}");
    for _ in 0..2 {
        let (output, report) = serve("restore", "", &snapshot);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            text.trim(),
            "1 ['restored', 'renewed'] ['epolls', 'polls', 'sigwait', 'sleeps', 'spins', 'timer', 'waits_for_condition'] \
             [] [('sigwait', 'SIGUSR1'), ('spins', True), ('waits_for_condition', True)] ['SIGUSR2']",
            "{output:?} {report:?}"
        );
        assert!(
            !report.iter().any(|line| line["event"] == "not-renewed"),
            "{report:?}"
        );
    }
}

const TIMERS: &str = "
import ctypes, fcntl, os, select, signal, struct, sys, time
device = open('/dev/nexus', 'r+b', buffering=0)
libc = ctypes.CDLL(None, use_errno=True)
def timer(clock, first, interval=0.0, flags=0):
    fd = libc.timerfd_create(clock, os.O_NONBLOCK)
    parts = [int(interval), int(interval % 1 * 1e9), int(first), int(first % 1 * 1e9)]
    assert libc.timerfd_settime(fd, flags, struct.pack('4q', *parts), None) == 0
    return fd
left, ticking, due = timer(1, 1.5), timer(1, 0.2, 0.2), timer(1, 0.01)
clock, idle = timer(0, time.time() + 2, flags=1), libc.timerfd_create(1, 0)
rung = []
signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
signal.setitimer(signal.ITIMER_REAL, 1.0, 0.5)
time.sleep(0.1)
fcntl.ioctl(device, 0x4e02, 0)
end = time.monotonic() + 10
def fired(fd):
    return bool(select.select([fd], [], [], max(0, end - time.monotonic()))[0]) and struct.unpack('Q', os.read(fd, 8))[0] > 0
print(fired(due), fired(ticking), fired(ticking), fired(left), fired(clock), bool(select.select([idle], [], [], 0)[0]))
while len(rung) < 2 and time.monotonic() < end:
    time.sleep(0.05)
print(len(rung) >= 2, signal.getitimer(signal.ITIMER_REAL)[1])
";

#[test]
fn timers_go_on_in_clones() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let snapshot = place(directory.path());
    let (output, report) = serve("initialise", TIMERS, &snapshot);
    assert_eq!(output.status.code(), Some(0), "{output:?} {report:?}");
    let (output, _) = serve("restore", "", &snapshot);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text, "True True True True True False\nTrue 0.5\n",
        "{output:?}"
    );
}
