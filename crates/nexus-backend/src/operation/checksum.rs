//! The checksums that S3 knows, made while bytes pass.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use ring::digest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Crc64Nvme,
    Crc32c,
    Crc32,
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    /// In the order in which an SDK prefers them.
    pub const ALL: [Self; 6] = [
        Self::Crc64Nvme,
        Self::Crc32c,
        Self::Crc32,
        Self::Sha1,
        Self::Sha256,
        Self::Sha512,
    ];

    /// By the name that headers give it, in any case.
    pub fn named(name: &str) -> Option<Self> {
        let suffix = name.to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.header().strip_prefix("x-amz-checksum-") == Some(&suffix))
    }

    /// The header that bears such a checksum.
    pub fn header(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
            Self::Sha512 => "x-amz-checksum-sha512",
        }
    }
}

/// One checksum in the making.
pub enum Checksum {
    Crc32(crc_fast::Digest),
    Crc64(crc_fast::Digest),
    Sha(Box<digest::Context>),
}

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checksum").finish_non_exhaustive()
    }
}

impl Checksum {
    pub fn new(algorithm: Algorithm) -> Self {
        let crc = crc_fast::Digest::new;
        let sha = |kind| Self::Sha(Box::new(digest::Context::new(kind)));
        match algorithm {
            Algorithm::Crc64Nvme => Self::Crc64(crc(CrcAlgorithm::Crc64Nvme)),
            Algorithm::Crc32c => Self::Crc32(crc(CrcAlgorithm::Crc32Iscsi)),
            Algorithm::Crc32 => Self::Crc32(crc(CrcAlgorithm::Crc32IsoHdlc)),
            Algorithm::Sha1 => sha(&digest::SHA1_FOR_LEGACY_USE_ONLY),
            Algorithm::Sha256 => sha(&digest::SHA256),
            Algorithm::Sha512 => sha(&digest::SHA512),
        }
    }

    pub fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Crc32(crc) | Self::Crc64(crc) => crc.update(piece),
            Self::Sha(context) => context.update(piece),
        }
    }

    /// Base64 of the value, most significant byte first, as headers have it.
    pub fn finish(self) -> String {
        match self {
            Self::Crc32(crc) => {
                // A CRC of 32 bits is the lower half.
                let value = u32::try_from(crc.finalize() & 0xFFFF_FFFF).unwrap_or(0);
                STANDARD.encode(value.to_be_bytes())
            }
            Self::Crc64(crc) => STANDARD.encode(crc.finalize().to_be_bytes()),
            Self::Sha(context) => STANDARD.encode(context.finish().as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the CRC catalogue, and FIPS 180's of the hashes, of "123456789" and "abc".
    #[test]
    fn known_values() {
        let of = |name: &str, text: &str| {
            let algorithm = Algorithm::named(name).map(Checksum::new);
            algorithm.map(|mut sum| {
                sum.update(&text.as_bytes()[..1]);
                sum.update(&text.as_bytes()[1..]);
                sum.finish()
            })
        };
        for (name, text, value) in [
            ("CRC32", "123456789", "y/Q5Jg=="),
            ("CRC32C", "123456789", "4waSgw=="),
            ("crc64nvme", "123456789", "rosUhgp5mIg="),
            ("SHA1", "abc", "qZk+NkcGgWq6PiVxeFDCbJzQ2J0="),
            (
                "SHA256",
                "abc",
                "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
            ),
        ] {
            assert_eq!(of(name, text).as_deref(), Some(value), "{name}");
        }
        assert!(Algorithm::named("md4").is_none());
    }
}
