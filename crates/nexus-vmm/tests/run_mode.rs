//! Run mode end to end: status, faults, unknown calls, limits.
#![allow(clippy::unwrap_used)]

mod common;

use common::{serve, skip};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn run(script: &str) -> Option<(Output, Vec<Value>)> {
    (!skip()).then(|| serve("run", script, Path::new("/nonexistent")))
}

#[test]
fn the_status_is_the_guests() {
    let Some((output, report)) =
        run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(42)")
    else {
        return;
    };
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(
        (output.stdout, output.stderr),
        (b"out\n".to_vec(), b"err\n".to_vec())
    );
    assert_eq!(report[0]["event"], "ready");
    assert_eq!(report.last().unwrap()["status"], 42 << 8);
}

#[test]
fn a_crash_is_reported_with_its_address() {
    let Some((output, report)) = run("import ctypes; ctypes.string_at(0x7654321)") else {
        return;
    };
    assert_eq!(output.status.code(), Some(128 + 11));
    let fault = report.iter().find(|line| line["event"] == "fault").unwrap();
    assert_eq!(
        (&fault["vector"], &fault["signal"]),
        (&14.into(), &11.into())
    );
    let address = fault["address"].as_str().unwrap().trim_start_matches("0x");
    // The C library looks at a whole aligned vector that holds the byte.
    let address = u64::from_str_radix(address, 16).unwrap();
    assert_eq!(address & !0xfff, 0x765_4000, "{address:#x}");
}

#[test]
fn unknown_calls_are_counted_and_named() {
    let script = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for _ in range(3):
    assert libc.syscall(425, 1, 0) == -1 and ctypes.get_errno() == 38
";
    let Some((output, report)) = run(script) else {
        return;
    };
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let line = report
        .iter()
        .find(|line| line["event"] == "unknown-syscall" && line["number"] == 425);
    let line = line.unwrap();
    assert_eq!(
        (&line["name"], &line["count"]),
        (&"io_uring_setup".into(), &3.into())
    );
}

#[test]
fn memory_beyond_the_limit_is_refused() {
    let script = "
try:
    hold = [bytearray(1 << 20) for _ in range(1000)]
except MemoryError:
    print('refused')
";
    let Some((output, _)) = run(script) else {
        return;
    };
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "refused\n",
        "{output:?}"
    );
}

#[test]
fn kicks_reach_a_thread_that_computes_and_one_that_waits() {
    let script = "
import signal, threading, time
hits = []
signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))
main = threading.main_thread().ident
def send(count, done):
    for n in range(count):
        seen = len(hits)
        signal.pthread_kill(main, signal.SIGUSR1)
        end = time.monotonic() + 5
        while len(hits) == seen and time.monotonic() < end:
            time.sleep(0.0002)
    done.set()
done = threading.Event()
threading.Thread(target=send, args=(100, done)).start()
while not done.is_set():
    pass
done = threading.Event()
threading.Thread(target=send, args=(100, done)).start()
while not done.is_set():
    time.sleep(0.5)
print(len(hits))
";
    let Some((output, _)) = run(script) else {
        return;
    };
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "200\n",
        "{output:?}"
    );
}

#[test]
fn the_host_is_out_of_sight() {
    let script = "
import os, socket
for path in ('/etc/fstab', '/root', '/var', '/proc/1/environ', '/usr/../etc/fstab'):
    try:
        os.stat(path)
        print('seen', path)
    except OSError:
        pass
try:
    socket.create_connection(('127.0.0.1', 9), 1)
    print('connected')
except OSError:
    pass
print(os.uname().nodename)
";
    let Some((output, _)) = run(script) else {
        return;
    };
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "nexus\n",
        "{output:?}"
    );
}
