//! A guest that fills the ring with entries at random: each is answered or the guest is given up, and the backend goes on.
//! NEXUS_FUZZ_SECONDS and NEXUS_FUZZ_SEED: how long, from where.

use crate::common::guest::{Entry, Guest, HEAD, SIZE, at};
use crate::common::node;
use nexus_abi::arena::{ENTRY_SIZE, SUBMIT_RING, control};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A place and a length in the arena, mostly possible.
    fn part(&mut self) -> (u32, u32) {
        const EDGES: [u32; 8] = [0, 1, 4096, 8 << 20, (8 << 20) - 1, u32::MAX, 1 << 31, 65536];
        let mut number = |most: u64| match self.below(6) {
            0 => EDGES[usize::try_from(self.below(8)).unwrap()],
            _ => u32::try_from(self.below(most)).unwrap(),
        };
        (number(SIZE as u64), number(70_000))
    }
}

/// Heads as the operations know them, and what is like them.
fn head(random: &mut Random) -> Vec<u8> {
    let name = ["b", "..", "", "a/b", "\u{0}", "\u{fffd}x", "k%00"]
        [usize::try_from(random.below(7)).unwrap()];
    let op = [
        "GetObject",
        "PutObject",
        "ListObjectsV2",
        "CopyObject",
        "None",
    ][usize::try_from(random.below(5)).unwrap()];
    let url = [
        "http://127.0.0.1:1/x",
        "http://[::1]:1/",
        "ftp://x",
        "http://x:99999/",
        "//",
        "http://127.0.0.1:1/\r\nx: y",
    ][usize::try_from(random.below(6)).unwrap()];
    let value = match random.below(4) {
        0 => {
            json!({"op": op, "bucket": name, "key": name, "query": [[name, name]], "headers": [[name, name]], "region": name, "endpoint": url})
        }
        1 => {
            json!({"method": op, "url": url, "headers": [[name, name]], "service": name, "region": name, "sign": true})
        }
        2 => json!([op, url, name]),
        _ => json!({"error": name, "message": op}),
    };
    let mut bytes = value.to_string().into_bytes();
    for _ in 0..random.below(3) {
        let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
        bytes[at] = random.next().to_le_bytes()[0];
    }
    bytes
}

/// Until the deadline or until the backend gives up; the entries made.
fn play(guest: &mut Guest, random: &mut Random, end: Instant) -> u64 {
    let mut made = 0;
    for _ in 0..random.below(200) {
        if Instant::now() > end {
            break;
        }
        let bytes = head(random);
        let place = HEAD + usize::try_from(random.below(64)).unwrap() * 512;
        guest.write(place, &bytes);
        let whole = random.below(4) != 0;
        guest.push(&Entry {
            id: random.below(50),
            operation: u16::try_from(random.below(64)).unwrap(),
            flags: u16::try_from(random.below(2) * random.below(65536)).unwrap(),
            head: if whole {
                (at(place), at(bytes.len()))
            } else {
                random.part()
            },
            body: random.part(),
            room: random.part(),
            timeout_ms: u32::try_from(random.below(50)).unwrap(),
            stream: random.below(4) * random.next(),
            reserved: [u8::from(random.below(8) == 0); 16],
        });
        made += 1;
        match random.below(40) {
            0 => guest.index(control::SUBMIT_TAIL).store(
                u32::try_from(random.below(1 << 32)).unwrap(),
                Ordering::Release,
            ),
            1 => guest.index(control::COMPLETE_HEAD).store(
                u32::try_from(random.below(1 << 32)).unwrap(),
                Ordering::Release,
            ),
            2 => {
                // An entry, rewritten while it is read.
                let entry: Vec<u8> = (0..ENTRY_SIZE)
                    .map(|_| random.next().to_le_bytes()[0])
                    .collect();
                guest.ring();
                guest.write(
                    SUBMIT_RING + usize::try_from(random.below(64)).unwrap() * ENTRY_SIZE,
                    &entry,
                );
            }
            _ => {}
        }
        if random.below(3) != 0 {
            guest.ring();
            guest.acknowledge();
        }
    }
    guest.ring();
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn random_entries_are_answered_or_end_their_guest() {
    let (seconds, seed) = (
        setting("NEXUS_FUZZ_SECONDS", 2),
        setting("NEXUS_FUZZ_SEED", 1),
    );
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut guests, mut entries) = (0_u64, 0_u64);
    while Instant::now() < end {
        let mut node = node("http://127.0.0.1:1");
        let mut own = Random(random.next() | 1);
        entries += node.play(move |guest| play(guest, &mut own, end)).await;
        node.end();
        let ended = tokio::time::timeout(Duration::from_secs(30), node.message).await;
        ended
            .expect("the channel hangs")
            .expect("the channel panicked");
        guests += 1;
    }
    // The last one as it should be: nothing of what came before is in its way.
    let mut node = node("http://127.0.0.1:1");
    let answer = node.play(|guest| guest.s3("GetObject", "k", b"")).await;
    assert_ne!(answer.status, 0, "nobody listens there");
    println!("fuzzed: {entries} entries of {guests} guests");
    assert!(entries > 100);
}
