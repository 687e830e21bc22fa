//! Snapshots end to end: taken, restored with their threads, and refused when damaged.
#![allow(clippy::unwrap_used)]

mod common;

use common::{serve, skip};
use nexus_vmm::snapshot::format::{self, HEADER};
use serde_json::json;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

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

/// Change bytes of the state behind sound checksums, as a hostile hypervisor could.
#[test]
fn hostile_metadata_never_breaks_the_hypervisor() {
    if skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let snapshot = taken(directory.path());
    let metadata = snapshot.join("metadata");
    let sound = fs::read(&metadata).unwrap();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    for round in 0..4000 {
        let mut hostile = sound.clone();
        for _ in 0..=random(3) {
            let at = HEADER + random(sound.len() - HEADER);
            hostile[at] = [0, 0xff, 0x80, random(256) as u8][random(4)];
        }
        let sum = crc32fast::hash(&hostile[HEADER..]);
        hostile[12..16].copy_from_slice(&sum.to_le_bytes());
        let sum = crc32fast::hash(&hostile[..HEADER - 4]);
        hostile[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
        let decoded = format::decode(&hostile);
        // A few go all the way: refused, or the guest's own trouble.
        if round % 100 == 0 && decoded.is_ok() {
            fs::write(&metadata, &hostile).unwrap();
            let (output, _) = serve("restore", "", &snapshot);
            let stopped = output.status.signal() == Some(libc::SIGKILL); // by the test's own deadline
            assert!(
                stopped || output.status.signal().is_none(),
                "round {round}: {output:?}"
            );
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!text.contains("panicked"), "round {round}: {text}");
        }
    }
}
