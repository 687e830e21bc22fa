//! Objects: get, head, put, copy, delete.

use super::Service;
use super::tagging::parse_tags;
use crate::body::{Announced, receive, receive_with};
use crate::index::{Condition, NewObject, Refusal};
use crate::meta::{Encryption, Meta, Place, Record, from_seconds, timestamp};
use crate::store::{Store, internal, refusal};
use crate::versions::{NULL, Written};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, s3_error};
use std::io::{Seek, SeekFrom};
use std::ops;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

/// Bytes read from a file at a time.
const CHUNK: usize = 256 << 10;
/// Content-Type of an object that was given none.
const DEFAULT_TYPE: &str = "binary/octet-stream";

/// Conditions of a read (RFC 9110, 13.2.2: in this order).
struct Conditions<'a> {
    if_match: Option<&'a ETagCondition>,
    if_unmodified_since: Option<&'a Timestamp>,
    if_none_match: Option<&'a ETagCondition>,
    if_modified_since: Option<&'a Timestamp>,
}

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    condition.is_any() || condition.as_etag().is_some_and(|e| e.value() == etag)
}

/// Whole seconds, as dates in headers have.
pub(super) fn seconds(time: &Timestamp) -> i64 {
    let mut text = Vec::new();
    let formatted = time.format(TimestampFormat::EpochSeconds, &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    formatted
        .ok()
        .and_then(|()| text.split('.').next()?.parse().ok())
        .unwrap_or(0)
}

impl Conditions<'_> {
    fn check(&self, record: &Record) -> S3Result<()> {
        let failed = || Err(refusal(Refusal::Condition));
        let modified = record.modified / 1_000_000_000;
        match (self.if_match, self.if_unmodified_since) {
            (Some(condition), _) if !matches(condition, &record.etag) => return failed(),
            (None, Some(since)) if modified > seconds(since) => return failed(),
            _ => {}
        }
        let unchanged = match (self.if_none_match, self.if_modified_since) {
            (Some(condition), _) => matches(condition, &record.etag),
            (None, Some(since)) => modified <= seconds(since),
            _ => false,
        };
        if !unchanged {
            return Ok(());
        }
        let mut error = S3Error::with_message(S3ErrorCode::NotModified, "Not Modified");
        let mut headers = hyper::HeaderMap::new();
        if let Ok(value) = format!("\"{}\"", record.etag).parse() {
            headers.insert(hyper::header::ETAG, value);
        }
        error.set_headers(headers);
        Err(error)
    }
}

pub(super) fn etag(value: &str) -> ETag {
    ETag::Strong(value.to_owned())
}

/// The part of an object that a Range asks for, and its Content-Range.
fn part(range: Option<&Range>, size: u64) -> S3Result<(ops::Range<u64>, Option<String>)> {
    let Some(range) = range else {
        return Ok((0..size, None));
    };
    let part = range
        .check(size)
        .map_err(|_| s3_error!(InvalidRange, "The requested range is not satisfiable"))?;
    let header = format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1));
    Ok((part, Some(header)))
}

fn take(record: &Record, name: &str) -> Option<String> {
    record.meta.checksums.get(name).cloned()
}

fn user_metadata(meta: &Meta) -> Option<Metadata> {
    Some(
        meta.user
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    )
}

/// A condition of a write, from its headers.
pub(super) fn write_condition(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::None),
        (Some(c), None) => Ok(Condition::Matches(
            c.as_etag()
                .map_or_else(|| "*".to_owned(), |e| e.value().to_owned()),
        )),
        (None, Some(c)) if c.is_any() => Ok(Condition::Absent),
        _ => Err(s3_error!(
            NotImplemented,
            "A header you provided implies functionality that is not implemented"
        )),
    }
}

impl Service {
    async fn body(
        &self,
        record: &Record,
        inline: Vec<u8>,
        part: ops::Range<u64>,
    ) -> S3Result<StreamingBlob> {
        let length = part.end - part.start;
        match &record.place {
            Place::Inline => {
                let all = bytes::Bytes::from(inline);
                let (start, end) = (
                    usize::try_from(part.start).unwrap_or(0),
                    usize::try_from(part.end).unwrap_or(0),
                );
                if end > all.len() {
                    return Err(internal("an object in the index is shorter than its size"));
                }
                Ok(s3s::Body::from(all.slice(start..end)).into())
            }
            Place::File(name) => {
                let mut file = self.store.open_file(name).map_err(internal)?;
                file.seek(SeekFrom::Start(part.start)).map_err(internal)?;
                let file = tokio::fs::File::from_std(file).take(length);
                Ok(StreamingBlob::wrap(ReaderStream::with_capacity(
                    file, CHUNK,
                )))
            }
        }
    }

    pub(super) async fn find(
        &self,
        bucket: String,
        key: String,
        version: Option<String>,
        body: bool,
    ) -> S3Result<(Record, Vec<u8>)> {
        let named = version.is_some();
        self.store
            .with(move |index| index.get(&bucket, &key, version.as_deref(), body))
            .await
            .map_err(|error| match error {
                Refusal::Marker(_) if named => s3_error!(
                    MethodNotAllowed,
                    "The specified method is not allowed against this resource."
                ),
                other => refusal(other),
            })
    }

    pub(super) async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<GetObjectOutput> {
        let i = req.input;
        let (record, inline) = self.find(i.bucket, i.key, i.version_id, true).await?;
        Conditions {
            if_match: i.if_match.as_ref(),
            if_unmodified_since: i.if_unmodified_since.as_ref(),
            if_none_match: i.if_none_match.as_ref(),
            if_modified_since: i.if_modified_since.as_ref(),
        }
        .check(&record)?;
        readable(&record.meta, i.sse_customer_key_md5.as_ref())?;
        let (part, content_range) = portion(&record, i.range.as_ref(), i.part_number)?;
        // A checksum is of the whole object, so a part bears none.
        let shows_sums = i.checksum_mode.is_some() && content_range.is_none();
        let sum = |name| {
            if shows_sums {
                take(&record, name)
            } else {
                None
            }
        };
        let length = i64::try_from(part.end - part.start).ok();
        let meta = &record.meta;
        Ok(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            cache_control: i
                .response_cache_control
                .or_else(|| meta.cache_control.clone()),
            checksum_crc32: sum("crc32"),
            checksum_crc32c: sum("crc32c"),
            checksum_crc64nvme: sum("crc64nvme"),
            checksum_sha1: sum("sha1"),
            checksum_sha256: sum("sha256"),
            checksum_type: sum_type(meta, shows_sums),
            content_disposition: i
                .response_content_disposition
                .or_else(|| meta.content_disposition.clone()),
            content_encoding: i
                .response_content_encoding
                .or_else(|| meta.content_encoding.clone()),
            content_language: i
                .response_content_language
                .or_else(|| meta.content_language.clone()),
            content_length: length,
            content_range,
            content_type: i
                .response_content_type
                .or_else(|| meta.content_type.clone()),
            e_tag: Some(etag(&record.etag)),
            expires: i
                .response_expires
                .or_else(|| meta.expires.map(from_seconds)),
            last_modified: Some(timestamp(record.modified)),
            metadata: user_metadata(meta),
            storage_class: storage_class(meta),
            bucket_key_enabled: meta.encryption.bucket_key,
            parts_count: parts_count(meta, i.part_number),
            server_side_encryption: encryption(meta),
            sse_customer_algorithm: customer_algorithm(meta),
            sse_customer_key_md5: meta.encryption.customer_key_md5.clone(),
            ssekms_key_id: meta.encryption.key_id.clone(),
            tag_count: tag_count(meta),
            version_id: shown_version(&record),
            website_redirect_location: meta.redirect.clone(),
            body: Some(self.body(&record, inline, part).await?),
            ..Default::default()
        })
    }

    pub(super) async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<HeadObjectOutput> {
        let i = req.input;
        let (record, _) = self.find(i.bucket, i.key, i.version_id, false).await?;
        Conditions {
            if_match: i.if_match.as_ref(),
            if_unmodified_since: i.if_unmodified_since.as_ref(),
            if_none_match: i.if_none_match.as_ref(),
            if_modified_since: i.if_modified_since.as_ref(),
        }
        .check(&record)?;
        readable(&record.meta, i.sse_customer_key_md5.as_ref())?;
        let (part, content_range) = portion(&record, i.range.as_ref(), i.part_number)?;
        let shows_sums = i.checksum_mode.is_some() && content_range.is_none();
        let sum = |name| {
            if shows_sums {
                take(&record, name)
            } else {
                None
            }
        };
        let meta = &record.meta;
        Ok(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            cache_control: meta.cache_control.clone(),
            checksum_crc32: sum("crc32"),
            checksum_crc32c: sum("crc32c"),
            checksum_crc64nvme: sum("crc64nvme"),
            checksum_sha1: sum("sha1"),
            checksum_sha256: sum("sha256"),
            checksum_type: sum_type(meta, shows_sums),
            content_disposition: meta.content_disposition.clone(),
            content_encoding: meta.content_encoding.clone(),
            content_language: meta.content_language.clone(),
            content_length: i64::try_from(part.end - part.start).ok(),
            content_range,
            content_type: meta.content_type.clone(),
            e_tag: Some(etag(&record.etag)),
            expires: meta.expires.map(from_seconds),
            last_modified: Some(timestamp(record.modified)),
            metadata: user_metadata(meta),
            storage_class: storage_class(meta),
            bucket_key_enabled: meta.encryption.bucket_key,
            parts_count: parts_count(meta, i.part_number),
            server_side_encryption: encryption(meta),
            sse_customer_algorithm: customer_algorithm(meta),
            sse_customer_key_md5: meta.encryption.customer_key_md5.clone(),
            ssekms_key_id: meta.encryption.key_id.clone(),
            version_id: shown_version(&record),
            website_redirect_location: meta.redirect.clone(),
            ..Default::default()
        })
    }

    pub(super) async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<PutObjectOutput> {
        let i = req.input;
        let condition = write_condition(i.if_match.as_ref(), i.if_none_match.as_ref())?;
        self.require_bucket(i.bucket.clone()).await?;
        let announced = Announced {
            content_md5: i.content_md5,
            content_length: i.content_length,
            headers: req.headers,
            trailers: req.trailing_headers,
        };
        let asked = Encryption {
            kind: i
                .server_side_encryption
                .map(|kind| kind.as_str().to_owned()),
            key_id: i.ssekms_key_id,
            bucket_key: i.bucket_key_enabled,
            customer_key_md5: customer_key(i.sse_customer_key.as_ref(), i.sse_customer_key_md5)?,
        };
        let received = receive(&self.store, i.body, &announced).await?;
        let meta = Meta {
            content_type: Some(i.content_type.unwrap_or_else(|| DEFAULT_TYPE.to_owned())),
            cache_control: i.cache_control,
            content_disposition: i.content_disposition,
            content_encoding: plain_encoding(i.content_encoding),
            content_language: i.content_language,
            expires: i.expires.as_ref().map(seconds),
            storage_class: i.storage_class.map(|c| c.as_str().to_owned()),
            user: i.metadata.unwrap_or_default().into_iter().collect(),
            checksums: received.checksums.clone(),
            redirect: i.website_redirect_location,
            tags: i
                .tagging
                .as_deref()
                .map(parse_tags)
                .transpose()?
                .unwrap_or_default(),
            encryption: asked,
            ..Meta::default()
        };
        let record = Record::new(i.key, received.md5, received.size, meta, received.place);
        let (record, version_id) = self
            .commit(
                i.bucket,
                NewObject {
                    record,
                    inline: received.inline,
                },
                condition,
            )
            .await?;
        Ok(PutObjectOutput {
            e_tag: Some(etag(&record.etag)),
            checksum_crc32: take(&record, "crc32"),
            checksum_crc32c: take(&record, "crc32c"),
            checksum_crc64nvme: take(&record, "crc64nvme"),
            checksum_sha1: take(&record, "sha1"),
            checksum_sha256: take(&record, "sha256"),
            checksum_type: sum_type(&record.meta, true),
            bucket_key_enabled: record.meta.encryption.bucket_key,
            server_side_encryption: encryption(&record.meta),
            sse_customer_algorithm: customer_algorithm(&record.meta),
            sse_customer_key_md5: record.meta.encryption.customer_key_md5.clone(),
            ssekms_key_id: record.meta.encryption.key_id.clone(),
            version_id,
            ..Default::default()
        })
    }

    /// Make an object visible; its file, if it has one, is already durable. Gives its version, where there are any.
    pub(super) async fn commit(
        &self,
        bucket: String,
        object: NewObject,
        condition: Condition,
    ) -> S3Result<(Record, Option<String>)> {
        let record = object.record.clone();
        let own = Store::file_of(&record.place).map(str::to_owned);
        match self
            .store
            .with(move |index| index.put(&bucket, &object, &condition))
            .await
        {
            Ok(written) => {
                self.store.discard(written.old);
                Ok((record, written.version))
            }
            Err(error) => {
                self.store.discard(own);
                Err(refusal(error))
            }
        }
    }

    pub(super) async fn copy_object(
        &self,
        req: S3Request<CopyObjectInput>,
    ) -> S3Result<CopyObjectOutput> {
        let i = req.input;
        let CopySource::Bucket {
            bucket,
            key,
            version_id,
        } = &i.copy_source
        else {
            return Err(s3_error!(
                NotImplemented,
                "Access points are not implemented"
            ));
        };
        let replaces = i
            .metadata_directive
            .as_ref()
            .is_some_and(|d| d.as_str() == MetadataDirective::REPLACE);
        let changes = i.storage_class.is_some()
            || i.server_side_encryption.is_some()
            || i.website_redirect_location.is_some()
            || version_id.is_some();
        if !replaces && **bucket == *i.bucket && **key == *i.key && !changes {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes."
            ));
        }
        let version = version_id.as_ref().map(ToString::to_string);
        let (source, inline) = self
            .find(bucket.to_string(), key.to_string(), version, true)
            .await?;
        readable(&source.meta, i.copy_source_sse_customer_key_md5.as_ref())?;
        let conditions = Conditions {
            if_match: i.copy_source_if_match.as_ref(),
            if_unmodified_since: i.copy_source_if_unmodified_since.as_ref(),
            if_none_match: i.copy_source_if_none_match.as_ref(),
            if_modified_since: i.copy_source_if_modified_since.as_ref(),
        };
        // A copy has no "not modified": either it is made or a condition failed.
        conditions
            .check(&source)
            .map_err(|_| refusal(Refusal::Condition))?;
        self.require_bucket(i.bucket.clone()).await?;
        let mut meta = source.meta.clone();
        if replaces {
            meta = Meta {
                content_type: Some(i.content_type.unwrap_or_else(|| DEFAULT_TYPE.to_owned())),
                cache_control: i.cache_control,
                content_disposition: i.content_disposition,
                content_encoding: i.content_encoding,
                content_language: i.content_language,
                expires: i.expires.as_ref().map(seconds),
                user: i.metadata.unwrap_or_default().into_iter().collect(),
                checksums: source.meta.checksums.clone(),
                checksum: source.meta.checksum.clone(),
                tags: source.meta.tags.clone(),
                ..Meta::default()
            };
        }
        if i.tagging_directive
            .is_some_and(|d| d.as_str() == TaggingDirective::REPLACE)
        {
            meta.tags = i
                .tagging
                .as_deref()
                .map(parse_tags)
                .transpose()?
                .unwrap_or_default();
        }
        meta.parts.clear();
        meta.redirect = i.website_redirect_location;
        meta.encryption = Encryption {
            kind: i
                .server_side_encryption
                .map(|kind| kind.as_str().to_owned()),
            key_id: i.ssekms_key_id,
            bucket_key: i.bucket_key_enabled,
            customer_key_md5: customer_key(i.sse_customer_key.as_ref(), i.sse_customer_key_md5)?,
        };
        meta.storage_class = i.storage_class.map(|c| c.as_str().to_owned());
        let length = 0..source.size;
        let body = self.body(&source, inline, length).await?;
        // The algorithm that was asked for, or else the source's.
        let wanted = match &i.checksum_algorithm {
            Some(algorithm) => vec![algorithm.as_str().to_ascii_lowercase()],
            None => meta.checksums.keys().cloned().collect(),
        };
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let received =
            receive_with(&self.store, Some(body), &Announced::default(), &wanted).await?;
        meta.checksums.clone_from(&received.checksums);
        meta.checksum = None;
        let record = Record::new(i.key, received.md5, received.size, meta, received.place);
        let (record, new_version) = self
            .commit(
                i.bucket,
                NewObject {
                    record,
                    inline: received.inline,
                },
                Condition::None,
            )
            .await?;
        let result = CopyObjectResult {
            e_tag: Some(etag(&record.etag)),
            last_modified: Some(timestamp(record.modified)),
            checksum_crc32: take(&record, "crc32"),
            checksum_crc32c: take(&record, "crc32c"),
            checksum_crc64nvme: take(&record, "crc64nvme"),
            checksum_sha1: take(&record, "sha1"),
            checksum_sha256: take(&record, "sha256"),
            checksum_type: sum_type(&record.meta, true),
        };
        let meta = &record.meta;
        Ok(CopyObjectOutput {
            copy_object_result: Some(result),
            bucket_key_enabled: meta.encryption.bucket_key,
            copy_source_version_id: shown_version(&source),
            server_side_encryption: encryption(meta),
            sse_customer_algorithm: customer_algorithm(meta),
            sse_customer_key_md5: meta.encryption.customer_key_md5.clone(),
            ssekms_key_id: meta.encryption.key_id.clone(),
            version_id: new_version,
            ..Default::default()
        })
    }

    pub(super) async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<DeleteObjectOutput> {
        let i = req.input;
        let condition = write_condition(i.if_match.as_ref(), None)?;
        let done = self
            .remove(i.bucket, i.key, i.version_id, condition)
            .await
            .map_err(refusal)?;
        Ok(DeleteObjectOutput {
            delete_marker: done.marker.then_some(true),
            version_id: done.version,
            ..Default::default()
        })
    }

    async fn remove(
        &self,
        bucket: String,
        key: String,
        version: Option<String>,
        condition: Condition,
    ) -> Result<Written, Refusal> {
        let mut done = self
            .store
            .with(move |index| index.delete(&bucket, &key, version.as_deref(), &condition))
            .await?;
        self.store.discard(done.old.take());
        Ok(done)
    }

    pub(super) async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<DeleteObjectsOutput> {
        let i = req.input;
        if i.delete.objects.len() > 1000 || i.delete.objects.is_empty() {
            return Err(s3_error!(
                MalformedXML,
                "The XML you provided was not well-formed or did not validate against our published schema"
            ));
        }
        self.require_bucket(i.bucket.clone()).await?;
        let mut deleted = Vec::new();
        let mut errors = Vec::new();
        for object in i.delete.objects {
            let condition = match &object.e_tag {
                Some(tag) => Condition::Matches(tag.value().to_owned()),
                None => Condition::None,
            };
            let given = object.version_id.clone();
            match self
                .remove(i.bucket.clone(), object.key.clone(), given, condition)
                .await
            {
                Ok(done) => deleted.push(DeletedObject {
                    key: Some(object.key),
                    delete_marker: done.marker.then_some(true),
                    delete_marker_version_id: done.version.filter(|_| done.marker),
                    version_id: object.version_id,
                }),
                Err(error) => {
                    let error = refusal(error);
                    errors.push(s3s::dto::Error {
                        code: Some(error.code().as_str().to_owned()),
                        key: Some(object.key),
                        message: error.message().map(str::to_owned),
                        version_id: object.version_id,
                    });
                }
            }
        }
        let quiet = i.delete.quiet.unwrap_or(false);
        Ok(DeleteObjectsOutput {
            deleted: if quiet { None } else { Some(deleted) },
            errors: (!errors.is_empty()).then_some(errors),
            ..Default::default()
        })
    }
}

/// The encoding without the transfer's own.
fn plain_encoding(encoding: Option<String>) -> Option<String> {
    let rest: Vec<String> = encoding?
        .split(',')
        .map(|e| e.trim().to_owned())
        .filter(|e| !e.is_empty() && e != "aws-chunked")
        .collect();
    (!rest.is_empty()).then(|| rest.join(","))
}

/// Of an object with checksums: of the whole, or of its parts' checksums.
pub(super) fn sum_type(meta: &Meta, shown: bool) -> Option<ChecksumType> {
    let kind = match &meta.checksum {
        Some((_, kind)) => kind.clone(),
        None => ChecksumType::FULL_OBJECT.to_owned(),
    };
    (shown && !meta.checksums.is_empty()).then(|| ChecksumType::from(kind))
}

/// Versions are shown where the bucket knew them when the object was written, or has them now.
pub(super) fn shown_version(record: &Record) -> Option<String> {
    (record.version != NULL).then(|| record.version.clone())
}

fn encryption(meta: &Meta) -> Option<ServerSideEncryption> {
    let kind = meta.encryption.kind.clone();
    kind.map(ServerSideEncryption::from)
}

fn customer_algorithm(meta: &Meta) -> Option<String> {
    let has_key = meta.encryption.customer_key_md5.is_some();
    has_key.then(|| "AES256".to_owned())
}

fn tag_count(meta: &Meta) -> Option<i32> {
    i32::try_from(meta.tags.len())
        .ok()
        .filter(|count| *count > 0)
}

fn parts_count(meta: &Meta, asked: Option<i32>) -> Option<i32> {
    asked?;
    i32::try_from(meta.parts.len())
        .ok()
        .filter(|count| *count > 0)
}

/// MD5 of a customer's key, checked.
pub(super) fn customer_key(key: Option<&String>, md5: Option<String>) -> S3Result<Option<String>> {
    let Some(key) = key else { return Ok(None) };
    let key = BASE64_STANDARD.decode(key).unwrap_or_default();
    let mut sum = Md5::new();
    sum.update(&key);
    if key.len() == 32 && md5 == Some(BASE64_STANDARD.encode(sum.finalize())) {
        return Ok(md5);
    }
    Err(s3_error!(
        InvalidArgument,
        "The secret key was invalid for the specified algorithm."
    ))
}

/// Whether a read gives the customer's key that the object was written with.
fn readable(meta: &Meta, given: Option<&String>) -> S3Result<()> {
    match (&meta.encryption.customer_key_md5, given) {
        (None, None) => Ok(()),
        (Some(kept), Some(given)) if kept == given => Ok(()),
        (Some(_), Some(_)) => Err(s3_error!(AccessDenied, "Access Denied")),
        (Some(_), None) => Err(s3_error!(
            InvalidRequest,
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object."
        )),
        (None, Some(_)) => Err(s3_error!(
            InvalidRequest,
            "The encryption parameters are not applicable to this object."
        )),
    }
}

/// The bytes of a part by its number, or of a range.
fn portion(
    record: &Record,
    range: Option<&Range>,
    number: Option<i32>,
) -> S3Result<(ops::Range<u64>, Option<String>)> {
    let Some(number) = number else {
        return part(range, record.size);
    };
    let sizes = match record.meta.parts.as_slice() {
        [] => vec![record.size],
        parts => parts.to_vec(),
    };
    let at = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
    let Some(length) = at.and_then(|at| sizes.get(at)) else {
        return Err(s3_error!(
            InvalidRange,
            "The requested partnumber is not satisfiable"
        ));
    };
    let start: u64 = sizes.iter().take(at.unwrap_or(0)).sum();
    let end = start + length;
    let header = format!("bytes {start}-{}/{}", end.saturating_sub(1), record.size);
    Ok((start..end, (*length > 0).then_some(header)))
}

/// STANDARD is not shown, as in S3.
fn storage_class(meta: &Meta) -> Option<StorageClass> {
    meta.storage_class
        .clone()
        .filter(|c| c != StorageClass::STANDARD)
        .map(StorageClass::from)
}
