//! The channel's messages, to the byte. `unsafe`: messages with descriptors. What comes is a guest's hypervisor's, which
//! may be the guest's by now: it is copied, then checked.

use nexus_abi::network::{HEAD, MAX_DATAGRAM, REPLY};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Room for control data: one descriptor is expected; more are closed by the kernel.
const CONTROL: usize = 24;

/// One request.
#[derive(Debug)]
pub struct Request {
    pub operation: u16,
    pub id: u32,
    pub to: SocketAddr,
    pub payload: Vec<u8>,
    pub descriptor: Option<OwnedFd>,
}

impl Request {
    fn parse(bytes: &[u8], descriptor: Option<OwnedFd>) -> Option<Self> {
        let (head, payload) = bytes.split_first_chunk::<HEAD>()?;
        let [
            o0,
            o1,
            f0,
            f1,
            p0,
            p1,
            _,
            _,
            i0,
            i1,
            i2,
            i3,
            _,
            _,
            _,
            _,
            address @ ..,
        ] = *head;
        let ip = match i32::from(u16::from_le_bytes([f0, f1])) {
            libc::AF_INET => {
                let [a, b, c, d, ..] = address;
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(address)),
            _ => return None,
        };
        Some(Self {
            operation: u16::from_le_bytes([o0, o1]),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
            // One of IPv4 is one of IPv4, mapped or not: what follows knows it in one form only.
            to: SocketAddr::new(ip.to_canonical(), u16::from_le_bytes([p0, p1])),
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
        let mut bytes = [0_u8; REPLY];
        let errno = u16::try_from(errno).unwrap_or(1);
        let parts = [request.operation.to_le_bytes(), errno.to_le_bytes()];
        let id = request.id.to_le_bytes();
        for (to, byte) in bytes.iter_mut().zip(parts.iter().flatten()) {
            *to = *byte;
        }
        for (to, byte) in bytes.iter_mut().skip(8).zip(id) {
            *to = byte;
        }
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

/// The bytes of a `struct sockaddr`, and how many there are.
pub fn sockaddr(address: SocketAddr) -> ([u8; 28], libc::socklen_t) {
    let mut bytes = [0_u8; 28];
    let (family, length) = match address.ip() {
        IpAddr::V4(_) => (libc::AF_INET, 16),
        IpAddr::V6(_) => (libc::AF_INET6, 28),
    };
    let family = u16::try_from(family).unwrap_or_default().to_le_bytes();
    let start = family.into_iter().chain(address.port().to_be_bytes());
    let ip: Vec<u8> = match address.ip() {
        IpAddr::V4(v4) => v4.octets().into(),
        // After the flow label.
        IpAddr::V6(v6) => [0; 4].into_iter().chain(v6.octets()).collect(),
    };
    for (to, byte) in bytes.iter_mut().zip(start.chain(ip)) {
        *to = byte;
    }
    (bytes, length)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_request() {
        let mut bytes = vec![0; HEAD];
        assert!(Request::parse(&bytes, None).is_none());
        bytes[..6].copy_from_slice(&[32, 0, 2, 0, 0x50, 0]);
        bytes[16..20].copy_from_slice(&[1, 2, 3, 4]);
        bytes.extend_from_slice(b"payload");
        let request = Request::parse(&bytes, None).unwrap();
        assert_eq!(request.to, "1.2.3.4:80".parse().unwrap());
        assert_eq!(request.payload, b"payload");
        assert!(Request::parse(&bytes[..31], None).is_none());
        bytes[2] = 10;
        bytes[16..32].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1]);
        let request = Request::parse(&bytes, None).unwrap();
        assert_eq!(request.to, "127.0.0.1:80".parse().unwrap());
        bytes[16] = 0x20;
        let request = Request::parse(&bytes, None).unwrap();
        assert_eq!(request.to, "[2000::ffff:7f00:1]:80".parse().unwrap());
    }

    #[test]
    fn addresses_as_the_kernel_has_them() {
        let (bytes, length) = sockaddr("1.2.3.4:80".parse().unwrap());
        assert_eq!(bytes[..length as usize][..8], [2, 0, 0, 80, 1, 2, 3, 4]);
        let (bytes, length) = sockaddr("[::1]:443".parse().unwrap());
        assert_eq!((length, bytes[23], bytes[3]), (28, 1, 0xbb));
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
