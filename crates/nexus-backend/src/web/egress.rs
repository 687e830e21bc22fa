//! From a name to a connected socket, within a function's policy.

use super::{Engine, Failure};
use crate::FunctionIdentity;
use crate::http::url::Authority;
use crate::policy::{Allowed, Denied};
use std::sync::Arc;
use tokio::net::TcpStream;

/// Whether the function may talk to this host: by its policy's egress, or because it is an endpoint of the node's
/// configuration (which presigned URLs lead to; each request there is judged).
///
/// # Errors
/// It may not.
pub fn allow(
    engine: &Engine,
    identity: &FunctionIdentity,
    host: &str,
    port: u16,
) -> Result<Allowed, Denied> {
    let policy = engine.policy(identity);
    for https in [false, true] {
        let host = host.to_owned();
        let authority = Arc::new(Authority::new(https, host, port));
        if let Ok(Allowed::Configured) = policy.check(&authority, None) {
            return Ok(Allowed::Configured);
        }
    }
    policy.egress(host, port)
}

/// # Errors
/// The policy forbids it, the name has no address, or nobody answers there.
pub async fn connect(
    engine: &Engine,
    identity: &FunctionIdentity,
    host: &str,
    port: u16,
) -> Result<TcpStream, Failure> {
    let allowed = allow(engine, identity, host, port).map_err(|why| Failure::denied(&why.0))?;
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| Failure::name(&error))?;
    let mut last = Failure::new("gaierror", -2, "Name or service not known");
    for address in addresses {
        if let Err(why) = allowed.address(address.ip(), address.port()) {
            last = Failure::denied(&why.0);
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = Failure::system(&error),
        }
    }
    Err(last)
}
