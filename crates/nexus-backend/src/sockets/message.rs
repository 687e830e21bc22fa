//! The channel's messages. `unsafe`: messages with descriptors. What comes is a guest's hypervisor's, which
//! may be the guest's by now: it is copied, then checked.

use nexus_abi::network::{HEAD, Head, MAX_DATAGRAM, Reply};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Room for control data: one descriptor is expected; more are closed by the kernel.
const CONTROL: usize = 24;

/// One request.
#[derive(Debug)]
pub struct Request {
    pub head: Head,
    pub payload: Vec<u8>,
    pub descriptor: Option<OwnedFd>,
}

impl Request {
    fn parse(bytes: &[u8], descriptor: Option<OwnedFd>) -> Option<Self> {
        let (head, payload) = bytes.split_first_chunk::<HEAD>()?;
        Some(Self {
            head: Head::parse(head)?,
            payload: payload.to_vec(),
            descriptor,
        })
    }
}

/// The backend's end.
#[derive(Debug)]
pub struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    /// # Errors
    /// The runtime cannot watch it.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: an OwnedFd names one open descriptor for as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, interest) };
        Ok(Self(fd.map_err(io::Error::from)?))
    }

    /// The next request. Cancel safe.
    ///
    /// # Errors
    /// The other end is gone, or sends what is no request.
    pub async fn receive(&self) -> io::Result<Request> {
        let mut buffer = Vec::new();
        let (length, descriptor) = self
            .0
            .async_io(Interest::READABLE, |fd| {
                buffer.resize(HEAD + MAX_DATAGRAM, 0);
                receive(fd.as_raw_fd(), &mut buffer)
            })
            .await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Request::parse(buffer.get(..length).unwrap_or_default(), descriptor)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Answer a request.
    ///
    /// # Errors
    /// The other end is gone.
    pub async fn reply(
        &self,
        request: &Request,
        errno: i32,
        descriptor: Option<&OwnedFd>,
    ) -> io::Result<()> {
        let reply = Reply {
            operation: request.head.operation,
            errno: u16::try_from(errno).unwrap_or(1),
            id: request.head.id,
        };
        let bytes = reply.bytes();
        let descriptor = descriptor.map(AsRawFd::as_raw_fd);
        self.0
            .async_io(Interest::WRITABLE, |fd| {
                send(fd.as_raw_fd(), &bytes, descriptor)
            })
            .await
    }
}

fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = [0_u64; CONTROL / 8];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: buffer and control data are live across the call.
    let count = unsafe { libc::recvmsg(fd, &raw mut message, flags) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let mut passed = Vec::new();
    // The kernel writes this; SO_PASSCRED is off, so that it can only be descriptors: one or two in this room.
    let words = message.msg_controllen.saturating_sub(16) / 4;
    let [_, kind, numbers] = control;
    if kind == u64::from(libc::SOL_SOCKET.cast_unsigned()) | (libc::SCM_RIGHTS as u64) << 32 {
        for shift in [0, 32].into_iter().take(words) {
            let number = u32::try_from(numbers >> shift & 0xffff_ffff).unwrap_or_default();
            // The length counts padding after a single descriptor.
            let length = usize::try_from(control[0]).unwrap_or_default();
            if 16 + passed.len() * 4 < length {
                // SAFETY: the kernel has just put it there; owned by nobody else.
                passed.push(unsafe { OwnedFd::from_raw_fd(number.cast_signed()) });
            }
        }
    }
    Ok((count, passed.into_iter().next()))
}

fn send(fd: RawFd, bytes: &[u8], descriptor: Option<RawFd>) -> io::Result<()> {
    let kind = u64::from(libc::SOL_SOCKET.cast_unsigned()) | (libc::SCM_RIGHTS as u64) << 32;
    let mut control = descriptor.map(|fd| [20, kind, u64::from(fd.cast_unsigned())]);
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(control) = &mut control {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = CONTROL;
    }
    // SAFETY: bytes and control data are live across the call; the kernel only reads them.
    let sent = unsafe {
        libc::sendmsg(
            fd,
            &raw const message,
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_request() {
        let head = Head {
            operation: 32,
            id: 7,
            to: "1.2.3.4:80".parse().unwrap(),
        };
        let mut bytes = head.bytes().to_vec();
        bytes.extend_from_slice(b"payload");
        let request = Request::parse(&bytes, None).unwrap();
        assert_eq!(
            (request.head, request.payload.as_slice()),
            (head, &b"payload"[..])
        );
        assert!(Request::parse(&bytes[..HEAD - 1], None).is_none());
        assert!(Request::parse(&[0; HEAD], None).is_none());
    }

    #[test]
    fn descriptors_travel_along() {
        let (one, other) = super::super::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(one.as_raw_fd(), b"x", Some(file.as_raw_fd())).unwrap();
        let mut buffer = [0; 16];
        let (length, passed) = receive(other.as_raw_fd(), &mut buffer).unwrap();
        assert_eq!((length, passed.is_some()), (1, true));
        send(one.as_raw_fd(), b"y", None).unwrap();
        assert!(receive(other.as_raw_fd(), &mut buffer).unwrap().1.is_none());
    }
}
