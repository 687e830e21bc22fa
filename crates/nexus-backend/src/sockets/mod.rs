//! A guest's sockets to the outside (`nexus_abi::network`): the policy is asked, the connection begun, and the socket passed
//! to the hypervisor, which cannot make one. Its bytes never pass through here. Datagrams do: each destination is checked.
//!
//! Addresses are checked here and connected to here, so nothing can be resolved in between.

mod credentials;
mod datagrams;
mod dns;
mod message;

use crate::connections::Place;
use crate::operation::Engine;
use crate::policy::Denied;
use crate::prefetch::Inputs;
use crate::writes::scope::Current;
use crate::{Connections, FunctionIdentity};
use datagrams::Flows;
use message::{Channel, Request};
use nexus_abi::network::{ALLOW, CONNECT, RESOLVER, RESOLVER_PORT, SEND, sockaddr};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Connections that one instance may have open.
const INSTANCE_CONNECTIONS: usize = 1024;

/// A pair of SEQPACKET sockets: the backend's end, which does not block, and the hypervisor's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, owned by nobody else.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into())
}

/// Serve one instance until its hypervisor has gone.
///
/// # Errors
/// The runtime cannot watch the channel.
pub fn serve(
    control: OwnedFd,
    engine: Arc<Engine>,
    identity: Arc<FunctionIdentity>,
    current: Arc<Current>,
    inputs: Arc<Inputs>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let channel = Channel::new(control)?;
    Ok(async move {
        let mut flows = Flows::default();
        let own = Arc::new(Connections::new(INSTANCE_CONNECTIONS));
        while let Ok(request) = channel.receive().await {
            // Its bytes pass nobody: no deferred write may be behind, and nothing that was read before may stand for a read.
            inputs.note_at(u64::MAX);
            let cleared = engine.writes.patiently(current.connect()).await;
            if !matches!(cleared, Some(Ok(()))) {
                if request.head.operation != SEND
                    && channel.reply(&request, libc::EACCES, None).await.is_err()
                {
                    return;
                }
                continue;
            }
            let outcome =
                serve_one(&engine, &identity, (&mut flows, &own), request, &channel).await;
            if let Err(error) = outcome {
                tracing::debug!(function = %identity.name, %error, "sockets are served no more");
                return;
            }
        }
    })
}

async fn serve_one(
    engine: &Arc<Engine>,
    identity: &Arc<FunctionIdentity>,
    (flows, own): (&mut Flows, &Arc<Connections>),
    request: Request,
    channel: &Channel,
) -> io::Result<()> {
    match request.head.operation {
        CONNECT => {
            let made =
                if identity.coupled && request.head.to == SocketAddr::from(credentials::PLACE) {
                    credentials::open(engine, identity)
                } else {
                    match permit(engine, identity, request.head.to) {
                        Ok(()) => connect_within(identity, own, request.head.to).await,
                        Err(errno) => Err(errno),
                    }
                };
            match made {
                Ok(socket) => channel.reply(&request, 0, Some(&socket)).await,
                Err(errno) => channel.reply(&request, errno, None).await,
            }
        }
        ALLOW => {
            let allowed = permit_datagram(engine, identity, request.head.to);
            let errno = allowed.and_then(|()| way(request.head.to)).err();
            channel.reply(&request, errno.unwrap_or(0), None).await
        }
        SEND => {
            // Every one is checked: the hypervisor is not believed to have asked.
            if permit_datagram(engine, identity, request.head.to).is_ok() {
                flows.send(engine, identity, request);
            }
            Ok(())
        }
        _ => channel.reply(&request, libc::EINVAL, None).await,
    }
}

pub(super) fn is_resolver(to: SocketAddr) -> bool {
    to == SocketAddr::from((RESOLVER, RESOLVER_PORT))
}

fn permit_datagram(
    engine: &Engine,
    identity: &FunctionIdentity,
    to: SocketAddr,
) -> Result<(), i32> {
    if is_resolver(to) {
        return Ok(());
    }
    permit(engine, identity, to)
}

/// The errno of a denied connection: EACCES, as of a local firewall; at loopback ECONNREFUSED, as where nobody listens.
fn permit(engine: &Engine, identity: &FunctionIdentity, to: SocketAddr) -> Result<(), i32> {
    let denied = |Denied(why): Denied| {
        tracing::info!(function = %identity.name, %why, "a connection was denied");
        if to.ip().is_loopback() {
            libc::ECONNREFUSED
        } else {
            libc::EACCES
        }
    };
    if identity.coupled && engine.endpoints.at(to) {
        return Ok(());
    }
    let host = to.ip().to_string();
    let allowed = engine
        .policy(identity)
        .egress(&host, to.port())
        .map_err(denied)?;
    allowed.address(to.ip(), to.port()).map_err(denied)
}

/// Whether this machine has a way to an address: many have none by IPv6, and programs that sort a name's addresses ask by
/// connecting a datagram socket. Nothing is sent.
fn way(to: SocketAddr) -> Result<(), i32> {
    let any: IpAddr = match to {
        _ if is_resolver(to) => return Ok(()),
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    std::net::UdpSocket::bind((any, 0))
        .and_then(|socket| socket.connect(to))
        .map_err(|error| without_family(error.raw_os_error().unwrap_or(libc::ENETUNREACH)))
}

/// The guest has IPv6; where the host has none, it has no way there.
fn without_family(errno: i32) -> i32 {
    if errno == libc::EAFNOSUPPORT {
        libc::ENETUNREACH
    } else {
        errno
    }
}

/// Begin a connection, if the instance and the function may have one more. EADDRNOTAVAIL where they may not, as where no local
/// port is left.
async fn connect_within(
    identity: &FunctionIdentity,
    own: &Arc<Connections>,
    to: SocketAddr,
) -> Result<OwnedFd, i32> {
    let (Some(one), Some(other)) = (own.place().await, identity.connections.place().await) else {
        tracing::info!(function = %identity.name, "it has as many connections open as it may");
        return Err(libc::EADDRNOTAVAIL);
    };
    let socket = connect(to)?;
    for place in [one, other] {
        Place::passed(place, &socket).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
    }
    Ok(socket)
}

/// Begin a connection.
fn connect(to: SocketAddr) -> Result<OwnedFd, i32> {
    let errno = || {
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let family = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: plain numbers.
    let fd = unsafe { libc::socket(family, kind, 0) };
    if fd < 0 {
        return Err(without_family(errno()));
    }
    // SAFETY: just made, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let (address, length) = sockaddr(to);
    // SAFETY: the address is live, of the length given.
    let begun = unsafe {
        let length = length as libc::socklen_t;
        libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), length)
    };
    match begun {
        0 => Ok(socket),
        _ if errno() == libc::EINPROGRESS => Ok(socket),
        _ => Err(errno()),
    }
}
