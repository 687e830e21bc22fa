//! Connections of functions: made, secured, and kept while idle. None ever serves another function, or other settings.

use super::options::Options;
use super::tls::{Settings, Verdict};
use super::{Engine, Failure};
use crate::FunctionIdentity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{self, AlertDescription, InvalidMessage};

/// Idle connections kept for one key, and for all; and for how long: servers close theirs after 5 to 60 s.
const MAX_IDLE: usize = 16;
const MAX_IDLE_TOTAL: usize = 512;
const IDLE_FOR: Duration = Duration::from_secs(20);
/// Bytes of a server's certificates that a guest is told.
const MAX_CHAIN: usize = 48 << 10;

/// Both ways of a connection, secured or not.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + Debug {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + Debug> Duplex for T {}

pub type Boxed = Box<dyn Duplex>;

/// Who is at the other end.
#[derive(Clone, Debug, Serialize)]
pub struct Peer {
    pub address: SocketAddr,
    pub local: SocketAddr,
    pub tls: Option<Session>,
}

/// What was agreed on.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    /// As rustls names them.
    version: String,
    cipher: String,
    pub alpn: Option<String>,
    /// The server's certificates, its own first (base64 of DER).
    chain: Vec<String>,
}

#[derive(Debug)]
pub struct Connection {
    pub io: Boxed,
    pub peer: Arc<Peer>,
}

impl Connection {
    /// Whether it has ended, or has bytes that nobody asked for. Nothing may be under way.
    fn is_stale(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        !matches!(
            Pin::new(&mut self.io).poll_read(&mut context, &mut buffer),
            Poll::Pending
        )
    }
}

/// What connections are kept by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The owner of the policy that allowed it.
    pub function: Arc<str>,
    pub host: String,
    pub port: u16,
    pub options: Options,
    pub tls: Option<Settings>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// The idle connections of all functions.
#[derive(Debug, Default)]
pub struct Pool(Mutex<HashMap<Key, Vec<Idle>>>);

impl Pool {
    /// One that is still good, the one used last first.
    pub fn take(&self, key: &Key) -> Option<Connection> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = table.get_mut(key)?;
        let mut found = None;
        while let Some(mut one) = list.pop() {
            if one.since.elapsed() < IDLE_FOR && !one.connection.is_stale() {
                found = Some(one.connection);
                break;
            }
        }
        if list.is_empty() {
            table.remove(key);
        }
        found
    }

    /// Where a good one to the same server leads, of any settings: the host has been reached lately.
    pub fn reached(&self, wanted: &Key) -> Option<Arc<Peer>> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .iter_mut()
            .filter(|(key, _)| {
                key.function == wanted.function
                    && key.host == wanted.host
                    && key.port == wanted.port
            })
            .flat_map(|(_, list)| list.iter_mut())
            .find_map(|one| {
                let good = one.since.elapsed() < IDLE_FOR && !one.connection.is_stale();
                good.then(|| Arc::clone(&one.connection.peer))
            })
    }

    /// Keep one on which nothing is under way.
    pub fn put(&self, key: Key, connection: Connection) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.values().map(Vec::len).sum::<usize>() >= MAX_IDLE_TOTAL {
            table.retain(|_, list| {
                list.retain(|one| one.since.elapsed() < IDLE_FOR);
                !list.is_empty()
            });
            if table.len() >= MAX_IDLE_TOTAL {
                return;
            }
        }
        let list = table.entry(key).or_default();
        if list.len() < MAX_IDLE {
            list.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }
}

impl Engine {
    /// A new TCP connection to where `key` says, at an address that the function's policy allows.
    ///
    /// # Errors
    /// By the names that Python gives them.
    pub(crate) async fn reach(
        &self,
        identity: &FunctionIdentity,
        key: &Key,
    ) -> Result<Connection, Failure> {
        let tcp = super::egress::connect(self, identity, &key.host, key.port).await?;
        key.options.set(&tcp).map_err(|e| Failure::system(&e))?;
        let peer = Peer {
            address: tcp.peer_addr().map_err(|e| Failure::system(&e))?,
            local: tcp.local_addr().map_err(|e| Failure::system(&e))?,
            tls: None,
        };
        Ok(Connection {
            io: Box::new(tcp),
            peer: Arc::new(peer),
        })
    }

    /// Secure a connection.
    ///
    /// # Errors
    /// As OpenSSL says it.
    pub(crate) async fn secure(
        &self,
        function: &Arc<str>,
        connection: Connection,
        settings: &Settings,
    ) -> Result<Connection, Failure> {
        let name = settings.name().map_err(|what| Failure::tls(&what))?;
        let connector = self
            .tls
            .connector(function, settings)
            .map_err(|what| Failure::tls(&what))?;
        let stream = connector
            .connect(name, connection.io)
            .await
            .map_err(|error| handshake(&error))?;
        let peer = Peer {
            tls: Some(session(&stream)),
            ..Peer::clone(&connection.peer)
        };
        Ok(Connection {
            io: Box::new(stream),
            peer: Arc::new(peer),
        })
    }
}

fn session(stream: &TlsStream<Boxed>) -> Session {
    let tls = stream.get_ref().1;
    let mut left = MAX_CHAIN;
    let chain = tls.peer_certificates().unwrap_or_default().iter();
    Session {
        version: tls
            .protocol_version()
            .map_or(String::new(), |v| format!("{v:?}")),
        cipher: tls
            .negotiated_cipher_suite()
            .map_or(String::new(), |suite| format!("{:?}", suite.suite())),
        alpn: tls
            .alpn_protocol()
            .map(|p| String::from_utf8_lossy(p).into_owned()),
        chain: chain
            .map_while(|certificate| {
                let text = STANDARD.encode(certificate);
                left = left.checked_sub(text.len())?;
                Some(text)
            })
            .collect(),
    }
}

/// A handshake's failure. The words are OpenSSL's, where it has some for it.
fn handshake(error: &io::Error) -> Failure {
    let Some(cause) = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>())
    else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Failure::new("SSLEOFError", 8, "UNEXPECTED_EOF_WHILE_READING")
            }
            _ => Failure::system(error),
        };
    };
    match cause {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
            match other.0.downcast_ref::<Verdict>() {
                Some(why) => Failure::new("SSLCertVerificationError", why.code, &why.text),
                None => Failure::tls(&cause.to_string()),
            }
        }
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => Failure::tls("WRONG_VERSION_NUMBER"),
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            Failure::tls("SSLV3_ALERT_HANDSHAKE_FAILURE")
        }
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            Failure::tls("TLSV1_ALERT_PROTOCOL_VERSION")
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            Failure::tls("TLSV13_ALERT_CERTIFICATE_REQUIRED")
        }
        other => Failure::tls(&other.to_string()),
    }
}
