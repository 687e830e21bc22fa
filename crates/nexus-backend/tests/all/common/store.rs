//! An S3 store in memory behind [`Server`]: objects, conditions, delays and failures by the key's name.

use super::server::{Seen, Server, Step, status};
use md5::{Digest, Md5};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// What it does besides.
#[derive(Default)]
pub struct Behaviour {
    /// Milliseconds before a PUT is answered (it is done at once).
    pub put_ms: AtomicU64,
    /// PUTs are answered with this status.
    pub put_status: AtomicU64,
    /// Every PUT is answered with a version id.
    pub versioned: AtomicU64,
    /// Milliseconds before a GET is answered; what is read is read before.
    pub get_ms: AtomicU64,
}

pub struct Store {
    pub server: Server,
    pub objects: Objects,
    pub behaviour: Arc<Behaviour>,
}

pub fn etag(bytes: &[u8]) -> String {
    let hex: String = Md5::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("\"{hex}\"")
}

impl Store {
    pub async fn start() -> Self {
        let objects = Objects::default();
        let behaviour = Arc::new(Behaviour::default());
        let (own, how) = (Arc::clone(&objects), Arc::clone(&behaviour));
        let server = Server::start(move |_, seen| answer(&own, &how, seen)).await;
        Self {
            server,
            objects,
            behaviour,
        }
    }

    pub fn get(&self, target: &str) -> Option<Vec<u8>> {
        self.objects.lock().unwrap().get(target).cloned()
    }

    pub fn put(&self, target: &str, bytes: &[u8]) {
        self.objects
            .lock()
            .unwrap()
            .insert(target.to_owned(), bytes.to_vec());
    }

    /// Methods and targets, in the order of arrival.
    pub fn log(&self) -> Vec<String> {
        let seen = self.server.seen();
        seen.iter()
            .map(|s| format!("{} {}", s.method, s.target))
            .collect()
    }
}

fn answer(objects: &Objects, how: &Behaviour, seen: &Seen) -> Vec<Step> {
    let mut objects = objects.lock().unwrap();
    let target = seen.target.split('?').next().unwrap().to_owned();
    let now = objects.get(&target).map(|bytes| etag(bytes));
    let matches = |name: &str| {
        let wanted = seen.header(name)?;
        Some(now.as_deref().is_some_and(|e| wanted == "*" || wanted == e))
    };
    let number = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let error = |code: u16, name: &str| {
        let text = format!("<Error><Code>{name}</Code><Message>told so</Message></Error>");
        status(code, &[], text.as_bytes())
    };
    match seen.method.as_str() {
        "PUT" => {
            let forced = number(&how.put_status);
            if forced != 0 {
                let code = u16::try_from(forced).unwrap();
                return error(
                    code,
                    if code == 403 {
                        "AccessDenied"
                    } else {
                        "SlowDown"
                    },
                );
            }
            if matches("if-match") == Some(false) || matches("if-none-match") == Some(true) {
                return error(412, "PreconditionFailed");
            }
            let tag = etag(&seen.body);
            objects.insert(target, seen.body.clone());
            let crc = seen.header("x-amz-checksum-crc32").unwrap_or_default();
            let mut headers = vec![("ETag", tag.as_str()), ("x-amz-checksum-crc32", crc)];
            if number(&how.versioned) != 0 {
                headers.push(("x-amz-version-id", "v1"));
            }
            let mut steps = vec![Step::Sleep(number(&how.put_ms))];
            steps.extend(status(200, &headers, b""));
            steps
        }
        "DELETE" => {
            objects.remove(&target);
            status(204, &[], b"")
        }
        _ => {
            let Some(bytes) = objects.get(&target) else {
                if seen.target.contains("list-type") {
                    return status(200, &[], format!("{:?}", objects.keys()).as_bytes());
                }
                return error(404, "NoSuchKey");
            };
            let tag = etag(bytes);
            let headers = [
                ("ETag", tag.as_str()),
                ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("Date", "Sun, 06 Nov 1994 09:49:37 GMT"),
            ];
            let mut steps = vec![Step::Sleep(number(&how.get_ms))];
            if matches("if-none-match") == Some(true) {
                steps.extend(status(304, &headers, b""));
            } else if seen.method == "HEAD" {
                let head = format!(
                    "HTTP/1.1 200 X\r\nContent-Length: {}\r\nETag: {tag}\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n",
                    bytes.len()
                );
                steps.push(Step::Send(head.into_bytes()));
            } else {
                steps.extend(status(200, &headers, bytes));
            }
            steps
        }
    }
}
