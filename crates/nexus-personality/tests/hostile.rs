//! Whatever a guest passes, a call answers: no crash, no hang, no byte outside of the window.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Guest, config, device};
use nexus_personality::machine::{Exception, Outcome};
use nexus_personality::window::{DOORBELL, RESERVED, USER_END};
use nexus_personality::{host, table};
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Calls that wait for something that never comes are not for random arguments.
const WAITS: [&str; 12] = [
    "pause",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "nanosleep",
    "clock_nanosleep",
    "futex",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "epoll_wait",
    "epoll_pwait",
];

/// Numbers that are on the edge of something, among them addresses of every kind.
fn nasty(g: &mut Guest) -> Vec<u64> {
    let mapped = g.memory(8192);
    let lonely = g.memory(4096);
    g.call("munmap", &[lonely, 4096]);
    vec![
        0,
        1,
        2,
        3,
        7,
        8,
        63,
        64,
        127,
        255,
        4095,
        4096,
        0x20_0000,
        0x40_0000,
        mapped,
        mapped + 1,
        mapped + 8190,
        lonely,
        lonely - 1,
        RESERVED.start,
        DOORBELL,
        0xfee0_0000,
        USER_END - 1,
        USER_END,
        1 << 31,
        (1 << 32) - 1,
        1 << 47,
        1 << 63,
        u64::MAX - 7,
        u64::MAX,
        0xffff_ff9c,
    ]
}

fn random_call(g: &mut Guest, number: u64, arguments: &[u64]) {
    let name = table::find(number).map_or("?", |c| c.name);
    // Standard input is the test runner's.
    let fd = arguments[0] as u32;
    let blocks = WAITS.contains(&name)
        || (fd < 3 && (name.contains("read") || name.contains("write") || name == "sendfile"));
    if blocks || (name == "sendfile" && (arguments[1] as u32) < 3) {
        return;
    }
    let (_, outcome) = g.call_number(number, arguments);
    assert!(
        matches!(
            outcome,
            Outcome::Resume
                | Outcome::Exit(_)
                | Outcome::ExitThread
                | Outcome::Snapshot { .. }
                | Outcome::Park
        ),
        "{name} {arguments:x?}"
    );
}

#[test]
fn every_call_survives_every_nasty_argument_alone() {
    let mut g = Guest::new(config(&[]));
    let values = nasty(&mut g);
    for call in table::all() {
        for position in 0..6 {
            for value in &values {
                let mut arguments = [1u64, 4096, 1, 0x22, u64::MAX, 0];
                arguments[position] = *value;
                random_call(&mut g, call.number, &arguments);
            }
        }
    }
    assert_eq!(g.call("getppid", &[]), 1, "it still serves");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn random_sequences_of_calls_survive(
        calls in proptest::collection::vec((0usize..200, proptest::array::uniform6(0usize..31)), 1..60)
    ) {
        let mut g = Guest::new(config(&[]));
        let values = nasty(&mut g);
        for (which, picks) in calls {
            let number = table::all().nth(which % table::all().count()).unwrap().number;
            let arguments: Vec<u64> = picks.iter().map(|p| values[p % values.len()]).collect();
            random_call(&mut g, number, &arguments);
        }
    }
}

#[test]
fn a_call_that_does_not_exist_is_refused_counted_and_bounded() {
    let mut g = Guest::plain();
    for number in [999, 999, 1000, u64::MAX] {
        assert_eq!(g.call_number(number, &[]).0, -38);
    }
    assert_eq!(
        g.process.unknown_calls(),
        [(999, 2), (1000, 1), (u64::MAX, 1)]
    );
    for number in 2000..10_000 {
        g.call_number(number, &[]);
    }
    assert!(g.process.unknown_calls().len() <= 512);
}

/// Another thread rewrites a list of buffers while it is used: the values that were checked are those used.
#[test]
fn a_racing_rewrite_of_an_iovec_cannot_reach_outside_of_the_window() {
    let mut g = Guest::plain();
    let fd = g
        .open("/tmp/target", libc::O_CREAT | libc::O_RDWR)
        .cast_unsigned();
    let list = g.memory(4096);
    let buffer = g.memory(4096);
    let host_list = g.window.host(list, 16).unwrap();
    let stop = AtomicBool::new(false);
    let secret = Box::new([0x5a_u8; 4096]);
    let outside = (secret.as_ptr() as u64).wrapping_sub(g.window.base());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for value in [buffer, outside, u64::MAX - 100, 0] {
                    // SAFETY: the list is mapped for the whole test; the write is one aligned word.
                    unsafe { (host_list as *mut u64).write_volatile(value) };
                }
            }
        });
        g.poke(list + 8, &64u64.to_le_bytes());
        for _ in 0..20_000 {
            let wrote = g.call("pwritev", &[fd, list, 1, 0]);
            assert!(wrote == 64 || wrote == -14, "{wrote}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(!g.read_file("/tmp/target").unwrap().contains(&0x5a));
}

#[test]
fn a_kick_before_or_during_a_blocking_call_is_not_lost() {
    let mut g = Guest::plain();
    let pair = g.memory(4096);
    assert_eq!(g.call("pipe2", &[pair, 0]), 0);
    let read = u64::from(g.peek(pair, 1)[0]);
    g.thread.adopt(std::ptr::null_mut());
    // SAFETY: the calling thread's own handle.
    let me = unsafe { libc::pthread_self() };
    for round in 0..200u64 {
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_micros(round * 3));
                // SAFETY: the thread is alive, it waits for this one.
                unsafe { libc::pthread_kill(me, host::KICK_SIGNAL) };
            });
            // Nothing is pending, so the call stands to be issued again: RIP is before it, RAX its number.
            let (rax, outcome) = g.call_number(0, &[read, pair, 1]);
            assert_eq!((rax, outcome), (0, Outcome::Resume));
            assert_eq!(g.cpu.regs.rip, 0x40_1000);
        });
    }
    nexus_personality::Thread::leave();
}

#[test]
fn a_fault_without_a_handler_ends_the_guest_with_its_signal() {
    let mut g = Guest::plain();
    for (vector, signal) in [
        (14, libc::SIGSEGV),
        (6, libc::SIGILL),
        (0, libc::SIGFPE),
        (13, libc::SIGSEGV),
    ] {
        let exception = Exception {
            vector,
            error_code: 4,
            address: 0x1234,
        };
        assert_eq!(
            g.thread.exception(&mut g.cpu, exception),
            Outcome::Exit(signal)
        );
    }
}

#[test]
fn a_handler_gets_the_fault_and_its_return_restores_the_state() {
    let mut g = Guest::plain();
    let (action, stack) = (g.memory(4096), g.memory(65536) + 65536);
    let words = [0x40_2000u64, 0x0400_0004, 0x40_3000, 0];
    g.poke(action, &words.map(u64::to_le_bytes).concat());
    assert_eq!(g.call("rt_sigaction", &[11, action, 0, 8]), 0);
    g.cpu.regs.rsp = stack - 1000;
    g.cpu.regs.rip = 0x40_1234;
    g.cpu.regs.rbx = 77;
    let before = g.cpu.regs;
    let exception = Exception {
        vector: 14,
        error_code: 6,
        address: 0xdead,
    };
    assert_eq!(g.thread.exception(&mut g.cpu, exception), Outcome::Resume);
    assert_eq!((g.cpu.regs.rip, g.cpu.regs.rdi), (0x40_2000, 11));
    assert_eq!((g.cpu.regs.rsp + 8) % 16, 0);
    let address = g.peek(g.cpu.regs.rsi + 16, 8);
    assert_eq!(u64::from_le_bytes(address.try_into().unwrap()), 0xdead);
    g.cpu.regs.rsp += 8;
    let (_, outcome) = g.call_number_at_current_stack(15);
    assert_eq!(outcome, Outcome::Resume);
    assert_eq!(g.cpu.regs, before);
}

#[test]
fn a_forged_signal_frame_makes_user_state_or_ends_the_guest() {
    let mut g = Guest::plain();
    g.cpu.regs.rsp = 0x1000;
    assert_eq!(
        g.call_number_at_current_stack(15).1,
        Outcome::Exit(libc::SIGSEGV)
    );
    let frame = g.memory(8192);
    g.poke(frame, &[0xff; 4096]);
    g.cpu.regs.rsp = frame + 8;
    let outcome = g.call_number_at_current_stack(15).1;
    assert_eq!(
        outcome,
        Outcome::Exit(libc::SIGSEGV),
        "the extended state is nowhere"
    );
}

#[test]
fn the_device_gives_only_what_it_has() {
    let mut c = config(&[]);
    c.device = Some(device());
    let mut g = Guest::new(c);
    let fd = g.open("/dev/nexus", libc::O_RDWR).cast_unsigned();
    assert_eq!(
        g.call("ioctl", &[fd, u64::from(nexus_abi::device::SIZE), 0]),
        8 << 20
    );
    assert!(
        g.call("mmap", &[0, 4096, 3, 1, fd, 0]) < 0,
        "part of the arena"
    );
    assert!(
        g.call("mmap", &[0, 16 << 20, 3, 1, fd, 0]) < 0,
        "more than the arena"
    );
    assert!(
        g.call("mmap", &[0, 8 << 20, 3, 2, fd, 0]) < 0,
        "a private arena"
    );
    let arena = g.call("mmap", &[0, 8 << 20, 3, 1, fd, 0]);
    assert!(arena > 0 && arena % (2 << 20) == 0);
    assert!(
        g.call("mmap", &[0, 8 << 20, 3, 1, fd, 0]) < 0,
        "a second one"
    );
    assert_eq!(
        g.call(
            "mmap",
            &[0, 4096, 3, 1, fd, nexus_abi::device::DOORBELL_OFFSET]
        ),
        DOORBELL as i64
    );
    assert_eq!(
        g.call("ioctl", &[fd, u64::from(nexus_abi::device::SNAPSHOT), 0]),
        0
    );
    assert_eq!(
        g.call("ioctl", &[fd, u64::from(nexus_abi::device::WAIT), 5]),
        -110,
        "nothing comes"
    );
    assert_eq!(g.call("ioctl", &[fd, 0xdead, 0]), -25);
}

#[test]
fn the_arenas_pages_are_made_and_given_back_where_they_are_asked_for() {
    const POPULATE: u64 = libc::MADV_POPULATE_WRITE as u64;
    const REMOVE: u64 = libc::MADV_REMOVE as u64;
    let mut c = config(&[]);
    let device = device();
    c.device = Some(device);
    let mut g = Guest::new(c);
    let fd = g.open("/dev/nexus", libc::O_RDWR).cast_unsigned();
    let arena = g.call("mmap", &[0, 8 << 20, 3, 1, fd, 0]).cast_unsigned();
    // SAFETY: all zeros are a `stat`, which the call fills.
    let used = || unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        assert_eq!(libc::fstat(device.arena, &raw mut stat), 0);
        stat.st_blocks * 512
    };
    assert_eq!(g.call("madvise", &[arena + 8192, 16384, POPULATE]), 0);
    assert_eq!(used(), 16384);
    assert_eq!(g.call("madvise", &[arena + 8192, 8192, REMOVE]), 0);
    assert_eq!(used(), 8192);
    // Of other memory, and beyond the arena's end, neither is taken.
    let other = g.memory(8192);
    for advice in [POPULATE, REMOVE] {
        assert_eq!(g.call("madvise", &[other, 8192, advice]), -22);
        assert!(g.call("madvise", &[arena + (8 << 20) - 4096, 8192, advice]) < 0);
    }
    assert_eq!(used(), 8192);
}

/// As the backend does.
fn tell_completions(arena: i32) {
    // SAFETY: a fresh mapping of the arena's first page, unmapped at the end; the word is aligned and only used as an atomic.
    unsafe {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let page = libc::mmap(std::ptr::null_mut(), 4096, prot, flags, arena, 0);
        assert_ne!(page, libc::MAP_FAILED);
        let word = page.byte_add(nexus_abi::arena::control::SIGNALS);
        (*word.cast::<AtomicU32>()).fetch_add(1, Ordering::Release);
        libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, i32::MAX);
        libc::munmap(page, 4096);
    }
}

#[test]
fn the_doorbell_rings_and_a_completion_ends_the_wait_in_one_call() {
    let mut c = config(&[]);
    let device = device();
    c.device = Some(device);
    let mut g = Guest::new(c);
    let fd = g.open("/dev/nexus", libc::O_RDWR).cast_unsigned();
    let ring_and_wait = u64::from(nexus_abi::device::RING_AND_WAIT);
    std::thread::scope(|scope| {
        let backend = scope.spawn(|| {
            let mut count = 0_u64;
            // SAFETY: eight live bytes; the descriptor is the test's.
            unsafe { libc::read(device.doorbell, (&raw mut count).cast(), 8) };
            tell_completions(device.arena);
            count
        });
        assert_eq!(g.call("ioctl", &[fd, ring_and_wait, 10_000]), 0);
        assert_eq!(backend.join().unwrap(), 1);
    });
    assert_eq!(
        g.call("ioctl", &[fd, ring_and_wait, 5]),
        -110,
        "nothing comes"
    );
}

#[test]
fn without_descriptors_there_is_no_device() {
    let mut g = Guest::plain();
    assert_eq!(g.open("/dev/nexus", libc::O_RDWR), -2);
}
