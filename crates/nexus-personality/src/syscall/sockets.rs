//! Sockets: made, named, connected, inside the instance (`files/socket.rs`), or to the outside by the backend
//! (`files/outside.rs`).

use super::io::description;
use super::open::resolve_path;
use crate::errno::{
    EADDRINUSE, EAFNOSUPPORT, EAGAIN, EALREADY, ECONNREFUSED, EINPROGRESS, EINVAL, EISCONN,
    ENETUNREACH, ENOBUFS, ENOENT, ENOTCONN, ENOTSOCK, EOPNOTSUPP, EPERM, EPROTONOSUPPORT,
    EPROTOTYPE, Errno, SysResult, check,
};
use crate::files::names::Node;
use crate::files::outside::{self, Progress};
use crate::files::socket::{Address, Key, Role, Socket, State};
use crate::files::tmpfs::{Content, Inode};
use crate::files::{Description, Object};
use crate::machine::Cpu;
use crate::syscall::polling::{give_pair, new_pair};
use crate::thread::Thread;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, MutexGuard};

/// Connections that may wait at one listening socket, whatever it asked for.
const BACKLOG: usize = 128;
const LOOPBACK: u32 = 0x7f00_0001;
/// What the guest is told its address to the outside is.
const OWN: u32 = u32::from_be_bytes(nexus_abi::network::OWN);

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

/// Copy an address in.
///
/// # Errors
/// EFAULT, EINVAL, EAFNOSUPPORT.
pub(super) fn read_address(t: &Thread, at: u64, length: u64) -> Result<Address, Errno> {
    let length = u64::from(length as u32);
    if length > 128 {
        return Err(EINVAL);
    }
    let mut bytes = vec![0u8; length as usize];
    t.process.memory.read_bytes(at, &mut bytes)?;
    Address::parse(&bytes)
}

/// Copy an address out, as much of it as the guest has room for; its length goes to `length`.
///
/// # Errors
/// EFAULT, EINVAL.
pub(super) fn write_address(
    t: &Thread,
    address: &Address,
    at: u64,
    length: u64,
) -> Result<(), Errno> {
    if at == 0 {
        return Ok(());
    }
    let bytes = address.bytes();
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
    if !matches!(domain, libc::AF_UNIX | libc::AF_INET) {
        return Err(EAFNOSUPPORT);
    }
    let (kind, flags) = kind_of(kind)?;
    let fits = matches!(
        (domain, kind, protocol as i32),
        (_, _, 0)
            | (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP)
            | (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP)
    );
    if !fits || (domain == libc::AF_INET && kind == libc::SOCK_SEQPACKET) {
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
        return Err(if domain as i32 == libc::AF_INET {
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

/// The table's key for an address that is to be reached.
pub(super) fn key_of(t: &Thread, kind: i32, address: &Address) -> Result<Key, Errno> {
    match address {
        Address::Inet {
            ip: 0 | OWN, port, ..
        } => Ok(Key::Inet(kind, LOOPBACK, *port)),
        Address::Inet { ip, port } if ip >> 24 == 127 => Ok(Key::Inet(kind, *ip, *port)),
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
    if matches!(address, Address::Inet { .. }) != (own.family == libc::AF_INET) {
        return Err(EAFNOSUPPORT);
    }
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
    let address = read_address(t, at, length)?;
    if socket.state().local.is_some() {
        return Err(EINVAL);
    }
    let local = match address {
        _ if matches!(address, Address::Inet { .. }) != (socket.family == libc::AF_INET) => {
            return Err(EAFNOSUPPORT);
        }
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
    let unnamed = socket.family == libc::AF_INET && socket.state().local.is_none();
    if unnamed {
        let local = t.process.net.claim_inet(LOOPBACK, 0, socket)?;
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
    if socket.state().local.is_none() {
        let local = t.process.net.claim_inet(0, 0, &socket)?;
        socket.state().local = Some(local);
    }
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
    if socket.kind == libc::SOCK_DGRAM && length >= 2 && t.process.memory.read::<u16>(at)? == 0 {
        socket.state().peer = None;
        return Ok(0);
    }
    let address = read_address(t, at, length)?;
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
        seem_outside(&socket, &address);
        socket.state().peer = Some(at_loopback(address));
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
    let local = theirs.local.clone();
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
        .socket(far, socket.family, socket.kind, Role::Connected)?;
    let peer = at_loopback(address);
    {
        let mut state = accepted.state();
        state.local = match local {
            Some(Address::Inet { .. }) => Some(peer.clone()),
            other => other,
        };
        state.peer = Some(own.local.clone().unwrap_or(Address::unnamed(socket.family)));
    }
    own.peer = Some(peer);
    queue.push_back(accepted);
    // SAFETY: one byte is live; the descriptor does not block.
    check(unsafe { libc::write(wake.as_raw_fd(), [0u8].as_ptr().cast(), 1) } as i64)?;
    // As TCP does it: who does not want to wait learns of the connection by polling.
    if socket.family == libc::AF_INET && is_nonblocking(socket.host()) {
        own.in_progress = true;
        return Err(EINPROGRESS);
    }
    Ok(0)
}

/// Have the backend make a connection, and put it in the socket's place. `nowhere`: what to say without a backend.
fn connect_outside(
    t: &Thread,
    socket: &Arc<Socket>,
    address: Address,
    nowhere: Errno,
) -> SysResult {
    let (Some(outside), libc::AF_INET) = (&t.process.net.outside, socket.family) else {
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
        state.peer = Some(address.clone());
        state.in_progress = !waits;
        // The host's own TCP does it from here on.
        state.loses_one = false;
        for ((level, name), value) in &state.options {
            super::socket_options::pass_on(socket.host(), *level, *name, value);
        }
    }
    seem_outside(socket, &address);
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

/// A socket that nobody named has an address of the instance's towards the outside.
fn seem_outside(socket: &Socket, peer: &Address) {
    let mut state = socket.state();
    if let (Some(Address::Inet { ip, .. }), Address::Inet { ip: to, .. }) = (&mut state.local, peer)
        && *ip == LOOPBACK
        && *to != 0
        && to >> 24 != 127
    {
        *ip = OWN;
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
        Address::Inet { ip: 0, port } => Address::Inet { ip: LOOPBACK, port },
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
        Some(peer) => peer,
        None if connected => Address::unnamed(socket.family),
        None => return Err(ENOTCONN),
    };
    write_address(t, &peer, at, length).map(|()| 0)
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
