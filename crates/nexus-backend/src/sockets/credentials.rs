//! Where a coupled function's SDK finds its credentials: the endpoint that AWS's containers have, at the same address, served
//! over a pair of sockets to that function alone. So they are in no environment, and renewed as the host renews them.

use crate::FunctionIdentity;
use crate::operation::Engine;
use serde_json::json;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

/// The address of the endpoint (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is relative to it).
pub const PLACE: ([u8; 4], u16) = ([169, 254, 170, 2], 80);
/// For how long an SDK may keep what it was told.
const KEEP: Duration = Duration::from_secs(20 * 60);
const MAX_REQUEST: usize = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the endpoint: the guest's end.
///
/// # Errors
/// The errno, out of descriptors.
pub fn open(engine: &Arc<Engine>, identity: &Arc<FunctionIdentity>) -> Result<OwnedFd, i32> {
    let made = || {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        Ok::<_, std::io::Error>((UnixStream::from_std(ours)?, OwnedFd::from(theirs)))
    };
    let (ours, theirs) = made().map_err(|error| error.raw_os_error().unwrap_or(libc::EMFILE))?;
    let (engine, identity) = (Arc::clone(engine), Arc::clone(identity));
    tokio::spawn(async move {
        // A guest that asks for nothing waits for nothing.
        let _ = tokio::time::timeout(PATIENCE, answer(ours, &engine, &identity)).await;
    });
    Ok(theirs)
}

async fn answer(
    mut connection: UnixStream,
    engine: &Engine,
    identity: &FunctionIdentity,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if request.len() > MAX_REQUEST || connection.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = match engine.credentials(identity, None) {
        _ if !request.starts_with(b"GET /") => ("405 Method Not Allowed", Zeroizing::default()),
        Err(_) => ("404 Not Found", Zeroizing::default()),
        Ok(found) => {
            let document = json!({
                "AccessKeyId": found.access_key_id,
                "SecretAccessKey": found.secret(),
                "Token": found.session_token().unwrap_or_default(),
                "Expiration": expiration(SystemTime::now() + KEEP),
            });
            ("200 OK", Zeroizing::new(document.to_string()))
        }
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(body.as_bytes()).await
}

/// As AWS writes a time.
fn expiration(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let text = crate::sigv4::amz_date(seconds);
    // 20261126T220000Z
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4),
        part(4, 6),
        part(6, 8),
        part(9, 11),
        part(11, 13),
        part(13, 15)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_aws_writes_them() {
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(expiration(time), "2023-11-14T22:13:20Z");
    }
}
