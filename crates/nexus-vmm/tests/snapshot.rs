//! Snapshots end to end: taken, restored with their threads, and refused when damaged.
#![allow(clippy::unwrap_used)]

use nexus_vmm::snapshot::format::HEADER;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const ARENA: RawFd = 50;
const REPORT: RawFd = 53;
const CONFIG: RawFd = 54;

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

fn skip() -> bool {
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

/// Run the VMM; its output and the lines of its report.
fn serve(mode: &str, script: &str, snapshot: &Path) -> (Output, Vec<Value>) {
    let roots: Vec<Value> = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache"]
        .iter()
        .map(|path| json!({"guest": path, "host": path, "writable": false}))
        .collect();
    let config = json!({
        "version": 1, "mode": mode, "memory_mib": 128, "max_threads": 8, "tmp_mib": 8, "cpus": 1,
        "hostname": "nexus", "roots": roots,
        "program": {"path": "/usr/bin/python3", "argv": ["python3", "-S", "-c", script], "env": {}, "cwd": "/"},
        "device": {"arena": ARENA, "doorbell": ARENA + 1, "completion": ARENA + 2},
        "report": REPORT, "snapshot": snapshot, "jail": {"uid": null, "landlock": true}
    });
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
            descriptor(libc::eventfd(0, libc::EFD_NONBLOCK)),
            report.into(),
            file.into(),
        ]
    };
    let sources = [0, 1, 2, 3, 4].map(|n: usize| made[n].as_raw_fd());
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
    let output = command.output().unwrap();
    drop((command, made));
    let mut text = String::new();
    lines.read_to_string(&mut text).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    (output, lines)
}

fn taken(directory: &Path) -> std::path::PathBuf {
    let snapshot = directory.join("snapshot");
    let (output, report) = serve("initialise", SCRIPT, &snapshot);
    assert_eq!(output.status.code(), Some(0), "{output:?} {report:?}");
    assert!(
        report.iter().any(|line| line["event"] == "snapshot"),
        "{report:?}"
    );
    let names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["snapshot"], "nothing is left beside it");
    snapshot
}

fn refused(snapshot: &Path) -> String {
    let (output, report) = serve("restore", "", snapshot);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert_eq!(output.stdout, b"", "no guest code ran");
    let line = report
        .iter()
        .find(|line| line["event"] == "refused")
        .unwrap();
    line["reason"].as_str().unwrap().to_owned()
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
fn a_guest_that_ends_before_its_snapshot_leaves_none() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (output, _) = serve("initialise", "pass", &directory.path().join("snapshot"));
    assert_eq!(output.status.code(), Some(1));
    // The process that removes what was prepared may be a moment behind.
    for _ in 0..200 {
        if fs::read_dir(directory.path()).unwrap().next().is_none() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
}

#[test]
fn damage_is_refused_with_the_reason() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let snapshot = taken(directory.path());
    let metadata = snapshot.join("metadata");
    let sound = fs::read(&metadata).unwrap();
    for at in 0..HEADER {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x40;
        fs::write(&metadata, &damaged).unwrap();
        assert_eq!(verify(&snapshot), Some(125), "byte {at}");
    }
    let mut damaged = sound.clone();
    damaged[HEADER + sound.len() / 2] ^= 1;
    fs::write(&metadata, &damaged).unwrap();
    assert!(refused(&snapshot).contains("checksum"));
    fs::write(&metadata, &sound[..sound.len() - 1]).unwrap();
    assert!(refused(&snapshot).contains("bytes long"));
    fs::write(&metadata, &sound[..10]).unwrap();
    assert!(refused(&snapshot).contains("cut off"));

    let mut other = sound.clone();
    other[8..12].copy_from_slice(&99_u32.to_le_bytes());
    let sum = crc32fast::hash(&other[..HEADER - 4]);
    other[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
    fs::write(&metadata, &other).unwrap();
    assert!(refused(&snapshot).contains("format 99"));

    fs::write(&metadata, &sound).unwrap();
    let pages = snapshot.join("pages");
    let mut content = fs::read(&pages).unwrap();
    let last = content.len() - 1;
    content[last] ^= 1;
    fs::write(&pages, &content).unwrap();
    assert_eq!(verify(&snapshot), Some(125), "verify reads the pages");
    content.truncate(last);
    fs::write(&pages, &content).unwrap();
    assert!(refused(&snapshot).contains("pages file"));
    fs::remove_file(&pages).unwrap();
    assert!(refused(&snapshot).contains("pages"));
}
