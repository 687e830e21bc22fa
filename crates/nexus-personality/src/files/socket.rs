//! Sockets inside the instance: pairs, and connections over a loopback and a UNIX name space that are the guest's own.
//!
//! No socket of the host has a name or reaches a network. Each of the guest's is one end of a host's socket pair. A
//! stream's other end goes to whoever accepts the connection; of a listening socket it carries one byte for each
//! connection that waits; of a datagram socket it is where others put messages, each behind a header that names
//! its sender. So waiting, time-outs and epoll are the host's, on one descriptor that never changes.

use crate::errno::{EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, ENFILE, Errno};
use crate::files::Description;
use crate::files::outside::Outside;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Sockets of one guest at most, those that wait to be accepted included; each costs the hypervisor two descriptors.
const MAX_SOCKETS: usize = 1024;
/// Bytes before each datagram: length of the sender's address, then the address.
pub const HEADER: usize = 128;
/// Longest address: `struct sockaddr_un`.
pub const MAX_ADDRESS: usize = 110;
/// Ports for who does not choose one.
const EPHEMERAL: std::ops::Range<u16> = 32768..60999;

/// An address of the instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// IPv4, in host order.
    Inet { ip: u32, port: u16 },
    /// A UNIX name as the guest gave it: a path, an abstract name (first byte 0), or nothing.
    Unix(Vec<u8>),
}

impl Address {
    /// From the bytes of a `struct sockaddr`.
    ///
    /// # Errors
    /// EINVAL, EAFNOSUPPORT.
    pub fn parse(bytes: &[u8]) -> Result<Self, Errno> {
        let (family, rest) = bytes.split_at_checked(2).ok_or(EINVAL)?;
        match i32::from(u16::from_le_bytes(family.try_into().map_err(|_| EINVAL)?)) {
            libc::AF_INET => {
                let (port, rest) = rest.split_first_chunk().ok_or(EINVAL)?;
                let (ip, _) = rest.split_first_chunk().ok_or(EINVAL)?;
                Ok(Self::Inet {
                    ip: u32::from_be_bytes(*ip),
                    port: u16::from_be_bytes(*port),
                })
            }
            libc::AF_UNIX if bytes.len() <= MAX_ADDRESS => {
                let abstract_name = rest.first() == Some(&0);
                let end = if abstract_name {
                    rest.len()
                } else {
                    rest.iter().position(|b| *b == 0).unwrap_or(rest.len())
                };
                Ok(Self::Unix(rest.get(..end).unwrap_or_default().to_vec()))
            }
            libc::AF_UNIX => Err(EINVAL),
            _ => Err(EAFNOSUPPORT),
        }
    }

    /// As a `struct sockaddr`.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Inet { ip, port } => {
                let mut bytes = (libc::AF_INET as u16).to_le_bytes().to_vec();
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(&ip.to_be_bytes());
                bytes.resize(16, 0);
                bytes
            }
            Self::Unix(name) => {
                let mut bytes = (libc::AF_UNIX as u16).to_le_bytes().to_vec();
                bytes.extend_from_slice(name);
                // A path is shown with its end.
                if name.first().is_some_and(|b| *b != 0) {
                    bytes.push(0);
                }
                bytes
            }
        }
    }

    /// Nobody's address.
    #[must_use]
    pub fn unnamed(family: i32) -> Self {
        if family == libc::AF_INET {
            Self::Inet { ip: 0, port: 0 }
        } else {
            Self::Unix(Vec::new())
        }
    }
}

/// What names a socket in the instance's table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Type, address, port.
    Inet(i32, u32, u16),
    /// An abstract UNIX name.
    Abstract(Vec<u8>),
    /// A socket file in `/tmp`, by its inode's number.
    File(u64),
}

/// What a socket is at the moment.
#[derive(Debug)]
pub enum Role {
    /// A stream that is not yet connected; the end it will give away.
    Fresh(OwnedFd),
    /// Waits for connections: the end that wakes it, and who waits.
    Listening(OwnedFd, VecDeque<Arc<Socket>>),
    /// An end of a pair or of an accepted connection.
    Connected,
    /// Takes datagrams through this end.
    Datagram(OwnedFd),
    /// A socket of the backend's, connected or connecting to the outside.
    Outside,
}

/// What of a socket changes.
#[derive(Debug)]
pub struct State {
    pub role: Role,
    /// Its own name.
    pub local: Option<Address>,
    /// Whom it is connected to.
    pub peer: Option<Address>,
    /// Connected, but the guest was told EINPROGRESS and has not asked again.
    pub in_progress: bool,
    /// The next write to a connection that is closed at its other end is lost without an error, as TCP's is: it goes
    /// out before the answer that says so comes back.
    pub loses_one: bool,
    /// Where its last datagram to the outside went: that was allowed.
    pub allowed: Option<Address>,
    /// Options that were set: level, name.
    pub options: BTreeMap<(i32, i32), Vec<u8>>,
}

/// A socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// `AF_UNIX` or `AF_INET`.
    pub family: i32,
    /// `SOCK_STREAM`, `SOCK_DGRAM` or `SOCK_SEQPACKET`.
    pub kind: i32,
    state: Mutex<State>,
    count: Arc<AtomicUsize>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Socket {
    /// The host's descriptor of this end.
    #[must_use]
    pub fn host(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The changing part.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is an end without a name, as `socketpair` makes them: the only kind that a snapshot keeps.
    #[must_use]
    pub fn is_plain_pair(&self) -> bool {
        let state = self.state();
        matches!(state.role, Role::Connected)
            && self.family == libc::AF_UNIX
            && state.local.is_none()
    }

    /// Whether messages to it carry the sender's address.
    #[must_use]
    pub fn has_header(&self) -> bool {
        matches!(self.state().role, Role::Datagram(_))
    }
}

/// The sockets of one guest.
#[derive(Debug, Default)]
pub struct Net {
    /// The way out of the instance, where there is one.
    pub outside: Option<Outside>,
    names: Mutex<BTreeMap<Key, Weak<Socket>>>,
    count: Arc<AtomicUsize>,
    /// Descriptions on their way through a socket, by the inode of the token that travels for them.
    pub in_flight: Mutex<BTreeMap<u64, Vec<Arc<Description>>>>,
}

impl Net {
    /// Without sockets; `channel` is the backend's, for connections to the outside.
    #[must_use]
    pub fn new(channel: Option<RawFd>) -> Self {
        Self {
            outside: channel.map(Outside::new),
            ..Self::default()
        }
    }

    /// A socket around a descriptor of the host.
    ///
    /// # Errors
    /// ENFILE at the limit.
    pub fn socket(
        &self,
        fd: OwnedFd,
        family: i32,
        kind: i32,
        role: Role,
    ) -> Result<Arc<Socket>, Errno> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= MAX_SOCKETS {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(ENFILE);
        }
        Ok(Arc::new(Socket {
            fd,
            family,
            kind,
            state: Mutex::new(State {
                role,
                local: None,
                peer: None,
                in_progress: false,
                loses_one: family == libc::AF_INET && kind == libc::SOCK_STREAM,
                allowed: None,
                options: BTreeMap::new(),
            }),
            count: Arc::clone(&self.count),
        }))
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<Key, Weak<Socket>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has this name.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<Arc<Socket>> {
        let names = self.names();
        let live = |key: &Key| names.get(key).and_then(Weak::upgrade);
        live(key).or_else(|| match key {
            Key::Inet(kind, _, port) => live(&Key::Inet(*kind, 0, *port)),
            _ => None,
        })
    }

    /// Give a name to a socket.
    ///
    /// # Errors
    /// EADDRINUSE.
    pub fn claim(&self, key: Key, socket: &Arc<Socket>) -> Result<(), Errno> {
        let mut names = self.names();
        names.retain(|_, holder| holder.strong_count() > 0);
        let taken = match &key {
            Key::Inet(kind, ip, port) => names
                .keys()
                .any(|k| matches!(k, Key::Inet(k, i, p) if k == kind && p == port && (i == ip || *i == 0 || *ip == 0))),
            other => names.contains_key(other),
        };
        if taken {
            return Err(EADDRINUSE);
        }
        names.insert(key, Arc::downgrade(socket));
        Ok(())
    }

    /// Give an Internet address to a socket, with a free port where none was asked for; returns it.
    ///
    /// # Errors
    /// EADDRINUSE, EADDRNOTAVAIL.
    pub fn claim_inet(&self, ip: u32, port: u16, socket: &Arc<Socket>) -> Result<Address, Errno> {
        if ip != 0 && ip >> 24 != 127 {
            return Err(EADDRNOTAVAIL);
        }
        if port != 0 {
            self.claim(Key::Inet(socket.kind, ip, port), socket)?;
            return Ok(Address::Inet { ip, port });
        }
        // From a random place on, so that a port is not at once somebody else's.
        let mut random = [0u8; 2];
        // SAFETY: two bytes are live.
        unsafe { libc::getrandom(random.as_mut_ptr().cast(), 2, 0) };
        let first = u16::from_le_bytes(random) % EPHEMERAL.len() as u16;
        for step in 0..EPHEMERAL.len() as u16 {
            let port = EPHEMERAL.start + (first + step) % EPHEMERAL.len() as u16;
            match self.claim(Key::Inet(socket.kind, ip, port), socket) {
                Err(e) if e == EADDRINUSE => {}
                other => return other.map(|()| Address::Inet { ip, port }),
            }
        }
        Err(EADDRINUSE)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_survive_their_bytes() {
        for address in [
            Address::Inet {
                ip: 0x7f00_0001,
                port: 80,
            },
            Address::Unix(b"/tmp/s".to_vec()),
            Address::Unix(b"\0abstract".to_vec()),
            Address::Unix(Vec::new()),
        ] {
            assert_eq!(Address::parse(&address.bytes()).unwrap(), address);
        }
    }

    #[test]
    fn bytes_that_are_no_address_are_refused() {
        assert_eq!(Address::parse(b""), Err(EINVAL));
        assert_eq!(Address::parse(&[2, 0, 0]), Err(EINVAL));
        assert_eq!(Address::parse(&[10, 0, 0, 0]), Err(EAFNOSUPPORT));
        assert_eq!(Address::parse(&[1u8; 200]), Err(EAFNOSUPPORT));
        let mut long = vec![1u8, 0];
        long.resize(MAX_ADDRESS + 1, b'x');
        assert_eq!(Address::parse(&long), Err(EINVAL));
    }
}
