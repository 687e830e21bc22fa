//! Snapshots that must not be used: refused with the reason, and none ever breaks the hypervisor.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod common;

use common::{serve, skip};
use nexus_vmm::snapshot::format::{self, HEADER};
use nexus_vmm::snapshot::read;
use proptest::prelude::*;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A program of few pages, so that hundreds of damaged copies are looked at in seconds.
const SCRIPT: &str = "
import fcntl, mmap
library = open('/data/library', 'rb')
mapped = mmap.mmap(library.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
fcntl.ioctl(open('/dev/nexus', 'r+b', buffering=0), 0x4e02, 0)
print(mapped[:7])
";

struct Taken {
    _directory: tempfile::TempDir,
    data: PathBuf,
    metadata: Vec<u8>,
    pages: Vec<u8>,
}

/// A snapshot of a process that has a file of its `/data` mapped; none without KVM.
fn take() -> Option<Taken> {
    if skip() {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let (data, snapshot) = (
        directory.path().join("data"),
        directory.path().join("snapshot"),
    );
    fs::create_dir(&data).unwrap();
    fs::create_dir(&snapshot).unwrap();
    fs::write(data.join("library"), "version 1").unwrap();
    let (output, report) = common::serve_with("initialise", SCRIPT, &snapshot, &data);
    assert_eq!(output.status.code(), Some(0), "{output:?} {report:?}");
    let (metadata, pages) = (snapshot.join("metadata"), snapshot.join("pages"));
    Some(Taken {
        data,
        metadata: fs::read(metadata).unwrap(),
        pages: fs::read(pages).unwrap(),
        _directory: directory,
    })
}

/// One for all tests that leave its files as they are.
fn taken() -> Option<&'static Taken> {
    static TAKEN: OnceLock<Option<Taken>> = OnceLock::new();
    TAKEN.get_or_init(take).as_ref()
}

/// A directory with these two files.
fn written(metadata: &[u8], pages: &[u8]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("metadata"), metadata).unwrap();
    fs::write(directory.path().join("pages"), pages).unwrap();
    directory
}

fn refusal(metadata: &[u8], pages: &[u8]) -> String {
    read::verify(written(metadata, pages).path()).unwrap_err()
}

/// The file with other bytes, its checksums right: as a hostile hypervisor writes it.
fn forged(mut file: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&file[HEADER..]);
    file[12..16].copy_from_slice(&sum.to_le_bytes());
    let sum = crc32fast::hash(&file[..HEADER - 4]);
    file[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
    file
}

/// The snapshot with another state.
fn changed(taken: &Taken, change: impl FnOnce(&mut format::Metadata)) -> Vec<u8> {
    let (mut metadata, pages) = format::decode(&taken.metadata).unwrap();
    change(&mut metadata);
    format::encode(&metadata, pages).unwrap()
}

#[test]
fn every_bit_of_the_header_counts() {
    let Some(taken) = taken() else { return };
    assert!(format::decode(&taken.metadata).is_ok());
    for bit in 0..HEADER * 8 {
        let mut damaged = taken.metadata.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(format::decode(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_reason() {
    let Some(taken) = taken() else { return };
    assert_eq!(
        read::verify(written(&taken.metadata, &taken.pages).path()),
        Ok(())
    );
    let cut = |length: usize| refusal(&taken.metadata[..length], &taken.pages);
    assert!(cut(10).contains("cut off"));
    assert!(cut(HEADER).contains("bytes long"));
    assert!(cut(taken.metadata.len() - 1).contains("bytes long"));
    let short = &taken.pages[..taken.pages.len() - 1];
    assert!(refusal(&taken.metadata, short).contains("pages file has"));

    let mut other = taken.metadata.clone();
    other[8..12].copy_from_slice(&99_u32.to_le_bytes());
    assert!(refusal(&forged(other), &taken.pages).contains("format 99"));
    let mut longer = taken.metadata.clone();
    longer.push(0);
    let length = (longer.len() - HEADER) as u64;
    longer[16..24].copy_from_slice(&length.to_le_bytes());
    assert!(refusal(&forged(longer), &taken.pages).contains("behind its end"));

    let with = |change: fn(&mut format::Metadata)| refusal(&changed(taken, change), &taken.pages);
    assert!(with(|m| m.vmm = "0.0.0".to_owned()).contains("taken by nexus-vmm 0.0.0"));
    assert!(with(|m| m.threads.clear()).contains("no thread"));
    let unordered: [fn(&mut format::Metadata); 3] = [
        |m| m.changed = vec![(2048, 2), (2049, 1)],
        |m| m.changed = vec![(2048, 1), (1024, 1)],
        |m| m.changed = vec![(2048, u64::MAX)],
    ];
    for change in unordered {
        assert!(with(change).contains("out of order"));
    }
    assert!(with(|m| m.taken += std::time::Duration::from_secs(1 << 40)).contains("started anew"));
    assert!(
        with(|m| m.base = Some(format::PagesFile {
            length: 1,
            checksum: 0
        }))
        .contains("base")
    );
    let leaves: [fn(&mut format::Metadata); 4] = [
        |m| m.native.vendor[2] ^= 1,
        |m| m.native.family ^= 16,
        |m| m.native.features[0] ^= 1 << 28, // AVX
        |m| m.native.extended[0] ^= 1 << 5,  // AVX2
    ];
    for change in leaves {
        assert!(with(change).contains("another CPU model"));
    }
}

/// Of a library's content: whatever else of the file is put back as it was.
#[test]
fn a_changed_library_is_refused_by_name() {
    let Some(taken) = take() else { return };
    let library = taken.data.join("library");
    let snapshot = written(&taken.metadata, &taken.pages);
    let restore = || common::serve_with("restore", "", snapshot.path(), &taken.data);
    assert_eq!(restore().0.stdout, b"b'version'\n");
    let modified = library.metadata().unwrap().modified().unwrap();
    fs::write(&library, "VERSION 2").unwrap();
    fs::File::options()
        .write(true)
        .open(&library)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    let (output, report) = restore();
    assert_eq!((output.status.code(), output.stdout), (Some(125), vec![]));
    let reason = report
        .iter()
        .find(|line| line["event"] == "refused")
        .unwrap()["reason"]
        .to_string();
    assert!(
        reason.contains("/data/library is no longer the file"),
        "{reason}"
    );
}

#[test]
fn refused_it_runs_no_guest_code() {
    let Some(taken) = taken() else { return };
    let snapshot = written(&taken.metadata[..100], &taken.pages);
    let (output, report) = serve("restore", "", snapshot.path());
    assert_eq!((output.status.code(), output.stdout), (Some(125), vec![]));
    assert!(report.iter().any(|line| line["event"] == "refused"));
    assert!(report.iter().all(|line| line["event"] != "ready"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bit_of_payload_and_pages_counts(at in any::<proptest::sample::Index>(), bit in 0..8_u32, in_pages: bool) {
        let Some(taken) = taken() else { return Ok(()) };
        let mut files = [taken.metadata.clone(), taken.pages.clone()];
        let file = &mut files[usize::from(in_pages)];
        let first = if in_pages { 0 } else { HEADER };
        let at = first + at.index(file.len() - first);
        file[at] ^= 1 << bit;
        prop_assert!(refusal(&files[0], &files[1]).contains("checksum"));
    }

    #[test]
    fn random_bytes_are_no_metadata(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(format::decode(&bytes).is_err());
        let Some(taken) = taken() else { return Ok(()) };
        let file = forged([&taken.metadata[..HEADER], &bytes].concat());
        prop_assert!(format::decode(&file).is_err());
    }

    /// Behind sound checksums, what is decoded is planned: no panic, no mapping beyond the window, no long run.
    #[test]
    fn altered_metadata_never_maps_beyond_the_window(
        changes in prop::collection::vec((any::<proptest::sample::Index>(), prop_oneof![Just(0), Just(0xff), Just(0x80), any::<u8>()]), 1..6),
    ) {
        let Some(taken) = taken() else { return Ok(()) };
        let mut file = taken.metadata.clone();
        for (at, byte) in changes {
            let at = HEADER + at.index(file.len() - HEADER);
            file[at] = byte;
        }
        let snapshot = written(&forged(file), &taken.pages);
        if let Ok(segments) = common::planned(snapshot.path(), &taken.data) {
            for segment in segments {
                prop_assert!(segment.start < segment.end && segment.end <= nexus_personality::window::USER_END);
                prop_assert!(segment.start >= nexus_personality::window::USER_START);
            }
        }
    }
}

/// A few that are altered go all the way: refused, or the guest's own trouble, never the hypervisor's.
#[test]
fn altered_metadata_never_breaks_the_hypervisor() {
    let Some(taken) = taken() else { return };
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let mut tried = 0;
    while tried < 25 {
        let mut file = taken.metadata.clone();
        for _ in 0..=random(3) {
            let at = HEADER + random(file.len() - HEADER);
            file[at] = [0, 0xff, 0x80, random(256) as u8][random(4)];
        }
        let file = forged(file);
        if format::decode(&file).is_err() {
            continue;
        }
        tried += 1;
        let snapshot = written(&file, &taken.pages);
        let (output, _) = serve("restore", "", snapshot.path());
        let stopped = output.status.signal() == Some(libc::SIGKILL); // by the test's own deadline
        assert!(stopped || output.status.signal().is_none(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("panicked"), "{text}");
    }
}

/// What a forged state names is opened as the guest itself could: beneath the roots, or not at all.
#[test]
fn a_restored_process_has_no_file_beyond_its_roots() {
    let Some(taken) = taken() else { return };
    let outside = taken.data.parent().unwrap().join("outside");
    fs::write(&outside, "secret").unwrap();
    std::os::unix::fs::symlink(&outside, taken.data.join("link")).unwrap();
    for name in [
        "/etc/passwd",
        "/data/../outside",
        "/data/link",
        "/proc/self/mem",
        "/dev/kvm",
        "../outside",
    ] {
        let file = changed(taken, |m| {
            for mapping in &mut m.process.mappings {
                if let nexus_personality::snapshot::SavedBacking::File { path, .. } =
                    &mut mapping.backing
                {
                    *path = name.as_bytes().to_vec();
                }
            }
        });
        let snapshot = written(&file, &taken.pages);
        let result = common::planned(snapshot.path(), &taken.data);
        let error = result.expect_err(name);
        assert!(error.contains(name), "{name}: {error}");
    }
}
