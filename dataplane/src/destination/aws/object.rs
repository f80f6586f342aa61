//! S3 destination, through `PutObject`. A bucket's ARN does not name its region; S3 returns it when asked in the
//! wrong one.

use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use lighterman_proto::api::BucketArn;

use super::super::bounded_map::BoundedMap;
use super::super::error::{CALL_DEADLINE, DeliveryError};
use super::failure::error_of;
use super::{
    AwsDestinations, CLIENTS_MAX, KEY_BYTES_MAX, OBJECT_BYTES_MAX, fits, has_own_endpoint, once, timeouts,
};

/// Maximum number of buckets whose region is cached.
const REGIONS_MAX: usize = 256;
const PERMISSION: &str = "s3:PutObject and s3:ListBucket";

pub(super) struct S3Writer {
    clients: BoundedMap<Arc<str>, Client>,
    regions: BoundedMap<Arc<str>, Arc<str>>,
}

/// Unsuccessful result of a write.
enum WriteRefusal {
    Elsewhere(Arc<str>),
    Failed(DeliveryError),
}

impl S3Writer {
    pub(super) fn new() -> Self {
        Self { clients: BoundedMap::new(CLIENTS_MAX), regions: BoundedMap::new(REGIONS_MAX) }
    }
}

impl AwsDestinations {
    pub(super) async fn object(
        &self,
        bucket: &BucketArn,
        key: &str,
        body: &Bytes,
    ) -> Result<(), DeliveryError> {
        let to = bucket.arn();
        fits(to, body.len(), OBJECT_BYTES_MAX)?;
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let why = format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one {}", key.len());
            return Err(DeliveryError::Refused { to: Arc::clone(to), why });
        }
        let regions = &self.shared.objects.regions;
        let first = regions.get(bucket.name()).unwrap_or_else(|| Arc::clone(&self.shared.region));
        let region = match self.put(bucket, &first, key, body).await {
            Ok(()) => return Ok(()),
            Err(WriteRefusal::Failed(error)) => return Err(error),
            Err(WriteRefusal::Elsewhere(region)) => region,
        };
        // The first call wrote nothing, so the call to the named region counts as the first attempt.
        regions.insert(Arc::clone(bucket.name()), Arc::clone(&region));
        self.put(bucket, &region, key, body).await.map_err(|refusal| match refusal {
            WriteRefusal::Failed(error) => error,
            WriteRefusal::Elsewhere(other) => DeliveryError::Failed {
                to: Arc::clone(to),
                why: format!("{region} says that the bucket is in {other}"),
            },
        })
    }

    async fn put(
        &self,
        bucket: &BucketArn,
        region: &Arc<str>,
        key: &str,
        body: &Bytes,
    ) -> Result<(), WriteRefusal> {
        let to = bucket.arn();
        let client = self.object_client(to, region).await.map_err(WriteRefusal::Failed)?;
        let send = client
            .put_object()
            .bucket(&**bucket.name())
            .key(key)
            .content_type("application/json")
            .body(ByteStream::from(body.clone()))
            .send();
        let sent = tokio::time::timeout(CALL_DEADLINE, send)
            .await
            .map_err(|_| WriteRefusal::Failed(DeliveryError::Silent { to: Arc::clone(to) }))?;
        let Err(error) = sent else { return Ok(()) };
        Err(elsewhere(&error, region).map_or_else(
            || WriteRefusal::Failed(error_of(to, body.len(), PERMISSION, &error)),
            WriteRefusal::Elsewhere,
        ))
    }

    async fn object_client(&self, to: &Arc<str>, region: &Arc<str>) -> Result<Client, DeliveryError> {
        let clients = &self.shared.objects.clients;
        if let Some(client) = clients.get(region) {
            return Ok(client);
        }
        let config = self.config(to).await?;
        // Names such as bucket.localhost do not resolve everywhere.
        let path_style = has_own_endpoint(config, "S3");
        let config = aws_sdk_s3::config::Builder::from(config)
            .region(aws_config::Region::new(region.to_string()))
            .force_path_style(path_style)
            .retry_config(once())
            .timeout_config(timeouts())
            .build();
        let client = Client::from_conf(config);
        clients.insert(Arc::clone(region), client.clone());
        Ok(client)
    }
}

/// Returns the bucket's region if the response names another than `asked`.
fn elsewhere(error: &SdkError<PutObjectError>, asked: &Arc<str>) -> Option<Arc<str>> {
    let raw = error.raw_response()?;
    let misdirected = matches!(raw.status().as_u16(), 301 | 307 | 400);
    let region = region_of(raw.headers().get("x-amz-bucket-region")?)?;
    (misdirected && region != *asked).then_some(region)
}

/// Returns the text as a region if it is valid in a host name. The text is untrusted.
fn region_of(text: &str) -> Option<Arc<str>> {
    let right = (1..=32).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    right.then(|| text.into())
}
