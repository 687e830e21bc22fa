//! Datagrams of a guest: each of its sockets that sends to the outside has a socket here, and what comes back to it from
//! where it has sent to is put into the descriptor that came along. What finds no room is lost, as datagrams are.

use super::message::Request;
use super::{dns, is_resolver};
use crate::FunctionIdentity;
use crate::operation::Engine;
use nexus_abi::network::{DATAGRAM_HEADER, MAX_DATAGRAM, sockaddr};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Sockets with datagrams to the outside, and lookups under way, of one instance.
const MAX_FLOWS: usize = 128;
const MAX_LOOKUPS: usize = 32;
/// Addresses whose answers one socket hears.
const MAX_PEERS: usize = 64;

/// Those of one instance.
#[derive(Debug, Default)]
pub struct Flows {
    flows: HashMap<(u32, bool), Flow>,
    lookups: JoinSet<()>,
    names: Arc<dns::Lookups>,
}

#[derive(Debug)]
struct Flow {
    socket: std::net::UdpSocket,
    peers: Arc<Mutex<VecDeque<SocketAddr>>>,
    /// Ends when the guest's socket is closed.
    task: tokio::task::JoinHandle<()>,
    used: Instant,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Flows {
    /// Send one, which is allowed.
    pub fn send(
        &mut self,
        engine: &Arc<Engine>,
        identity: &Arc<FunctionIdentity>,
        request: Request,
    ) {
        let Some(answers) = request.descriptor else {
            return;
        };
        if is_resolver(request.head.to) {
            while self.lookups.try_join_next().is_some() {}
            if self.lookups.len() < MAX_LOOKUPS {
                let (engine, identity) = (Arc::clone(engine), Arc::clone(identity));
                let names = Arc::clone(&self.names);
                self.lookups.spawn(async move {
                    let answer = dns::answer(&engine, &identity, &names, &request.payload).await;
                    if let Some(answer) = answer {
                        let _ = deliver(&answers, request.head.to, &answer);
                    }
                });
            }
            return;
        }
        self.flows.retain(|_, flow| !flow.task.is_finished());
        let key = (request.head.id, request.head.to.is_ipv4());
        if !self.flows.contains_key(&key) {
            if self.flows.len() >= MAX_FLOWS {
                self.forget_the_oldest();
            }
            match Flow::open(request.head.to, answers) {
                Ok(flow) => drop(self.flows.insert(key, flow)),
                Err(error) => tracing::debug!(%error, "no socket for datagrams"),
            }
        }
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.used = Instant::now();
            flow.send(request.head.to, &request.payload);
        }
    }
}

impl Flows {
    /// Whoever has not sent for longest hears no more answers; once it sends again it is there again, from another port.
    fn forget_the_oldest(&mut self) {
        let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used);
        if let Some(key) = oldest.map(|(key, _)| *key) {
            tracing::debug!("more sockets with datagrams to the outside than are kept");
            self.flows.remove(&key);
        }
    }
}

impl Flow {
    fn open(to: SocketAddr, answers: OwnedFd) -> io::Result<Self> {
        let any: SocketAddr = if to.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0_u16; 8], 0).into()
        };
        let socket = std::net::UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        let heard = UdpSocket::from_std(socket.try_clone()?)?;
        let peers = Arc::default();
        // Readable when the guest's end is closed: nothing is ever sent to this end.
        // SAFETY: an OwnedFd names one open descriptor for as long as it lives.
        let answers = unsafe { AsyncFd::register_with_interest(answers, Interest::READABLE) }
            .map_err(io::Error::from)?;
        let task = tokio::spawn(listen(heard, Arc::clone(&peers), answers));
        Ok(Self {
            socket,
            peers,
            task,
            used: Instant::now(),
        })
    }

    fn send(&self, to: SocketAddr, payload: &[u8]) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if !peers.contains(&to) {
            if peers.len() >= MAX_PEERS {
                peers.pop_front();
            }
            peers.push_back(to);
        }
        drop(peers);
        let _ = self.socket.send_to(payload, to);
    }
}

async fn listen(
    socket: UdpSocket,
    peers: Arc<Mutex<VecDeque<SocketAddr>>>,
    answers: AsyncFd<OwnedFd>,
) {
    loop {
        tokio::select! {
            _ = answers.readable() => return,
            ready = socket.readable() => if ready.is_err() { return; },
        }
        let mut buffer = vec![0; MAX_DATAGRAM];
        // An error is an earlier datagram's, which nobody received.
        let Ok((length, from)) = socket.try_recv_from(&mut buffer) else {
            continue;
        };
        let known = peers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&from);
        let payload = buffer.get(..length).unwrap_or_default();
        if known && deliver(answers.get_ref(), from, payload).is_err_and(is_over) {
            return;
        }
    }
}

fn is_over(error: io::Error) -> bool {
    error.kind() != io::ErrorKind::WouldBlock
}

/// Put a datagram where the guest's socket receives it.
fn deliver(answers: &OwnedFd, from: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let mut message = vec![0; DATAGRAM_HEADER];
    let (address, length) = sockaddr(from);
    let size = u16::try_from(length).unwrap_or_default().to_le_bytes();
    for (to, byte) in message.iter_mut().zip(size.iter().chain(&address)) {
        *to = *byte;
    }
    message.extend_from_slice(payload);
    // SAFETY: the message is live, of the length given.
    let sent = unsafe {
        libc::send(
            answers.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
