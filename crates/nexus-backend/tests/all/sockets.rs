//! The channel for sockets, as a hypervisor uses it, and as a hostile one does.

use nexus_abi::network::{ALLOW, CONNECT, HEAD, REPLY, SEND};
use nexus_backend::{
    Backend, Channel, Config, Connections, FUNCTION_CONNECTIONS, FunctionIdentity,
    GuestDescriptors, PolicyDocument, PolicyRules, Wake,
};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

struct Instance {
    _channel: Channel,
    guest: GuestDescriptors,
}

fn instance(egress: &[String]) -> Instance {
    instance_within(egress, &Arc::new(Connections::new(FUNCTION_CONNECTIONS)))
}

/// One of a function that has these connections.
fn instance_within(egress: &[String], connections: &Arc<Connections>) -> Instance {
    let backend = Backend::new(Config::default()).unwrap();
    let policy = serde_json::json!({ "egress": egress });
    let policy: PolicyDocument = serde_json::from_value(policy).unwrap();
    let rules = Arc::new(PolicyRules::new("f", &policy).unwrap());
    let identity = FunctionIdentity {
        connections: Arc::clone(connections),
        ..FunctionIdentity::new("f", "us-east-1", rules)
    };
    let (channel, guest) = backend
        .open(identity, nexus_abi::arena::MIN_SIZE, Wake::Futex)
        .unwrap();
    Instance {
        _channel: channel,
        guest,
    }
}

fn request(operation: u16, ip: Ipv4Addr, port: u16, id: u32) -> Vec<u8> {
    let mut bytes = vec![0; HEAD];
    bytes[0..2].copy_from_slice(&operation.to_le_bytes());
    bytes[2] = 2;
    bytes[4..6].copy_from_slice(&port.to_le_bytes());
    bytes[8..12].copy_from_slice(&id.to_le_bytes());
    bytes[16..20].copy_from_slice(&ip.octets());
    bytes
}

/// The hypervisor's end.
struct End(UnixDatagram);

impl End {
    fn of(instance: &Instance) -> Self {
        // A SEQPACKET socket sends and receives as a connected datagram socket does.
        let end = UnixDatagram::from(instance.guest.network.try_clone().unwrap());
        end.set_nonblocking(false).unwrap();
        end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(end)
    }

    fn ask(&self, bytes: &[u8]) -> (u16, Option<OwnedFd>) {
        self.0.send(bytes).unwrap();
        let mut reply = [0_u8; 64];
        let mut fds = [-1; 4];
        let mut part = [libc::iovec {
            iov_base: reply.as_mut_ptr().cast(),
            iov_len: reply.len(),
        }];
        // SAFETY: the buffer lives across the call.
        let (length, count) = unsafe { self.0.recv_with_fds(&mut part, &mut fds) }.unwrap();
        assert_eq!(length, REPLY);
        assert_eq!(reply[8..12], bytes[8..12]);
        // SAFETY: just received, owned by nobody else.
        let fd = (count == 1).then(|| unsafe { OwnedFd::from_raw_fd(fds[0]) });
        (u16::from_le_bytes([reply[2], reply[3]]), fd)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_passed_where_the_policy_names_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let instance = instance(&[format!("127.0.0.1:{port}")]);
    let end = End::of(&instance);
    tokio::task::spawn_blocking(move || {
        let (errno, socket) = end.ask(&request(CONNECT, Ipv4Addr::LOCALHOST, port, 7));
        assert_eq!(errno, 0);
        let mut passed = TcpStream::from(socket.unwrap());
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"hello").unwrap();
        passed.set_nonblocking(false).unwrap();
        let mut buffer = [0; 5];
        passed.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello");
        for (ip, port, expected) in [
            (
                Ipv4Addr::LOCALHOST,
                port.wrapping_add(1).max(1),
                libc::ECONNREFUSED,
            ),
            (Ipv4Addr::new(169, 254, 169, 254), 80, libc::EACCES),
            (Ipv4Addr::new(169, 254, 170, 2), 80, libc::EACCES),
            (Ipv4Addr::new(10, 0, 0, 1), port, libc::EACCES),
            (Ipv4Addr::UNSPECIFIED, port, libc::EACCES),
        ] {
            for operation in [CONNECT, ALLOW] {
                let (errno, socket) = end.ask(&request(operation, ip, port, 8));
                assert_eq!(
                    (i32::from(errno), socket.is_some()),
                    (expected, false),
                    "{ip}"
                );
            }
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_go_where_the_policy_says_and_answers_come_back() {
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    server
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let port = server.local_addr().unwrap().port();
    let denied = other.local_addr().unwrap().port();
    let instance = instance(&[format!("127.0.0.1:{port}")]);
    let end = End::of(&instance);
    tokio::task::spawn_blocking(move || {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        for to in [denied, port] {
            let mut message = request(SEND, Ipv4Addr::LOCALHOST, to, 3);
            message.extend_from_slice(b"ping");
            end.0
                .send_with_fd(message.as_slice(), far.as_raw_fd())
                .unwrap();
        }
        let mut buffer = [0; 256];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"ping");
        server.send_to(b"pong", from).unwrap();
        let length = near.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..2], 16_u16.to_le_bytes());
        assert_eq!(&buffer[128..length], b"pong");
        // A stranger is not heard, and what was denied never left.
        other.send_to(b"evil", from).unwrap();
        server.send_to(b"second", from).unwrap();
        let length = near.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[128..length], b"second");
        assert!(other.recv_from(&mut buffer).is_err());
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_ends_the_channel_and_nothing_else() {
    for bytes in [vec![0; 5], vec![0xff; HEAD], vec![0; HEAD + 70_000]] {
        let instance = instance(&[]);
        let end = End::of(&instance);
        tokio::task::spawn_blocking(move || {
            end.0.send(&bytes).unwrap();
            // The end of the stream, or a reset.
            assert!(!matches!(end.0.recv(&mut [0; 64]), Ok(length) if length > 0));
        })
        .await
        .unwrap();
    }
    // An unknown operation is answered.
    let instance = instance(&[]);
    let end = End::of(&instance);
    tokio::task::spawn_blocking(move || {
        let (errno, socket) = end.ask(&request(99, Ipv4Addr::LOCALHOST, 1, 1));
        assert_eq!((i32::from(errno), socket.is_some()), (libc::EINVAL, false));
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_of_all_instances_are_limited() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let limit = Arc::new(Connections::new(3));
    let egress = [format!("127.0.0.1:{port}")];
    let instances = [0, 1].map(|_| instance_within(&egress, &limit));
    let ends = [0, 1].map(|n| End::of(&instances[n]));
    tokio::task::spawn_blocking(move || {
        let connect = |end: &End| end.ask(&request(CONNECT, Ipv4Addr::LOCALHOST, port, 1));
        let full = libc::EADDRNOTAVAIL;
        let mut passed: Vec<OwnedFd> = [&ends[0], &ends[1], &ends[0]]
            .map(|end| connect(end).1.unwrap())
            .into();
        for end in &ends {
            let (errno, socket) = connect(end);
            assert_eq!((i32::from(errno), socket.is_some()), (full, false));
        }
        // The server's end does not matter; whether somebody has the socket does.
        let (accepted, _) = listener.accept().unwrap();
        drop(accepted);
        assert!(connect(&ends[0]).1.is_none());
        // A hypervisor's copy would keep it open, whatever it says.
        let copy = passed[2].try_clone().unwrap();
        drop(passed.pop());
        assert!(connect(&ends[0]).1.is_none());
        drop(copy);
        assert!(connect(&ends[1]).1.is_some());
    })
    .await
    .unwrap();
}
