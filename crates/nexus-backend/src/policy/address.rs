//! Which addresses are the public Internet's, and which are this machine's or its network's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an IPv4-mapped IPv6 address stands for; any other address as it is.
pub fn plain(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Whether an address belongs to the public Internet: not to this machine, its network, a metadata service, a group
/// of machines, or nobody (IANA's special-purpose registries).
pub fn is_public(ip: IpAddr) -> bool {
    match plain(ip) {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, d] = ip.octets();
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || a == 0
        // Shared by carriers (RFC 6598), where Alibaba's metadata service is too.
        || (a == 100 && b & 0xc0 == 64)
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
        || (a == 198 && b & 0xfe == 18)
        // Azure's metadata and health service.
        || (a, b, c, d) == (168, 63, 129, 16)
        // Groups, and what is reserved.
        || a >= 224)
}

/// Global unicast without what embeds an IPv4 address (6to4, Teredo) or is for documents.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    first & 0xe000 == 0x2000
        && first != 0x2002
        && !(first == 0x2001 && (second < 0x200 || second == 0xdb8))
        && first != 0x3fff
}

/// The IPv4 address that a translator or a tunnel on the way would reach, and how many bits stand before it: NAT64 (RFC 6052),
/// 6to4 (RFC 3056), and what was meant for IPv4-compatible hosts (RFC 4291).
pub fn embedded(ip: IpAddr) -> Option<(Ipv4Addr, u8)> {
    let IpAddr::V6(ip) = ip else {
        return None;
    };
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => {
            Some((v4(high, low), 96))
        }
        [0x2002, high, low, ..] => Some((v4(high, low), 16)),
        _ => None,
    }
}

/// Addresses of this machine and its metadata service. Private ones are not among them: there VPC endpoints live.
pub fn is_inside(ip: IpAddr) -> bool {
    match plain(ip) {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.segments().first() == Some(&0xfd00)
                || embedded(ip).is_some_and(|(v4, _)| is_inside(v4.into()))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside() {
        for ip in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "fd00:ec2::254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::127.0.0.1",
            "ff02::1",
        ] {
            assert!(is_inside(ip.parse().unwrap()), "{ip}");
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["52.216.0.1", "10.0.0.1", "2600:1f00::1", "64:ff9b::34d8:1"] {
            assert!(!is_inside(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn addresses_that_are_not_public() {
        for ip in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "198.18.0.1",
            "203.0.113.7",
            "224.0.0.1",
            "255.255.255.255",
            "fd12::1",
            "ff02::1",
            "::",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "52.216.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "2600:1f00::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}
