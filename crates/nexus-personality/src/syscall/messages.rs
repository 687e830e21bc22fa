//! Messages through sockets: addresses of senders, and descriptors that travel along.

use super::io::one;
use super::sockets::{
    allow, is_nonblocking, name_it, reach, read_recipient, seen_from, socket_of, write_address,
};
use crate::errno::{
    EAGAIN, EBADF, ECONNREFUSED, EDESTADDRREQ, EINVAL, EISCONN, EMSGSIZE, ENETUNREACH, ENOTCONN,
    EPIPE, Errno, SysResult,
};
use crate::files::Description;
use crate::files::resolve::host_stat;
use crate::files::socket::{Address, HEADER, MAX_ADDRESS, Role, Socket, State};
use crate::machine::Cpu;
use crate::thread::Thread;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Flags that go to the host; `MSG_NOSIGNAL` always does.
const FLAGS: i32 =
    libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_WAITALL | libc::MSG_TRUNC | libc::MSG_OOB;
/// Longest Internet datagram.
const MAX_DATAGRAM: usize = 65_507;
/// Descriptors in one message at most, as on Linux.
const MAX_PASSED: usize = 253;
/// `struct cmsghdr`.
const CONTROL: u64 = 16;

/// What becomes of a write to a connection whose other end is closed: see [`State::loses_one`].
fn lost(state: &mut State, length: u64) -> SysResult {
    if !state.loses_one {
        return Err(EPIPE);
    }
    // Nothing at all is not answered with a reset.
    state.loses_one = length == 0;
    Ok(length.min(super::socket_options::send_buffer(state)))
}

fn length_of(list: &[libc::iovec]) -> usize {
    list.iter().map(|v| v.iov_len).sum()
}

/// One message of the host's, on its way in or out.
struct Message {
    header: Vec<u8>,
    list: Vec<libc::iovec>,
    control: [u64; 4],
}

impl Message {
    /// `list` behind a header of this length.
    fn new(header: Vec<u8>, list: &[libc::iovec]) -> Self {
        let mut message = Self {
            header,
            list: Vec::with_capacity(list.len() + 1),
            control: [0; 4],
        };
        if !message.header.is_empty() {
            message.list.push(libc::iovec {
                iov_base: message.header.as_mut_ptr().cast(),
                iov_len: message.header.len(),
            });
        }
        message.list.extend_from_slice(list);
        message
    }

    /// sendmsg or recvmsg of the host; how many bytes, and its flags and length of control data.
    fn pass(
        &mut self,
        t: &Thread,
        number: libc::c_long,
        fd: RawFd,
        flags: i32,
        control: usize,
    ) -> Result<(u64, i32, usize), Errno> {
        // SAFETY: zero is a valid msghdr.
        let mut head: libc::msghdr = unsafe { std::mem::zeroed() };
        head.msg_iov = self.list.as_mut_ptr();
        head.msg_iovlen = self.list.len();
        if control > 0 {
            head.msg_control = self.control.as_mut_ptr().cast();
            head.msg_controllen = control;
        }
        let arguments = [fd as u64, (&raw mut head) as u64, flags as u64, 0, 0, 0];
        // SAFETY: head, header and control live across the call; the rest of the list names ranges of the window.
        let moved = unsafe { t.shared.kick.block(number, arguments) }?;
        Ok((moved, head.msg_flags, head.msg_controllen))
    }
}

/// Send `list` from a socket, to an address or to its peer, with descriptors that travel along.
///
/// # Errors
/// As sendmsg(2).
pub(super) fn send(
    t: &Thread,
    socket: &Arc<Socket>,
    list: &[libc::iovec],
    flags: i32,
    to: Option<Address>,
    passed: Vec<Arc<Description>>,
) -> SysResult {
    let result = if socket.has_header() {
        send_datagram(t, socket, list, flags, to)
    } else {
        if let Role::Fresh(_) | Role::Listening(..) = socket.state().role {
            return Err(if socket.is_internet() {
                EPIPE
            } else {
                ENOTCONN
            });
        }
        if to.is_some() && socket.kind != libc::SOCK_STREAM {
            return Err(EISCONN);
        }
        let mut message = Message::new(Vec::new(), list);
        let token = put_in_flight(t, passed)?;
        let control = token.as_ref().map_or(0, |token| {
            // One SCM_RIGHTS message with one descriptor: length, level and type, the number.
            let level = (libc::SOL_SOCKET as u64) | (libc::SCM_RIGHTS as u64) << 32;
            message.control = [CONTROL + 4, level, token.as_raw_fd() as u64, 0];
            24
        });
        let flags = flags & FLAGS | libc::MSG_NOSIGNAL;
        let sent = message.pass(t, libc::SYS_sendmsg, socket.host(), flags, control);
        if let (Err(_), Some(token)) = (&sent, &token) {
            take_in_flight(t, token, true);
        }
        match sent {
            Err(EPIPE) => lost(&mut socket.state(), length_of(list) as u64),
            sent => sent.map(|(moved, ..)| moved),
        }
    };
    if result == Err(EPIPE) && flags & libc::MSG_NOSIGNAL == 0 {
        super::signals::broken_pipe(t);
    }
    result
}

fn send_datagram(
    t: &Thread,
    socket: &Arc<Socket>,
    list: &[libc::iovec],
    flags: i32,
    to: Option<Address>,
) -> SysResult {
    let inet = socket.is_internet();
    let length = length_of(list);
    if inet && length > MAX_DATAGRAM {
        return Err(EMSGSIZE);
    }
    let peer = socket.state().peer.clone();
    let to = to
        .or(peer)
        .ok_or(if inet { EDESTADDRREQ } else { ENOTCONN })?;
    let target = match reach(t, socket, &to) {
        Err(e) if inet && (e == ECONNREFUSED || e == ENETUNREACH) => {
            match allow(t, socket, &to) {
                Ok(()) => return send_outside(t, socket, list, &to),
                // At the instance's own addresses.
                Err(_) if e == ECONNREFUSED => None,
                Err(denied) => return Err(denied),
            }
        }
        other => Some(other?),
    };
    name_it(t, socket)?;
    // To a port where nobody is: sent, and lost. Who is connected there is told when it next receives (udp(7)).
    let Some(target) = target else {
        if socket.state().peer.as_ref() == Some(&to) {
            tell(t, socket, ECONNREFUSED);
        }
        return Ok(length as u64);
    };
    let sender = seen_from(&socket.state(), socket.family, &to);
    // Who is connected hears its peer alone.
    if target.state().peer.as_ref().is_some_and(|p| *p != sender) {
        return if inet {
            Ok(length as u64)
        } else {
            Err(crate::errno::EPERM)
        };
    }
    let address = sender.bytes();
    let mut header = (address.len() as u16).to_le_bytes().to_vec();
    header.extend_from_slice(&address);
    header.resize(HEADER, 0);
    let far = match &target.state().role {
        Role::Datagram(far) => far.as_raw_fd(),
        _ => return Err(ECONNREFUSED),
    };
    // `target` is held until the call is over, so the number stays its own.
    let waits = !inet && flags & libc::MSG_DONTWAIT == 0 && !is_nonblocking(socket.host());
    let flags = libc::MSG_NOSIGNAL | if waits { 0 } else { libc::MSG_DONTWAIT };
    match Message::new(header, list).pass(t, libc::SYS_sendmsg, far, flags, 0) {
        Ok((moved, ..)) => Ok(moved.saturating_sub(HEADER as u64)),
        // No room: an Internet datagram is lost.
        Err(e) if e == EAGAIN && inet => Ok(length as u64),
        Err(e) => Err(e),
    }
}

/// Put an error where a datagram socket receives: a header without an address, and the error's number in its place.
fn tell(t: &Thread, socket: &Socket, error: Errno) {
    let mut header = vec![0_u8; HEADER];
    if let Some(place) = header.get_mut(2..4) {
        place.copy_from_slice(&(error.0 as u16).to_le_bytes());
    }
    let far = match &socket.state().role {
        Role::Datagram(far) => far.as_raw_fd(),
        _ => return,
    };
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // Without room it is lost. `socket` is held until the call is over, so the number stays its own.
    let _ = Message::new(header, &[]).pass(t, libc::SYS_sendmsg, far, flags, 0);
}

/// The error that [`tell`] has put into this header.
fn told(header: &[u8]) -> Option<Errno> {
    match header.first_chunk()? {
        [0, 0, low, high] => match u16::from_le_bytes([*low, *high]) {
            0 => None,
            number => Some(Errno(number.into())),
        },
        _ => None,
    }
}

fn send_outside(t: &Thread, socket: &Arc<Socket>, list: &[libc::iovec], to: &Address) -> SysResult {
    let outside = t.process.net.outside.as_ref().ok_or(ENETUNREACH)?;
    name_it(t, socket)?;
    let answers = match &socket.state().role {
        Role::Datagram(far) => far.as_raw_fd(),
        _ => return Err(ECONNREFUSED),
    };
    // `socket` is held until the call is over, so the number stays its own.
    outside.send(socket.host().cast_unsigned(), to, list, answers)?;
    Ok(length_of(list) as u64)
}

/// What came in.
pub(super) struct Received {
    pub length: u64,
    pub from: Option<Address>,
    pub flags: i32,
    pub passed: Vec<Arc<Description>>,
}

/// Receive into `list`.
///
/// # Errors
/// As recvmsg(2).
pub(super) fn receive(
    t: &Thread,
    socket: &Arc<Socket>,
    list: &[libc::iovec],
    flags: i32,
) -> Result<Received, Errno> {
    if let Role::Fresh(_) | Role::Listening(..) = socket.state().role {
        return Err(ENOTCONN);
    }
    let header = if socket.has_header() { HEADER } else { 0 };
    let mut message = Message::new(vec![0; header], list);
    // Room for one descriptor, the token: it is closed where nobody asks for it.
    let control = if header == 0 { 24 } else { 0 };
    let flags = flags & FLAGS | libc::MSG_CMSG_CLOEXEC;
    let (moved, seen, filled) =
        message.pass(t, libc::SYS_recvmsg, socket.host(), flags, control)?;
    if let Some(error) = told(&message.header) {
        // Told once, even to who only looks.
        if flags & libc::MSG_PEEK != 0 {
            let flags = flags & !libc::MSG_PEEK | libc::MSG_DONTWAIT;
            message.pass(t, libc::SYS_recvmsg, socket.host(), flags, 0)?;
        }
        return Err(error);
    }
    let mut received = Received {
        length: moved,
        from: None,
        flags: seen & (libc::MSG_TRUNC | libc::MSG_EOR | libc::MSG_OOB),
        passed: Vec::new(),
    };
    if filled >= 20 {
        // SAFETY: the host has just put a descriptor there that nobody else owns.
        let token = unsafe { OwnedFd::from_raw_fd(message.control[2] as u32 as RawFd) };
        received.passed = take_in_flight(t, &token, flags & libc::MSG_PEEK == 0);
    }
    if header > 0 {
        received.length = moved.saturating_sub(HEADER as u64);
        let (size, address) = message.header.split_at_checked(2).ok_or(EINVAL)?;
        let size = usize::from(u16::from_le_bytes(size.try_into().map_err(|_| EINVAL)?));
        let address = address.get(..size.min(MAX_ADDRESS)).unwrap_or_default();
        received.from = Address::parse_own(address).ok();
    }
    Ok(received)
}

/// Keep descriptions for whoever receives the token, which stands for them on the way.
fn put_in_flight(t: &Thread, passed: Vec<Arc<Description>>) -> Result<Option<OwnedFd>, Errno> {
    if passed.is_empty() {
        return Ok(None);
    }
    let (reading, token) = super::polling::new_pipe(0)?;
    let number = host_stat(token.as_raw_fd())?.st_ino;
    t.process.net.in_flight.put(number, reading, passed)?;
    Ok(Some(token))
}

fn take_in_flight(t: &Thread, token: &OwnedFd, last: bool) -> Vec<Arc<Description>> {
    host_stat(token.as_raw_fd()).map_or_else(
        |_| Vec::new(),
        |stat| t.process.net.in_flight.take(stat.st_ino, last),
    )
}

pub fn sendto(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, buffer, length, flags, at, size]: [u64; 6],
) -> SysResult {
    let (_held, socket) = socket_of(t, fd)?;
    // To nobody: of an Internet socket that is an address too short.
    let to = if at == 0 || (size as u32 == 0 && !socket.is_internet()) {
        None
    } else {
        read_recipient(t, &socket, at, size)?
    };
    send(
        t,
        &socket,
        &one(t, buffer, length)?,
        flags as i32,
        to,
        Vec::new(),
    )
}

pub fn recvfrom(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, buffer, length, flags, at, size]: [u64; 6],
) -> SysResult {
    let (_held, socket) = socket_of(t, fd)?;
    let received = receive(t, &socket, &one(t, buffer, length)?, flags as i32)?;
    match received.from {
        Some(from) => write_address(t, &from, socket.family, at, size)?,
        // A stream's end has no sender to name.
        None if at != 0 => t.process.memory.write(size, 0u32)?,
        None => {}
    }
    Ok(received.length)
}

/// `struct msghdr`: name and its length, buffers and their count, control data and its length, flags.
fn read_head(t: &Thread, at: u64) -> Result<[u64; 7], Errno> {
    let mut bytes = [0u8; 56];
    t.process.memory.read_bytes(at, &mut bytes)?;
    let mut words = [0; 7];
    for (word, from) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*from);
    }
    Ok(words)
}

pub fn sendmsg(t: &mut Thread, _: &mut dyn Cpu, [fd, at, flags, ..]: [u64; 6]) -> SysResult {
    let (_held, socket) = socket_of(t, fd)?;
    let [name, name_length, list, count, control, control_length, _] = read_head(t, at)?;
    let to = if name == 0 || name_length as u32 == 0 {
        None
    } else {
        read_recipient(t, &socket, name, name_length)?
    };
    let list = t.process.memory.read_iovec(list, count)?;
    let passed = read_control(t, &socket, control, control_length)?;
    send(t, &socket, &list, flags as i32, to, passed)
}

/// sendmmsg(2): one message after the other; an error is told where none was sent.
pub fn sendmmsg(
    t: &mut Thread,
    cpu: &mut dyn Cpu,
    [fd, at, count, flags, ..]: [u64; 6],
) -> SysResult {
    /// `struct mmsghdr`: a msghdr, and the length that was sent.
    const SIZE: u64 = 64;
    for n in 0..(count & 0xffff_ffff).min(1024) {
        let message = at.wrapping_add(n * SIZE);
        match sendmsg(t, cpu, [fd, message, flags, 0, 0, 0]) {
            Ok(sent) => t
                .process
                .memory
                .write(message.wrapping_add(56), sent as u32)?,
            Err(error) if n == 0 => return Err(error),
            Err(_) => return Ok(n),
        }
    }
    Ok(count.min(1024))
}

/// Descriptors that a message's control data names. Anything but SCM_RIGHTS on a UNIX socket is refused.
fn read_control(
    t: &Thread,
    socket: &Socket,
    control: u64,
    length: u64,
) -> Result<Vec<Arc<Description>>, Errno> {
    let mut passed = Vec::new();
    let mut offset = 0u64;
    let length = length.min(8192);
    while control != 0 && offset + CONTROL <= length {
        let [size, kind]: [u64; 2] = t.process.memory.read(control.wrapping_add(offset))?;
        if size < CONTROL || size > length - offset {
            return Err(EINVAL);
        }
        let rights = (libc::SOL_SOCKET as u64) | (libc::SCM_RIGHTS as u64) << 32;
        if kind != rights || socket.family != libc::AF_UNIX || socket.has_header() {
            return Err(EINVAL);
        }
        for n in 0..(size - CONTROL) / 4 {
            let fd: u32 = t
                .process
                .memory
                .read(control.wrapping_add(offset + CONTROL + 4 * n))?;
            let description = super::io::description(t, u64::from(fd)).map_err(|_| EBADF)?;
            if passed.len() >= MAX_PASSED {
                return Err(EINVAL);
            }
            passed.push(description);
        }
        offset += size.next_multiple_of(8);
    }
    Ok(passed)
}

pub fn recvmsg(t: &mut Thread, _: &mut dyn Cpu, [fd, at, flags, ..]: [u64; 6]) -> SysResult {
    let (_held, socket) = socket_of(t, fd)?;
    let [name, _, list, count, control, room, _] = read_head(t, at)?;
    let list = t.process.memory.read_iovec(list, count)?;
    let mut received = receive(t, &socket, &list, flags as i32)?;
    if name != 0 {
        match &received.from {
            Some(from) => write_address(t, from, socket.family, name, at.wrapping_add(8))?,
            None => t.process.memory.write(at.wrapping_add(8), 0u32)?,
        }
    }
    let room = if control == 0 { 0 } else { room };
    let close_on_exec = flags as i32 & libc::MSG_CMSG_CLOEXEC != 0;
    let filled = write_control(t, &mut received, control, room, close_on_exec)?;
    t.process.memory.write(at.wrapping_add(40), filled)?;
    t.process
        .memory
        .write(at.wrapping_add(48), received.flags.cast_unsigned())?;
    Ok(received.length)
}

/// Put received descriptors into the table and tell the guest their numbers, as many as it has room for.
fn write_control(
    t: &Thread,
    received: &mut Received,
    control: u64,
    room: u64,
    close_on_exec: bool,
) -> SysResult {
    if received.passed.is_empty() {
        return Ok(0);
    }
    let fits = room.saturating_sub(CONTROL) / 4;
    if fits < received.passed.len() as u64 {
        received.flags |= libc::MSG_CTRUNC;
    }
    let mut numbers = Vec::new();
    for description in received.passed.drain(..).take(fits as usize) {
        match t.process.files().insert(description, close_on_exec, 0) {
            Ok(fd) => numbers.push(fd as u32),
            Err(_) => {
                received.flags |= libc::MSG_CTRUNC;
                break;
            }
        }
    }
    if numbers.is_empty() {
        return Ok(0);
    }
    let size = CONTROL + 4 * numbers.len() as u64;
    let kind = (libc::SOL_SOCKET as u64) | (libc::SCM_RIGHTS as u64) << 32;
    let mut bytes = size.to_le_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
    t.process.memory.write_bytes(control, &bytes)?;
    Ok(size.next_multiple_of(8).min(room))
}
