//! Connections: made, kept while idle, and made anew.

use super::error::{Kind, TransportError};
use super::socket::Socket;
use super::url::Authority;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
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

#[derive(Debug, Default)]
struct Table {
    idle: HashMap<Arc<Authority>, Vec<Idle>>,
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
    pub fn take(&self, authority: &Authority) -> Option<Connection> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = 0;
        let mut found = None;
        if let Some(idle) = table.idle.get_mut(authority) {
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
    pub fn put(&self, authority: &Arc<Authority>, mut connection: Connection) {
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
        let list = table.idle.entry(Arc::clone(authority)).or_default();
        if list.len() < MAX_IDLE {
            list.push(idle);
            table.count += 1;
        }
    }

    /// A new connection. `anywhere`: the operator named this endpoint, so it may be any address.
    pub async fn connect(
        &self,
        authority: &Authority,
        anywhere: bool,
        patience: Duration,
    ) -> Result<Connection, TransportError> {
        let made = tokio::time::timeout(patience, self.connect_now(authority, anywhere)).await;
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
        anywhere: bool,
    ) -> Result<Connection, TransportError> {
        let tcp = connect_tcp(authority, anywhere).await?;
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

async fn connect_tcp(authority: &Authority, anywhere: bool) -> Result<TcpStream, TransportError> {
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
        if !anywhere && is_inside(address.ip()) {
            let what = format!(
                "{authority} resolves to {}, which no function may reach",
                address.ip()
            );
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

/// Addresses of this machine and its metadata service. (Private ones are where VPC endpoints live.)
fn is_inside(ip: IpAddr) -> bool {
    let v4 = match ip {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped(),
    };
    match (v4, ip) {
        (Some(v4), _) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        (None, IpAddr::V6(v6)) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.segments().first() == Some(&0xfd00)
        }
        (None, IpAddr::V4(_)) => true,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside() {
        for ip in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "fd00:ec2::254",
        ] {
            assert!(is_inside(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["52.216.0.1", "10.0.0.1", "2600:1f00::1"] {
            assert!(!is_inside(ip.parse().unwrap()), "{ip}");
        }
    }
}
