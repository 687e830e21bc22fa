//! The channel through which a hypervisor asks for its guest's connections to the outside (docs/protocols.md): one pair of
//! SEQPACKET sockets for each instance. A hypervisor cannot make a socket of its own; the backend makes each, once the
//! function's policy allows it, and passes it over.
//!
//! A request is [`HEAD`] bytes, little-endian: operation (u16), family (u16: 2 or 10), port (u16), zero (u16), id (u32), zero (u32), address
//! (16 bytes, IPv4 in the first four). A reply is [`REPLY`] bytes: operation (u16), errno or 0 (u16), zero (u32), id (u32), zero (u32).

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
/// The addresses that a guest's connections to the outside seem to come from; the second is fd4e:6578:7573::1, of a network
/// that exists nowhere else.
pub const OWN: [u8; 4] = [169, 254, 76, 1];
pub const OWN_V6: [u8; 16] = [
    0xfd, b'N', b'e', b'x', b'u', b's', 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
];
