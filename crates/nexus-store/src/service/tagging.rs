//! Tags of objects and buckets.

use super::Service;
use crate::service::objects::shown_version;
use crate::store::refusal;
use percent_encoding::percent_decode_str;
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};

type Pairs = Vec<(String, String)>;

/// Tags of one object at most, and of one bucket.
const OBJECT_TAGS: usize = 10;
const BUCKET_TAGS: usize = 50;

/// Tags as the header x-amz-tagging has them: a query string.
pub(super) fn parse_tags(text: &str) -> S3Result<Pairs> {
    let decoded = |text: &str| {
        let plain = text.replace('+', " ");
        percent_decode_str(&plain).decode_utf8_lossy().into_owned()
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key), decoded(value))
    });
    checked(pairs.collect(), OBJECT_TAGS)
}

fn checked(tags: Pairs, most: usize) -> S3Result<Pairs> {
    if tags.len() > most {
        return Err(s3_error!(
            InvalidTag,
            "Object tags cannot be greater than {most}"
        ));
    }
    for (at, (key, value)) in tags.iter().enumerate() {
        if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 {
            return Err(s3_error!(
                InvalidTag,
                "The TagKey or TagValue you have provided is invalid"
            ));
        }
        if tags.iter().take(at).any(|(other, _)| other == key) {
            return Err(s3_error!(
                InvalidTag,
                "Cannot provide multiple Tags with the same key"
            ));
        }
    }
    Ok(tags)
}

fn pairs(tagging: Tagging, most: usize) -> S3Result<Pairs> {
    let pair = |tag: Tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
    checked(tagging.tag_set.into_iter().map(pair).collect(), most)
}

fn set(tags: Pairs) -> TagSet {
    let tag = |(key, value)| Tag {
        key: Some(key),
        value: Some(value),
    };
    tags.into_iter().map(tag).collect()
}

impl Service {
    pub(super) async fn get_object_tagging(
        &self,
        req: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<GetObjectTaggingOutput> {
        let i = req.input;
        let (record, _) = self.find(i.bucket, i.key, i.version_id, false).await?;
        Ok(GetObjectTaggingOutput {
            version_id: shown_version(&record),
            tag_set: set(record.meta.tags),
        })
    }

    pub(super) async fn put_object_tagging(
        &self,
        req: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<PutObjectTaggingOutput> {
        let i = req.input;
        let tags = pairs(i.tagging, OBJECT_TAGS)?;
        let version_id = self.tag(i.bucket, i.key, i.version_id, tags).await?;
        Ok(PutObjectTaggingOutput { version_id })
    }

    pub(super) async fn delete_object_tagging(
        &self,
        req: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<DeleteObjectTaggingOutput> {
        let i = req.input;
        let version_id = self
            .tag(i.bucket, i.key, i.version_id, Pairs::new())
            .await?;
        Ok(DeleteObjectTaggingOutput { version_id })
    }

    async fn tag(
        &self,
        bucket: String,
        key: String,
        version: Option<String>,
        tags: Pairs,
    ) -> S3Result<Option<String>> {
        let record = self
            .store
            .with(move |index| index.set_tags(&bucket, &key, version.as_deref(), tags))
            .await
            .map_err(refusal)?;
        Ok(shown_version(&record))
    }

    pub(super) async fn get_bucket_tagging(
        &self,
        req: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<GetBucketTaggingOutput> {
        let bucket = req.input.bucket;
        let tags = self
            .store
            .with(move |index| index.bucket_tags(&bucket))
            .await
            .map_err(refusal)?
            .ok_or_else(|| s3_error!(NoSuchTagSet, "The TagSet does not exist"))?;
        Ok(GetBucketTaggingOutput { tag_set: set(tags) })
    }

    pub(super) async fn put_bucket_tagging(
        &self,
        req: S3Request<PutBucketTaggingInput>,
    ) -> S3Result<PutBucketTaggingOutput> {
        let tags = pairs(req.input.tagging, BUCKET_TAGS)?;
        self.tag_bucket(req.input.bucket, Some(tags)).await?;
        Ok(PutBucketTaggingOutput::default())
    }

    pub(super) async fn delete_bucket_tagging(
        &self,
        req: S3Request<DeleteBucketTaggingInput>,
    ) -> S3Result<DeleteBucketTaggingOutput> {
        self.tag_bucket(req.input.bucket, None).await?;
        Ok(DeleteBucketTaggingOutput::default())
    }

    async fn tag_bucket(&self, bucket: String, tags: Option<Pairs>) -> S3Result<()> {
        self.store
            .with(move |index| index.set_bucket_tags(&bucket, tags.as_deref()))
            .await
            .map_err(refusal)
    }
}
