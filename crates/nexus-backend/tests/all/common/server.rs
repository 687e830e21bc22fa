//! A server that answers by a script, to the byte.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub connection: usize,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What to do for one request.
#[derive(Clone, Debug)]
pub enum Step {
    Send(Vec<u8>),
    Sleep(u64),
    /// Reset the connection.
    Reset,
    Close,
}

pub fn ok(body: &[u8]) -> Vec<Step> {
    status(200, &[], body)
}

pub fn status(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<Step> {
    let mut out = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        out += &format!("{name}: {value}\r\n");
    }
    let mut out = (out + "\r\n").into_bytes();
    out.extend_from_slice(body);
    vec![Step::Send(out)]
}

pub struct Server {
    pub url: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// Bytes of responses that the kernel took.
    pub sent: Arc<Mutex<usize>>,
}

type Script = Arc<dyn Fn(usize, &Seen) -> Vec<Step> + Send + Sync>;

impl Server {
    /// `script` gets the request's number (from 0) and the request.
    pub async fn start(script: impl Fn(usize, &Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::new(Mutex::new(0));
        let script: Script = Arc::new(script);
        let (log, count) = (Arc::clone(&seen), Arc::clone(&sent));
        tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let (script, log, count) =
                    (Arc::clone(&script), Arc::clone(&log), Arc::clone(&count));
                tokio::spawn(async move { serve(stream, connection, script, log, count).await });
                connection += 1;
            }
        });
        Self { url, seen, sent }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    script: Script,
    log: Arc<Mutex<Vec<Seen>>>,
    count: Arc<Mutex<usize>>,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let seen = request(&mut stream, &mut buffer, connection).await?;
        let number = {
            let mut log = log.lock().unwrap();
            log.push(seen.clone());
            log.len() - 1
        };
        for step in script(number, &seen) {
            match step {
                Step::Send(bytes) => {
                    for piece in bytes.chunks(64 << 10) {
                        stream.write_all(piece).await.ok()?;
                        *count.lock().unwrap() += piece.len();
                    }
                }
                Step::Sleep(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                Step::Reset => {
                    stream.set_zero_linger().unwrap();
                    return None;
                }
                Step::Close => return None,
            }
        }
    }
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(n) if n > 0 => Some(()),
        _ => None,
    }
}

async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Option<Seen> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        more(stream, buffer).await?;
    };
    let head = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
    let mut lines = head.trim_end().lines();
    let mut first = lines.next()?.split(' ');
    let mut seen = Seen {
        connection,
        method: first.next()?.to_owned(),
        target: first.next()?.to_owned(),
        headers: lines
            .filter_map(|line| line.split_once(": "))
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect(),
        body: Vec::new(),
    };
    if seen.header("transfer-encoding").is_some() {
        loop {
            let at = loop {
                if let Some(at) = buffer.windows(2).position(|w| w == b"\r\n") {
                    break at;
                }
                more(stream, buffer).await?;
            };
            let size =
                usize::from_str_radix(std::str::from_utf8(&buffer[..at]).unwrap(), 16).unwrap();
            while buffer.len() < at + size + 4 {
                more(stream, buffer).await?;
            }
            seen.body.extend_from_slice(&buffer[at + 2..at + 2 + size]);
            assert_eq!(&buffer[at + 2 + size..at + size + 4], b"\r\n");
            buffer.drain(..at + size + 4);
            if size == 0 {
                return Some(seen);
            }
        }
    }
    let length = seen
        .header("content-length")
        .map_or(0, |v| v.parse().unwrap());
    while buffer.len() < length {
        more(stream, buffer).await?;
    }
    seen.body = buffer.drain(..length).collect();
    Some(seen)
}
