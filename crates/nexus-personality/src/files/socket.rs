//! Sockets inside the instance: pairs, and connections over a loopback and a UNIX name space that are the guest's own.
//!
//! No socket of the host has a name or reaches a network. Each of the guest's is one end of a host's socket pair. A
//! stream's other end goes to whoever accepts the connection; of a listening socket it carries one byte for each
//! connection that waits; of a datagram socket it is where others put messages, each behind a header that names
//! its sender. So waiting, time-outs and epoll are the host's, on one descriptor that never changes.

use crate::errno::{EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EINVAL, ENFILE, ETOOMANYREFS, Errno};
use crate::files::Description;
use crate::files::outside::Outside;
use nexus_abi::network::sockaddr;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Sockets of one guest at most, those that wait to be accepted included; each costs the hypervisor two descriptors.
const MAX_SOCKETS: usize = 1024;
/// Messages with descriptors that nobody has received yet.
const MAX_IN_FLIGHT: usize = 256;
/// Bytes before each datagram: length of the sender's address, then the address.
pub const HEADER: usize = 128;
/// Longest address: `struct sockaddr_un`.
pub const MAX_ADDRESS: usize = 110;
/// Ports for who does not choose one.
const EPHEMERAL: std::ops::Range<u16> = 32768..60999;

/// Bytes of a `struct sockaddr_in`.
const INET_BYTES: usize = 16;
/// Of a `struct sockaddr_in6` that has no scope id yet (RFC 2133), which Linux takes as well.
const INET6_BYTES: usize = 24;

/// Whether it is one of the Internet's families.
#[must_use]
pub fn is_internet(family: i32) -> bool {
    matches!(family, libc::AF_INET | libc::AF_INET6)
}

/// The address of the loopback that is meant by no address in particular.
#[must_use]
pub fn loopback_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Any address of a family.
#[must_use]
pub fn any_of(family: i32) -> IpAddr {
    if family == libc::AF_INET6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

/// An address of the instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// The Internet's. One of IPv4 is the same whichever family's socket has it: an IPv6 socket is shown it mapped.
    Inet { ip: IpAddr, port: u16 },
    /// A UNIX name as the guest gave it: a path, an abstract name (first byte 0), or nothing.
    Unix(Vec<u8>),
}

impl Address {
    /// From the bytes of a `struct sockaddr` that a socket of this family was given.
    ///
    /// Flow labels mean nothing here. Nor do scope ids: no address inside needs one.
    ///
    /// # Errors
    /// EINVAL, EAFNOSUPPORT.
    pub fn parse(bytes: &[u8], family: i32) -> Result<Self, Errno> {
        let least = match family {
            libc::AF_INET => INET_BYTES,
            libc::AF_INET6 => INET6_BYTES,
            _ => 2,
        };
        if bytes.len() < least {
            return Err(EINVAL);
        }
        let (own, rest) = bytes.split_first_chunk().ok_or(EINVAL)?;
        let named = i32::from(u16::from_le_bytes(*own)) == family;
        match family {
            libc::AF_INET | libc::AF_INET6 if !named => Err(EAFNOSUPPORT),
            libc::AF_INET => {
                let (port, rest) = rest.split_first_chunk().ok_or(EINVAL)?;
                let ip: &[u8; 4] = rest.first_chunk().ok_or(EINVAL)?;
                Ok(Self::Inet {
                    ip: Ipv4Addr::from(*ip).into(),
                    port: u16::from_be_bytes(*port),
                })
            }
            libc::AF_INET6 => {
                let (port, rest) = rest.split_first_chunk().ok_or(EINVAL)?;
                let (_flow, rest) = rest.split_first_chunk::<4>().ok_or(EINVAL)?;
                let (ip, rest) = rest.split_first_chunk::<16>().ok_or(EINVAL)?;
                let ip = Ipv6Addr::from(*ip);
                let scope = rest.first_chunk().map_or(0, |s| u32::from_le_bytes(*s));
                if ip.is_unicast_link_local() && scope == 0 {
                    return Err(EINVAL);
                }
                Ok(Self::Inet {
                    ip: ip.to_canonical(),
                    port: u16::from_be_bytes(*port),
                })
            }
            libc::AF_UNIX if named && bytes.len() <= MAX_ADDRESS => {
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

    /// From the bytes that [`Self::bytes`] gave.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_own(bytes: &[u8]) -> Result<Self, Errno> {
        let family = bytes.first_chunk().ok_or(EINVAL)?;
        Self::parse(bytes, u16::from_le_bytes(*family).into())
    }

    /// As a `struct sockaddr` of its own family.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_for(match self {
            Self::Inet { ip, .. } if ip.is_ipv6() => libc::AF_INET6,
            _ => libc::AF_INET,
        })
    }

    /// As the `struct sockaddr` that a socket of this family shows.
    #[must_use]
    pub fn bytes_for(&self, family: i32) -> Vec<u8> {
        match self {
            Self::Inet { ip, port } => {
                let ip = match ip {
                    IpAddr::V4(ip) if family == libc::AF_INET6 => ip.to_ipv6_mapped().into(),
                    ip => *ip,
                };
                let (bytes, length) = sockaddr(SocketAddr::new(ip, *port));
                bytes.get(..length).unwrap_or_default().to_vec()
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
        if is_internet(family) {
            let ip = any_of(family);
            Self::Inet { ip, port: 0 }
        } else {
            Self::Unix(Vec::new())
        }
    }
}

/// Where an Internet socket is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// At an address, or at any of its family.
    At(IpAddr),
    /// At any address of both families: `::` without IPV6_V6ONLY.
    Everywhere,
}

impl Place {
    fn meets(self, other: Self) -> bool {
        match (self, other) {
            (Self::At(one), Self::At(other)) => {
                one.is_ipv4() == other.is_ipv4()
                    && (one == other || one.is_unspecified() || other.is_unspecified())
            }
            _ => true,
        }
    }
}

/// What names a socket in the instance's table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Type, place, port.
    Inet(i32, Place, u16),
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

/// Options of a socket that were set: level and name, value.
pub type Options = BTreeMap<(i32, i32), Vec<u8>>;

/// What of a socket changes.
#[derive(Debug)]
pub struct State {
    pub role: Role,
    /// Its own name.
    pub local: Option<Address>,
    /// Its own address is not one that it was bound to, but the one towards its peer.
    pub chosen: bool,
    /// Whom it is connected to.
    pub peer: Option<Address>,
    /// Connected, but the guest was told EINPROGRESS and has not asked again.
    pub in_progress: bool,
    /// The next write to a connection that is closed at its other end is lost without an error, as TCP's is: it goes
    /// out before the answer that says so comes back.
    pub loses_one: bool,
    /// Where its last datagram to the outside went: that was allowed.
    pub allowed: Option<Address>,
    pub options: Options,
}

/// A socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// `AF_UNIX`, `AF_INET` or `AF_INET6`.
    pub family: i32,
    /// `SOCK_STREAM`, `SOCK_DGRAM` or `SOCK_SEQPACKET`.
    pub kind: i32,
    state: Mutex<State>,
    count: Arc<AtomicUsize>,
    /// Behind the descriptors, as it looks what went with them.
    _landing: Landing,
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

    /// Whether it is of one of the Internet's families.
    #[must_use]
    pub fn is_internet(&self) -> bool {
        is_internet(self.family)
    }

    /// Whether it is an IPv6 socket that wants nothing of IPv4.
    #[must_use]
    pub fn is_ipv6_only(&self) -> bool {
        self.has_set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)
    }

    fn has_set(&self, level: i32, name: i32) -> bool {
        let state = self.state();
        let set = state.options.get(&(level, name));
        set.is_some_and(|value| value.iter().any(|byte| *byte != 0))
    }

    /// Whether both may have one address (socket(7)).
    fn shares_with(&self, other: &Self) -> bool {
        let both =
            |name| self.has_set(libc::SOL_SOCKET, name) && other.has_set(libc::SOL_SOCKET, name);
        both(libc::SO_REUSEPORT) || (self.kind == libc::SOCK_DGRAM && both(libc::SO_REUSEADDR))
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
    /// Those of one name share it: SO_REUSEPORT, and SO_REUSEADDR of datagram sockets. The newest is last.
    names: Mutex<BTreeMap<Key, Vec<Weak<Socket>>>>,
    count: Arc<AtomicUsize>,
    /// Descriptions on their way through a socket.
    pub in_flight: Arc<InFlight>,
}

/// Descriptions on their way through sockets.
///
/// What travels is a token, a pipe's writing end. The reading end hangs up once nobody can receive it any more: the sockets that it
/// was on its way between are gone.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<Flight>);

#[derive(Debug, Default)]
struct Flight {
    /// By the token's inode: the pipe's reading end, and what travels.
    messages: BTreeMap<u64, (OwnedFd, Vec<Arc<Description>>)>,
    /// Somebody drops what nobody can receive, and is to look again.
    sweeping: bool,
    again: bool,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, Flight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keep descriptions for whoever receives the token with this inode.
    ///
    /// # Errors
    /// ETOOMANYREFS.
    pub fn put(
        &self,
        token: u64,
        reading: OwnedFd,
        descriptions: Vec<Arc<Description>>,
    ) -> Result<(), Errno> {
        let mut flight = self.lock();
        if flight.messages.len() >= MAX_IN_FLIGHT {
            return Err(ETOOMANYREFS);
        }
        flight.messages.insert(token, (reading, descriptions));
        Ok(())
    }

    /// What the token with this inode stands for; kept for another receiver unless it is the `last`.
    pub fn take(&self, token: u64, last: bool) -> Vec<Arc<Description>> {
        let mut flight = self.lock();
        if last {
            flight.messages.remove(&token).map(|(_, d)| d)
        } else {
            flight.messages.get(&token).map(|(_, d)| d.clone())
        }
        .unwrap_or_default()
    }

    /// Drop what nobody can receive any more.
    fn sweep(&self) {
        {
            let mut flight = self.lock();
            if flight.messages.is_empty() {
                return;
            }
            // What is dropped may be sockets with messages of their own: the outermost sweep sees to those, so that no chain of them
            // takes the stack.
            if std::mem::replace(&mut flight.sweeping, true) {
                flight.again = true;
                return;
            }
        }
        loop {
            let gone = self.lock().take_dead();
            drop(gone);
            let mut flight = self.lock();
            if !std::mem::take(&mut flight.again) {
                flight.sweeping = false;
                return;
            }
        }
    }
}

impl Flight {
    fn take_dead(&mut self) -> Vec<(OwnedFd, Vec<Arc<Description>>)> {
        let mut polled: Vec<libc::pollfd> = (self.messages.values())
            .map(|(reading, _)| libc::pollfd {
                fd: reading.as_raw_fd(),
                events: 0,
                revents: 0,
            })
            .collect();
        // SAFETY: the list is live; the call does not wait.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 0) };
        let dead: Vec<u64> = (self.messages.keys().zip(&polled))
            .filter(|(_, p)| p.revents & libc::POLLHUP != 0)
            .map(|(token, _)| *token)
            .collect();
        let taken = dead.iter().filter_map(|t| self.messages.remove(t));
        taken.collect()
    }
}

/// Looks, when it is dropped, what nobody can receive any more.
#[derive(Debug)]
struct Landing(Arc<InFlight>);

impl Drop for Landing {
    fn drop(&mut self) {
        self.0.sweep();
    }
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
                chosen: false,
                peer: None,
                in_progress: false,
                loses_one: is_internet(family) && kind == libc::SOCK_STREAM,
                allowed: None,
                options: BTreeMap::new(),
            }),
            count: Arc::clone(&self.count),
            _landing: Landing(Arc::clone(&self.in_flight)),
        }))
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<Key, Vec<Weak<Socket>>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has this name: of several the newest, of those that listen where any does.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<Arc<Socket>> {
        let names = self.names();
        let live = |key: &Key| {
            let holders = names.get(key)?.iter().rev().filter_map(Weak::upgrade);
            let holders: Vec<_> = holders.collect();
            let listening = |s: &&Arc<Socket>| matches!(s.state().role, Role::Listening(..));
            let found = holders.iter().find(listening).or(holders.first());
            found.cloned()
        };
        live(key).or_else(|| match key {
            Key::Inet(kind, Place::At(ip), port) => {
                let any = Place::At(match ip {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                });
                let at = |place| live(&Key::Inet(*kind, place, *port));
                at(any).or_else(|| at(Place::Everywhere))
            }
            _ => None,
        })
    }

    /// Give a name to a socket.
    ///
    /// # Errors
    /// EADDRINUSE.
    pub fn claim(&self, key: Key, socket: &Arc<Socket>) -> Result<(), Errno> {
        self.claim_unless(key, socket, |holder| !holder.shares_with(socket))
    }

    /// As [`Self::claim`]; a place on the Internet's is refused where it is `taken` by another socket.
    fn claim_unless(
        &self,
        key: Key,
        socket: &Arc<Socket>,
        taken: impl Fn(&Socket) -> bool,
    ) -> Result<(), Errno> {
        let mut names = self.names();
        names.retain(|_, holders| {
            holders.retain(|holder| holder.strong_count() > 0);
            !holders.is_empty()
        });
        let taken = match &key {
            Key::Inet(kind, place, port) => names
                .iter()
                .filter(|(k, _)| {
                    matches!(k, Key::Inet(k, at, p) if k == kind && p == port && at.meets(*place))
                })
                .flat_map(|(_, holders)| holders)
                .filter_map(Weak::upgrade)
                .any(|holder| taken(&holder)),
            other => names.contains_key(other),
        };
        if taken {
            return Err(EADDRINUSE);
        }
        names.entry(key).or_default().push(Arc::downgrade(socket));
        Ok(())
    }

    /// Give an Internet address to a socket, with a free port where none was asked for; returns it.
    ///
    /// # Errors
    /// EADDRINUSE, EADDRNOTAVAIL.
    pub fn claim_inet(
        &self,
        ip: IpAddr,
        port: u16,
        socket: &Arc<Socket>,
    ) -> Result<Address, Errno> {
        if !ip.is_unspecified() && !ip.is_loopback() {
            return Err(EADDRNOTAVAIL);
        }
        let only = socket.is_ipv6_only();
        let place = match ip {
            // IPv4's, mapped.
            IpAddr::V4(_) if only => return Err(EINVAL),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if !only => Place::Everywhere,
            ip => Place::At(ip),
        };
        if port != 0 {
            self.claim(Key::Inet(socket.kind, place, port), socket)?;
            return Ok(Address::Inet { ip, port });
        }
        // From a random place on, so that a port is not at once somebody else's.
        let mut random = [0u8; 2];
        // SAFETY: two bytes are live.
        unsafe { libc::getrandom(random.as_mut_ptr().cast(), 2, 0) };
        let first = u16::from_le_bytes(random) % EPHEMERAL.len() as u16;
        for step in 0..EPHEMERAL.len() as u16 {
            let port = EPHEMERAL.start + (first + step) % EPHEMERAL.len() as u16;
            // One that is not chosen is nobody else's, whatever either allows.
            match self.claim_unless(Key::Inet(socket.kind, place, port), socket, |_| true) {
                Err(e) if e == EADDRINUSE => {}
                other => return other.map(|()| Address::Inet { ip, port }),
            }
        }
        Err(EADDRINUSE)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn inet(ip: &str, port: u16) -> Address {
        let ip = ip.parse().unwrap();
        Address::Inet { ip, port }
    }

    #[test]
    fn addresses_survive_their_bytes() {
        for address in [
            inet("127.0.0.1", 80),
            inet("::1", 80),
            inet("2001:db8::7", 1),
            Address::Unix(b"/tmp/s".to_vec()),
            Address::Unix(b"\0abstract".to_vec()),
            Address::Unix(Vec::new()),
        ] {
            assert_eq!(Address::parse_own(&address.bytes()).unwrap(), address);
        }
        let mapped = inet("127.0.0.1", 80).bytes_for(libc::AF_INET6);
        assert_eq!((mapped.len(), &mapped[18..20]), (28, &[0xff, 0xff][..]));
        assert_eq!(
            Address::parse(&mapped, libc::AF_INET6),
            Ok(inet("127.0.0.1", 80))
        );
    }

    #[test]
    fn bytes_that_are_no_address_are_refused() {
        use libc::{AF_INET, AF_INET6, AF_UNIX};
        assert_eq!(Address::parse_own(b""), Err(EINVAL));
        assert_eq!(Address::parse_own(&[2, 0, 0]), Err(EINVAL));
        assert_eq!(Address::parse_own(&[1u8; 200]), Err(EAFNOSUPPORT));
        let six = inet("::1", 9).bytes();
        assert_eq!(Address::parse(&six[..23], AF_INET6), Err(EINVAL));
        assert_eq!(Address::parse(&six[..24], AF_INET6), Ok(inet("::1", 9)));
        assert_eq!(Address::parse(&six[..15], AF_INET), Err(EINVAL));
        assert_eq!(Address::parse(&six, AF_INET), Err(EAFNOSUPPORT));
        assert_eq!(Address::parse(&six, AF_UNIX), Err(EINVAL));
        // Link-local without an interface.
        let mut local = inet("fe80::1", 9).bytes();
        assert_eq!(Address::parse(&local, AF_INET6), Err(EINVAL));
        local[24] = 1;
        assert_eq!(Address::parse(&local, AF_INET6), Ok(inet("fe80::1", 9)));
        let mut long = vec![1u8, 0];
        long.resize(MAX_ADDRESS + 1, b'x');
        assert_eq!(Address::parse(&long, AF_UNIX), Err(EINVAL));
    }

    fn made(net: &Net, options: &[i32], kind: i32) -> Arc<Socket> {
        let (near, far) = crate::syscall::polling::new_pair(kind).unwrap();
        let role = Role::Fresh(far);
        let socket = net.socket(near, libc::AF_INET, kind, role).unwrap();
        for option in options {
            let key = (libc::SOL_SOCKET, *option);
            socket.state().options.insert(key, vec![1, 0, 0, 0]);
        }
        socket
    }

    #[test]
    fn an_address_is_shared_by_those_that_all_allow_it() {
        use libc::{SO_REUSEADDR, SO_REUSEPORT, SOCK_DGRAM, SOCK_STREAM};
        let net = Net::default();
        let ip = Ipv4Addr::LOCALHOST.into();
        let claim = |socket: &Arc<Socket>, port| net.claim_inet(ip, port, socket).is_ok();
        let one = made(&net, &[SO_REUSEPORT], SOCK_STREAM);
        let other = made(&net, &[SO_REUSEPORT], SOCK_STREAM);
        let without = made(&net, &[SO_REUSEADDR], SOCK_STREAM);
        assert!(claim(&one, 80) && claim(&other, 80) && !claim(&without, 80));
        let key = Key::Inet(SOCK_STREAM, Place::At(ip), 80);
        assert!(Arc::ptr_eq(&net.find(&key).unwrap(), &other));
        drop(other);
        assert!(Arc::ptr_eq(&net.find(&key).unwrap(), &one));
        drop(one);
        assert!(net.find(&key).is_none() && claim(&without, 80));
        let (one, other) = (
            made(&net, &[SO_REUSEADDR], SOCK_DGRAM),
            made(&net, &[SO_REUSEADDR], SOCK_DGRAM),
        );
        assert!(claim(&one, 81) && claim(&other, 81));
    }

    #[test]
    fn places_that_meet() {
        let at = |ip: &str| Place::At(ip.parse().unwrap());
        assert!(Place::Everywhere.meets(at("127.0.0.1")) && at("::1").meets(Place::Everywhere));
        assert!(at("::").meets(at("::1")) && at("127.0.0.1").meets(at("0.0.0.0")));
        assert!(!at("::").meets(at("0.0.0.0")) && !at("127.0.0.1").meets(at("127.0.0.2")));
    }
}
