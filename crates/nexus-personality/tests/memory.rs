//! The address space: what mmap and its relatives promise, and that the window never has a hole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::Guest;
use nexus_personality::window::{CHUNK, HEAP, NEAR, RESERVED, USER_END, USER_START};
use proptest::prelude::*;

const EFAULT: i64 = -14;
const ENOMEM: i64 = -12;
const EINVAL: i64 = -22;

/// Whether the host has a mapping at every address of the window's user space.
fn has_no_hole(guest: &Guest) -> bool {
    let (from, to) = (
        guest.window.base() + USER_START,
        guest.window.base() + USER_END,
    );
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut at = from;
    for line in maps.lines() {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (
            u64::from_str_radix(start, 16).unwrap(),
            u64::from_str_radix(end, 16).unwrap(),
        );
        if end <= at {
            continue;
        }
        if start > at {
            return at >= to;
        }
        at = end;
    }
    at >= to
}

#[test]
fn fresh_memory_is_zero_and_keeps_what_is_written() {
    let mut g = Guest::plain();
    let at = g.memory(8192);
    assert_eq!(g.peek(at, 8192), vec![0; 8192]);
    g.poke(at + 4000, b"over a page's end, and on");
    assert_eq!(g.peek(at + 4000, 25), b"over a page's end, and on");
}

#[test]
fn nothing_is_placed_where_the_first_stack_would_overflow_to() {
    let mut g = Guest::plain();
    let bottom = g.map_stack();
    assert_eq!(bottom % CHUNK, 0);
    // The next one ends exactly where room is kept free.
    let below = g.memory(4096);
    assert_eq!(below + 4096, bottom - (1 << 20));
    g.keeps_off_the_stack(bottom);
    let mm = g.process.mm();
    let nearest = mm.vmas().range(..bottom).next_back();
    assert!(nearest.is_some_and(|(start, _)| *start == bottom - 0x8000));
}

/// Pages of a range that the host has made (proc_pid_pagemap(5)).
fn present(guest: &Guest, address: u64, length: u64) -> usize {
    use std::os::unix::fs::FileExt;
    let host = guest.window.host(address, length).unwrap();
    let mut entries = vec![0; (length / 4096) as usize * 8];
    let table = std::fs::File::open("/proc/self/pagemap").unwrap();
    table.read_exact_at(&mut entries, host / 4096 * 8).unwrap();
    let entries = entries.as_chunks::<8>().0.iter();
    entries
        .filter(|e| u64::from_le_bytes(**e) >> 63 == 1)
        .count()
}

#[test]
fn memory_of_one_allocations_size_has_its_pages_at_once() {
    let mut g = Guest::plain();
    let mut pages = |length: u64, prot: u64| {
        let at = g.call("mmap", &[0, length, prot, 0x22, u64::MAX, 0]);
        present(&g, at.cast_unsigned(), length)
    };
    assert_eq!(pages(300 << 10, 3), 75);
    // Little, an allocator's stock, and what could not be written yet.
    assert_eq!(pages(64 << 10, 3), 0);
    assert_eq!(pages(256 << 10, 3), 0);
    assert_eq!(pages(300 << 10, 1), 0);
}

#[test]
fn unmapped_memory_faults_and_leaves_no_hole() {
    let mut g = Guest::plain();
    let at = g.memory(3 * 4096);
    assert_eq!(g.call("munmap", &[at + 4096, 4096]), 0);
    assert!(has_no_hole(&g));
    let name = at + 4096;
    assert_eq!(g.call("uname", &[name]), EFAULT);
    assert_eq!(
        g.call("uname", &[at]),
        0,
        "what lies beside it is still there"
    );
    assert_eq!(
        g.call("uname", &[at + 4096 - 8]),
        EFAULT,
        "a structure that straddles the end"
    );
}

#[test]
fn addresses_outside_of_user_space_are_refused() {
    let mut g = Guest::plain();
    for address in [
        0,
        4096,
        0x20_0000,
        RESERVED.start,
        0xfee0_0000,
        USER_END,
        1 << 47,
        u64::MAX - 4095,
        u64::MAX,
    ] {
        assert_eq!(g.call("uname", &[address]), EFAULT, "{address:#x}");
        let fixed = g.call("mmap", &[address & !4095, 4096, 3, 0x32, u64::MAX, 0]);
        assert!(
            fixed == ENOMEM || fixed == EINVAL,
            "mmap at {address:#x}: {fixed}"
        );
        assert!(
            g.call("munmap", &[address & !4095, 4096]) < 0,
            "munmap at {address:#x}"
        );
    }
    assert!(has_no_hole(&g));
}

#[test]
fn overflowing_lengths_are_refused() {
    let mut g = Guest::plain();
    let at = g.memory(4096);
    for length in [u64::MAX, u64::MAX - 4095, 1 << 63, USER_END] {
        assert!(g.call("mmap", &[0, length, 3, 0x22, u64::MAX, 0]) < 0);
        assert!(g.call("munmap", &[at, length]) < 0);
        assert!(g.call("mprotect", &[at, length, 1]) < 0);
        assert!(g.call("mremap", &[at, 4096, length, 1]) < 0);
        assert!(g.call("madvise", &[at, length, 4]) < 0);
    }
}

#[test]
fn read_only_memory_cannot_be_written_by_a_call() {
    let mut g = Guest::plain();
    let at = g.memory(4096);
    assert_eq!(g.call("mprotect", &[at, 4096, 1]), 0);
    assert_eq!(g.call("uname", &[at]), EFAULT);
    assert_eq!(g.call("mprotect", &[at, 4096, 3]), 0);
    assert_eq!(g.call("uname", &[at]), 0);
}

#[test]
fn only_chunks_with_executable_mappings_are_executable() {
    let mut g = Guest::plain();
    let data = g.memory(4096);
    let code = g
        .call("mmap", &[0, 4096, 5, 0x22, u64::MAX, 0])
        .cast_unsigned();
    let chunk = |a: u64| a & !0x1f_ffff;
    assert_ne!(
        chunk(data),
        chunk(code),
        "code and data in chunks of their own"
    );
    let is = |g: &Guest, a| g.machine.executable.lock().unwrap().get(&chunk(a)).copied();
    assert_eq!(is(&g, code), Some(true));
    assert_ne!(is(&g, data), Some(true));
    assert_eq!(g.call("munmap", &[code, 4096]), 0);
    assert_eq!(is(&g, code), Some(false));
}

#[test]
fn memory_over_the_limit_is_refused_and_the_rest_still_works() {
    let mut g = Guest::plain();
    assert_eq!(g.call("mmap", &[0, 1 << 30, 3, 0x22, u64::MAX, 0]), ENOMEM);
    assert!(g.process.memory_refused());
    assert!(
        g.call("mmap", &[0, 1 << 30, 0, 0x4022, u64::MAX, 0]) > 0,
        "a reservation costs nothing"
    );
    g.memory(1 << 20);
}

#[test]
fn flags_that_are_not_served_are_refused() {
    let mut g = Guest::plain();
    for flags in [0x100_u64, 0x2000, 0x4_0000, 0x40] {
        assert_eq!(
            g.call("mmap", &[0, 4096, 3, 0x22 | flags, u64::MAX, 0]),
            EINVAL,
            "{flags:#x}"
        );
    }
}

#[test]
fn a_moved_mapping_keeps_its_content_and_the_old_place_is_empty() {
    let mut g = Guest::plain();
    let above = g.memory(4096);
    let at = g.memory(4096);
    assert_eq!(at + 4096, above, "no room to grow in place");
    g.poke(at, b"precious");
    let new = g.call("mremap", &[at, 4096, 1 << 20, 1]).cast_unsigned();
    assert_eq!(g.peek(new, 8), b"precious");
    assert_ne!(new, at);
    assert_eq!(g.call("uname", &[at]), EFAULT);
    assert_eq!(g.call("uname", &[above]), 0);
    assert!(has_no_hole(&g));
}

#[test]
fn a_file_that_shrinks_under_a_mapping_is_an_error_not_a_crash() {
    let mut g = Guest::plain();
    assert_eq!(g.write_file("/tmp/f", &[7; 8192]), 8192);
    let fd = g.open("/tmp/f", libc::O_RDWR).cast_unsigned();
    let at = g.call("mmap", &[0, 8192, 3, 1, fd, 0]).cast_unsigned();
    assert_eq!(g.peek(at + 4096, 1), [7]);
    assert_eq!(g.call("ftruncate", &[fd, 0]), 0);
    assert_eq!(g.call("uname", &[at + 4096]), EFAULT);
}

#[derive(Clone, Debug)]
enum Op {
    Map(u64, u64, u64),
    Unmap(u64, u64),
    Protect(u64, u64, u64),
    Remap(u64, u64, u64),
    Advise(u64, u64),
    Brk(u64),
}

fn operation() -> impl Strategy<Value = Op> {
    let page = 0..64u64;
    let length = 1..16u64;
    prop_oneof![
        (page.clone(), length.clone(), 0..8u64).prop_map(|(a, l, p)| Op::Map(a, l, p)),
        (page.clone(), length.clone()).prop_map(|(a, l)| Op::Unmap(a, l)),
        (page.clone(), length.clone(), 0..8u64).prop_map(|(a, l, p)| Op::Protect(a, l, p)),
        (page.clone(), length.clone(), 1..32u64).prop_map(|(a, l, n)| Op::Remap(a, l, n)),
        (page, length).prop_map(|(a, l)| Op::Advise(a, l)),
        (0..64u64).prop_map(Op::Brk),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_sequence_of_calls_makes_a_hole(ops in proptest::collection::vec(operation(), 1..40)) {
        let mut g = Guest::plain();
        let base = 0x3000_0000u64;
        g.process.mm().heap = (0x4000_0000, 0x4000_0000);
        for op in ops {
            match op {
                Op::Map(a, l, p) => { g.call("mmap", &[base + a * 4096, l * 4096, p, 0x32, u64::MAX, 0]); }
                Op::Unmap(a, l) => { g.call("munmap", &[base + a * 4096, l * 4096]); }
                Op::Protect(a, l, p) => { g.call("mprotect", &[base + a * 4096, l * 4096, p]); }
                Op::Remap(a, l, n) => { g.call("mremap", &[base + a * 4096, l * 4096, n * 4096, 1]); }
                Op::Advise(a, l) => { g.call("madvise", &[base + a * 4096, l * 4096, 4]); }
                Op::Brk(n) => { g.call("brk", &[0x4000_0000 + n * 4096]); }
            }
        }
        prop_assert!(has_no_hole(&g));
        let mm = g.process.mm();
        let mut end = 0;
        for (start, vma) in mm.vmas() {
            prop_assert!(*start >= end && vma.end > *start, "mappings overlap");
            end = vma.end;
        }
    }
}

#[test]
fn what_nobody_may_access_takes_no_slot() {
    let mut g = Guest::plain();
    let at = g
        .call("mmap", &[0, 1 << 30, 0, 0x4022, u64::MAX, 0])
        .cast_unsigned();
    let backed = |g: &Guest, a: u64| {
        let backed = g.machine.backed.lock().unwrap();
        backed
            .iter()
            .any(|(start, end)| (*start..*end).contains(&a))
    };
    assert!(!backed(&g, at + (512 << 20)));
    assert_eq!(g.call("mprotect", &[at + (512 << 20), 4096, 3]), 0);
    assert!(backed(&g, at + (512 << 20)));
    assert!(!backed(&g, at + (600 << 20)));
}

#[test]
fn shared_memory_counts_until_the_last_of_it_is_unmapped() {
    let mut g = Guest::plain();
    let map = |g: &mut Guest, mib: u64| g.call("mmap", &[0, mib << 20, 3, 0x21, u64::MAX, 0]);
    let first = map(&mut g, 80).cast_unsigned();
    assert_eq!(map(&mut g, 80), ENOMEM);
    assert_eq!(g.call("munmap", &[first + 4096, (80 << 20) - 4096]), 0);
    assert_eq!(map(&mut g, 80), ENOMEM, "the host still holds all of it");
    assert_eq!(g.call("munmap", &[first, 4096]), 0);
    assert!(map(&mut g, 80) > 0);
}

#[test]
fn what_was_accessible_stays_charged_until_it_is_unmapped() {
    let mut g = Guest::plain();
    let used = |g: &Guest| g.process.ledger().overcommitted();
    let at = g
        .call("mmap", &[0, 100 << 20, 3, 0x4022, u64::MAX, 0])
        .cast_unsigned();
    assert_eq!(g.call("mprotect", &[at, 100 << 20, 0]), 0);
    let other = g
        .call("mmap", &[0, 100 << 20, 3, 0x4022, u64::MAX, 0])
        .cast_unsigned();
    assert!(used(&g), "200 MiB may be in use, of 128");
    assert_eq!(g.call("munmap", &[at, 100 << 20]), 0);
    assert!(!used(&g));
    // In place of another mapping it is charged once.
    assert_eq!(
        g.call("mmap", &[other, 100 << 20, 3, 0x4032, u64::MAX, 0])
            .cast_unsigned(),
        other
    );
    assert!(!used(&g));
}

/// Whether the host was told that the mapping at a guest's address may be of huge pages.
fn may_be_huge(guest: &Guest, address: u64) -> bool {
    let start = format!("{:x}-", guest.window.base() + address);
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
    let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
    flags.split_whitespace().any(|flag| flag == "hg")
}

#[test]
fn large_pieces_may_be_of_huge_pages_and_what_is_only_reserved_may_not() {
    const STACK: u64 = 0x2_0000;
    const PRIVATE: u64 = 0x22;
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return;
    }
    let mut g = Guest::plain();
    let map = |g: &mut Guest, length: u64, prot: u64, flags: u64| {
        let arguments = [0, length, prot, flags, u64::MAX, 0];
        g.call("mmap", &arguments).cast_unsigned()
    };
    let large = map(&mut g, 5 << 20, 3, PRIVATE);
    assert!(large.is_multiple_of(2 << 20), "{large:#x}");
    assert!(may_be_huge(&g, large));
    // Kept apart, so that the host does not join them.
    map(&mut g, 4096, 1, PRIVATE);
    let small = map(&mut g, 2 << 20, 3, PRIVATE);
    assert!(!may_be_huge(&g, small));
    map(&mut g, 4096, 1, PRIVATE);
    let stack = map(&mut g, 8 << 20, 3, PRIVATE | STACK);
    assert!(!may_be_huge(&g, stack));
}

#[test]
fn large_files_are_mapped_where_huge_pages_can_show_them() {
    let mut g = Guest::plain();
    let chunk = 2_u64 << 20;
    assert_eq!(g.write_file("/tmp/f", &[7; 4096]), 4096);
    let fd = g.open("/tmp/f", libc::O_RDWR).cast_unsigned();
    let mut map = |length: u64| {
        let at = g.call("mmap", &[0, length, 5, 2, fd, 0]).cast_unsigned();
        assert!(at < USER_END, "{at:#x}");
        at
    };
    let small = map(4096);
    let next = map(chunk / 2);
    assert_eq!(next, small + 4096, "small files lie side by side");
    assert_eq!(map(4096), next + chunk / 2);
    assert!(map(chunk).is_multiple_of(chunk));
    assert!(map(chunk + 4096).is_multiple_of(chunk));
}

#[test]
fn a_library_of_segments_is_not_mapped_over() {
    let mut g = Guest::plain();
    assert_eq!(g.write_file("/tmp/f", &[7; 4096]), 4096);
    let fd = g.open("/tmp/f", libc::O_RDWR).cast_unsigned();
    // Both are too large for the memory below the heap.
    let length = 80 << 20;
    let library = g.call("mmap", &[0, length, 5, 2, fd, 0]).cast_unsigned();
    // Its second segment begins in its first chunk, and goes on behind that.
    let (second, rest) = (library + CHUNK / 2, length - CHUNK / 2);
    let at = g.call("mmap", &[second, rest, 5, 0x12, fd, 4096]);
    assert_eq!(at.cast_unsigned(), second);
    let other = g.call("mmap", &[0, length, 5, 2, fd, 0]).cast_unsigned();
    assert!(other >= library + length, "{other:#x} lies in {library:#x}");
}

/// What a guest maps without an address: pages, and whether it is of a file; of one, where its second segment begins.
#[derive(Clone, Copy, Debug)]
enum Piece {
    Anonymous(u64),
    File(u64, u64),
    Gone(usize),
}

fn piece() -> impl Strategy<Value = Piece> {
    // Of a page, of chunks and more, of what only reservations have.
    let pages = || prop_oneof![1..40_u64, 400..1600_u64, 14_000..18_000_u64];
    prop_oneof![
        pages().prop_map(Piece::Anonymous),
        (pages(), pages()).prop_map(|(pages, second)| Piece::File(pages, second)),
        (0..40_usize).prop_map(Piece::Gone),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn files_and_anonymous_memory_share_no_chunk(pieces in proptest::collection::vec(piece(), 1..60)) {
        let mut g = Guest::plain();
        prop_assert_eq!(g.write_file("/tmp/f", &[7; 4096]), 4096);
        let fd = g.open("/tmp/f", libc::O_RDONLY).cast_unsigned();
        let mut there: Vec<(u64, u64, bool)> = Vec::new();
        for piece in pieces {
            let (pages, second) = match piece {
                Piece::Anonymous(pages) => (pages, None),
                Piece::File(pages, second) => (pages, Some(second)),
                Piece::Gone(index) => {
                    if index < there.len() {
                        let (at, length, _) = there.swap_remove(index);
                        prop_assert_eq!(g.call("munmap", &[at, length]), 0);
                    }
                    continue;
                }
            };
            // Inaccessible or executable: neither counts as used memory.
            let length = pages * 4096;
            let of_file = second.is_some();
            let at = if of_file {
                g.call("mmap", &[0, length, 5, 2, fd, 0])
            } else {
                g.call("mmap", &[0, length, 0, 0x4022, u64::MAX, 0])
            };
            prop_assert!(at > 0, "{at}");
            let at = at.cast_unsigned();
            for (other, size, file) in &there {
                prop_assert!(at + length <= *other || other + size <= at, "mappings overlap");
                let (first, end) = (at & !(CHUNK - 1), (at + length).next_multiple_of(CHUNK));
                prop_assert!(*file == of_file || end <= *other || other + size <= first, "a chunk of both");
            }
            if let Some(second) = second.filter(|second| *second < pages) {
                let (from, rest) = (at + second * 4096, length - second * 4096);
                let there = g.call("mmap", &[from, rest, 5, 0x12, fd, 4096]);
                prop_assert_eq!(there.cast_unsigned(), from);
            }
            there.push((at, length, of_file));
        }
    }
}

#[test]
fn what_fits_lies_side_by_side_below_the_heap_and_the_rest_far_away() {
    let mut g = Guest::plain();
    let mut map = |length: u64| {
        let at = g.call("mmap", &[0, length, 0, 0x4022, u64::MAX, 0]);
        at.cast_unsigned()
    };
    let first = map(4096);
    assert!((NEAR..HEAP).contains(&first), "{first:#x}");
    assert_eq!(map(8192), first - 8192);
    assert!(map(1 << 30) > HEAP, "a reservation");
    let mut last = first;
    while last < HEAP {
        assert!(last >= NEAR);
        last = map(32 << 20);
    }
    assert!(map(4096) < HEAP, "a small piece still fits");
}
