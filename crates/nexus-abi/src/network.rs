//! The channel through which a hypervisor asks for its guest's connections to the outside (docs/protocols.md): one pair of
//! SEQPACKET sockets for each instance. A hypervisor cannot make a socket of its own; the backend makes each, once the
//! function's policy allows it, and passes it over.
//!
//! A request is [`HEAD`] bytes, little-endian: operation (u16), family (u16: 2 or 10), port (u16), zero (u16), id (u32), zero (u32), address
//! (16 bytes, IPv4 in the first four). A reply is [`REPLY`] bytes: operation (u16), errno or 0 (u16), zero (u32), id (u32), zero (u32).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Connect a stream. The reply, unless it has an errno, brings a socket that is connected or connecting, and does not block.
pub const CONNECT: u16 = 32;
/// May datagrams be sent to this address? The reply says so.
pub const ALLOW: u16 = 33;
/// Send a datagram: it follows the head, and with it comes a descriptor that answers are to be put into, each behind
/// [`DATAGRAM_HEADER`] bytes (length of the sender's address as u16, then the address). `id` names the guest's socket. No reply.
pub const SEND: u16 = 34;

pub const HEAD: usize = 32;
pub const REPLY: usize = 16;
pub const DATAGRAM_HEADER: usize = 128;
/// Longest datagram.
pub const MAX_DATAGRAM: usize = 65_507;

/// Where a guest finds the backend's resolver: an address that exists nowhere else.
pub const RESOLVER: [u8; 4] = [169, 254, 76, 53];
pub const RESOLVER_PORT: u16 = 53;
/// The addresses that a guest's connections to the outside seem to come from. The second is fec0::76:1: a site-local one, which
/// exists nowhere any more (RFC 3879), and for which whoever sorts a name's addresses (RFC 6724) takes IPv4's first.
pub const OWN: [u8; 4] = [169, 254, 76, 1];
pub const OWN_V6: [u8; 16] = [0xfe, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x76, 0, 1];

/// Address families, as Linux numbers them.
const INET: u16 = 2;
const INET6: u16 = 10;

/// What a request begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub operation: u16,
    pub id: u32,
    /// One of IPv4 as such, never mapped.
    pub to: SocketAddr,
}

impl Head {
    #[must_use]
    pub fn bytes(&self) -> [u8; HEAD] {
        let mut address = [0; 16];
        let family = match self.to.ip() {
            IpAddr::V4(ip) => {
                fill(&mut address, ip.octets());
                INET
            }
            IpAddr::V6(ip) => {
                fill(&mut address, ip.octets());
                INET6
            }
        };
        let words = [self.operation, family, self.to.port(), 0].map(u16::to_le_bytes);
        let ids = [self.id, 0].map(u32::to_le_bytes);
        let parts = [words.as_flattened(), ids.as_flattened(), &address];
        let mut bytes = [0; HEAD];
        fill(&mut bytes, parts.into_iter().flatten().copied());
        bytes
    }

    /// `None`: these bytes are no request's.
    #[must_use]
    pub fn parse(bytes: &[u8; HEAD]) -> Option<Self> {
        let [
            o0,
            o1,
            f0,
            f1,
            p0,
            p1,
            _,
            _,
            i0,
            i1,
            i2,
            i3,
            _,
            _,
            _,
            _,
            address @ ..,
        ] = *bytes;
        let [a, b, c, d, ..] = address;
        let ip = match u16::from_le_bytes([f0, f1]) {
            INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            INET6 => Ipv6Addr::from(address).to_canonical(),
            _ => return None,
        };
        Some(Self {
            operation: u16::from_le_bytes([o0, o1]),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
            to: SocketAddr::new(ip, u16::from_le_bytes([p0, p1])),
        })
    }
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub operation: u16,
    /// 0: it was done.
    pub errno: u16,
    pub id: u32,
}

impl Reply {
    #[must_use]
    pub fn bytes(&self) -> [u8; REPLY] {
        let words = [self.operation, self.errno, 0, 0].map(u16::to_le_bytes);
        let mut bytes = [0; REPLY];
        let all = words.as_flattened().iter().copied();
        fill(&mut bytes, all.chain(self.id.to_le_bytes()));
        bytes
    }

    #[must_use]
    pub fn parse(bytes: &[u8; REPLY]) -> Self {
        let [o0, o1, e0, e1, _, _, _, _, i0, i1, i2, i3, ..] = *bytes;
        Self {
            operation: u16::from_le_bytes([o0, o1]),
            errno: u16::from_le_bytes([e0, e1]),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
        }
    }
}

/// The bytes of a `struct sockaddr_in` or `sockaddr_in6`, and how many there are.
#[must_use]
pub fn sockaddr(address: SocketAddr) -> ([u8; 28], usize) {
    let mut bytes = [0; 28];
    let start = |family: u16| {
        family
            .to_le_bytes()
            .into_iter()
            .chain(address.port().to_be_bytes())
    };
    let length = match address.ip() {
        IpAddr::V4(ip) => {
            fill(&mut bytes, start(INET).chain(ip.octets()));
            16
        }
        IpAddr::V6(ip) => {
            // After the flow label.
            fill(&mut bytes, start(INET6).chain([0; 4]).chain(ip.octets()));
            28
        }
    };
    (bytes, length)
}

fn fill(to: &mut [u8], from: impl IntoIterator<Item = u8>) {
    for (to, byte) in to.iter_mut().zip(from) {
        *to = byte;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn head(to: &str) -> Head {
        Head {
            operation: CONNECT,
            id: 0x0102_0304,
            to: to.parse().unwrap(),
        }
    }

    #[test]
    fn heads_to_the_byte() {
        let bytes = head("1.2.3.4:80").bytes();
        let expected = [32, 0, 2, 0, 80, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(bytes[..20], expected);
        assert_eq!(bytes[20..], [0; 12]);
        for to in ["1.2.3.4:80", "[2001:db8::1]:443"] {
            assert_eq!(Head::parse(&head(to).bytes()), Some(head(to)));
        }
        // An address of IPv4 has one form.
        let mapped = head("[::ffff:127.0.0.1]:80").bytes();
        assert_eq!(Head::parse(&mapped).unwrap().to, head("127.0.0.1:80").to);
        assert_eq!(Head::parse(&[0; HEAD]), None);
    }

    #[test]
    fn replies_to_the_byte() {
        let reply = Reply {
            operation: ALLOW,
            errno: 13,
            id: 7,
        };
        assert_eq!(
            reply.bytes(),
            [33, 0, 13, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(Reply::parse(&reply.bytes()), reply);
    }

    #[test]
    fn addresses_as_the_kernel_has_them() {
        let (bytes, length) = sockaddr("1.2.3.4:80".parse().unwrap());
        assert_eq!(
            bytes[..length],
            [2, 0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        let (bytes, length) = sockaddr("[::1]:443".parse().unwrap());
        assert_eq!((length, bytes[0], bytes[3], bytes[23]), (28, 10, 0xbb, 1));
    }
}
