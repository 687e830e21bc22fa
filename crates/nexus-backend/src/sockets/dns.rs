//! The guest's resolver: queries are answered by the host's own resolver, for names that the policy allows (RFC 1035).

use crate::FunctionIdentity;
use crate::operation::Engine;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::OnceCell;

const HEADER: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;
/// Seconds that an answer may be kept.
const TTL: u32 = 5;
/// Addresses in one answer: with them it stays below 512 bytes.
const MAX_ADDRESSES: usize = 8;
/// The guest's resolver asks again after 5 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an answer says of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    Fine = 0,
    Malformed = 1,
    Failed = 2,
    NoSuchName = 3,
    NotServed = 4,
    /// The policy does not allow it.
    Refused = 5,
}

/// The one question of a query.
#[derive(Debug, PartialEq, Eq)]
struct Question<'a> {
    id: [u8; 2],
    recursion: u8,
    name: String,
    kind: u16,
    class: u16,
    bytes: &'a [u8],
}

/// What was found of a name.
type Found = (Code, Vec<IpAddr>);

/// Lookups of one instance that are under way. Who wants an address of any family asks for both at once, and the host is
/// asked once.
#[derive(Debug, Default)]
pub struct Lookups(Mutex<HashMap<String, Weak<OnceCell<Found>>>>);

impl Lookups {
    async fn find(&self, name: &str) -> Found {
        let shared = {
            let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.retain(|_, lookup| lookup.strong_count() > 0);
            let known = under_way.get(name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let new = Arc::default();
                under_way.insert(name.to_owned(), Arc::downgrade(&new));
                new
            })
        };
        shared.get_or_init(|| resolve(name)).await.clone()
    }
}

/// Ask the host.
async fn resolve(name: &str) -> Found {
    let lookup = tokio::net::lookup_host((name, 0));
    match tokio::time::timeout(PATIENCE, lookup).await {
        Ok(Ok(found)) => (Code::Fine, found.map(|address| address.ip()).collect()),
        // The host's resolver tells apart in words only.
        Ok(Err(error)) if error.to_string().contains("not known") => (Code::NoSuchName, Vec::new()),
        Ok(Err(error)) if error.to_string().contains("No address") => (Code::Fine, Vec::new()),
        _ => (Code::Failed, Vec::new()),
    }
}

/// Answer a query. `None`: it is none.
pub async fn answer(
    engine: &Engine,
    identity: &FunctionIdentity,
    lookups: &Lookups,
    query: &[u8],
) -> Option<Vec<u8>> {
    let head = query.first_chunk::<HEADER>()?;
    // An answer, or another kind of query.
    if head[2] & 0x80 != 0 {
        return None;
    }
    let Some(question) = parse(query) else {
        let [a, b, ..] = *head;
        return Some(vec![
            a,
            b,
            0x80,
            Code::Malformed as u8,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ]);
    };
    if head[2] & 0x78 != 0 || question.class != INTERNET {
        return Some(write(&question, Code::NotServed, &[]));
    }
    if let Err(why) = engine.policy(identity).lookup(&question.name) {
        tracing::info!(function = %identity.name, %why, "a lookup was denied");
        return Some(write(&question, Code::Refused, &[]));
    }
    if !matches!(question.kind, A | AAAA) {
        return Some(write(&question, Code::Fine, &[]));
    }
    let (code, addresses) = lookups.find(&question.name).await;
    Some(write(&question, code, &addresses))
}

fn parse(query: &[u8]) -> Option<Question<'_>> {
    let (head, mut rest) = query.split_first_chunk::<HEADER>()?;
    if head.get(4..6)? != [0, 1] {
        return None;
    }
    let mut name = String::new();
    loop {
        let (&length, after) = rest.split_first()?;
        if length == 0 {
            rest = after;
            break;
        }
        // A question has nothing before it that it could point to.
        if length > 63 {
            return None;
        }
        let (label, after) = after.split_at_checked(usize::from(length))?;
        if !label
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(label).ok()?);
        if name.len() > 253 {
            return None;
        }
        rest = after;
    }
    let (&[k0, k1, c0, c1], after) = rest.split_first_chunk::<4>()?;
    let bytes = query.get(HEADER..query.len() - after.len())?;
    (!name.is_empty()).then_some(Question {
        id: [head[0], head[1]],
        recursion: head[2] & 1,
        name,
        kind: u16::from_be_bytes([k0, k1]),
        class: u16::from_be_bytes([c0, c1]),
        bytes,
    })
}

fn write(question: &Question<'_>, code: Code, addresses: &[IpAddr]) -> Vec<u8> {
    let records: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|address| match (address, question.kind) {
            (IpAddr::V4(v4), A) => Some(v4.octets().to_vec()),
            (IpAddr::V6(v6), AAAA) => Some(v6.octets().to_vec()),
            _ => None,
        })
        .take(MAX_ADDRESSES)
        .collect();
    let mut answer = question.id.to_vec();
    let count = u8::try_from(records.len()).unwrap_or_default();
    // It is an answer, and recursion is to be had; one question, so many answers, nothing else.
    answer.extend([0x80 | question.recursion, 0x80 | code as u8]);
    answer.extend([0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(question.bytes);
    for record in records {
        // The question's name, at the twelfth byte.
        answer.extend([0xc0, 0x0c]);
        answer.extend(question.kind.to_be_bytes());
        answer.extend(INTERNET.to_be_bytes());
        answer.extend(TTL.to_be_bytes());
        answer.extend(
            u16::try_from(record.len())
                .unwrap_or_default()
                .to_be_bytes(),
        );
        answer.extend(record);
    }
    answer
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes
    }

    #[test]
    fn questions() {
        let bytes = query("Example.com", A);
        let question = parse(&bytes).unwrap();
        assert_eq!(
            (question.name.as_str(), question.kind, question.id),
            ("Example.com", A, [7, 9])
        );
        assert_eq!(question.bytes, &bytes[12..]);
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length]).is_none(), "{length}");
        }
        let mut pointing = query("a", A);
        pointing[12] = 0xc0;
        assert!(parse(&pointing).is_none());
        assert!(parse(&query("a b", A)).is_none());
        assert!(parse(&query(&"a.".repeat(200), A)).is_none());
    }

    #[test]
    fn answers() {
        let bytes = query("example.com", A);
        let question = parse(&bytes).unwrap();
        let answer = write(
            &question,
            Code::Fine,
            &["1.2.3.4".parse().unwrap(), "::1".parse().unwrap()],
        );
        assert_eq!(answer[..12], [7, 9, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert!(answer.ends_with(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 1, 2, 3, 4]));
        assert_eq!(write(&question, Code::Refused, &[])[3], 0x85);
        let bytes = query("example.com", AAAA);
        let found = ["1.2.3.4".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let answer = write(&parse(&bytes).unwrap(), Code::Fine, &found);
        assert_eq!(answer[6..8], [0, 1]);
        assert!(answer.ends_with(&[
            0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1
        ]));
        // Of the longest name, with as many addresses as there may be: within what a resolver takes without asking first.
        let longest = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61),
        ]
        .join(".");
        let bytes = query(&longest, AAAA);
        let answer = write(&parse(&bytes).unwrap(), Code::Fine, &[found[1]; 20]);
        assert_eq!(answer[6..8], [0, 8]);
        assert!(answer.len() <= 512, "{}", answer.len());
    }

    #[tokio::test]
    async fn the_host_is_asked_once_for_both_kinds_of_addresses() {
        let lookups = Lookups::default();
        let (one, other) = tokio::join!(lookups.find("127.0.0.1"), lookups.find("127.0.0.1"));
        assert_eq!(one, (Code::Fine, vec!["127.0.0.1".parse().unwrap()]));
        assert_eq!(one, other);
        // Both are over, and nothing is kept.
        assert!(
            lookups
                .0
                .lock()
                .unwrap()
                .values()
                .all(|lookup| lookup.strong_count() == 0)
        );
    }
}
