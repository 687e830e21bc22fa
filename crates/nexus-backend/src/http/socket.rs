//! One connection's bytes: plain TCP straight from and to raw memory, TLS by way of a buffer. `unsafe`: raw
//! pointers given to the kernel.

use super::error::{Kind, TransportError};
use crate::raw::{RawRoom, RawSlice};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// Bytes that pass through a buffer at a time where TLS makes one necessary: one TLS record.
const BOUNCE: usize = 16 << 10;

#[derive(Debug)]
pub enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Whether all was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    All,
    /// The server spoke first; it may not read the rest.
    Interrupted,
}

impl Socket {
    /// Send `head`, then `body`. `patience` bounds each wait.
    pub async fn send(
        &mut self,
        head: &[u8],
        body: &RawSlice,
        patience: Duration,
    ) -> Result<Sent, TransportError> {
        let all = match self {
            Self::Plain(tcp) => return send_plain(tcp, head, body, patience).await,
            Self::Tls(tls) => {
                async {
                    tls.write_all(head).await?;
                    let mut at = 0;
                    while at < body.len() {
                        let piece = body.slice(at, BOUNCE).to_vec();
                        timeout(patience, tls.write_all(&piece))
                            .await
                            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                        at += piece.len();
                    }
                    timeout(patience, tls.flush())
                        .await
                        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
                }
            }
        };
        all.await
            .map(|()| Sent::All)
            .map_err(|error| TransportError::closed(&error))
    }

    /// Receive into `buffer`; 0 at the end of the stream.
    pub async fn receive(
        &mut self,
        buffer: &mut [u8],
        patience: Duration,
    ) -> Result<usize, TransportError> {
        match self {
            Self::Plain(tcp) => {
                let raw = (buffer.as_mut_ptr() as usize, buffer.len());
                receive_plain(tcp, patience, || [(raw.0, raw.1), (0, 0)]).await
            }
            Self::Tls(tls) => match timeout(patience, tls.read(buffer)).await {
                Err(_) => Err(read_timeout(patience)),
                Ok(Ok(count)) => Ok(count),
                // A peer that ends without close_notify: the framing decides whether that is an error.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                Ok(Err(error)) => Err(TransportError::closed(&error)),
            },
        }
    }

    /// Receive into `room`; and, beyond it, into `spare`, so that bytes after the end of a body show. What is
    /// counted includes those in `spare`.
    pub async fn receive_raw(
        &mut self,
        room: &RawRoom,
        spare: &mut [u8],
        patience: Duration,
    ) -> Result<usize, TransportError> {
        match self {
            Self::Plain(tcp) => {
                let spare = (spare.as_mut_ptr() as usize, spare.len());
                receive_plain(tcp, patience, || [(room.ptr() as usize, room.len()), spare]).await
            }
            Self::Tls(_) => {
                let mut bounce = vec![0; BOUNCE.min(room.len())];
                let count = self.receive(&mut bounce, patience).await?;
                room.write(bounce.get(..count).unwrap_or_default());
                Ok(count)
            }
        }
    }

    /// Whether an idle connection has ended, or has bytes that nobody asked for.
    pub fn is_stale(&self) -> bool {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        };
        // Without an event since the last read this makes no system call.
        match tcp.try_io(Interest::READABLE, || peek(tcp)) {
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            Ok(_) => true,
        }
    }
}

fn read_timeout(patience: Duration) -> TransportError {
    TransportError::new(
        Kind::ReadTimeout,
        format!("no byte within {} s", patience.as_secs_f32()),
    )
}

async fn send_plain(
    tcp: &TcpStream,
    head: &[u8],
    body: &RawSlice,
    patience: Duration,
) -> Result<Sent, TransportError> {
    let total = head.len() + body.len();
    let mut sent = 0;
    while sent < total {
        let result = tcp.try_io(Interest::WRITABLE, || {
            let head = head.get(sent..).unwrap_or_default();
            let body = body.slice(sent.saturating_sub(total - body.len()), usize::MAX);
            send_message(tcp, head, &body)
        });
        match result {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let wait = tcp.ready(Interest::READABLE | Interest::WRITABLE);
                let ready = timeout(patience, wait)
                    .await
                    .map_err(|_| read_timeout(patience))?
                    .map_err(|error| TransportError::closed(&error))?;
                if ready.is_readable() && tcp.try_io(Interest::READABLE, || peek(tcp)).is_ok() {
                    return Ok(Sent::Interrupted);
                }
            }
            Err(error) => return Err(TransportError::closed(&error)),
        }
    }
    Ok(Sent::All)
}

/// Receive into the places that `places` names as (address, length).
async fn receive_plain(
    tcp: &TcpStream,
    patience: Duration,
    places: impl Fn() -> [(usize, usize); 2],
) -> Result<usize, TransportError> {
    loop {
        // Less than asked for means that the kernel has no more: said as WouldBlock, so that tokio forgets the
        // readiness and the next receive waits for an event without a futile call.
        let mut drained = None;
        let result = tcp.try_io(Interest::READABLE, || {
            let places = places();
            let count = receive_message(tcp, places)?;
            let asked: usize = places.iter().map(|place| place.1).sum();
            if count > 0 && count < asked {
                drained = Some(count);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        });
        match (drained, result) {
            (Some(count), _) | (None, Ok(count)) => return Ok(count),
            (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                timeout(patience, tcp.readable())
                    .await
                    .map_err(|_| read_timeout(patience))?
                    .map_err(|error| TransportError::closed(&error))?;
            }
            (None, Err(error)) => return Err(TransportError::closed(&error)),
        }
    }
}

fn send_message(tcp: &TcpStream, head: &[u8], body: &RawSlice) -> io::Result<usize> {
    let mut parts = [
        libc::iovec {
            iov_base: head.as_ptr().cast_mut().cast(),
            iov_len: head.len(),
        },
        libc::iovec {
            iov_base: body.ptr().cast_mut().cast(),
            iov_len: body.len(),
        },
    ];
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    // SAFETY: both parts are readable for the call: one is borrowed, the other kept by its owner; the kernel
    // only reads them.
    checked(unsafe { libc::sendmsg(tcp.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })
}

fn receive_message(tcp: &TcpStream, places: [(usize, usize); 2]) -> io::Result<usize> {
    let mut parts = places.map(|(address, length)| libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: length,
    });
    // SAFETY: both places are writable for the call: the callers hold the buffer borrowed, or a room, which
    // keeps its memory; an empty one is not touched.
    checked(unsafe { libc::readv(tcp.as_raw_fd(), parts.as_mut_ptr(), 2) })
}

fn peek(tcp: &TcpStream) -> io::Result<usize> {
    let mut byte = 0_u8;
    // SAFETY: one byte of ours.
    checked(unsafe {
        libc::recv(
            tcp.as_raw_fd(),
            (&raw mut byte).cast(),
            1,
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    })
}

fn checked(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
