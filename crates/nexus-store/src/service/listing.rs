//! Listings: keys in the order of their UTF-8 bytes, with prefix and delimiter, page by page.

use super::Service;
use crate::meta::{Record, timestamp};
use crate::service::objects::{etag, sum_type};
use crate::store::{Store, refusal};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};
use std::sync::Arc;

/// Keys in one page at most.
const MAX_KEYS: usize = 1000;
/// What encoding-type=url leaves as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'/')
    .remove(b'~')
    .remove(b'*');

struct Query {
    bucket: String,
    prefix: String,
    delimiter: Option<String>,
    /// Only keys behind this one.
    after: String,
    max: usize,
}

#[derive(Default)]
struct Page {
    objects: Vec<Record>,
    prefixes: Vec<String>,
    /// The last key or prefix of this page, if another follows.
    next: Option<String>,
}

/// The least byte string greater than all that begin with `prefix`.
pub(super) fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut bound = prefix.to_vec();
    while let Some(last) = bound.pop() {
        if last < 0xff {
            bound.push(last + 1);
            break;
        }
    }
    bound
}

impl Query {
    async fn run(self, store: &Arc<Store>) -> S3Result<Page> {
        store
            .with(move |index| {
                let mut page = Page::default();
                let mut last = String::new();
                let prefix = self.prefix.as_bytes();
                // A prefix that was the last of the page before is skipped as a whole.
                let skipped = self
                    .delimiter
                    .as_ref()
                    .filter(|d| self.after.ends_with(d.as_str()))
                    .is_some();
                let (mut from, mut inclusive) = match () {
                    () if self.after.as_bytes() < prefix => (prefix.to_vec(), true),
                    () if skipped => (behind(self.after.as_bytes()), true),
                    () => (self.after.clone().into_bytes(), false),
                };
                loop {
                    let batch = index.range(&self.bucket, &from, inclusive, MAX_KEYS + 1)?;
                    let exhausted = batch.len() <= MAX_KEYS;
                    let mut jumped = false;
                    for record in batch {
                        if !record.key.as_bytes().starts_with(prefix) {
                            return Ok(page);
                        }
                        let rest = record.key.get(self.prefix.len()..).unwrap_or_default();
                        let group = self
                            .delimiter
                            .as_ref()
                            .and_then(|d| rest.find(d.as_str()).map(|at| at + d.len()));
                        if page.objects.len() + page.prefixes.len() >= self.max {
                            page.next = Some(last);
                            return Ok(page);
                        }
                        from = record.key.clone().into_bytes();
                        inclusive = false;
                        if let Some(length) = group {
                            let common = record
                                .key
                                .get(..self.prefix.len() + length)
                                .unwrap_or_default()
                                .to_owned();
                            from = behind(common.as_bytes());
                            inclusive = true;
                            last.clone_from(&common);
                            page.prefixes.push(common);
                            jumped = true;
                            break;
                        }
                        last.clone_from(&record.key);
                        page.objects.push(record);
                    }
                    if (exhausted && !jumped) || from.is_empty() {
                        return Ok(page);
                    }
                }
            })
            .await
            .map_err(refusal)
    }
}

pub(super) fn shown(text: String, encode: bool) -> String {
    if encode {
        utf8_percent_encode(&text, KEPT).to_string()
    } else {
        text
    }
}

fn object(record: Record, encode: bool, owner: bool) -> Object {
    let algorithms: Vec<ChecksumAlgorithm> = record
        .meta
        .checksums
        .keys()
        .map(|k| ChecksumAlgorithm::from(k.to_uppercase()))
        .collect();
    let checksum_type = sum_type(&record.meta, true);
    Object {
        checksum_type,
        key: Some(shown(record.key, encode)),
        e_tag: Some(etag(&record.etag)),
        size: i64::try_from(record.size).ok(),
        last_modified: Some(timestamp(record.modified)),
        storage_class: Some(ObjectStorageClass::from(
            record
                .meta
                .storage_class
                .unwrap_or_else(|| "STANDARD".to_owned()),
        )),
        checksum_algorithm: (!algorithms.is_empty()).then_some(algorithms),
        owner: owner.then(|| Owner {
            id: Some("nexus".to_owned()),
            display_name: Some("nexus".to_owned()),
        }),
        restore_status: None,
    }
}

pub(super) fn limit(max_keys: Option<i32>) -> S3Result<usize> {
    let max = usize::try_from(max_keys.unwrap_or(1000)).map_err(|_| {
        s3_error!(
            InvalidArgument,
            "Argument maxKeys must be an integer between 0 and 2147483647"
        )
    })?;
    Ok(max.min(MAX_KEYS))
}

pub(super) fn common(prefixes: Vec<String>, encode: bool) -> Option<CommonPrefixList> {
    let list: Vec<CommonPrefix> = prefixes
        .into_iter()
        .map(|p| CommonPrefix {
            prefix: Some(shown(p, encode)),
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

impl Service {
    pub(super) async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<ListObjectsV2Output> {
        let i = req.input;
        self.require_bucket(i.bucket.clone()).await?;
        let encode = i.encoding_type.is_some();
        let after = match &i.continuation_token {
            Some(token) => BASE64_URL_SAFE_NO_PAD
                .decode(token)
                .ok()
                .and_then(|t| String::from_utf8(t).ok())
                .ok_or_else(|| {
                    s3_error!(
                        InvalidArgument,
                        "The continuation token provided is incorrect"
                    )
                })?,
            None => i.start_after.clone().unwrap_or_default(),
        };
        let query = Query {
            bucket: i.bucket.clone(),
            prefix: i.prefix.clone().unwrap_or_default(),
            delimiter: i.delimiter.clone().filter(|d| !d.is_empty()),
            after,
            max: limit(i.max_keys)?,
        };
        let owner = i.fetch_owner.unwrap_or(false);
        let page = if query.max == 0 {
            Page::default()
        } else {
            query.run(&self.store).await?
        };
        let count = page.objects.len() + page.prefixes.len();
        Ok(ListObjectsV2Output {
            name: Some(i.bucket),
            prefix: Some(shown(i.prefix.unwrap_or_default(), encode)),
            delimiter: i.delimiter.map(|d| shown(d, encode)),
            max_keys: Some(i32::try_from(limit(i.max_keys)?).unwrap_or(1000)),
            key_count: i32::try_from(count).ok(),
            continuation_token: i.continuation_token,
            start_after: i.start_after.map(|s| shown(s, encode)),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.map(|n| BASE64_URL_SAFE_NO_PAD.encode(n)),
            contents: Some(
                page.objects
                    .into_iter()
                    .map(|r| object(r, encode, owner))
                    .collect::<Vec<_>>(),
            )
            .filter(|l| !l.is_empty()),
            common_prefixes: common(page.prefixes, encode),
            encoding_type: i.encoding_type,
            ..Default::default()
        })
    }

    pub(super) async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<ListObjectsOutput> {
        let i = req.input;
        self.require_bucket(i.bucket.clone()).await?;
        let encode = i.encoding_type.is_some();
        let query = Query {
            bucket: i.bucket.clone(),
            prefix: i.prefix.clone().unwrap_or_default(),
            delimiter: i.delimiter.clone().filter(|d| !d.is_empty()),
            after: i.marker.clone().unwrap_or_default(),
            max: limit(i.max_keys)?,
        };
        let grouped = query.delimiter.is_some();
        let page = if query.max == 0 {
            Page::default()
        } else {
            query.run(&self.store).await?
        };
        Ok(ListObjectsOutput {
            name: Some(i.bucket),
            prefix: Some(shown(i.prefix.unwrap_or_default(), encode)),
            marker: Some(shown(i.marker.unwrap_or_default(), encode)),
            delimiter: i.delimiter.map(|d| shown(d, encode)),
            max_keys: Some(i32::try_from(limit(i.max_keys)?).unwrap_or(1000)),
            is_truncated: Some(page.next.is_some()),
            // Without a delimiter the last key is the marker, and S3 gives no other.
            next_marker: page.next.filter(|_| grouped).map(|n| shown(n, encode)),
            contents: Some(
                page.objects
                    .into_iter()
                    .map(|r| object(r, encode, true))
                    .collect::<Vec<_>>(),
            )
            .filter(|l| !l.is_empty()),
            common_prefixes: common(page.prefixes, encode),
            encoding_type: i.encoding_type,
            ..Default::default()
        })
    }
}
