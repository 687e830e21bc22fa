//! Connections: accepted up to a limit, each with time limits on heads and bodies.

use super::router;
use crate::node::Node;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// A request's head has to arrive within this time of the connection's, or of the request's, start;
/// so this is also how long a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A client that takes nothing of its response for this long loses its connection, in milliseconds.
const WRITE_TIMEOUT_MS: libc::c_uint = 60_000;
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
    let service = service_fn(move |request| router::route(Arc::clone(&node), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = closing.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
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
