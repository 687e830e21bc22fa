//! From a name to a connected socket, within a function's policy.

use super::{Engine, Failure};
use tokio::net::TcpStream;

/// # Errors
/// The policy forbids it, the name has no address, or nobody answers there.
pub async fn connect(
    engine: &Engine,
    function: &str,
    host: &str,
    port: u16,
) -> Result<TcpStream, Failure> {
    let _ = function;
    engine
        .policy
        .named(host, port)
        .map_err(|why| Failure::denied(&why))?;
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| Failure::name(&error))?;
    let mut last = Failure::new("gaierror", -2, "Name or service not known");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = Failure::system(&error),
        }
    }
    Err(last)
}
