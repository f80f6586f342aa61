//! On-failure destination: the value of `DestinationConfig.OnFailure.Destination`. It is parsed and validated only
//! here, because its names and regions become parts of requests and of host names.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::constraints::{RequestViolations, is_account, is_region};

const CHARACTERS_MAX: usize = 350;
/// Pattern of the model, with the front end's `^`.
const PATTERN: &str = "^$|kafka://([^.]([a-zA-Z0-9\\-_.]{0,248}))|arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\\-])+:\
                       ((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1})?:(\\d{12})?:(.*)";
const TOPIC_SCHEME: &str = "kafka://";
const TOPIC_BYTES_MAX: usize = 249;
const QUEUE_NAME_BYTES: RangeInclusive<usize> = 1..=80;
const TOPIC_NAME_BYTES: RangeInclusive<usize> = 1..=256;
const BUCKET_NAME_BYTES: RangeInclusive<usize> = 3..=63;

/// On-failure destination; its text form is the API's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FailureDestination {
    /// `arn:aws:sqs:REGION:ACCOUNT:NAME`
    Queue(QueueArn),
    /// `arn:aws:sns:REGION:ACCOUNT:NAME`
    Notification(TopicArn),
    /// `arn:aws:s3:::NAME`
    Bucket(BucketArn),
    /// Kafka topic of the source's cluster, without `kafka://`.
    Topic(Arc<str>),
}

/// ARN of a standard SQS queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueArn(ArnParts);

/// ARN of a standard SNS topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicArn(ArnParts);

/// ARN of an S3 bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BucketArn(ArnParts);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ArnParts {
    arn: Arc<str>,
    region: Arc<str>,
    account: Arc<str>,
    name: Arc<str>,
}

impl QueueArn {
    /// Returns the full ARN.
    pub fn arn(&self) -> &Arc<str> {
        &self.0.arn
    }

    /// Returns the region.
    pub fn region(&self) -> &Arc<str> {
        &self.0.region
    }

    /// Returns the account id of 12 digits.
    pub fn account(&self) -> &str {
        &self.0.account
    }

    /// Returns the queue name.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

impl TopicArn {
    /// Returns the full ARN.
    pub fn arn(&self) -> &Arc<str> {
        &self.0.arn
    }

    /// Returns the region.
    pub fn region(&self) -> &Arc<str> {
        &self.0.region
    }
}

impl BucketArn {
    /// Returns the full ARN, which does not contain the bucket's region.
    pub fn arn(&self) -> &Arc<str> {
        &self.0.arn
    }

    /// Returns the bucket name.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }
}

/// Reason why a text is not a valid destination. Each message begins with AWS's text for that case.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DestinationError {
    /// FIFO queue or topic.
    #[error(
        "The provided destination config DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={0})) is invalid. \
         FIFO queues and FIFO topics are not supported: use a standard Amazon SQS queue or a standard Amazon SNS topic."
    )]
    Fifo(String),
    /// Unsupported service or malformed resource.
    #[error(
        "The provided destination config DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={0})) is invalid. \
         Give the ARN of a standard Amazon SQS queue, of a standard Amazon SNS topic or of an Amazon S3 bucket, \
         or kafka://<topic>."
    )]
    Unsupported(String),
}

impl FromStr for FailureDestination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let unsupported = || DestinationError::Unsupported(text.to_owned());
        if let Some(topic) = text.strip_prefix(TOPIC_SCHEME) {
            return is_topic(topic).then(|| Self::Topic(topic.into())).ok_or_else(unsupported);
        }
        let fields: Vec<&str> = text.split(':').collect();
        let ["arn", partition, service, region, account, name] = fields[..] else {
            return Err(unsupported());
        };
        if !is_partition(partition) {
            return Err(unsupported());
        }
        if matches!(service, "sqs" | "sns") && name.strip_suffix(".fifo").is_some() {
            return Err(DestinationError::Fifo(text.to_owned()));
        }
        let placed = is_region(region) && is_account(account);
        let parts =
            ArnParts { arn: text.into(), region: region.into(), account: account.into(), name: name.into() };
        match service {
            "sqs" if placed && is_name(name, QUEUE_NAME_BYTES) => Ok(Self::Queue(QueueArn(parts))),
            "sns" if placed && is_name(name, TOPIC_NAME_BYTES) => Ok(Self::Notification(TopicArn(parts))),
            "s3" if region.is_empty() && account.is_empty() && is_bucket(name) => {
                Ok(Self::Bucket(BucketArn(parts)))
            }
            _ => Err(unsupported()),
        }
    }
}

impl fmt::Display for FailureDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(queue) => f.write_str(queue.arn()),
            Self::Notification(topic) => f.write_str(topic.arn()),
            Self::Bucket(bucket) => f.write_str(bucket.arn()),
            Self::Topic(topic) => write!(f, "{TOPIC_SCHEME}{topic}"),
        }
    }
}

impl TryFrom<String> for FailureDestination {
    type Error = DestinationError;

    fn try_from(text: String) -> Result<Self, DestinationError> {
        text.parse()
    }
}

impl From<FailureDestination> for String {
    fn from(destination: FailureDestination) -> Self {
        destination.to_string()
    }
}

/// Checks length and pattern against the model.
pub(super) fn check_model(given: &str, at: &str, found: &mut RequestViolations) {
    found.length(given, at, 0, CHARACTERS_MAX);
    found.pattern(given, at, PATTERN, fits_pattern(given));
}

/// Checks the model's pattern: empty, a Kafka topic, or an ARN of any service.
fn fits_pattern(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    if let Some(topic) = text.strip_prefix(TOPIC_SCHEME) {
        let mut characters = topic.chars();
        let first = characters.next().is_some_and(|c| c != '.');
        return first && topic.chars().count() <= TOPIC_BYTES_MAX && characters.all(is_topic_character);
    }
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, service, region, account, _] = parts[..] else { return false };
    let is_service = !service.is_empty() && service.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    is_partition(partition)
        && is_service
        && (region.is_empty() || is_region(region))
        && (account.is_empty() || is_account(account))
}

/// Returns true for a name that Kafka allows. The model's pattern allows more first characters.
fn is_topic(topic: &str) -> bool {
    (1..=TOPIC_BYTES_MAX).contains(&topic.len())
        && !topic.starts_with('.')
        && topic.chars().all(is_topic_character)
}

fn is_topic_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

/// Returns true for a name of SQS or SNS.
fn is_name(text: &str, bytes: RangeInclusive<usize>) -> bool {
    bytes.contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c))
}

/// Returns true for a bucket name: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>
fn is_bucket(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-".contains(&c);
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    BUCKET_NAME_BYTES.contains(&text.len())
        && text.bytes().all(inner)
        && !text.contains("..")
        && outer(text.chars().next())
        && outer(text.chars().last())
}

/// Returns true for an ARN partition: `aws`, `aws-cn`, …
fn is_partition(text: &str) -> bool {
    text.strip_prefix("aws").is_some_and(|rest| rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: &str = "arn:aws:sqs:eu-west-1:123456789012:failed";
    const NOTIFICATION: &str = "arn:aws-cn:sns:cn-north-1:123456789012:failed-1_x";
    const BUCKET: &str = "arn:aws:s3:::failed.records";
    const TOPIC: &str = "kafka://failed.orders-1";

    fn fits(text: &str) -> bool {
        let mut found = RequestViolations::default();
        check_model(text, "at", &mut found);
        found.into_result().is_ok()
    }

    #[test]
    fn destination_kinds_round_trip_as_text() {
        for (text, kind) in
            [(QUEUE, "Queue"), (NOTIFICATION, "Notification"), (BUCKET, "Bucket"), (TOPIC, "Topic")]
        {
            let read: FailureDestination = text.parse().expect("a destination");
            assert!(format!("{read:?}").starts_with(kind), "{read:?}");
            assert_eq!(read.to_string(), text);
            let json = serde_json::to_string(&read).expect("JSON");
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<FailureDestination>(&json).expect("a destination"), read);
            assert!(fits(text));
        }
        let Ok(FailureDestination::Queue(queue)) = QUEUE.parse() else { panic!("a queue") };
        assert_eq!(
            (&**queue.region(), queue.account(), queue.name()),
            ("eu-west-1", "123456789012", "failed")
        );
        let Ok(FailureDestination::Bucket(bucket)) = BUCKET.parse() else { panic!("a bucket") };
        assert_eq!(&**bucket.name(), "failed.records");
        assert!(serde_json::from_str::<FailureDestination>("\"elsewhere\"").is_err());
    }

    #[test]
    fn fifo_destination_is_rejected_as_fifo() {
        for text in
            ["arn:aws:sqs:eu-west-1:123456789012:q.fifo", "arn:aws:sns:us-gov-west-1:123456789012:t.fifo"]
        {
            let error = text.parse::<FailureDestination>().expect_err("FIFO");
            assert_eq!(error, DestinationError::Fifo(text.to_owned()));
            assert!(error.to_string().contains(text) && error.to_string().contains("FIFO"), "{error}");
        }
        assert!("arn:aws:s3:::bucket.fifo".parse::<FailureDestination>().is_ok(), "a valid bucket name");
    }

    #[test]
    fn invalid_destination_is_rejected() {
        for text in [
            "",
            "kafka://",
            "kafka://.a",
            "kafka://a b",
            "kafka:///a",
            "topic",
            "arn:aws:sqs:eu-west-1:123456789012:",
            "arn:aws:sqs::123456789012:failed",
            "arn:aws:sqs:eu-west-1:1234:failed",
            "arn:aws:sns:eu-west-1:123456789012:failed:subscription",
            "arn:aws:s3:eu-west-1:123456789012:failed",
            "arn:aws:s3:::failed/prefix",
            "arn:aws:s3:::UPPER",
            "arn:aws:s3:::a..b",
            "arn:aws:s3:::-ab",
            "arn:aws:sqs:evil.example/:123456789012:q",
            "arn:aws:sqs:eu-west-1:123456789012:a.b",
            "kafka://..",
            "arn:aws:lambda:eu-west-1:123456789012:function:f",
            "arn:google:sqs:eu-west-1:123456789012:failed",
        ] {
            assert_eq!(
                text.parse::<FailureDestination>(),
                Err(DestinationError::Unsupported(text.to_owned()))
            );
        }
        assert!(format!("kafka://{}", "a".repeat(249)).parse::<FailureDestination>().is_ok());
        assert!(format!("kafka://{}", "a".repeat(250)).parse::<FailureDestination>().is_err());
    }

    #[test]
    fn model_pattern_accepts_and_rejects_as_aws() {
        let long = format!("kafka://{}", "a".repeat(249));
        for text in [
            "",
            "kafka://a",
            "kafka://é",
            &long,
            "arn:aws:lambda:us-iso-east-1:123456789012:a:b",
            "arn:aws-x:x::: ",
        ] {
            assert!(fits(text), "{text}");
        }
        let longer = format!("{long}a");
        let longest = format!("arn:aws:s3:::{}", "a".repeat(338));
        for text in [
            "a",
            "kafka://",
            "kafka://.a",
            "kafka://a/b",
            &longer,
            &longest,
            "arn:aws:sqs:eu-west:123456789012:a",
            "arn:aws:sqs:eu-west-11:123456789012:a",
            "arn:aws:sqs:eu-west-1:12345678901:a",
            "arn:aws:sqs:eu-west-1:123456789012",
            "arn:aws:s_s:::a",
        ] {
            assert!(!fits(text), "{text}");
        }
    }
}
