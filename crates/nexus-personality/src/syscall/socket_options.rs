//! Options of sockets: those that ask what a socket is are answered; those that tune are kept and have no effect.

use super::sockets::socket_of;
use crate::errno::{EINVAL, ENOPROTOOPT, Errno, SysResult};
use crate::files::outside::take_error;
use crate::files::socket::{Options, Role, Socket, State, is_internet};
use crate::machine::Cpu;
use crate::thread::Thread;
use std::os::fd::RawFd;

/// Longest value of an option that is kept.
const MAX_VALUE: usize = 64;
/// Options kept for one socket at most.
const MAX_OPTIONS: usize = 64;
const BUFFER: i32 = 212_992;
/// `struct tcp_info` with the counters that programs read; only the state, its first byte, is told.
const TCP_INFO_BYTES: usize = 232;

fn known(level: i32, family: i32) -> bool {
    match level {
        libc::SOL_SOCKET => true,
        libc::IPPROTO_IP | libc::IPPROTO_TCP | libc::IPPROTO_UDP => is_internet(family),
        libc::IPPROTO_IPV6 => family == libc::AF_INET6,
        _ => false,
    }
}

fn int(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().map(|b| i32::from_le_bytes(*b))
}

pub fn setsockopt(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, level, name, at, length, _]: [u64; 6],
) -> SysResult {
    let (_, socket) = socket_of(t, fd)?;
    let (level, name) = (level as i32, name as i32);
    if !known(level, socket.family) {
        return Err(ENOPROTOOPT);
    }
    if length as i32 <= 0 || length as usize > 4096 {
        return Err(EINVAL);
    }
    let mut value = vec![0u8; (length as usize).min(MAX_VALUE)];
    t.process.memory.read_bytes(at, &mut value)?;
    if level == libc::SOL_SOCKET {
        let number = int(&value).ok_or(EINVAL)?;
        match name {
            libc::SO_TYPE
            | libc::SO_ERROR
            | libc::SO_DOMAIN
            | libc::SO_PROTOCOL
            | libc::SO_ACCEPTCONN
            | libc::SO_PEERCRED => return Err(ENOPROTOOPT),
            // The kernel doubles what is asked for, and shows that.
            libc::SO_SNDBUF | libc::SO_RCVBUF => {
                value = number
                    .clamp(1152, BUFFER)
                    .saturating_mul(2)
                    .to_le_bytes()
                    .to_vec();
            }
            libc::SO_REUSEADDR | libc::SO_KEEPALIVE | libc::SO_BROADCAST | libc::SO_REUSEPORT => {
                value = i32::from(number != 0).to_le_bytes().to_vec();
            }
            _ => {}
        }
    }
    let mut state = socket.state();
    if level == libc::IPPROTO_IPV6 {
        match (name, int(&value)) {
            // What it is reached at is settled when it is bound.
            (libc::IPV6_V6ONLY, None) => return Err(EINVAL),
            (libc::IPV6_V6ONLY, _) if state.local.is_some() => return Err(EINVAL),
            (libc::IPV6_V6ONLY, Some(number)) => {
                value = i32::from(number != 0).to_le_bytes().to_vec();
            }
            (libc::IPV6_MULTICAST_HOPS, _) if socket.kind == libc::SOCK_STREAM => {
                return Err(ENOPROTOOPT);
            }
            (libc::IPV6_UNICAST_HOPS | libc::IPV6_MULTICAST_HOPS | libc::IPV6_TCLASS, number) => {
                match number {
                    // As if it had never been set.
                    Some(-1) => {
                        state.options.remove(&(level, name));
                        return Ok(0);
                    }
                    Some(0..=255) => {}
                    _ => return Err(EINVAL),
                }
            }
            _ => {}
        }
    }
    if matches!(state.role, Role::Outside) || (level, name) == URGENT {
        pass_on(socket.host(), level, name, &value);
    }
    if state.options.len() < MAX_OPTIONS || state.options.contains_key(&(level, name)) {
        state.options.insert((level, name), value);
    }
    Ok(0)
}

/// Whether the urgent byte comes with the others: the host keeps it, inside the instance as well.
const URGENT: (i32, i32) = (libc::SOL_SOCKET, libc::SO_OOBINLINE);

/// Options of a connection to the outside that take effect, as far as the host likes their values. The jail allows these alone.
const EFFECTIVE: [(i32, i32); 11] = [
    URGENT,
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
];

/// The options that a connection has of the `listener` at which it is accepted: on the Internet all of them.
pub(super) fn inherited(listener: &Socket, options: Options, accepted: RawFd) -> Options {
    if listener.is_internet() {
        if let Some(value) = options.get(&URGENT) {
            pass_on(accepted, URGENT.0, URGENT.1, value);
        }
        return options;
    }
    let credentials = |option: &(i32, i32)| *option == (libc::SOL_SOCKET, libc::SO_PASSCRED);
    options
        .into_iter()
        .filter(|(o, _)| credentials(o))
        .collect()
}

pub(super) fn pass_on(fd: RawFd, level: i32, name: i32, value: &[u8]) {
    if EFFECTIVE.contains(&(level, name)) {
        // SAFETY: the value is live, of the length given.
        unsafe {
            libc::setsockopt(
                fd,
                level,
                name,
                value.as_ptr().cast(),
                value.len() as libc::socklen_t,
            );
        }
    }
}

/// Bytes that a stream takes without anybody reading them.
pub(super) fn send_buffer(state: &State) -> u64 {
    let set = state.options.get(&(libc::SOL_SOCKET, libc::SO_SNDBUF));
    let bytes = set.and_then(|value| int(value)).unwrap_or(BUFFER);
    u64::try_from(bytes).unwrap_or(0)
}

/// TCP_ESTABLISHED, TCP_CLOSE or TCP_LISTEN.
fn tcp_state(role: &Role) -> u8 {
    match role {
        Role::Listening(..) => 10,
        Role::Connected | Role::Outside => 1,
        Role::Fresh(_) | Role::Datagram(_) => 7,
    }
}

fn value(t: &Thread, socket: &Socket, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
    let state = socket.state();
    if let Some(value) = state.options.get(&(level, name)) {
        return Ok(value.clone());
    }
    let number = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ERROR) if matches!(state.role, Role::Outside) => {
            take_error(socket.host())
        }
        (libc::SOL_SOCKET, libc::SO_TYPE) => socket.kind,
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => socket.family,
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => match (socket.family, socket.kind) {
            (libc::AF_UNIX, _) => 0,
            (_, libc::SOCK_STREAM) => libc::IPPROTO_TCP,
            _ => libc::IPPROTO_UDP,
        },
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => {
            i32::from(matches!(state.role, Role::Listening(..)))
        }
        (libc::SOL_SOCKET, libc::SO_SNDBUF | libc::SO_RCVBUF) => BUFFER,
        (libc::SOL_SOCKET, libc::SO_LINGER | libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) => {
            return Ok(vec![0; if name == libc::SO_LINGER { 8 } else { 16 }]);
        }
        (libc::SOL_SOCKET, libc::SO_PEERCRED) => {
            let id = crate::syscall::info::UID as i32;
            let words = [t.process.pid(), id, id];
            return Ok(words.iter().flat_map(|w| w.to_le_bytes()).collect());
        }
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => 32741,
        // As Linux is set up.
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => 7200,
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => 75,
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => 9,
        (libc::IPPROTO_TCP, libc::TCP_INFO) => {
            let mut info = vec![0; TCP_INFO_BYTES];
            if let Some(first) = info.first_mut() {
                *first = tcp_state(&state.role);
            }
            return Ok(info);
        }
        (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => 64,
        (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL | libc::IP_MULTICAST_LOOP)
        | (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS | libc::IPV6_MULTICAST_LOOP) => 1,
        _ => 0,
    };
    Ok(number.to_le_bytes().to_vec())
}

pub fn getsockopt(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, level, name, at, length, _]: [u64; 6],
) -> SysResult {
    let (_, socket) = socket_of(t, fd)?;
    let (level, name) = (level as i32, name as i32);
    if !known(level, socket.family) {
        return Err(ENOPROTOOPT);
    }
    let room: i32 = t.process.memory.read(length)?;
    let room = usize::try_from(room).map_err(|_| EINVAL)?;
    let value = value(t, &socket, level, name)?;
    let part = value.get(..room.min(value.len())).unwrap_or_default();
    t.process.memory.write_bytes(at, part)?;
    t.process
        .memory
        .write(length, part.len() as u32)
        .map(|()| 0)
}
