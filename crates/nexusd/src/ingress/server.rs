//! Connections: accepted up to a limit, each with time limits on heads and bodies.

use super::router;
use crate::node::Node;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::poll_fn;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// A request's head has to arrive within this time of the connection's, or of the request's, start;
/// so this is also how long a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A client that takes nothing of its response for this long loses its connection, in milliseconds.
const WRITE_TIMEOUT_MS: libc::c_uint = 60_000;
/// How long, and for how many bytes, a closed connection is still read.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;
/// Bytes of a head.
const MAX_HEAD: usize = 64 << 10;
const MAX_HEADERS: usize = 100;

/// Serve until `closing` changes; connections then end after the request they are at.
pub async fn serve(node: Arc<Node>, listener: TcpListener, mut closing: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(node.config.max_connections));
    loop {
        // A place first: what cannot be served waits in the kernel's bounded queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (node, closing) = (Arc::clone(&node), closing.clone());
                tokio::spawn(async move {
                    connection(node, stream, closing).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: connections that end give some back.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(node: Arc<Node>, stream: TcpStream, mut closing: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    limit_writes(&stream);
    let service = service_fn(move |request| Box::pin(router::route(Arc::clone(&node), request)));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = poll_fn(|context| connection.poll_without_shutdown(context)) => Some(ended),
        _ = closing.changed() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|context| connection.poll_without_shutdown(context)).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
    linger(connection.into_parts().io.into_inner()).await;
}

/// Close a connection so that its last answer arrives: where bytes of a request were not read, a plain close sends a reset, which
/// may overtake it (RFC 9112, section 9.6).
async fn linger(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        let mut taken = 0;
        let mut buffer = vec![0; 16 << 10];
        while taken < LINGER_BYTES {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => taken += count,
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // Whatever comes of it, it is over.
    let _ = timeout(LINGER, rest).await;
}

/// TCP_USER_TIMEOUT also bounds how long the peer's window may stay shut (tcp(7)).
fn limit_writes(stream: &TcpStream) {
    let milliseconds = WRITE_TIMEOUT_MS;
    // SAFETY: a socket of ours and four bytes of ours.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            (&raw const milliseconds).cast(),
            4,
        )
    };
    if result != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "no TCP_USER_TIMEOUT");
    }
}
