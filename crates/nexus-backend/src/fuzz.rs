//! Responses and addresses that are damaged at random. NEXUS_FUZZ_SECONDS and NEXUS_FUZZ_SEED: how long, from where.
#![allow(clippy::unwrap_used)]

use crate::http::{head, url::Url};
use std::time::{Duration, Instant};

const RESPONSES: [&[u8]; 4] = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nETag: \"abc\"\r\nConnection: keep-alive\r\n\r\n",
    b"HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-9/20\r\n\r\n",
    b"HTTP/1.0 404 Not Found\r\nx-amz-request-id: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
];
const ADDRESSES: [&[u8]; 5] = [
    b"http://127.0.0.1:9000/bucket/key?list-type=2&prefix=a%2Fb",
    b"https://user@[::1]:443/%00?x#y",
    b"http://s3.eu-central-1.amazonaws.com/",
    b"https://[fe80::1%25eth0]:80",
    b"http://0x7f.1:80/..//.",
];
const PIECES: [&[u8]; 9] = [
    b"\r\n",
    b"\r\n\r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\0",
    b":",
    b"%",
    b"\xff",
];

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

fn damaged(seeds: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].to_vec();
    for _ in 0..=random.below(5) {
        let at = random.below(bytes.len() + 1);
        match random.below(4) {
            0 => drop(bytes.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
            1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            2 => bytes.truncate(at),
            _ => {
                let more = bytes
                    .get(random.below(bytes.len() + 1)..)
                    .unwrap_or_default()
                    .to_vec();
                drop(bytes.splice(at..at, more));
            }
        }
    }
    bytes.truncate(100_000);
    bytes
}

#[test]
fn damaged_responses_and_addresses_are_taken_or_refused() {
    let (seconds, seed) = (
        setting("NEXUS_FUZZ_SECONDS", 2),
        setting("NEXUS_FUZZ_SEED", 1),
    );
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut heads, mut addresses, mut sound) = (0_u64, 0_u64, 0_u64);
    while Instant::now() < end {
        for _ in 0..100 {
            let bytes = damaged(&RESPONSES, &mut random);
            let method = ["GET", "HEAD", "PUT"][random.below(3)];
            heads += 1;
            if let Ok(Some((head, length))) = head::parse(&bytes, method) {
                sound += 1;
                assert!(length <= bytes.len());
                // What passes as a header can be written as one again.
                assert!(
                    head.headers
                        .iter()
                        .all(|(_, value)| !value.contains(['\r', '\n']))
                );
            }
            let text = String::from_utf8_lossy(&damaged(&ADDRESSES, &mut random)).into_owned();
            addresses += 1;
            if let Ok(url) = Url::parse(&text) {
                sound += 1;
                let line = format!("{} {}", url.target(), url.authority.host_header());
                assert!(
                    !line.contains(['\r', '\n', '\0']),
                    "{text:?} would be sent as {line:?}"
                );
            }
        }
    }
    println!("fuzzed: {heads} responses and {addresses} addresses, {sound} of them sound");
    assert!(sound > 0);
}
