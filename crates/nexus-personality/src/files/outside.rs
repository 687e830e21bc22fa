//! The way to the outside: the backend makes connections and passes them over (`nexus_abi::network`). This process
//! cannot make a socket that reaches anything. (unsafe: messages with descriptors.)

use super::socket::Address;
use crate::errno::{EAFNOSUPPORT, EAGAIN, ENETDOWN, ETIMEDOUT, Errno, check};
use nexus_abi::network::{ALLOW, CONNECT, HEAD, Head, REPLY, Reply, SEND};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// Longest wait for the backend, which answers at once: it resolves nothing and does not wait for a connection.
const PATIENCE_MS: i32 = 10_000;
/// `struct cmsghdr` with one descriptor, padded.
const CONTROL: usize = 24;

/// The channel.
#[derive(Debug)]
pub struct Outside {
    /// Inherited; open for as long as this process lives.
    fd: RawFd,
    /// The last request's id. Held from a request to its reply.
    turn: Mutex<u32>,
}

impl Outside {
    /// Over this inherited descriptor.
    #[must_use]
    pub fn new(fd: RawFd) -> Self {
        Self {
            fd,
            turn: Mutex::new(0),
        }
    }

    /// A stream socket that is connected or connecting. It does not block.
    ///
    /// # Errors
    /// What the policy, or the host, says of the address.
    pub fn connect(&self, to: &Address) -> Result<OwnedFd, Errno> {
        self.ask(CONNECT, to)?.ok_or(ENETDOWN)
    }

    /// Whether datagrams may be sent there.
    ///
    /// # Errors
    /// What the policy says.
    pub fn allow(&self, to: &Address) -> Result<(), Errno> {
        self.ask(ALLOW, to).map(|_| ())
    }

    /// Send a datagram, for the socket `id`, whose answers go into `answers`. One for which there is no room is lost.
    ///
    /// # Errors
    /// The backend is gone.
    pub fn send(
        &self,
        id: u32,
        to: &Address,
        list: &[libc::iovec],
        answers: RawFd,
    ) -> Result<(), Errno> {
        let mut head = head(SEND, to, id)?;
        let mut parts = Vec::with_capacity(list.len() + 1);
        parts.push(libc::iovec {
            iov_base: head.as_mut_ptr().cast(),
            iov_len: head.len(),
        });
        parts.extend_from_slice(list);
        match self.pass(&mut parts, Some(answers)) {
            Err(e) if e == EAGAIN => Ok(()),
            other => other,
        }
    }

    fn ask(&self, operation: u16, to: &Address) -> Result<Option<OwnedFd>, Errno> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *turn = turn.wrapping_add(1);
        let mut head = head(operation, to, *turn)?;
        let mut parts = [libc::iovec {
            iov_base: head.as_mut_ptr().cast(),
            iov_len: head.len(),
        }];
        self.await_event(libc::POLLOUT)?;
        self.pass(&mut parts, None)?;
        loop {
            self.await_event(libc::POLLIN)?;
            let (reply, passed) = self.receive()?;
            // An answer that came too late is nobody's.
            if reply.id == *turn {
                return match reply.errno {
                    0 => Ok(passed),
                    errno => Err(Errno(errno.into())),
                };
            }
        }
    }

    fn await_event(&self, events: i16) -> Result<(), Errno> {
        let mut polled = libc::pollfd {
            fd: self.fd,
            events,
            revents: 0,
        };
        // SAFETY: one entry is live.
        match unsafe { libc::poll(&raw mut polled, 1, PATIENCE_MS) } {
            0 => Err(ETIMEDOUT),
            // A signal: the call that follows finds out.
            _ => Ok(()),
        }
    }

    fn pass(&self, parts: &mut [libc::iovec], descriptor: Option<RawFd>) -> Result<(), Errno> {
        // One SCM_RIGHTS message with one descriptor: length, level and type, the number.
        let level = (libc::SOL_SOCKET as u64) | (libc::SCM_RIGHTS as u64) << 32;
        let mut control = descriptor.map(|fd| [20, level, u64::from(fd.cast_unsigned())]);
        // SAFETY: zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = parts.len();
        if let Some(control) = &mut control {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = CONTROL;
        }
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the head and the control data live across the call; other parts name ranges of the window.
        check(unsafe { libc::sendmsg(self.fd, &raw const message, flags) } as i64)?;
        Ok(())
    }

    fn receive(&self) -> Result<(Reply, Option<OwnedFd>), Errno> {
        let mut reply = [0_u8; REPLY];
        let mut control = [0_u64; CONTROL / 8];
        let mut part = libc::iovec {
            iov_base: reply.as_mut_ptr().cast(),
            iov_len: reply.len(),
        };
        // SAFETY: zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = CONTROL;
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        // SAFETY: reply and control live across the call.
        let got = check(unsafe { libc::recvmsg(self.fd, &raw mut message, flags) } as i64)?;
        let passed = (message.msg_controllen >= 20).then(|| {
            let [_, _, fd] = control;
            // SAFETY: the host has just put a descriptor there that nobody else owns.
            unsafe { OwnedFd::from_raw_fd(fd as u32 as RawFd) }
        });
        if got == 0 {
            return Err(ENETDOWN);
        }
        Ok((Reply::parse(&reply), passed))
    }
}

fn head(operation: u16, to: &Address, id: u32) -> Result<[u8; HEAD], Errno> {
    let Address::Inet { ip, port } = to else {
        return Err(EAFNOSUPPORT);
    };
    let to = SocketAddr::new(*ip, *port);
    Ok(Head { operation, id, to }.bytes())
}

/// Put a socket that was passed over in the place of another: the host's number stays the same, and with it all that
/// knows it.
///
/// # Errors
/// What the host refuses.
pub fn replace(place: RawFd, passed: &OwnedFd, status: i32) -> Result<(), Errno> {
    // SAFETY: plain calls on descriptors of ours; the place stays owned by the socket whose number it is.
    unsafe {
        check(i64::from(libc::fcntl(
            passed.as_raw_fd(),
            libc::F_SETFL,
            status,
        )))?;
        check(i64::from(libc::dup3(
            passed.as_raw_fd(),
            place,
            libc::O_CLOEXEC,
        )))?;
    }
    Ok(())
}

/// A connection that its other end has reset: reading tells ECONNRESET, then the end; writing EPIPE.
///
/// # Errors
/// Out of descriptors.
pub fn reset(status: i32) -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_STREAM | status & libc::O_NONBLOCK;
    let (end, other) = crate::syscall::polling::new_pair(kind)?;
    // The host resets a pair's end whose other end is closed over bytes that it has not read.
    // SAFETY: one byte is live.
    check(unsafe { libc::write(end.as_raw_fd(), [0_u8].as_ptr().cast(), 1) } as i64)?;
    drop(other);
    Ok(end)
}

/// What has become of a connection that was being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Connecting,
    Connected,
    Failed(Errno),
}

/// Ask the host; an error is told once.
#[must_use]
pub fn progress(fd: RawFd) -> Progress {
    let mut polled = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one entry is live.
    if unsafe { libc::poll(&raw mut polled, 1, 0) } == 0 {
        return Progress::Connecting;
    }
    match take_error(fd) {
        0 if polled.revents & libc::POLLHUP == 0 => Progress::Connected,
        0 => Progress::Failed(crate::errno::ECONNREFUSED),
        error => Progress::Failed(Errno(error)),
    }
}

/// SO_ERROR, which reading clears.
#[must_use]
pub fn take_error(fd: RawFd) -> i32 {
    let mut error = 0_i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: value and length are live.
    unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &raw mut length,
        );
    }
    error
}
