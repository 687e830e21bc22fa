//! Starting `nexus-vmm serve` as nexusd does, with Debian's Python as the guest.
#![allow(clippy::unwrap_used, dead_code)]

use nexus_vmm::config::Serve;
use nexus_vmm::snapshot::plan::Segment;
use nexus_vmm::snapshot::verify;
use serde_json::{Value, json};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

const ARENA: RawFd = 50;
const REPORT: RawFd = 52;
const CONFIG: RawFd = 53;

/// Whether there is no KVM to test with.
pub fn skip() -> bool {
    let none = !Path::new("/dev/kvm").exists();
    if none {
        eprintln!("no /dev/kvm on this machine: nothing was tested");
    }
    none
}

fn descriptor(fd: i32) -> OwnedFd {
    assert!(fd >= 0);
    // SAFETY: just made by the caller.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn document(mode: &str, script: &str, snapshot: &Path, data: Option<&Path>) -> Value {
    let mut roots: Vec<Value> = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache"]
        .iter()
        .map(|path| json!({"guest": path, "host": path, "writable": false}))
        .collect();
    roots.extend(data.map(|path| json!({"guest": "/data", "host": path, "writable": false})));
    json!({
        "version": 1, "mode": mode, "memory_mib": 128, "max_threads": 8, "tmp_mib": 8, "cpus": 1,
        "hostname": "nexus", "roots": roots,
        "program": {"path": "/usr/bin/python3", "argv": ["python3", "-S", "-c", script], "env": {}, "cwd": "/"},
        "device": {"arena": ARENA, "doorbell": ARENA + 1},
        "report": REPORT, "snapshot": snapshot, "jail": {"uid": null, "landlock": true}
    })
}

/// The host's mappings that a restore would make.
pub fn planned(snapshot: &Path, data: &Path) -> Result<Vec<Segment>, String> {
    let mut document = document("restore", "", snapshot, Some(data));
    document["device"] = Value::Null;
    document["report"] = Value::Null;
    verify::plan(&Serve::parse(document.to_string().as_bytes()).unwrap())
}

/// Run the VMM; its output and the lines of its report.
pub fn serve(mode: &str, script: &str, snapshot: &Path) -> (Output, Vec<Value>) {
    run(&document(mode, script, snapshot, None))
}

/// The same with a directory shown to the guest as `/data`.
pub fn serve_with(mode: &str, script: &str, snapshot: &Path, data: &Path) -> (Output, Vec<Value>) {
    run(&document(mode, script, snapshot, Some(data)))
}

fn run(config: &Value) -> (Output, Vec<Value>) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(config.to_string().as_bytes()).unwrap();
    file.rewind().unwrap();
    let (mut lines, report) = std::io::pipe().unwrap();
    // SAFETY: plain calls that make descriptors.
    let made = unsafe {
        let arena = descriptor(libc::memfd_create(c"arena".as_ptr(), 0));
        libc::ftruncate(arena.as_raw_fd(), 8 << 20);
        [
            arena,
            descriptor(libc::eventfd(0, libc::EFD_NONBLOCK)),
            report.into(),
            file.into(),
        ]
    };
    let sources = [0, 1, 2, 3].map(|n: usize| made[n].as_raw_fd());
    let mut command = Command::new(env!("CARGO_BIN_EXE_nexus-vmm"));
    command
        .args(["serve", "--config-fd", &CONFIG.to_string()])
        .stdin(Stdio::null());
    // SAFETY: only fcntl and dup2 between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // First out of each other's way.
            let high = sources.map(|fd| libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100));
            for (number, fd) in (ARENA..).zip(high) {
                libc::dup2(fd, number);
            }
            Ok(())
        });
    }
    let output = bounded(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    drop((command, made));
    let mut text = String::new();
    lines.read_to_string(&mut text).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    (output, lines)
}

/// As `Command::output`, with an end after 20 s.
fn bounded(command: &mut Command) -> Output {
    let child = command.spawn().unwrap();
    let pid = child.id().cast_signed();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if wait.recv_timeout(Duration::from_secs(20)) == Err(RecvTimeoutError::Timeout) {
            // SAFETY: a child that has not been waited for yet, or is about to be.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watch.join().unwrap();
    output
}
