//! Multipart uploads: parts are files of their own until the upload is completed.

use super::Service;
use crate::body::{Announced, Received, by_name, hasher, receive, receive_with};
use crate::index::{NewObject, Part, Refusal};
use crate::meta::{Encryption, Meta, Place, Record, now, timestamp};
use crate::service::objects::{customer_key, etag, seconds, sum_type, write_condition};
use crate::service::tagging::parse_tags;
use crate::store::{Store, internal, refusal, unique_name};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{Part as ListedPart, *};
use s3s::{S3Request, S3Result, s3_error};
use std::io::{Read, Write};
use std::sync::Arc;

/// Least size of any part but the last.
const MIN_PART: u64 = 5 << 20;
const MAX_PARTS: i32 = 10_000;

fn no_upload(error: Refusal) -> s3s::S3Error {
    match error {
        Refusal::NoKey => s3_error!(
            NoSuchUpload,
            "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
        ),
        other => refusal(other),
    }
}

/// Parts are always files: a body that came into memory is written out.
fn to_file(store: &Store, received: &Received) -> std::io::Result<String> {
    match &received.place {
        Place::File(name) => Ok(name.clone()),
        Place::Inline => {
            let (name, mut file) = store.create()?;
            file.write_all(&received.inline)?;
            store.seal(&name, &file)?;
            Ok(name)
        }
    }
}

/// The checksum of the parts' checksums, where every part has one.
fn composite(name: &str, parts: &[Part]) -> Option<String> {
    let mut hasher = hasher(&[name]);
    for part in parts {
        let sum = part.meta.checksums.get(name)?;
        hasher.update(&BASE64_STANDARD.decode(sum).ok()?);
    }
    let sum = by_name(&hasher.finalize(), name)?.clone();
    Some(format!("{sum}-{}", parts.len()))
}

/// Name of the file, ETag, size, and the whole's checksum where one was wanted.
type Joined = (String, String, u64, Option<String>);

/// The chosen parts in one new file, synced; and the MD5 of their MD5s.
fn join(store: &Store, parts: &[Part], checksum: Option<&str>) -> std::io::Result<Joined> {
    let mut whole = hasher(checksum.as_slice());
    let (name, mut file) = store.create()?;
    let mut sums = Md5::new();
    let mut size = 0;
    let mut buffer = vec![0u8; 1 << 20];
    for part in parts {
        let mut from = store.open_file(&part.file)?;
        loop {
            let got = from.read(&mut buffer)?;
            if got == 0 {
                break;
            }
            let bytes = buffer.get(..got).unwrap_or_default();
            file.write_all(bytes)?;
            whole.update(bytes);
            size += got as u64;
        }
        let bytes: Vec<u8> = (0..part.etag.len() / 2)
            .filter_map(|n| u8::from_str_radix(part.etag.get(2 * n..2 * n + 2)?, 16).ok())
            .collect();
        sums.update(&bytes);
    }
    store.seal(&name, &file)?;
    let hex: String = sums
        .finalize()
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let sum = checksum.and_then(|name| by_name(&whole.finalize(), name).cloned());
    Ok((name, format!("{hex}-{}", parts.len()), size, sum))
}

impl Service {
    pub(super) async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<CreateMultipartUploadOutput> {
        let i = req.input;
        let id = unique_name().map_err(internal)?;
        let meta = Meta {
            content_type: Some(
                i.content_type
                    .unwrap_or_else(|| "binary/octet-stream".to_owned()),
            ),
            cache_control: i.cache_control,
            content_disposition: i.content_disposition,
            content_encoding: i.content_encoding,
            content_language: i.content_language,
            storage_class: i.storage_class.map(|c| c.as_str().to_owned()),
            user: i.metadata.unwrap_or_default().into_iter().collect(),
            expires: i.expires.as_ref().map(seconds),
            redirect: i.website_redirect_location,
            tags: i
                .tagging
                .as_deref()
                .map(parse_tags)
                .transpose()?
                .unwrap_or_default(),
            encryption: Encryption {
                kind: i
                    .server_side_encryption
                    .as_ref()
                    .map(|kind| kind.as_str().to_owned()),
                key_id: i.ssekms_key_id.clone(),
                bucket_key: i.bucket_key_enabled,
                customer_key_md5: customer_key(
                    i.sse_customer_key.as_ref(),
                    i.sse_customer_key_md5,
                )?,
            },
            checksum: i.checksum_algorithm.as_ref().map(|algorithm| {
                let name = algorithm.as_str().to_ascii_lowercase();
                // Of the CRCs S3 makes the whole object's where it is asked to; this one it only makes so.
                let whole = name == "crc64nvme";
                let asked = i.checksum_type.as_ref().map(|t| t.as_str().to_owned());
                let default = if whole {
                    ChecksumType::FULL_OBJECT
                } else {
                    ChecksumType::COMPOSITE
                };
                (name, asked.unwrap_or_else(|| default.to_owned()))
            }),
            ..Default::default()
        };
        let shown = meta.clone();
        let (bucket, key, upload) = (i.bucket.clone(), i.key.clone(), id.clone());
        let made = self
            .store
            .with(move |index| index.create_upload(&upload, &bucket, &key, &meta, now()));
        made.await.map_err(refusal)?;
        Ok(CreateMultipartUploadOutput {
            bucket: Some(i.bucket),
            key: Some(i.key),
            upload_id: Some(id),
            checksum_algorithm: i.checksum_algorithm,
            checksum_type: shown.checksum.map(|(_, kind)| ChecksumType::from(kind)),
            bucket_key_enabled: shown.encryption.bucket_key,
            server_side_encryption: i.server_side_encryption,
            sse_customer_algorithm: i.sse_customer_algorithm,
            sse_customer_key_md5: shown.encryption.customer_key_md5,
            ssekms_key_id: i.ssekms_key_id,
            ..Default::default()
        })
    }

    async fn require_upload(&self, id: &str, bucket: &str, key: &str) -> S3Result<Meta> {
        let (id, bucket, key) = (id.to_owned(), bucket.to_owned(), key.to_owned());
        self.store
            .with(move |index| index.upload(&id, &bucket, &key))
            .await
            .map_err(no_upload)
    }

    async fn add_part(&self, upload: String, number: i32, received: Received) -> S3Result<Part> {
        if !(1..=MAX_PARTS).contains(&number) {
            return Err(s3_error!(
                InvalidArgument,
                "Part number must be an integer between 1 and 10000, inclusive"
            ));
        }
        let store = Arc::clone(&self.store);
        let part = tokio::task::spawn_blocking(move || {
            let file = to_file(&store, &received)?;
            let meta = Meta {
                checksums: received.checksums,
                ..Default::default()
            };
            std::io::Result::Ok(Part {
                number: number.into(),
                etag: received.md5,
                size: received.size,
                modified: now(),
                file,
                meta,
            })
        })
        .await
        .map_err(internal)?
        .map_err(internal)?;
        let added = part.clone();
        match self
            .store
            .with(move |index| index.put_part(&upload, &added))
            .await
        {
            Ok(old) => {
                self.store.discard(old);
                Ok(part)
            }
            Err(error) => {
                self.store.discard([part.file]);
                Err(no_upload(error))
            }
        }
    }

    pub(super) async fn upload_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<UploadPartOutput> {
        let i = req.input;
        let upload = self.require_upload(&i.upload_id, &i.bucket, &i.key).await?;
        let announced = Announced {
            content_md5: i.content_md5,
            content_length: i.content_length,
            headers: req.headers,
            trailers: req.trailing_headers,
        };
        let received = receive(&self.store, i.body, &announced).await?;
        let part = self.add_part(i.upload_id, i.part_number, received).await?;
        let sum = |name: &str| part.meta.checksums.get(name).cloned();
        Ok(UploadPartOutput {
            e_tag: Some(etag(&part.etag)),
            checksum_crc32: sum("crc32"),
            checksum_crc32c: sum("crc32c"),
            checksum_crc64nvme: sum("crc64nvme"),
            checksum_sha1: sum("sha1"),
            checksum_sha256: sum("sha256"),
            bucket_key_enabled: upload.encryption.bucket_key,
            server_side_encryption: upload.encryption.kind.map(ServerSideEncryption::from),
            sse_customer_algorithm: i.sse_customer_algorithm,
            sse_customer_key_md5: upload.encryption.customer_key_md5,
            ssekms_key_id: upload.encryption.key_id,
            ..Default::default()
        })
    }

    pub(super) async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<UploadPartCopyOutput> {
        let i = req.input;
        let upload = self.require_upload(&i.upload_id, &i.bucket, &i.key).await?;
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
        let range = match i.copy_source_range.as_deref() {
            Some(text) => Some(Range::parse(text).map_err(|_| {
                s3_error!(
                    InvalidArgument,
                    "The x-amz-copy-source-range value must be of the form bytes=first-last"
                )
            })?),
            None => None,
        };
        let get = GetObjectInput {
            bucket: bucket.to_string(),
            key: key.to_string(),
            version_id: version_id.as_ref().map(ToString::to_string),
            sse_customer_key_md5: i.copy_source_sse_customer_key_md5,
            if_match: i.copy_source_if_match,
            if_none_match: i.copy_source_if_none_match,
            range,
            ..Default::default()
        };
        let source = self.get_object(req_for(get)).await?;
        // A part bears the checksum that its upload is to have.
        let made: Vec<&str> = upload
            .checksum
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        let received = receive_with(&self.store, source.body, &Announced::default(), &made).await?;
        let part = self.add_part(i.upload_id, i.part_number, received).await?;
        let result = CopyPartResult {
            e_tag: Some(etag(&part.etag)),
            last_modified: Some(timestamp(part.modified)),
            checksum_crc32: part.meta.checksums.get("crc32").cloned(),
            checksum_crc32c: part.meta.checksums.get("crc32c").cloned(),
            checksum_crc64nvme: part.meta.checksums.get("crc64nvme").cloned(),
            checksum_sha1: part.meta.checksums.get("sha1").cloned(),
            checksum_sha256: part.meta.checksums.get("sha256").cloned(),
        };
        Ok(UploadPartCopyOutput {
            copy_part_result: Some(result),
            copy_source_version_id: source.version_id,
            ..Default::default()
        })
    }

    pub(super) async fn list_parts(
        &self,
        req: S3Request<ListPartsInput>,
    ) -> S3Result<ListPartsOutput> {
        let i = req.input;
        let upload = self.require_upload(&i.upload_id, &i.bucket, &i.key).await?;
        let id = i.upload_id.clone();
        let parts = self
            .store
            .with(move |index| Ok(index.parts(&id)?))
            .await
            .map_err(refusal)?;
        let marker = i.part_number_marker.unwrap_or(0);
        let max = usize::try_from(i.max_parts.unwrap_or(1000))
            .unwrap_or(0)
            .min(1000);
        let mut rest = parts
            .into_iter()
            .filter(|p| p.number > i64::from(marker))
            .peekable();
        let shown: Vec<Part> = rest.by_ref().take(max).collect();
        let more = rest.peek().is_some();
        let listed = |p: &Part| ListedPart {
            part_number: i32::try_from(p.number).ok(),
            e_tag: Some(etag(&p.etag)),
            size: i64::try_from(p.size).ok(),
            last_modified: Some(timestamp(p.modified)),
            checksum_crc32: p.meta.checksums.get("crc32").cloned(),
            checksum_crc32c: p.meta.checksums.get("crc32c").cloned(),
            checksum_crc64nvme: p.meta.checksums.get("crc64nvme").cloned(),
            checksum_sha1: p.meta.checksums.get("sha1").cloned(),
            checksum_sha256: p.meta.checksums.get("sha256").cloned(),
        };
        let checksum = upload.checksum;
        Ok(ListPartsOutput {
            checksum_algorithm: checksum
                .as_ref()
                .map(|(name, _)| ChecksumAlgorithm::from(name.to_uppercase())),
            checksum_type: checksum.map(|(_, kind)| ChecksumType::from(kind)),
            initiator: Some(Initiator {
                id: Some("nexus".to_owned()),
                display_name: Some("nexus".to_owned()),
            }),
            owner: Some(Owner {
                id: Some("nexus".to_owned()),
                display_name: Some("nexus".to_owned()),
            }),
            storage_class: Some(StorageClass::from(
                upload
                    .storage_class
                    .unwrap_or_else(|| "STANDARD".to_owned()),
            )),
            bucket: Some(i.bucket),
            key: Some(i.key),
            upload_id: Some(i.upload_id),
            part_number_marker: Some(marker),
            max_parts: i32::try_from(max).ok(),
            is_truncated: Some(more),
            next_part_number_marker: shown.last().and_then(|p| i32::try_from(p.number).ok()),
            parts: Some(shown.iter().map(listed).collect()),
            ..Default::default()
        })
    }

    pub(super) async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<ListMultipartUploadsOutput> {
        let i = req.input;
        self.require_bucket(i.bucket.clone()).await?;
        let (bucket, prefix) = (i.bucket.clone(), i.prefix.clone().unwrap_or_default());
        let uploads = self
            .store
            .with(move |index| Ok(index.uploads(&bucket)?))
            .await
            .map_err(refusal)?;
        let listed = |(key, id, at): (String, String, i64)| MultipartUpload {
            key: Some(key),
            upload_id: Some(id),
            initiated: Some(timestamp(at)),
            ..Default::default()
        };
        Ok(ListMultipartUploadsOutput {
            bucket: Some(i.bucket),
            prefix: i.prefix,
            is_truncated: Some(false),
            uploads: Some(
                uploads
                    .into_iter()
                    .filter(|(k, ..)| k.starts_with(&prefix))
                    .map(listed)
                    .collect(),
            ),
            ..Default::default()
        })
    }

    pub(super) async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let i = req.input;
        let condition = write_condition(i.if_match.as_ref(), i.if_none_match.as_ref())?;
        let mut meta = self.require_upload(&i.upload_id, &i.bucket, &i.key).await?;
        let id = i.upload_id.clone();
        let parts = self
            .store
            .with(move |index| Ok(index.parts(&id)?))
            .await
            .map_err(refusal)?;
        let chosen = choose(
            &parts,
            i.multipart_upload.and_then(|m| m.parts).unwrap_or_default(),
        )?;
        let (store, joined) = (Arc::clone(&self.store), chosen.clone());
        let whole = match &meta.checksum {
            Some((name, kind)) if kind == ChecksumType::FULL_OBJECT => Some(name.clone()),
            _ => None,
        };
        let (file, tag, size, sum) =
            tokio::task::spawn_blocking(move || join(&store, &joined, whole.as_deref()))
                .await
                .map_err(internal)?
                .map_err(internal)?;
        if let Some((name, _)) = &meta.checksum
            && let Some(sum) = sum.or_else(|| composite(name, &chosen))
        {
            meta.checksums.insert(name.clone(), sum);
        }
        meta.parts = chosen.iter().map(|part| part.size).collect();
        let place = Place::File(file.clone());
        let shown = meta.clone();
        let record = Record::new(i.key.clone(), tag.clone(), size, meta, place);
        let object = NewObject {
            record,
            inline: Vec::new(),
        };
        let (upload, bucket) = (i.upload_id, i.bucket.clone());
        let ended = self
            .store
            .with(move |index| index.end_upload(&upload, &bucket, Some((&object, &condition))));
        let version_id = match ended.await {
            Ok(done) => {
                let parts = parts.into_iter().map(|p| p.file);
                self.store.discard(done.old.into_iter().chain(parts));
                done.version
            }
            Err(error) => {
                self.store.discard([file]);
                return Err(no_upload(error));
            }
        };
        let sum = |name: &str| shown.checksums.get(name).cloned();
        Ok(CompleteMultipartUploadOutput {
            checksum_crc32: sum("crc32"),
            checksum_crc32c: sum("crc32c"),
            checksum_crc64nvme: sum("crc64nvme"),
            checksum_sha1: sum("sha1"),
            checksum_sha256: sum("sha256"),
            checksum_type: sum_type(&shown, true),
            bucket_key_enabled: shown.encryption.bucket_key,
            server_side_encryption: shown
                .encryption
                .kind
                .clone()
                .map(ServerSideEncryption::from),
            ssekms_key_id: shown.encryption.key_id.clone(),
            version_id,
            location: Some(format!("/{}/{}", i.bucket, i.key)),
            bucket: Some(i.bucket),
            key: Some(i.key),
            e_tag: Some(etag(&tag)),
            ..Default::default()
        })
    }

    pub(super) async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<AbortMultipartUploadOutput> {
        let i = req.input;
        self.require_upload(&i.upload_id, &i.bucket, &i.key).await?;
        let (id, bucket) = (i.upload_id, i.bucket);
        let files = self.store.with(move |index| {
            let files: Vec<String> = index.parts(&id)?.into_iter().map(|p| p.file).collect();
            index.end_upload(&id, &bucket, None)?;
            Ok(files)
        });
        self.store.discard(files.await.map_err(no_upload)?);
        Ok(AbortMultipartUploadOutput::default())
    }
}

/// A request of our own to another operation.
fn req_for<T>(input: T) -> S3Request<T> {
    S3Request {
        input,
        method: hyper::Method::GET,
        uri: hyper::Uri::default(),
        headers: hyper::HeaderMap::default(),
        extensions: hyper::http::Extensions::default(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}

/// The parts that a completion names, checked: ascending, all there, none but the last too small.
fn choose(parts: &[Part], named: CompletedPartList) -> S3Result<Vec<Part>> {
    if named.is_empty() {
        return Err(s3_error!(
            MalformedXML,
            "You must specify at least one part"
        ));
    }
    let mut chosen: Vec<Part> = Vec::new();
    for part in named {
        let number = i64::from(part.part_number.unwrap_or(0));
        if chosen.last().is_some_and(|l| l.number >= number) {
            return Err(s3_error!(
                InvalidPartOrder,
                "The list of parts was not in ascending order. Parts must be ordered by part number."
            ));
        }
        let found = parts.iter().find(|p| p.number == number);
        let same = |p: &&Part| part.e_tag.as_ref().is_none_or(|e| e.value() == p.etag);
        chosen.push(found.filter(same).cloned().ok_or_else(|| {
            s3_error!(InvalidPart, "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.")
        })?);
    }
    let all_but_last = chosen.len() - 1;
    if chosen.iter().take(all_but_last).any(|p| p.size < MIN_PART) {
        return Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size"
        ));
    }
    Ok(chosen)
}
