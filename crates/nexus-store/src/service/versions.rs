//! Versions of objects as S3 lists them, and the attributes of one.

use super::Service;
use crate::body::by_name;
use crate::meta::{Record, timestamp};
use crate::service::listing::{behind, common, limit, shown};
use crate::service::objects::{shown_version, sum_type};
use crate::store::refusal;
use s3s::dto::*;
use s3s::{S3Request, S3Result};

/// Rows looked at in one go.
const BATCH: usize = 1001;

fn owner() -> Owner {
    Owner {
        id: Some("nexus".to_owned()),
        display_name: Some("nexus".to_owned()),
    }
}

fn version(record: Record, encode: bool) -> ObjectVersion {
    let meta = &record.meta;
    let algorithms: Vec<ChecksumAlgorithm> = meta
        .checksums
        .keys()
        .map(|name| ChecksumAlgorithm::from(name.to_uppercase()))
        .collect();
    ObjectVersion {
        checksum_type: sum_type(meta, true),
        checksum_algorithm: (!algorithms.is_empty()).then_some(algorithms),
        e_tag: Some(ETag::Strong(record.etag)),
        is_latest: Some(record.latest),
        key: Some(shown(record.key, encode)),
        last_modified: Some(timestamp(record.modified)),
        owner: Some(owner()),
        size: i64::try_from(record.size).ok(),
        storage_class: Some(ObjectVersionStorageClass::from(
            record
                .meta
                .storage_class
                .unwrap_or_else(|| "STANDARD".to_owned()),
        )),
        version_id: Some(record.version),
        ..Default::default()
    }
}

fn marker(record: Record, encode: bool) -> DeleteMarkerEntry {
    DeleteMarkerEntry {
        is_latest: Some(record.latest),
        key: Some(shown(record.key, encode)),
        last_modified: Some(timestamp(record.modified)),
        owner: Some(owner()),
        version_id: Some(record.version),
    }
}

/// One page of versions.
#[derive(Default)]
struct Page {
    records: Vec<Record>,
    prefixes: Vec<String>,
    /// Key and version of the page's last entry, if another follows.
    next: Option<(String, Option<String>)>,
}

impl Service {
    pub(super) async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<ListObjectVersionsOutput> {
        let i = req.input;
        let encode = i.encoding_type.is_some();
        let max = limit(i.max_keys)?;
        let (bucket, prefix) = (i.bucket.clone(), i.prefix.clone().unwrap_or_default());
        let delimiter = i.delimiter.clone().filter(|d| !d.is_empty());
        let mut key = i.key_marker.clone().unwrap_or_default();
        let mut from_version = i.version_id_marker.clone().filter(|v| !v.is_empty());
        let page = self
            .store
            .with(move |index| {
                let mut page = Page::default();
                let mut last = (String::new(), None);
                // A prefix that was the last of the page before is skipped as a whole.
                let mut skipped = delimiter
                    .as_ref()
                    .filter(|d| from_version.is_none() && key.ends_with(d.as_str()))
                    .map(|_| key.clone());
                loop {
                    let batch =
                        index.versions(&bucket, &prefix, &key, from_version.as_deref(), BATCH)?;
                    let exhausted = batch.len() < BATCH;
                    for record in batch {
                        key.clone_from(&record.key);
                        from_version = Some(record.version.clone());
                        if skipped.as_ref().is_some_and(|s| key.starts_with(s)) {
                            continue;
                        }
                        if page.records.len() + page.prefixes.len() >= max {
                            page.next = (max > 0).then_some(last);
                            return Ok(page);
                        }
                        let rest = record.key.get(prefix.len()..).unwrap_or_default();
                        let group = delimiter.as_ref().and_then(|d| {
                            rest.find(d.as_str()).map(|at| prefix.len() + at + d.len())
                        });
                        if let Some(common) = group.and_then(|end| record.key.get(..end)) {
                            last = (common.to_owned(), None);
                            page.prefixes.push(common.to_owned());
                            skipped = Some(common.to_owned());
                        } else {
                            last = (record.key.clone(), Some(record.version.clone()));
                            page.records.push(record);
                        }
                    }
                    if exhausted {
                        return Ok(page);
                    }
                    if let Some(past) = skipped.as_ref().filter(|s| key.starts_with(s.as_str())) {
                        // Keys are text, so the bound behind a prefix may be none: then row by row.
                        if let Ok(bound) = String::from_utf8(behind(past.as_bytes())) {
                            key = bound;
                            from_version = None;
                        }
                    }
                }
            })
            .await
            .map_err(refusal)?;
        let (markers, versions): (Vec<_>, Vec<_>) =
            page.records.into_iter().partition(|r| r.marker);
        let (next_key, next_version) = page.next.clone().unzip();
        let list = |records: Vec<Record>| -> Vec<ObjectVersion> {
            records.into_iter().map(|r| version(r, encode)).collect()
        };
        Ok(ListObjectVersionsOutput {
            name: Some(i.bucket),
            prefix: Some(shown(i.prefix.unwrap_or_default(), encode)),
            delimiter: i.delimiter.map(|d| shown(d, encode)),
            encoding_type: i.encoding_type,
            key_marker: Some(shown(i.key_marker.unwrap_or_default(), encode)),
            version_id_marker: Some(i.version_id_marker.unwrap_or_default()),
            max_keys: i32::try_from(max).ok(),
            is_truncated: Some(page.next.is_some()),
            next_key_marker: next_key.map(|k| shown(k, encode)),
            next_version_id_marker: next_version.flatten(),
            versions: Some(list(versions)).filter(|l| !l.is_empty()),
            delete_markers: Some(
                markers
                    .into_iter()
                    .map(|r| marker(r, encode))
                    .collect::<Vec<_>>(),
            )
            .filter(|l| !l.is_empty()),
            common_prefixes: common(page.prefixes, encode),
            ..Default::default()
        })
    }

    pub(super) async fn get_object_attributes(
        &self,
        req: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<GetObjectAttributesOutput> {
        let i = req.input;
        let (record, _) = self.find(i.bucket, i.key, i.version_id, false).await?;
        let wants = |name: &str| i.object_attributes.iter().any(|a| a.as_str() == name);
        let meta = &record.meta;
        let sum = |name: &str| meta.checksums.get(name).cloned();
        let checksum = Checksum {
            checksum_crc32: sum("crc32"),
            checksum_crc32c: sum("crc32c"),
            checksum_crc64nvme: sum("crc64nvme"),
            checksum_sha1: sum("sha1"),
            checksum_sha256: sum("sha256"),
            checksum_type: sum_type(meta, true),
        };
        let has_sum = meta
            .checksums
            .keys()
            .any(|name| by_name(&checksum, name).is_some());
        let parts = GetObjectAttributesParts {
            total_parts_count: i32::try_from(meta.parts.len()).ok(),
            ..Default::default()
        };
        Ok(GetObjectAttributesOutput {
            checksum: (wants("Checksum") && has_sum).then_some(checksum),
            e_tag: wants("ETag").then(|| ETag::Strong(record.etag.clone())),
            last_modified: Some(timestamp(record.modified)),
            object_parts: (wants("ObjectParts") && !meta.parts.is_empty()).then_some(parts),
            object_size: wants("ObjectSize")
                .then(|| i64::try_from(record.size).ok())
                .flatten(),
            storage_class: wants("StorageClass").then(|| {
                let class = meta.storage_class.clone();
                StorageClass::from(class.unwrap_or_else(|| "STANDARD".to_owned()))
            }),
            version_id: shown_version(&record),
            ..Default::default()
        })
    }
}
