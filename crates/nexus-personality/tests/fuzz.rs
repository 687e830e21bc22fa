//! Programs that are damaged at random: each is loaded or refused. NEXUS_FUZZ_SECONDS and NEXUS_FUZZ_SEED: how long, from where.
#![allow(clippy::unwrap_used)]

mod common;

use common::{FakeMachine, config};
use nexus_personality::Process;
use nexus_personality::window::{USER_END, USER_START, Window};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Some bytes changed, mostly of the tables at the start; now and then the end cut off.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    const EDGES: [u64; 10] = [
        0,
        1,
        7,
        4095,
        4096,
        1 << 31,
        1 << 40,
        1 << 63,
        u64::MAX,
        u64::MAX - 4095,
    ];
    for _ in 0..=random.below(6) {
        let reach = if random.below(8) == 0 {
            bytes.len()
        } else {
            bytes.len().min(1024)
        };
        let at = random.below(reach);
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            _ => {
                let value = match random.below(3) {
                    0 => random.0,
                    _ => EDGES[random.below(EDGES.len())],
                };
                let size = [2, 4, 8][random.below(3)];
                let at = at & !(size - 1);
                for (to, from) in bytes[at..].iter_mut().zip(value.to_le_bytes()).take(size) {
                    *to = from;
                }
            }
        }
    }
    if random.below(20) == 0 {
        bytes.truncate(random.below(bytes.len()) + 1);
    }
}

#[test]
fn damaged_programs_are_loaded_or_refused() {
    let (seconds, seed) = (
        setting("NEXUS_FUZZ_SECONDS", 2),
        setting("NEXUS_FUZZ_SEED", 1),
    );
    let directory = tempfile::tempdir().unwrap();
    let programs: Vec<Vec<u8>> = [
        "/usr/bin/true",
        "/lib64/ld-linux-x86-64.so.2",
        "/usr/bin/env",
    ]
    .iter()
    .map(|path| fs::read(path).unwrap())
    .collect();
    let mut config = config(&[
        ("/p", directory.path()),
        ("/lib64", "/lib64".as_ref()),
        ("/lib", "/lib".as_ref()),
    ]);
    config.program.path = "/p/program".into();
    config.program.argv = vec!["program".into()];
    let window = Window::reserve().unwrap();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut tried, mut loaded) = (0_u64, 0_u64);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let mut bytes = programs[random.below(programs.len())].clone();
        damage(&mut bytes, &mut random);
        fs::write(directory.path().join("program"), &bytes).unwrap();
        let process =
            Process::new(window, config.clone(), Arc::new(FakeMachine::default())).unwrap();
        if let Ok(state) = process.load() {
            loaded += 1;
            assert!(state.regs.rsp < USER_END, "seed {seed}, program {tried}");
            let mm = process.mm();
            assert!(mm.vmas().iter().all(|(start, vma)| *start >= USER_START
                && vma.end <= USER_END
                && *start < vma.end));
        }
        let _ = process.mm().clear();
        tried += 1;
    }
    println!("fuzzed: {tried} damaged programs, {loaded} of them loaded");
    assert!(tried > 20 && loaded > 0 && loaded < tried);
}
