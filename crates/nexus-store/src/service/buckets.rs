//! Buckets.

use super::Service;
use crate::index::Refusal;
use crate::meta::{now, timestamp};
use crate::store::refusal;
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};

/// The only region there is.
const REGION: &str = "us-east-1";

impl Service {
    pub(super) async fn list_buckets(
        &self,
        _: S3Request<ListBucketsInput>,
    ) -> S3Result<ListBucketsOutput> {
        let buckets = self
            .store
            .with(|index| Ok(index.buckets()?))
            .await
            .map_err(refusal)?;
        let bucket = |(name, created)| Bucket {
            name: Some(name),
            creation_date: Some(timestamp(created)),
            ..Default::default()
        };
        let owner = Owner {
            id: Some("nexus".to_owned()),
            display_name: Some("nexus".to_owned()),
        };
        Ok(ListBucketsOutput {
            buckets: Some(buckets.into_iter().map(bucket).collect()),
            owner: Some(owner),
            ..Default::default()
        })
    }

    pub(super) async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<CreateBucketOutput> {
        let name = req.input.bucket;
        let location = format!("/{name}");
        // In us-east-1 S3 answers 200 for a bucket that is already yours; elsewhere BucketAlreadyOwnedByYou.
        self.store
            .with(move |index| Ok(index.create_bucket(&name, now())?))
            .await
            .map_err(refusal)?;
        Ok(CreateBucketOutput {
            location: Some(location),
        })
    }

    pub(super) async fn delete_bucket(
        &self,
        req: S3Request<DeleteBucketInput>,
    ) -> S3Result<DeleteBucketOutput> {
        let name = req.input.bucket;
        self.store
            .with(move |index| index.delete_bucket(&name))
            .await
            .map_err(|e| match e {
                Refusal::Condition => s3_error!(
                    BucketNotEmpty,
                    "The bucket you tried to delete is not empty"
                ),
                other => refusal(other),
            })?;
        Ok(DeleteBucketOutput::default())
    }

    pub(super) async fn require_bucket(&self, name: String) -> S3Result<()> {
        let found = self
            .store
            .with(move |index| Ok(index.has_bucket(&name)?))
            .await
            .map_err(refusal)?;
        if found {
            Ok(())
        } else {
            Err(refusal(Refusal::NoBucket))
        }
    }

    pub(super) async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<HeadBucketOutput> {
        self.require_bucket(req.input.bucket).await?;
        Ok(HeadBucketOutput {
            bucket_region: Some(REGION.to_owned()),
            ..Default::default()
        })
    }

    pub(super) async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<GetBucketLocationOutput> {
        self.require_bucket(req.input.bucket).await?;
        Ok(GetBucketLocationOutput::default())
    }

    pub(super) async fn get_bucket_versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<GetBucketVersioningOutput> {
        let bucket = req.input.bucket;
        let state = self
            .store
            .with(move |index| index.versioning(&bucket))
            .await
            .map_err(refusal)?;
        Ok(GetBucketVersioningOutput {
            status: state.map(BucketVersioningStatus::from),
            ..Default::default()
        })
    }

    pub(super) async fn put_bucket_versioning(
        &self,
        req: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<PutBucketVersioningOutput> {
        let i = req.input;
        let status = i.versioning_configuration.status;
        let enabled = match status.as_ref().map(BucketVersioningStatus::as_str) {
            Some(BucketVersioningStatus::ENABLED) => true,
            Some(BucketVersioningStatus::SUSPENDED) => false,
            _ => {
                return Err(s3_error!(
                    IllegalVersioningConfigurationException,
                    "The Versioning element must be specified"
                ));
            }
        };
        self.store
            .with(move |index| index.set_versioning(&i.bucket, enabled))
            .await
            .map_err(refusal)?;
        Ok(PutBucketVersioningOutput::default())
    }
}
