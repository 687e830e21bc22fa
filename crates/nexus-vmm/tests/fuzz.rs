//! Snapshot metadata that is damaged at random behind a sound checksum: each is taken or refused with a reason.
//! NEXUS_FUZZ_SECONDS and NEXUS_FUZZ_SEED: how long, from where.
#![allow(clippy::unwrap_used)]

mod common;

use common::{serve, skip};
use nexus_personality::Process;
use nexus_personality::config::{Config, Program, Root};
use nexus_personality::window::{DOORBELL, PAGE, USER_END, Window};
use nexus_vmm::guest::Handle;
use nexus_vmm::snapshot::format::{self, HEADER, Metadata};
use nexus_vmm::snapshot::read;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SCRIPT: &str = "
import fcntl, os, socket, threading
kept = [os.pipe(), socket.socketpair(), open('/tmp/note', 'w+'), open('/usr/bin/env', 'rb')]
fcntl.ioctl(open('/dev/nexus', 'r+b', buffering=0), 0x4e02, 0)
";

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            3 => drop(bytes.remove(at)),
            4 => bytes.insert(at, u8::try_from(random.below(256)).unwrap()),
            _ => {
                // A number as large as can be, in the encoding's variable length.
                for to in bytes.iter_mut().skip(at).take(9) {
                    *to = 0xff;
                }
            }
        }
    }
}

fn config() -> Config {
    Config {
        memory_mib: 128,
        tmp_mib: 8,
        max_threads: 8,
        cpus: 1,
        hostname: "nexus".into(),
        roots: ["/usr", "/lib", "/lib64", "/etc/ld.so.cache"]
            .map(|path| Root {
                guest: path.into(),
                host: path.into(),
                writable: false,
            })
            .into(),
        program: Program::default(),
        vdso: 0,
        device: None,
        wants_snapshot: false,
    }
}

/// All that a restore does with metadata before it maps anything. Whether it got to the end.
fn take_up(metadata: &Metadata, window: Window) -> bool {
    if format::check(metadata).is_err() || read::template(&metadata.cpuid).is_err() {
        return false;
    }
    let Ok(process) = Process::restore(
        window,
        config(),
        Arc::new(Handle::default()),
        &metadata.process,
        None,
    ) else {
        return false;
    };
    let mm = process.mm();
    assert!(mm.vmas().iter().all(|(start, vma)| *start < vma.end
        && (vma.end <= USER_END || *start == DOORBELL)
        && start % PAGE == 0));
    true
}

#[test]
fn damaged_metadata_is_taken_or_refused() {
    if skip() {
        return;
    }
    let (seconds, seed) = (
        setting("NEXUS_FUZZ_SECONDS", 2),
        setting("NEXUS_FUZZ_SEED", 1),
    );
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("snapshot");
    fs::create_dir(&snapshot).unwrap();
    let (output, _) = serve("initialise", SCRIPT, &snapshot);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let file = fs::read_dir(&snapshot)
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .find(|bytes| format::decode(bytes).is_ok())
        .unwrap();
    let window = Window::reserve().unwrap();
    let (sound, _) = format::decode(&file).unwrap();
    assert!(take_up(&sound, window), "undamaged, it is taken");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut tried, mut read, mut taken) = (0_u64, 0_u64, 0_u64);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        tried += 1;
        if tried % 4 == 0 {
            // As a file: the checksums catch it, wherever it is hit.
            let mut bytes = file.clone();
            damage(&mut bytes, &mut random);
            assert!(
                bytes == file || format::decode(&bytes).is_err(),
                "seed {seed}, file {tried}"
            );
            continue;
        }
        let mut payload = file[HEADER..].to_vec();
        damage(&mut payload, &mut random);
        if let Ok(metadata) = postcard::from_bytes::<Metadata>(&payload) {
            read += 1;
            taken += u64::from(take_up(&metadata, window));
        }
    }
    println!("fuzzed: {tried} damaged snapshots, {read} decoded, {taken} taken");
    assert!(tried > 20 && read > 0);
}
