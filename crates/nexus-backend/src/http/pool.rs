//! Connections: made, kept while idle, and made anew.

use super::error::{Kind, TransportError};
use super::socket::Socket;
use super::url::Authority;
use crate::policy::Allowed;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// Idle connections kept for one authority, and for all.
const MAX_IDLE: usize = 32;
const MAX_IDLE_TOTAL: usize = 256;
/// Idle connections older than this are not used again: servers close theirs after 5 to 60 s.
const IDLE_FOR: Duration = Duration::from_secs(20);

/// One connection, with what was received beyond the last thing parsed.
#[derive(Debug)]
pub struct Connection {
    pub socket: Socket,
    /// Received bytes that are not used yet: `buffer[start..end]`.
    pub buffer: Vec<u8>,
    pub start: usize,
    pub end: usize,
    /// It has served a request before.
    pub reused: bool,
}

impl Connection {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            reused: false,
        }
    }

    pub fn buffered(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// Connections are shared by the requests to one authority, within one owner where there is one (`FunctionIdentity::owner`).
type Key = (Arc<Authority>, Option<Arc<str>>);

#[derive(Debug, Default)]
struct Table {
    idle: HashMap<Key, Vec<Idle>>,
    count: usize,
}

/// The connections of a node.
pub struct Pool {
    table: Mutex<Table>,
    tls: TlsConnector,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    pub fn new(tls: TlsConnector) -> Self {
        Self {
            table: Mutex::default(),
            tls,
        }
    }

    /// An idle connection that is still good, the one used last first.
    pub fn take(&self, authority: &Arc<Authority>, owner: Option<Arc<str>>) -> Option<Connection> {
        let key = (Arc::clone(authority), owner);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = 0;
        let mut found = None;
        if let Some(idle) = table.idle.get_mut(&key) {
            while let Some(one) = idle.pop() {
                removed += 1;
                if one.since.elapsed() < IDLE_FOR && !one.connection.socket.is_stale() {
                    found = Some(one.connection);
                    break;
                }
            }
        }
        table.count -= removed;
        found
    }

    /// Keep a connection on which nothing is under way.
    pub fn put(
        &self,
        authority: &Arc<Authority>,
        owner: Option<Arc<str>>,
        mut connection: Connection,
    ) {
        if connection.start != connection.end {
            return;
        }
        connection.reused = true;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.count >= MAX_IDLE_TOTAL {
            table.idle.retain(|_, list| {
                list.retain(|one| one.since.elapsed() < IDLE_FOR);
                !list.is_empty()
            });
            table.count = table.idle.values().map(Vec::len).sum();
            if table.count >= MAX_IDLE_TOTAL {
                return;
            }
        }
        let idle = Idle {
            connection,
            since: Instant::now(),
        };
        let list = table
            .idle
            .entry((Arc::clone(authority), owner))
            .or_default();
        if list.len() < MAX_IDLE {
            list.push(idle);
            table.count += 1;
        }
    }

    /// A new connection, to an address that is allowed.
    pub async fn connect(
        &self,
        authority: &Authority,
        allowed: &Allowed,
        patience: Duration,
    ) -> Result<Connection, TransportError> {
        let made = tokio::time::timeout(patience, self.connect_now(authority, allowed)).await;
        made.unwrap_or_else(|_| {
            let seconds = patience.as_secs_f32();
            Err(TransportError::new(
                Kind::ConnectTimeout,
                format!("no connection to {authority} within {seconds} s"),
            ))
        })
    }

    async fn connect_now(
        &self,
        authority: &Authority,
        allowed: &Allowed,
    ) -> Result<Connection, TransportError> {
        let tcp = connect_tcp(authority, allowed).await?;
        let _ = tcp.set_nodelay(true);
        if !authority.https {
            return Ok(Connection::new(Socket::Plain(tcp)));
        }
        let failed = |what: String| TransportError::new(Kind::Tls, format!("{authority}: {what}"));
        let name = ServerName::try_from(authority.host.clone())
            .map_err(|error| failed(error.to_string()))?;
        let tls = self
            .tls
            .connect(name, tcp)
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(Connection::new(Socket::Tls(Box::new(tls))))
    }
}

async fn connect_tcp(
    authority: &Authority,
    allowed: &Allowed,
) -> Result<TcpStream, TransportError> {
    let failed = |what: String| {
        TransportError::new(Kind::Connect, format!("cannot reach {authority}: {what}"))
    };
    let addresses: Vec<SocketAddr> = match authority.ip() {
        Some(ip) => vec![SocketAddr::new(ip, authority.port)],
        None => tokio::net::lookup_host((authority.host.as_str(), authority.port))
            .await
            .map_err(|error| failed(error.to_string()))?
            .collect(),
    };
    let mut last = None;
    for address in addresses {
        if let Err(denied) = allowed.address(address.ip(), address.port()) {
            let what = format!("{authority}: {denied}");
            last = Some(TransportError::new(Kind::Forbidden, what));
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = Some(failed(error.to_string())),
        }
    }
    Err(last.unwrap_or_else(|| failed("the name has no address".to_owned())))
}
