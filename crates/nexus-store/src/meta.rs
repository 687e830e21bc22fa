//! What the index keeps of an object beside its bytes.

use s3s::dto::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Headers and checksums of an object, as they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    pub content_type: Option<String>,
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    /// Seconds since 1970.
    pub expires: Option<i64>,
    pub storage_class: Option<String>,
    pub user: BTreeMap<String, String>,
    /// Base64 by algorithm: `crc32`, `crc32c`, `crc64nvme`, `sha1`, `sha256`.
    pub checksums: BTreeMap<String, String>,
    /// How an upload's checksum is to be made, or an object's was: algorithm, and `COMPOSITE` or `FULL_OBJECT`.
    pub checksum: Option<(String, String)>,
    pub redirect: Option<String>,
    pub encryption: Encryption,
    pub tags: Vec<(String, String)>,
    /// Sizes of the parts of a multipart upload.
    pub parts: Vec<u64>,
}

/// Encryption as it was asked for. Bytes are stored as they are: this store is for development.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Encryption {
    /// `AES256`, `aws:kms`, ...
    pub kind: Option<String>,
    pub key_id: Option<String>,
    pub bucket_key: Option<bool>,
    /// MD5 of the customer's key, which a read has to give again.
    pub customer_key_md5: Option<String>,
}

/// One object, as listed and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: String,
    /// `null` where its bucket had no versioning.
    pub version: String,
    pub latest: bool,
    /// A delete marker: there is nothing to read.
    pub marker: bool,
    /// Without quotes.
    pub etag: String,
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified: i64,
    pub meta: Meta,
    pub place: Place,
}

impl Record {
    /// A new object's, yet without a version.
    #[must_use]
    pub fn new(key: String, etag: String, size: u64, meta: Meta, place: Place) -> Self {
        Self {
            key,
            version: String::new(),
            latest: true,
            marker: false,
            etag,
            size,
            modified: now(),
            meta,
            place,
        }
    }
}

/// Where an object's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the index.
    Inline,
    /// In a file of this name in the data directory.
    File(String),
}

/// Nanoseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// As S3 shows it: whole seconds in headers, milliseconds in listings.
#[must_use]
pub fn timestamp(nanoseconds: i64) -> Timestamp {
    let milliseconds = u64::try_from(nanoseconds / 1_000_000).unwrap_or(0);
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(milliseconds))
}

/// From whole seconds.
#[must_use]
pub fn from_seconds(seconds: i64) -> Timestamp {
    timestamp(seconds.saturating_mul(1_000_000_000))
}
