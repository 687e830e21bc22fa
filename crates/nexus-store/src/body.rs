//! Receiving a body: into memory or a file, hashed as it comes, checked before anything of it becomes visible.

use crate::index::INLINE;
use crate::meta::Place;
use crate::store::{Store, internal};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{Checksum, StreamingBlob};
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders, s3_error};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

/// Largest object of one request, as S3 has it.
const MAX_BODY: u64 = 5 << 30;
/// Header of each checksum, and its name in the index.
const ALGORITHMS: [(&str, &str); 5] = [
    ("x-amz-checksum-crc32", "crc32"),
    ("x-amz-checksum-crc32c", "crc32c"),
    ("x-amz-checksum-crc64nvme", "crc64nvme"),
    ("x-amz-checksum-sha1", "sha1"),
    ("x-amz-checksum-sha256", "sha256"),
];

/// A body that arrived whole and as announced.
pub struct Received {
    pub place: Place,
    pub inline: Vec<u8>,
    pub size: u64,
    /// MD5 in hexadecimal digits.
    pub md5: String,
    /// Verified checksums, by algorithm.
    pub checksums: BTreeMap<String, String>,
}

/// What a request announces of its body.
#[derive(Default)]
pub struct Announced {
    pub content_md5: Option<String>,
    pub content_length: Option<i64>,
    pub headers: hyper::HeaderMap,
    pub trailers: Option<TrailingHeaders>,
}

enum Target {
    Memory(Vec<u8>),
    File(String, File),
}

/// Take a checksum's value by the algorithm's name.
#[must_use]
pub fn by_name<'a>(sums: &'a Checksum, name: &str) -> Option<&'a String> {
    match name {
        "crc32" => sums.checksum_crc32.as_ref(),
        "crc32c" => sums.checksum_crc32c.as_ref(),
        "crc64nvme" => sums.checksum_crc64nvme.as_ref(),
        "sha1" => sums.checksum_sha1.as_ref(),
        _ => sums.checksum_sha256.as_ref(),
    }
}

/// A hasher for the algorithms of this set.
#[must_use]
pub fn hasher(wanted: &[&str]) -> ChecksumHasher {
    let has = |name| wanted.contains(&name);
    ChecksumHasher {
        crc32: has("crc32").then(Default::default),
        crc32c: has("crc32c").then(Default::default),
        crc64nvme: has("crc64nvme").then(Default::default),
        sha1: has("sha1").then(Default::default),
        sha256: has("sha256").then(Default::default),
    }
}

impl Announced {
    /// Algorithms named in the headers, or to come in the trailers.
    fn algorithms(&self) -> Vec<&'static str> {
        let trailer = self
            .headers
            .get("x-amz-trailer")
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        ALGORITHMS
            .iter()
            .filter(|(header, _)| {
                self.headers.contains_key(*header) || trailer.to_ascii_lowercase().contains(header)
            })
            .map(|(_, name)| *name)
            .collect()
    }

    fn value(&self, header: &str) -> Option<String> {
        let from = |headers: &hyper::HeaderMap| {
            headers
                .get(header)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned)
        };
        from(&self.headers).or_else(|| self.trailers.as_ref().and_then(|t| t.read(from)).flatten())
    }
}

/// Receive a body and check it.
///
/// # Errors
/// BadDigest, InvalidDigest, IncompleteBody, EntityTooLarge as S3 has them.
pub async fn receive(
    store: &Arc<Store>,
    body: Option<StreamingBlob>,
    announced: &Announced,
) -> S3Result<Received> {
    receive_with(store, body, announced, &[]).await
}

/// As [`receive`], and make checksums of more algorithms than were announced.
///
/// # Errors
/// As [`receive`].
pub async fn receive_with(
    store: &Arc<Store>,
    body: Option<StreamingBlob>,
    announced: &Announced,
    more: &[&str],
) -> S3Result<Received> {
    let wanted = announced.algorithms();
    let made: Vec<&str> = wanted.iter().chain(more).copied().collect();
    let mut sums = hasher(&made);
    let mut md5 = Md5::new();
    let mut size = 0u64;
    let mut target = Target::Memory(Vec::new());
    let result = fill(store, body, &mut target, |bytes| {
        sums.update(bytes);
        md5.update(bytes);
        size += bytes.len() as u64;
        size
    })
    .await;
    let checked = match result {
        Ok(()) => check(announced, size, md5.finalize(), &sums.finalize(), &made),
        Err(error) => Err(error),
    };
    match (checked, target) {
        (Ok((md5, checksums)), Target::Memory(inline)) => Ok(Received {
            place: Place::Inline,
            inline,
            size,
            md5,
            checksums,
        }),
        (Ok((md5, checksums)), Target::File(name, file)) => {
            let (keeper, sealed) = (Arc::clone(store), name.clone());
            let done = tokio::task::spawn_blocking(move || keeper.seal(&sealed, &file)).await;
            done.map_err(internal)?.map_err(internal)?;
            Ok(Received {
                place: Place::File(name),
                inline: Vec::new(),
                size,
                md5,
                checksums,
            })
        }
        (Err(error), target) => {
            if let Target::File(name, _) = target {
                store.abandon(&name);
            }
            Err(error)
        }
    }
}

async fn fill(
    store: &Arc<Store>,
    body: Option<StreamingBlob>,
    target: &mut Target,
    mut each: impl FnMut(&[u8]) -> u64,
) -> S3Result<()> {
    let Some(mut body) = body else { return Ok(()) };
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|e| {
            S3Error::with_message(
                S3ErrorCode::IncompleteBody,
                format!("The request body ended early: {e}"),
            )
        })?;
        if each(&bytes) > MAX_BODY {
            return Err(s3_error!(
                EntityTooLarge,
                "Your proposed upload exceeds the maximum allowed size"
            ));
        }
        if let Target::Memory(memory) = target {
            if memory.len() + bytes.len() <= INLINE {
                memory.extend_from_slice(&bytes);
                continue;
            }
            let (name, mut file) = store.create().map_err(internal)?;
            let written = file.write_all(memory);
            *target = Target::File(name, file);
            written.map_err(internal)?;
        }
        if let Target::File(_, file) = target {
            // Into the page cache: short; the sync at the end is what may take long.
            file.write_all(&bytes).map_err(internal)?;
        }
    }
    Ok(())
}

type Checked = (String, BTreeMap<String, String>);

fn check(
    announced: &Announced,
    size: u64,
    md5: impl AsRef<[u8]>,
    sums: &Checksum,
    wanted: &[&str],
) -> S3Result<Checked> {
    let expected = announced
        .headers
        .get("x-amz-decoded-content-length")
        .and_then(|v| v.to_str().ok()?.parse().ok());
    if let Some(expected) = expected.or(announced.content_length)
        && u64::try_from(expected).ok() != Some(size)
    {
        return Err(s3_error!(
            IncompleteBody,
            "You did not provide the number of bytes specified by the Content-Length HTTP header"
        ));
    }
    let md5 = md5.as_ref();
    if let Some(given) = &announced.content_md5 {
        let given = BASE64_STANDARD.decode(given).ok().filter(|d| d.len() == 16);
        match given {
            None => {
                return Err(s3_error!(
                    InvalidDigest,
                    "The Content-MD5 you specified was invalid."
                ));
            }
            Some(given) if given != md5 => {
                return Err(s3_error!(
                    BadDigest,
                    "The Content-MD5 you specified did not match what we received."
                ));
            }
            Some(_) => {}
        }
    }
    let mut verified = BTreeMap::new();
    for (header, name) in ALGORITHMS.iter().filter(|(_, name)| wanted.contains(name)) {
        let (given, computed) = (announced.value(header), by_name(sums, name));
        match (given, computed) {
            (None, Some(computed)) if !announced.algorithms().contains(name) => {
                verified.insert((*name).to_owned(), computed.clone());
            }
            (Some(given), Some(computed)) if given == *computed => {
                verified.insert((*name).to_owned(), given);
            }
            _ => {
                return Err(S3Error::with_message(
                    S3ErrorCode::BadDigest,
                    format!(
                        "The {} you specified did not match the calculated checksum.",
                        name.to_uppercase()
                    ),
                ));
            }
        }
    }
    Ok((md5.iter().map(|b| format!("{b:02x}")).collect(), verified))
}
