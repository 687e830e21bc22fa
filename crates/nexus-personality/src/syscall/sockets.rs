//! Sockets: made, named, connected, inside the instance (`files/socket.rs`), or to the outside by the backend
//! (`files/outside.rs`).

use super::io::description;
use super::open::resolve_path;
use crate::errno::{
    EADDRINUSE, EAFNOSUPPORT, EAGAIN, EALREADY, ECONNREFUSED, EINPROGRESS, EINVAL, EISCONN,
    ENETUNREACH, ENOBUFS, ENOENT, ENOTCONN, ENOTSOCK, EOPNOTSUPP, EPERM, EPROTONOSUPPORT,
    EPROTOTYPE, ESOCKTNOSUPPORT, Errno, SysResult, check,
};
use crate::files::names::Node;
use crate::files::outside::{self, Progress};
use crate::files::socket::{
    Address, Key, Place, Role, Socket, State, any_of, is_internet, loopback_of,
};
use crate::files::tmpfs::{Content, Inode};
use crate::files::{Description, Object};
use crate::machine::Cpu;
use crate::syscall::polling::{give_pair, new_pair};
use crate::thread::Thread;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, MutexGuard};

/// Connections that may wait at one listening socket, whatever it asked for.
const BACKLOG: usize = 128;

/// What the guest is told its addresses to the outside are.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::from_octets(nexus_abi::network::OWN));
const OWN_V6: IpAddr = IpAddr::V6(Ipv6Addr::from_octets(nexus_abi::network::OWN_V6));

/// The socket behind a descriptor.
///
/// # Errors
/// EBADF, ENOTSOCK.
pub(super) fn socket_of(t: &Thread, fd: u64) -> Result<(Arc<Description>, Arc<Socket>), Errno> {
    let d = description(t, fd)?;
    let Object::Socket(socket) = &d.object else {
        return Err(ENOTSOCK);
    };
    let socket = Arc::clone(socket);
    Ok((d, socket))
}

fn read_bytes(t: &Thread, at: u64, length: u64) -> Result<Vec<u8>, Errno> {
    let length = u64::from(length as u32);
    if length > 128 {
        return Err(EINVAL);
    }
    let mut bytes = vec![0u8; length as usize];
    t.process.memory.read_bytes(at, &mut bytes)?;
    Ok(bytes)
}

/// The family that an address names.
fn named(bytes: &[u8]) -> Option<i32> {
    let family = bytes.first_chunk()?;
    Some(u16::from_le_bytes(*family).into())
}

/// An address of no family, as one of IPv4.
fn as_ipv4(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(family) = bytes.first_chunk_mut() {
        *family = (libc::AF_INET as u16).to_le_bytes();
    }
    bytes
}

/// Copy an address in that a socket sends to; `None`: it is to go to whom it is connected to.
///
/// # Errors
/// EFAULT, EINVAL, EAFNOSUPPORT; ENETUNREACH where the socket has nothing to do with that family.
pub(super) fn read_recipient(
    t: &Thread,
    socket: &Socket,
    at: u64,
    length: u64,
) -> Result<Option<Address>, Errno> {
    let bytes = read_bytes(t, at, length)?;
    let bytes = match (socket.kind, socket.family, named(&bytes)) {
        (libc::SOCK_DGRAM, libc::AF_INET, Some(libc::AF_UNSPEC)) => as_ipv4(bytes),
        (libc::SOCK_DGRAM, libc::AF_INET6, Some(libc::AF_UNSPEC)) => return Ok(None),
        (_, _, Some(libc::AF_INET | libc::AF_INET6)) => bytes,
        (libc::SOCK_DGRAM, libc::AF_INET6, _) => return Err(EINVAL),
        _ => bytes,
    };
    match destination(socket, &bytes)? {
        Address::Inet { port: 0, .. } if socket.kind == libc::SOCK_DGRAM => Err(EINVAL),
        address => Ok(Some(address)),
    }
}

fn destination(socket: &Socket, bytes: &[u8]) -> Result<Address, Errno> {
    // Who sends datagrams by IPv6 may name an address of IPv4 as such.
    let plain = named(bytes) == Some(libc::AF_INET);
    let family = match socket.family {
        libc::AF_INET6 if plain && socket.kind == libc::SOCK_DGRAM => libc::AF_INET,
        family => family,
    };
    let address = Address::parse(bytes, family)?;
    let (libc::AF_INET6, Address::Inet { ip, port }) = (socket.family, &address) else {
        return Ok(address);
    };
    let (ip, port) = (*ip, *port);
    if ip.is_ipv4() && socket.is_ipv6_only() {
        return Err(ENETUNREACH);
    }
    let state = socket.state();
    match state.local {
        Some(Address::Inet { ip: own, .. }) if !own.is_unspecified() && !state.chosen => {
            match (own, ip) {
                (IpAddr::V6(_), IpAddr::V4(_)) => Err(ENETUNREACH),
                (IpAddr::V4(_), IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => {
                    let ip = Ipv4Addr::UNSPECIFIED.into();
                    Ok(Address::Inet { ip, port })
                }
                (IpAddr::V4(_), IpAddr::V6(_)) => Err(EAFNOSUPPORT),
                _ => Ok(address),
            }
        }
        _ => Ok(address),
    }
}

/// Copy an address out as a socket of this family shows it, as much of it as the guest has room for; its length goes to
/// `length`.
///
/// # Errors
/// EFAULT, EINVAL.
pub(super) fn write_address(
    t: &Thread,
    address: &Address,
    family: i32,
    at: u64,
    length: u64,
) -> Result<(), Errno> {
    if at == 0 {
        return Ok(());
    }
    let bytes = address.bytes_for(family);
    let room: i32 = t.process.memory.read(length)?;
    let room = usize::try_from(room).map_err(|_| EINVAL)?;
    let part = bytes.get(..room.min(bytes.len())).unwrap_or_default();
    t.process.memory.write_bytes(at, part)?;
    t.process.memory.write(length, bytes.len() as u32)
}

/// Type and flags of `socket` and `socketpair`.
fn kind_of(kind: u64) -> Result<(i32, i32), Errno> {
    let (kind, flags) = (kind as i32 & 0xf, kind as i32 & !0xf);
    if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
        return Err(EINVAL);
    }
    match kind {
        libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET => Ok((kind, flags)),
        libc::SOCK_RAW => Err(EPERM),
        _ => Err(EINVAL),
    }
}

/// What the host keeps at most of what one end has sent, in bytes: `/proc/sys/net/core/wmem_default`, and the message that
/// passes it.
const SOCKET_BYTES: u64 = 212_992 + (64 << 10);

fn described(t: &Thread, socket: Arc<Socket>, status: i32) -> Result<Arc<Description>, Errno> {
    let held = t.process.ledger.hold(SOCKET_BYTES).map_err(|_| ENOBUFS)?;
    Ok(Description::holding(
        Object::Socket(socket),
        status,
        Arc::new(held),
    ))
}

fn insert(t: &Thread, socket: Arc<Socket>, flags: i32) -> SysResult {
    let status = libc::O_RDWR | flags & libc::SOCK_NONBLOCK;
    let d = described(t, socket, status)?;
    t.process
        .files()
        .insert(d, flags & libc::SOCK_CLOEXEC != 0, 0)
}

pub fn socket(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [domain, kind, protocol, ..]: [u64; 6],
) -> SysResult {
    let domain = domain as i32;
    if domain != libc::AF_UNIX && !is_internet(domain) {
        return Err(EAFNOSUPPORT);
    }
    let (kind, flags) = kind_of(kind)?;
    if is_internet(domain) && kind == libc::SOCK_SEQPACKET {
        return Err(ESOCKTNOSUPPORT);
    }
    let own = match kind {
        libc::SOCK_STREAM => libc::IPPROTO_TCP,
        _ => libc::IPPROTO_UDP,
    };
    if protocol as i32 != 0 && !(is_internet(domain) && protocol as i32 == own) {
        return Err(EPROTONOSUPPORT);
    }
    // Datagrams travel as packets of a pair, so that the host's limit on waiting datagrams does not bind.
    let beneath = if kind == libc::SOCK_STREAM {
        libc::SOCK_STREAM
    } else {
        libc::SOCK_SEQPACKET
    };
    let (near, far) = new_pair(beneath)?;
    set_nonblocking(&near, flags & libc::SOCK_NONBLOCK)?;
    let role = if kind == libc::SOCK_DGRAM {
        Role::Datagram(far)
    } else {
        Role::Fresh(far)
    };
    let socket = t.process.net.socket(near, domain, kind, role)?;
    insert(t, socket, flags)
}

/// Whether the host's calls on this descriptor do not wait.
pub(super) fn is_nonblocking(fd: RawFd) -> bool {
    // SAFETY: a plain call on a descriptor of ours.
    unsafe { libc::fcntl(fd, libc::F_GETFL) & libc::O_NONBLOCK != 0 }
}

fn set_nonblocking(fd: &OwnedFd, flag: i32) -> SysResult {
    // SAFETY: a plain call on a descriptor of ours.
    check(i64::from(unsafe {
        libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flag)
    }))
}

/// socketpair(2), UNIX only: both ends inside the guest.
pub fn socketpair(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [domain, kind, protocol, to, ..]: [u64; 6],
) -> SysResult {
    if domain as i32 != libc::AF_UNIX {
        return Err(if is_internet(domain as i32) {
            EOPNOTSUPP
        } else {
            EAFNOSUPPORT
        });
    }
    let (kind, flags) = kind_of(kind)?;
    if protocol != 0 {
        return Err(EPROTONOSUPPORT);
    }
    let (a, b) = new_pair(kind | flags & libc::SOCK_NONBLOCK)?;
    let status = libc::O_RDWR | flags & libc::SOCK_NONBLOCK;
    let end = |fd| {
        let socket = t
            .process
            .net
            .socket(fd, libc::AF_UNIX, kind, Role::Connected)?;
        described(t, socket, status)
    };
    let (a, b) = (end(a)?, end(b)?);
    give_pair(t, to, a, b, flags & libc::SOCK_CLOEXEC != 0)
}

/// Whether it is one of the instance's own addresses.
fn is_inside(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_loopback() || ip == OWN || ip == OWN_V6
}

/// The address that what goes to another seems to come from.
fn source_towards(to: IpAddr) -> IpAddr {
    match to {
        to if is_inside(to) => loopback_of(to),
        IpAddr::V4(_) => OWN,
        IpAddr::V6(_) => OWN_V6,
    }
}

/// A socket's own address, as those at `to` see it.
pub(super) fn seen_from(state: &State, family: i32, to: &Address) -> Address {
    match (&state.local, to) {
        (Some(Address::Inet { ip, port }), Address::Inet { ip: to, .. }) if ip.is_unspecified() => {
            Address::Inet {
                ip: source_towards(*to),
                port: *port,
            }
        }
        (Some(local), _) => local.clone(),
        (None, _) => Address::unnamed(family),
    }
}

/// An address of its own that only its peer decided on is any again.
fn forget_choice(state: &mut State, family: i32) {
    if std::mem::take(&mut state.chosen)
        && let Some(Address::Inet { ip, .. }) = &mut state.local
    {
        *ip = any_of(family);
    }
}

/// Who is connected has one address, if it had any: the one towards its peer.
fn settle(state: &mut State, family: i32, peer: &Address) {
    forget_choice(state, family);
    let seen = state.local.as_ref().map(|_| seen_from(state, family, peer));
    if seen != state.local {
        state.local = seen;
        state.chosen = true;
    }
}

/// The table's key for an address that is to be reached.
pub(super) fn key_of(t: &Thread, kind: i32, address: &Address) -> Result<Key, Errno> {
    match address {
        Address::Inet { ip, port } if is_inside(*ip) => {
            let ip = if ip.is_loopback() {
                *ip
            } else {
                loopback_of(*ip)
            };
            Ok(Key::Inet(kind, Place::At(ip), *port))
        }
        Address::Inet { .. } => Err(ENETUNREACH),
        Address::Unix(name) => match name.first() {
            None => Err(ECONNREFUSED),
            Some(0) => Ok(Key::Abstract(name.clone())),
            Some(_) => match resolve_path(t, name)?.node {
                Some(Node::Memory(inode)) if matches!(inode.content, Content::Socket) => {
                    Ok(Key::File(inode.number))
                }
                Some(_) => Err(ECONNREFUSED),
                None => Err(ENOENT),
            },
        },
    }
}

/// The socket that an address names.
pub(super) fn reach(t: &Thread, own: &Socket, address: &Address) -> Result<Arc<Socket>, Errno> {
    let key = key_of(t, own.kind, address)?;
    let found = t.process.net.find(&key).ok_or(ECONNREFUSED)?;
    if found.kind == own.kind {
        Ok(found)
    } else {
        Err(EPROTOTYPE)
    }
}

pub fn bind(t: &mut Thread, _: &mut dyn Cpu, [fd, at, length, ..]: [u64; 6]) -> SysResult {
    let (_, socket) = socket_of(t, fd)?;
    let bytes = read_bytes(t, at, length)?;
    // Any address of IPv4 may be one of no family.
    let any = socket.family == libc::AF_INET
        && named(&bytes) == Some(libc::AF_UNSPEC)
        && bytes.get(4..8) == Some(&[0; 4]);
    let bytes = if any { as_ipv4(bytes) } else { bytes };
    let address = Address::parse(&bytes, socket.family)?;
    if socket.state().local.is_some() {
        return Err(EINVAL);
    }
    let local = match address {
        Address::Inet { ip, port } => t.process.net.claim_inet(ip, port, &socket)?,
        Address::Unix(name) if name.is_empty() => {
            // A name of the system's choice: five digits, as Linux has it.
            let free = (0..0x10_0000u32).map(|n| format!("\0{n:05x}").into_bytes());
            let mut taken = None;
            for name in free.take(4096) {
                if t.process
                    .net
                    .claim(Key::Abstract(name.clone()), &socket)
                    .is_ok()
                {
                    taken = Some(name);
                    break;
                }
            }
            Address::Unix(taken.ok_or(EADDRINUSE)?)
        }
        Address::Unix(name) if name.first() == Some(&0) => {
            t.process.net.claim(Key::Abstract(name.clone()), &socket)?;
            Address::Unix(name)
        }
        Address::Unix(name) => {
            let _naming = super::open::naming(t);
            let resolved = resolve_path(t, &name)?;
            if resolved.node.is_some() {
                return Err(EADDRINUSE);
            }
            let parent = super::open::parent(t, &resolved)?;
            let inode = Inode::socket(parent.usage(), 0o777 & !t.process.umask())?;
            parent.add(resolved.split().1, Arc::clone(&inode))?;
            t.process.net.claim(Key::File(inode.number), &socket)?;
            Address::Unix(name)
        }
    };
    socket.state().local = Some(local);
    Ok(0)
}

/// Give a socket that is used before it was bound a name, as Linux does for Internet sockets.
pub(super) fn name_it(t: &Thread, socket: &Arc<Socket>) -> Result<(), Errno> {
    if socket.is_internet() && socket.state().local.is_none() {
        let any = any_of(socket.family);
        let local = t.process.net.claim_inet(any, 0, socket)?;
        socket.state().local = Some(local);
    }
    Ok(())
}

pub fn listen(t: &mut Thread, _: &mut dyn Cpu, [fd, ..]: [u64; 6]) -> SysResult {
    let (_, socket) = socket_of(t, fd)?;
    if socket.kind == libc::SOCK_DGRAM {
        return Err(EOPNOTSUPP);
    }
    if socket.family == libc::AF_UNIX && socket.state().local.is_none() {
        return Err(EINVAL);
    }
    name_it(t, &socket)?;
    let mut state = socket.state();
    match std::mem::replace(&mut state.role, Role::Connected) {
        Role::Fresh(far) => {
            set_nonblocking(&far, libc::O_NONBLOCK)?;
            state.role = Role::Listening(far, std::collections::VecDeque::new());
            Ok(0)
        }
        role => {
            let listening = matches!(role, Role::Listening(..));
            state.role = role;
            if listening { Ok(0) } else { Err(EINVAL) }
        }
    }
}

pub fn connect(t: &mut Thread, _: &mut dyn Cpu, [fd, at, length, ..]: [u64; 6]) -> SysResult {
    let (_, socket) = socket_of(t, fd)?;
    let bytes = read_bytes(t, at, length)?;
    let nobody = named(&bytes) == Some(libc::AF_UNSPEC);
    if nobody && socket.is_internet() && socket.kind == libc::SOCK_STREAM {
        return disconnect(t, &socket);
    }
    if nobody && socket.kind == libc::SOCK_DGRAM {
        let mut state = socket.state();
        state.peer = None;
        forget_choice(&mut state, socket.family);
        return Ok(0);
    }
    let address = destination(&socket, &bytes)?;
    let settled = std::mem::take(&mut socket.state().in_progress);
    let mut again = false;
    match &socket.state().role {
        Role::Connected if settled => return Ok(0),
        Role::Connected => return Err(EISCONN),
        Role::Listening(..) => return Err(EINVAL),
        Role::Outside => again = true,
        Role::Fresh(_) | Role::Datagram(_) => {}
    }
    if again {
        match outside::progress(socket.host()) {
            Progress::Connecting => {
                socket.state().in_progress = settled;
                return Err(EALREADY);
            }
            Progress::Connected if settled => return Ok(0),
            Progress::Connected => return Err(EISCONN),
            Progress::Failed(error) if settled => return Err(error),
            Progress::Failed(_) => {}
        }
    }
    if socket.kind == libc::SOCK_DGRAM {
        let reached = reach(t, &socket, &address);
        // An Internet datagram's receiver need not be there yet.
        if socket.family == libc::AF_UNIX {
            reached?;
        } else if reached.is_err_and(|e| e == ENETUNREACH) {
            allow(t, &socket, &address)?;
        }
        name_it(t, &socket)?;
        let mut state = socket.state();
        settle(&mut state, socket.family, &address);
        state.peer = Some(at_loopback(address));
        return Ok(0);
    }
    let target = match reach(t, &socket, &address) {
        Err(e) if e == ENETUNREACH || e == ECONNREFUSED => {
            return connect_outside(t, &socket, address, e);
        }
        // Its number is a socket of the backend's by now.
        Ok(_) if again => return Err(ECONNREFUSED),
        other => other?,
    };
    name_it(t, &socket)?;
    if Arc::ptr_eq(&target, &socket) {
        return Err(ECONNREFUSED);
    }
    let (mut own, mut theirs) = both(&socket, &target);
    let (local, options) = (theirs.local.clone(), theirs.options.clone());
    let Role::Listening(wake, queue) = &mut theirs.role else {
        return Err(ECONNREFUSED);
    };
    if queue.len() >= BACKLOG {
        return Err(EAGAIN);
    }
    let far = match std::mem::replace(&mut own.role, Role::Connected) {
        Role::Fresh(far) => far,
        role => {
            own.role = role;
            return Err(EISCONN);
        }
    };
    let accepted = t
        .process
        .net
        .socket(far, target.family, socket.kind, Role::Connected)?;
    let peer = at_loopback(address);
    settle(&mut own, socket.family, &peer);
    {
        let mut state = accepted.state();
        state.local = match local {
            Some(Address::Inet { .. }) => Some(peer.clone()),
            other => other,
        };
        state.peer = Some(own.local.clone().unwrap_or(Address::unnamed(socket.family)));
        state.options = super::socket_options::inherited(&target, options, accepted.host());
    }
    own.peer = Some(peer);
    queue.push_back(accepted);
    // SAFETY: one byte is live; the descriptor does not block.
    check(unsafe { libc::write(wake.as_raw_fd(), [0u8].as_ptr().cast(), 1) } as i64)?;
    // As TCP does it: who does not want to wait learns of the connection by polling.
    if socket.is_internet() && is_nonblocking(socket.host()) {
        own.in_progress = true;
        return Err(EINPROGRESS);
    }
    Ok(0)
}

/// Make a stream a fresh one, whatever it was connected to or waited for. Its other end sees an end, where TCP has a reset.
fn disconnect(t: &Thread, socket: &Arc<Socket>) -> SysResult {
    {
        let mut state = socket.state();
        if matches!(state.role, Role::Fresh(_)) {
            return Ok(0);
        }
        let (near, far) = new_pair(socket.kind)?;
        let nonblocking = is_nonblocking(socket.host());
        let status = if nonblocking { libc::O_NONBLOCK } else { 0 };
        // Who waits on it in another thread has what is replaced, and would go on waiting.
        // SAFETY: a plain call on a descriptor of ours; one that is not connected has nobody to tell.
        unsafe { libc::shutdown(socket.host(), libc::SHUT_RDWR) };
        outside::replace(socket.host(), &near, status)?;
        state.role = Role::Fresh(far);
        state.peer = None;
        state.in_progress = false;
        state.loses_one = true;
        forget_choice(&mut state, socket.family);
    }
    super::polling::register_again(t, socket);
    Ok(0)
}

/// Have the backend make a connection, and put it in the socket's place. `nowhere`: what to say without a backend.
fn connect_outside(
    t: &Thread,
    socket: &Arc<Socket>,
    address: Address,
    nowhere: Errno,
) -> SysResult {
    let (Some(outside), true) = (&t.process.net.outside, socket.is_internet()) else {
        return Err(nowhere);
    };
    let address = at_loopback(address);
    let waits = !is_nonblocking(socket.host());
    let made = outside.connect(&address)?;
    name_it(t, socket)?;
    {
        let mut state = socket.state();
        let status = if waits { 0 } else { libc::O_NONBLOCK };
        outside::replace(socket.host(), &made, status)?;
        state.role = Role::Outside;
        settle(&mut state, socket.family, &address);
        state.peer = Some(address);
        state.in_progress = !waits;
        // The host's own TCP does it from here on.
        state.loses_one = false;
        for ((level, name), value) in &state.options {
            super::socket_options::pass_on(socket.host(), *level, *name, value);
        }
    }
    super::polling::register_again(t, socket);
    if !waits {
        return Err(EINPROGRESS);
    }
    let mut polled = libc::pollfd {
        fd: socket.host(),
        events: libc::POLLOUT,
        revents: 0,
    };
    let arguments = [(&raw mut polled) as u64, 1, 0, 0, 0, 0];
    // SAFETY: the entry lives across the call.
    unsafe { t.shared.kick.block(libc::SYS_ppoll, arguments) }?;
    match outside::progress(socket.host()) {
        Progress::Failed(error) => Err(error),
        _ => Ok(0),
    }
}

/// Whether datagrams may go to this address of the outside.
///
/// # Errors
/// ENETUNREACH where there is no way out; what the policy says.
pub(super) fn allow(t: &Thread, socket: &Socket, address: &Address) -> Result<(), Errno> {
    let outside = t.process.net.outside.as_ref().ok_or(ENETUNREACH)?;
    if socket.state().allowed.as_ref() != Some(address) {
        outside.allow(address)?;
        socket.state().allowed = Some(address.clone());
    }
    Ok(())
}

/// The states of two sockets, always locked in the same order: two that connect to each other must not wait for ever.
fn both<'a>(
    one: &'a Arc<Socket>,
    other: &'a Arc<Socket>,
) -> (MutexGuard<'a, State>, MutexGuard<'a, State>) {
    if Arc::as_ptr(one) < Arc::as_ptr(other) {
        let first = one.state();
        (first, other.state())
    } else {
        let first = other.state();
        (one.state(), first)
    }
}

fn at_loopback(address: Address) -> Address {
    match address {
        Address::Inet { ip, port } if ip.is_unspecified() => Address::Inet {
            ip: loopback_of(ip),
            port,
        },
        other => other,
    }
}

pub fn accept(t: &mut Thread, cpu: &mut dyn Cpu, [fd, at, length, ..]: [u64; 6]) -> SysResult {
    accept4(t, cpu, [fd, at, length, 0, 0, 0])
}

pub fn accept4(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, at, length, flags, ..]: [u64; 6],
) -> SysResult {
    let flags = flags as i32;
    if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
        return Err(EINVAL);
    }
    let (_held, socket) = socket_of(t, fd)?;
    if socket.kind == libc::SOCK_DGRAM {
        return Err(EOPNOTSUPP);
    }
    if !matches!(socket.state().role, Role::Listening(..)) {
        return Err(EINVAL);
    }
    let mut byte = 0u8;
    // SAFETY: one byte is live across the call.
    let got = unsafe {
        let arguments = [socket.host() as u64, (&raw mut byte) as u64, 1, 0, 0, 0];
        t.shared.kick.block(libc::SYS_read, arguments)
    }?;
    if got == 0 {
        return Err(EINVAL);
    }
    let accepted = match &mut socket.state().role {
        Role::Listening(_, queue) => queue.pop_front(),
        _ => None,
    };
    let accepted = accepted.ok_or(EAGAIN)?;
    // SAFETY: a plain call on a descriptor of ours.
    check(i64::from(unsafe {
        libc::fcntl(accepted.host(), libc::F_SETFL, flags & libc::SOCK_NONBLOCK)
    }))?;
    let peer = accepted.state().peer.clone();
    write_address(
        t,
        &peer.unwrap_or(Address::unnamed(socket.family)),
        socket.family,
        at,
        length,
    )?;
    insert(t, accepted, flags)
}

pub fn getsockname(t: &mut Thread, _: &mut dyn Cpu, [fd, at, length, ..]: [u64; 6]) -> SysResult {
    let (_, socket) = socket_of(t, fd)?;
    let local = socket.state().local.clone();
    write_address(
        t,
        &local.unwrap_or(Address::unnamed(socket.family)),
        socket.family,
        at,
        length,
    )
    .map(|()| 0)
}

pub fn getpeername(t: &mut Thread, _: &mut dyn Cpu, [fd, at, length, ..]: [u64; 6]) -> SysResult {
    let (_, socket) = socket_of(t, fd)?;
    let (connected, peer) = {
        let state = socket.state();
        (matches!(state.role, Role::Connected), state.peer.clone())
    };
    if matches!(socket.state().role, Role::Outside)
        && outside::progress(socket.host()) != Progress::Connected
    {
        return Err(ENOTCONN);
    }
    let peer = match peer {
        // Nobody is there.
        Some(Address::Inet { port: 0, .. }) => return Err(ENOTCONN),
        Some(peer) => peer,
        None if connected => Address::unnamed(socket.family),
        None => return Err(ENOTCONN),
    };
    write_address(t, &peer, socket.family, at, length).map(|()| 0)
}

pub fn shutdown(t: &mut Thread, _: &mut dyn Cpu, [fd, how, ..]: [u64; 6]) -> SysResult {
    let (_, socket) = socket_of(t, fd)?;
    if how > 2 {
        return Err(EINVAL);
    }
    let unconnected = {
        let state = socket.state();
        matches!(state.role, Role::Fresh(_))
            || matches!(state.role, Role::Datagram(_)) && state.peer.is_none()
    };
    if unconnected {
        return Err(ENOTCONN);
    }
    if how > 0 {
        socket.state().loses_one = false;
    }
    // SAFETY: a plain call on a descriptor of ours.
    check(i64::from(unsafe {
        libc::shutdown(socket.host(), how as i32)
    }))
}
