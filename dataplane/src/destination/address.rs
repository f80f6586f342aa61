//! Names of destinations, checked once: a region from an ARN becomes part of a host name.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// A text that names no destination.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Neither an ARN nor a Kafka topic.
    #[error(
        "`{0}` is no destination: write the ARN of an SQS queue, an SNS topic or an S3 bucket, or kafka://topic"
    )]
    Unknown(String),
    /// AWS does not take them for failed records either.
    #[error("`{0}` is a FIFO destination, which is not supported: use a standard queue or topic")]
    Fifo(String),
}

/// Where a mapping's failed records go, as `DestinationConfig.OnFailure.Destination` names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// `arn:aws:sqs:REGION:ACCOUNT:NAME`
    Queue(QueueArn),
    /// `arn:aws:sns:REGION:ACCOUNT:NAME`
    Notification(TopicArn),
    /// `arn:aws:s3:::NAME`
    Bucket(BucketArn),
    /// `kafka://NAME`, on the mapping's own cluster
    Topic(Arc<str>),
}

/// A standard SQS queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueArn(Parts);

/// A standard SNS topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicArn(Parts);

/// An S3 bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BucketArn(Parts);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Parts {
    arn: Arc<str>,
    region: Arc<str>,
    account: Arc<str>,
    name: Arc<str>,
}

impl Destination {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let unknown = || AddressError::Unknown(text.chars().take(350).collect());
        if let Some(topic) = text.strip_prefix("kafka://") {
            let right = is_name(topic, 1..=249, b"._-") && topic != "." && topic != "..";
            return right.then(|| Self::Topic(topic.into())).ok_or_else(unknown);
        }
        let mut fields = text.splitn(6, ':');
        let mut next = || fields.next().ok_or_else(unknown);
        let (arn, partition, service) = (next()?, next()?, next()?);
        let (region, account, name) = (next()?, next()?, next()?);
        if arn != "arn" || !partition.starts_with("aws") || !is_name(partition, 3..=32, b"-") {
            return Err(unknown());
        }
        if matches!(service, "sqs" | "sns")
            && std::path::Path::new(name).extension().is_some_and(|e| e == "fifo")
        {
            return Err(AddressError::Fifo(text.chars().take(350).collect()));
        }
        let regional =
            is_region(region) && account.len() == 12 && account.bytes().all(|c| c.is_ascii_digit());
        let parts =
            Parts { arn: text.into(), region: region.into(), account: account.into(), name: name.into() };
        match service {
            "sqs" if regional && is_name(name, 1..=80, b"_-") => Ok(Self::Queue(QueueArn(parts))),
            "sns" if regional && is_name(name, 1..=256, b"_-") => Ok(Self::Notification(TopicArn(parts))),
            "s3" if region.is_empty() && account.is_empty() && is_bucket(name) => {
                Ok(Self::Bucket(BucketArn(parts)))
            }
            _ => Err(unknown()),
        }
    }
}

fn is_name(text: &str, length: std::ops::RangeInclusive<usize>, also: &[u8]) -> bool {
    length.contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || also.contains(&c))
}

fn is_region(text: &str) -> bool {
    is_name(text, 1..=32, b"-") && !text.starts_with('-') && !text.ends_with('-')
}

fn is_bucket(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    is_name(text, 3..=63, b".-")
        && !text.bytes().any(|c| c.is_ascii_uppercase())
        && !text.contains("..")
        && ends(text.chars().next())
        && ends(text.chars().last())
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(queue) => f.write_str(queue.arn()),
            Self::Notification(topic) => f.write_str(topic.arn()),
            Self::Bucket(bucket) => f.write_str(bucket.arn()),
            Self::Topic(topic) => write!(f, "kafka://{topic}"),
        }
    }
}

impl QueueArn {
    /// All of it.
    pub fn arn(&self) -> &Arc<str> {
        &self.0.arn
    }

    pub(super) fn region(&self) -> &Arc<str> {
        &self.0.region
    }

    pub(super) fn account(&self) -> &str {
        &self.0.account
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }
}

impl TopicArn {
    /// All of it.
    pub fn arn(&self) -> &Arc<str> {
        &self.0.arn
    }

    pub(super) fn region(&self) -> &Arc<str> {
        &self.0.region
    }
}

impl BucketArn {
    /// All of it.
    pub fn arn(&self) -> &Arc<str> {
        &self.0.arn
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.0.name
    }
}

/// Whether a word can be a region, wherever it came from.
pub(super) fn region_of(text: &str) -> Option<Arc<str>> {
    is_region(text).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_kinds_are_read_and_shown_as_they_were_written() {
        for text in [
            "arn:aws:sqs:eu-west-1:123456789012:failed_orders-1",
            "arn:aws-us-gov:sns:us-gov-west-1:123456789012:failed",
            "arn:aws:s3:::failed.orders-1",
            "kafka://orders.failed_1",
        ] {
            assert_eq!(Destination::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_names_no_destination_is_refused() {
        for text in [
            "",
            "kafka://",
            "kafka://..",
            "kafka://a/b",
            "arn:aws:sqs:eu-west-1:123456789012",
            "arn:aws:sqs:evil.example/:123456789012:q",
            "arn:aws:sqs:-x:123456789012:q",
            "arn:aws:sqs:eu-west-1:1234:q",
            "arn:aws:sns:eu-west-1:123456789012:t:subscription",
            "arn:aws:s3:::UPPER",
            "arn:aws:s3:::a..b",
            "arn:aws:s3:::bucket/key",
            "arn:evil:s3:::bucket",
            "arn:aws:lambda:eu-west-1:123456789012:function:f",
        ] {
            assert!(matches!(Destination::parse(text), Err(AddressError::Unknown(_))), "{text}");
        }
        for text in ["arn:aws:sqs:eu-west-1:123456789012:q.fifo", "arn:aws:sns:eu-west-1:123456789012:t.fifo"]
        {
            assert!(matches!(Destination::parse(text), Err(AddressError::Fifo(_))), "{text}");
        }
    }
}
