//! Options of a TCP connection that a web client asks for. What is on this list takes effect and hurts nobody else.

use super::Failure;
use serde::Deserialize;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

const ALLOWED: [(i32, i32); 6] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
];

/// Level, name and value, as setsockopt(2) has them.
type Option = (i32, i32, i32);

/// Each option at most once, in their order: two that mean the same are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "Vec<Option>")]
pub struct Options(Vec<Option>);

impl TryFrom<Vec<Option>> for Options {
    type Error = String;

    fn try_from(asked: Vec<Option>) -> Result<Self, String> {
        let mut options: Vec<Option> = Vec::new();
        for (level, name, value) in asked {
            if !ALLOWED.contains(&(level, name)) {
                return Err(format!("option {level}, {name} is the host's affair"));
            }
            options.retain(|(l, n, _)| (*l, *n) != (level, name));
            options.push((level, name, value));
        }
        options.sort_unstable();
        Ok(Self(options))
    }
}

impl Options {
    /// Set them. Nagle's algorithm is off unless asked for.
    ///
    /// # Errors
    /// The kernel does not like a value.
    pub fn set(&self, socket: &impl AsFd) -> io::Result<()> {
        let nodelay = (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        for (level, name, value) in std::iter::once(&nodelay).chain(&self.0) {
            // SAFETY: an int is live.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_fd().as_raw_fd(),
                    *level,
                    *name,
                    std::ptr::from_ref(value).cast(),
                    size_of::<i32>() as libc::socklen_t,
                )
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Whether the kernel likes their values, by a socket that is not used for anything else.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn check(&self) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        let socket = tokio::net::TcpSocket::new_v4();
        let set = socket.and_then(|socket| self.set(&socket));
        set.map_err(|error| Failure::system(&error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options(asked: &[Option]) -> Result<Options, String> {
        Options::try_from(asked.to_vec())
    }

    #[test]
    fn the_last_of_each_counts_and_their_order_does_not() {
        let (alive, idle) = (
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 7),
        );
        let off = (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 0);
        assert_eq!(options(&[off, idle, alive]), options(&[alive, idle]));
        assert_ne!(options(&[off, idle]), options(&[alive, idle]));
    }

    #[test]
    fn what_is_not_on_the_list_is_refused() {
        for name in [libc::SO_BINDTODEVICE, libc::SO_MARK, libc::SO_RCVBUFFORCE] {
            options(&[(libc::SOL_SOCKET, name, 1)]).unwrap_err();
        }
    }

    #[tokio::test]
    async fn values_are_judged_by_the_kernel() {
        let keep = |value| options(&[(libc::IPPROTO_TCP, libc::TCP_KEEPCNT, value)]).unwrap();
        keep(4).check().unwrap();
        assert!(keep(1000).check().is_err());
    }
}
