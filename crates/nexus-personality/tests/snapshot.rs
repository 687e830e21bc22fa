//! Saving and restoring a process: everything but memory comes back, and what was tampered with is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{FakeCpu, FakeMachine, Guest, config, device};
use nexus_personality::machine::{Outcome, ThreadState};
use nexus_personality::snapshot::{
    ProcessState, SavedBacking, SavedContent, SavedObject, SavedRecord,
};
use nexus_personality::window::Window;
use nexus_personality::{Config, Error, Process};
use std::sync::Arc;

fn restore(config: Config, state: &ProcessState) -> Result<Guest, Error> {
    restore_beside(config, state, None)
}

fn restore_beside(
    config: Config,
    state: &ProcessState,
    other: Option<&Process>,
) -> Result<Guest, Error> {
    let window = Window::reserve().unwrap();
    let machine = Arc::new(FakeMachine::default());
    let process = {
        let machine = Arc::<FakeMachine>::clone(&machine);
        Process::restore(window, config, machine, state, other)?
    };
    let starts: Vec<u64> = process.mm().vmas().keys().copied().collect();
    for start in starts {
        process.map_contents(start)?;
    }
    process.mm().back_all().unwrap();
    process.restore_device(state.device)?;
    let thread = process.enter(&ThreadState {
        tid: process.pid(),
        ..Default::default()
    });
    Ok(Guest {
        window,
        machine,
        process,
        thread,
        cpu: FakeCpu::default(),
    })
}

fn json(state: &ProcessState) -> ProcessState {
    serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap()
}

#[test]
fn files_directories_pipes_and_signals_come_back() {
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("f"), "0123456789").unwrap();
    let roots = [("/data", host.path())];
    let mut g = Guest::new(config(&roots));
    let buffer = g.memory(4096);
    let file = g.open("/data/f", 0).cast_unsigned();
    assert_eq!(g.call("read", &[file, buffer, 4]), 4);
    let copy = g.call("dup", &[file]).cast_unsigned();
    assert_eq!(g.write_file("/tmp/kept", b"in memory"), 9);
    assert_eq!(g.call("pipe2", &[buffer, 0]), 0);
    let ends: Vec<u64> = g
        .peek(buffer, 8)
        .chunks(4)
        .map(|c| u64::from(c[0]))
        .collect();
    let event = g.call("eventfd2", &[5, 0]).cast_unsigned();
    let action = [0x40_2000u64, 0x0400_0000, 0x40_3000, 0];
    g.poke(buffer, &action.map(u64::to_le_bytes).concat());
    assert_eq!(g.call("rt_sigaction", &[10, buffer, 0, 8]), 0);
    let directory = g.text("/tmp");
    assert_eq!(g.call("chdir", &[directory]), 0);

    let state = json(&g.process.save().unwrap());
    let old = g.process.pid();
    let mut g = restore(config(&roots), &state).unwrap();
    let buffer = g.memory(4096);
    assert_eq!(g.process.generation(), 1);
    assert_ne!(g.process.pid(), old);
    assert_eq!(g.call("read", &[copy, buffer, 2]), 2);
    assert_eq!(g.peek(buffer, 2), b"45", "position, shared by duplicates");
    assert_eq!(g.call("read", &[file, buffer, 2]), 2);
    assert_eq!(g.peek(buffer, 2), b"67");
    assert_eq!(
        g.read_file("kept").unwrap(),
        b"in memory",
        "content, and the working directory"
    );
    g.poke(buffer, b"through");
    assert_eq!(g.call("write", &[ends[1], buffer, 7]), 7);
    assert_eq!(g.call("read", &[ends[0], buffer + 100, 100]), 7);
    assert_eq!(g.peek(buffer + 100, 7), b"through");
    assert_eq!(g.call("read", &[event, buffer, 8]), 8);
    assert_eq!(g.peek(buffer, 1), [5]);
    assert_eq!(g.call("rt_sigaction", &[10, 0, buffer, 8]), 0);
    assert_eq!(g.peek(buffer, 32), action.map(u64::to_le_bytes).concat());
}

/// Inode number, links, mode, size, and the seconds and nanoseconds of access, change of content and change.
fn stat(g: &mut Guest, fd: u64) -> [u64; 10] {
    let buffer = g.memory(4096);
    assert_eq!(g.call("fstat", &[fd, buffer]), 0);
    let word = |at: u64| u64::from_le_bytes(g.peek(buffer + at, 8).try_into().unwrap());
    let mode = word(24) & 0xffff_ffff;
    [
        word(8),
        word(16),
        mode,
        word(48),
        word(72),
        word(80),
        word(88),
        word(96),
        word(104),
        word(112),
    ]
}

#[test]
fn files_of_tmp_are_the_same_ones() {
    let mut g = Guest::plain();
    let flags = libc::O_RDWR | libc::O_CREAT;
    g.write_file("/tmp/kept", b"one");
    let [kept, linked, gone] = ["/tmp/kept", "/tmp/linked", "/tmp/gone"].map(|path| g.text(path));
    assert_eq!(g.call("link", &[kept, linked]), 0);
    g.write_file("/tmp/gone", b"two");
    let open = ["/tmp/kept", "/tmp/linked", "/tmp/gone", "/tmp"].map(|path| {
        g.open(path, if path == "/tmp" { 0 } else { flags })
            .cast_unsigned()
    });
    assert_eq!(g.call("unlink", &[gone]), 0);
    let times = g.memory(4096);
    g.poke(times, &[1u64, 2, 3, 4].map(u64::to_le_bytes).concat());
    assert_eq!(g.call("utimensat", &[-100i64 as u64, kept, times, 0]), 0);
    let was = open.map(|fd| stat(&mut g, fd));
    assert_eq!((was[0], was[0][1], was[2][1]), (was[1], 2, 0));

    let state = json(&g.process.save().unwrap());
    let mut g = restore(config(&[]), &state).unwrap();
    let now = open.map(|fd| stat(&mut g, fd));
    assert_eq!(now, was);
    let again = g.open("/tmp/linked", 0).cast_unsigned();
    assert_eq!(stat(&mut g, again), was[0]);
    let fresh = g.open("/tmp/fresh", flags).cast_unsigned();
    let number = stat(&mut g, fresh)[0];
    assert!(was.iter().all(|file| file[0] < number), "{number}");
    let twice = json(&g.process.save().unwrap());
    assert_eq!(twice.inodes.len(), state.inodes.len() + 1);
}

#[test]
fn locks_are_held_by_whom_they_were() {
    let mut g = Guest::plain();
    let flags = libc::O_RDWR | libc::O_CREAT;
    let open =
        ["/tmp/whole", "/tmp/own", "/tmp/ranges"].map(|path| g.open(path, flags).cast_unsigned());
    let [whole, own, ranges] = open;
    assert_eq!(g.call("flock", &[whole, 2]), 0);
    let lock = g.memory(4096);
    let set = |g: &mut Guest, fd: u64, command: i32, start: u64| {
        let words = [1u64, start, 10, 0]; // F_WRLCK, SEEK_SET
        g.poke(lock, &words.map(u64::to_le_bytes).concat());
        g.call("fcntl", &[fd, u64::from(command.unsigned_abs()), lock])
    };
    assert_eq!(set(&mut g, own, libc::F_SETLK, 5), 0);
    assert_eq!(set(&mut g, ranges, libc::F_OFD_SETLK, 20), 0);

    let state = json(&g.process.save().unwrap());
    let mut g = restore(config(&[]), &state).unwrap();
    let other =
        ["/tmp/whole", "/tmp/own", "/tmp/ranges"].map(|path| g.open(path, flags).cast_unsigned());
    let lock = g.memory(4096);
    let set = |g: &mut Guest, fd: u64, command: i32, start: u64| {
        let words = [1u64, start, 10, 0];
        g.poke(lock, &words.map(u64::to_le_bytes).concat());
        g.call("fcntl", &[fd, u64::from(command.unsigned_abs()), lock])
    };
    assert_eq!(g.call("flock", &[other[0], 2 | 4]), -11);
    assert_eq!(set(&mut g, other[1], libc::F_OFD_SETLK, 0), -11);
    assert_eq!(set(&mut g, own, libc::F_SETLK, 5), 0, "its own");
    assert_eq!(set(&mut g, other[2], libc::F_SETLK, 25), -11);
    assert_eq!(set(&mut g, ranges, libc::F_OFD_SETLK, 25), 0, "its own");
    // As on Linux, closing one descriptor of the file gives the process's locks up, and the last of a description its own.
    assert_eq!(g.call("close", &[other[1]]), 0);
    let other = g.open("/tmp/own", flags).cast_unsigned();
    assert_eq!(set(&mut g, other, libc::F_OFD_SETLK, 0), 0);
    assert_eq!(g.call("close", &[whole]), 0);
    let other = g.open("/tmp/whole", flags).cast_unsigned();
    assert_eq!(g.call("flock", &[other, 2 | 4]), 0);
}

#[test]
fn room_below_the_stack_is_kept_free_in_a_restored_process() {
    let mut g = Guest::plain();
    let bottom = g.map_stack();
    let state = json(&g.process.save().unwrap());
    let mut g = restore(config(&[]), &state).unwrap();
    g.keeps_off_the_stack(bottom);
    let impossible = ProcessState {
        stack: u64::MAX,
        ..state
    };
    assert!(restore(config(&[]), &impossible).is_err());
}

#[test]
fn mappings_come_back_at_their_addresses() {
    let mut g = Guest::plain();
    let at = g.memory(3 * 4096);
    assert_eq!(g.call("mprotect", &[at, 4096, 1]), 0);
    let state = json(&g.process.save().unwrap());
    let mut g = restore(config(&[]), &state).unwrap();
    assert_eq!(g.call("uname", &[at]), -14, "read-only as before");
    assert_eq!(g.call("uname", &[at + 4096]), 0);
    assert_eq!(g.process.mm().vmas().len(), state.mappings.len());
}

#[test]
fn a_fresh_device_is_mapped_where_the_old_one_was() {
    let with_device = || Config {
        device: Some(device()),
        wants_snapshot: true,
        ..config(&[])
    };
    let mut g = Guest::new(with_device());
    let fd = g.open("/dev/nexus", libc::O_RDWR).cast_unsigned();
    let arena = g.call("mmap", &[0, 8 << 20, 3, 1, fd, 0]).cast_unsigned();
    g.poke(arena + 100, b"old payload");
    let snapshot = g.call_number(16, &[fd, u64::from(nexus_abi::device::SNAPSHOT), 0]);
    assert_eq!(snapshot, (1, Outcome::Snapshot { hold: false }));
    let state = json(&g.process.save().unwrap());
    let restored = Config {
        wants_snapshot: false,
        ..with_device()
    };
    let mut g = restore(restored, &state).unwrap();
    assert_eq!(
        g.peek(arena + 100, 11),
        [0; 11],
        "the arena is no part of a snapshot"
    );
    assert_eq!(
        g.call("ioctl", &[fd, u64::from(nexus_abi::device::GENERATION), 0]),
        1
    );
    assert_eq!(
        g.call("ioctl", &[fd, u64::from(nexus_abi::device::SNAPSHOT), 0]),
        0,
        "none is wanted of a clone"
    );
    // A function that goes on from a base takes one of its own.
    let mut g = restore(with_device(), &state).unwrap();
    assert_eq!(
        g.call_number(16, &[fd, u64::from(nexus_abi::device::SNAPSHOT), 0]),
        (1, Outcome::Snapshot { hold: false })
    );
}

#[test]
fn a_file_that_changed_is_refused_by_name() {
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("library"), "version 1").unwrap();
    let roots = [("/data", host.path())];
    let mut g = Guest::new(config(&roots));
    let fd = g.open("/data/library", 0).cast_unsigned();
    assert!(g.call("mmap", &[0, 4096, 1, 2, fd, 0]) > 0);
    let state = g.process.save().unwrap();
    assert!(restore(config(&roots), &state).is_ok());
    std::fs::write(host.path().join("library"), "version 22").unwrap();
    let refusal = restore(config(&roots), &state).err().unwrap().to_string();
    assert!(
        refusal.contains("/data/library") && refusal.contains("no longer"),
        "{refusal}"
    );
}

#[test]
fn a_file_that_another_process_has_open_serves_where_it_is_the_same() {
    let (host, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for directory in [&host, &elsewhere] {
        std::fs::write(directory.path().join("f"), [7; 5000]).unwrap();
    }
    let roots = [("/data", host.path())];
    let mut other = Guest::new(config(&roots));
    let fd = other.open("/data/f", 0).cast_unsigned();
    assert!(other.call("mmap", &[0, 4096, 1, 2, fd, 0]) > 0);
    let state = json(&other.process.save().unwrap());
    let file = |g: &Guest| std::sync::Arc::clone(&g.process.mapped_files()[b"/data/f".as_slice()]);
    let shared = |g: &Guest| std::sync::Arc::ptr_eq(&file(g), &file(&other));

    let g = restore_beside(config(&roots), &state, Some(&other.process)).unwrap();
    assert!(shared(&g));
    // Further roots are no matter, unless the path leads elsewhere by one.
    let beside = [("/data", host.path()), ("/more", elsewhere.path())];
    assert!(shared(
        &restore_beside(config(&beside), &state, Some(&other.process)).unwrap()
    ));
    let refusal = |roots: &[(&str, &std::path::Path)], state: &ProcessState| {
        let error = restore_beside(config(roots), state, Some(&other.process)).err();
        error.expect("refused").to_string()
    };
    let away = [("/data", elsewhere.path())];
    assert!(refusal(&away, &state).contains("no longer the file"));
    let within = host.path().join("f");
    let deeper = [("/data", host.path()), ("/data/f", within.as_path())];
    assert!(!shared(
        &restore_beside(config(&deeper), &state, Some(&other.process)).unwrap()
    ));
    assert!(refusal(&[], &state).contains("can no longer be opened"));
    // It is looked at again, not taken on trust.
    let mut forged = json(&state);
    for mapping in &mut forged.mappings {
        if let SavedBacking::File { identity, .. } = &mut mapping.backing {
            identity.changed.1 ^= 1;
        }
    }
    assert!(refusal(&roots, &forged).contains("no longer the file"));
    std::fs::write(host.path().join("f"), [8; 5000]).unwrap();
    assert!(refusal(&roots, &state).contains("no longer the file"));
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    let mut g = Guest::plain();
    let buffer = g.memory(4096);
    g.call("pipe2", &[buffer, 0]);
    let write = u64::from(g.peek(buffer + 4, 1)[0]);
    assert_eq!(g.call("write", &[write, buffer, 1]), 1);
    assert!(g.process.save().unwrap_err().to_string().contains("pipe"));
    let mut g = Guest::plain();
    assert!(g.call("mmap", &[0, 4096, 3, 0x21, u64::MAX, 0]) > 0);
    assert!(
        g.process
            .save()
            .unwrap_err()
            .to_string()
            .contains("shared memory")
    );
}

#[test]
fn a_forged_state_is_refused() {
    let mut g = Guest::plain();
    g.memory(4096);
    g.open("/dev/null", 0);
    g.open("/tmp/f", libc::O_RDWR | libc::O_CREAT);
    let good = g.process.save().unwrap();
    let forge = |change: &dyn Fn(&mut ProcessState)| {
        let mut state = good.clone();
        change(&mut state);
        restore(config(&[]), &state).is_err()
    };
    assert!(!forge(&|_| {}), "unchanged it is good");
    assert!(
        forge(&|s| s.mappings[0].start = 0x20_0000),
        "the system chunk"
    );
    assert!(forge(&|s| s.mappings[0].start = 0xfee0_0000));
    assert!(forge(&|s| s.mappings[0].end = u64::MAX));
    assert!(forge(&|s| s.mappings[0].end = s.mappings[0].start));
    assert!(forge(&|s| s.mappings[0].start += 1));
    assert!(
        forge(&|s| s.mappings.push(s.mappings[0].clone())),
        "overlap"
    );
    assert!(forge(&|s| s.mappings[0].backing = SavedBacking::File {
        path: b"/etc/shadow".to_vec(),
        identity: nexus_personality::files::Identity {
            size: 0,
            modified: (0, 0),
            changed: (0, 0),
            inode: 0,
            device: 0
        },
        offset: 0,
    }));
    assert!(forge(&|s| s.heap = (10, 5)));
    assert!(forge(&|s| s.inodes[0].number = 1), "the number of /tmp");
    assert!(forge(&|s| s.inodes[0].number = u64::MAX));
    assert!(forge(&|s| s.last_inode = u64::MAX));
    assert!(forge(&|s| s.inodes[0].meta.modified = (0, -1)));
    assert!(forge(&|s| s.trees[0].changed = (0, 1_000_000_000)));
    assert!(forge(&|s| s.inodes.push(s.inodes[0].clone())), "twice");
    assert!(
        forge(&|s| {
            s.inodes[0].kind = SavedContent::Directory;
            s.inodes[0].names = vec![b"a".to_vec(), b"a/a".to_vec()];
        }),
        "a directory in itself"
    );
    let record = SavedRecord {
        of_process: false,
        exclusive: true,
        start: 0,
        end: 1,
    };
    assert!(
        forge(&|s| s.descriptions[3].records = vec![record]),
        "no file"
    );
    assert!(!forge(&|s| s.descriptions[4].records = vec![record]));
    let empty = SavedRecord { end: 0, ..record };
    assert!(forge(&|s| s.descriptions[4].records = vec![empty]));
    assert!(forge(&|s| {
        let mut second = s.descriptions[4].clone();
        second.descriptors = vec![(20, false)];
        s.descriptions[4].lock = Some(true);
        second.lock = Some(true);
        s.descriptions.push(second);
    }));
    assert!(forge(
        &|s| s.descriptions[0].object = SavedObject::Standard(17)
    ));
    assert!(forge(
        &|s| s.descriptions[0].object = SavedObject::Memory(99)
    ));
    assert!(forge(
        &|s| s.descriptions[0].descriptors = vec![(1 << 40, false)]
    ));
    assert!(
        forge(&|s| s.device.arena = 0x1_0000_0000),
        "no device was given"
    );
}
