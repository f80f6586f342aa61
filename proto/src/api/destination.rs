//! Where failed records go: the value of `DestinationConfig.OnFailure.Destination`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::constraints::Violations;

const CHARACTERS_MAX: usize = 350;
/// The model's, with the front end's `^`.
const PATTERN: &str = "^$|kafka://([^.]([a-zA-Z0-9\\-_.]{0,248}))|arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\\-])+:\
                       ((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1})?:(\\d{12})?:(.*)";
const TOPIC_SCHEME: &str = "kafka://";
const TOPIC_BYTES_MAX: usize = 249;

/// An on-failure destination; its text is the one the API has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Destination {
    /// ARN of a standard SQS queue.
    Queue(String),
    /// ARN of a standard SNS topic.
    Notification(String),
    /// ARN of an S3 bucket.
    Bucket(String),
    /// A Kafka topic of the source's cluster, without `kafka://`.
    Topic(String),
}

/// Why a text is no destination. Each begins with AWS's text for that.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DestinationError {
    /// FIFO queue or topic.
    #[error(
        "The provided destination config DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={0})) is invalid. \
         FIFO queues and FIFO topics are not supported: use a standard Amazon SQS queue or a standard Amazon SNS topic."
    )]
    Fifo(String),
    /// Another service, or a resource that is none.
    #[error(
        "The provided destination config DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={0})) is invalid. \
         Give the ARN of a standard Amazon SQS queue, of a standard Amazon SNS topic or of an Amazon S3 bucket, \
         or kafka://<topic>."
    )]
    Unsupported(String),
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let unsupported = || DestinationError::Unsupported(text.to_owned());
        if let Some(topic) = text.strip_prefix(TOPIC_SCHEME) {
            return is_topic(topic).then(|| Self::Topic(topic.to_owned())).ok_or_else(unsupported);
        }
        let parts: Vec<&str> = text.split(':').collect();
        let ["arn", partition, service, region, account, resource] = parts[..] else {
            return Err(unsupported());
        };
        let placed = is_region(region) && is_account(account);
        let named =
            !resource.is_empty() && resource.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !is_partition(partition) || !named {
            return Err(unsupported());
        }
        match service {
            "sqs" | "sns" if resource.strip_suffix(".fifo").is_some() => {
                Err(DestinationError::Fifo(text.to_owned()))
            }
            "sqs" if placed => Ok(Self::Queue(text.to_owned())),
            "sns" if placed => Ok(Self::Notification(text.to_owned())),
            "s3" if region.is_empty() && account.is_empty() => Ok(Self::Bucket(text.to_owned())),
            _ => Err(unsupported()),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(arn) | Self::Notification(arn) | Self::Bucket(arn) => f.write_str(arn),
            Self::Topic(topic) => write!(f, "{TOPIC_SCHEME}{topic}"),
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = DestinationError;

    fn try_from(text: String) -> Result<Self, DestinationError> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

/// Length and pattern of the model.
pub(super) fn check_model(given: &str, at: &str, found: &mut Violations) {
    found.length(given, at, 0, CHARACTERS_MAX);
    found.pattern(given, at, PATTERN, fits_pattern(given));
}

/// The model's pattern: nothing, a Kafka topic, or an ARN of any service.
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

/// A name that Kafka allows; the model's pattern is wider in its first character.
fn is_topic(topic: &str) -> bool {
    (1..=TOPIC_BYTES_MAX).contains(&topic.len())
        && !topic.starts_with('.')
        && topic.chars().all(is_topic_character)
}

fn is_topic_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

/// `aws`, `aws-cn`, …
fn is_partition(text: &str) -> bool {
    text.strip_prefix("aws").is_some_and(|rest| rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
}

/// `(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}`
fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.strip_prefix("eusc-").unwrap_or(text).split('-').collect();
    let lower = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let digit = |part: &str| part.len() == 1 && part.bytes().all(|byte| byte.is_ascii_digit());
    let special = |part: &str| {
        part == "gov"
            || part.strip_prefix("iso").is_some_and(|rest| rest.is_empty() || rest.len() == 1 && lower(rest))
    };
    match parts[..] {
        [country, side, number] => country.len() == 2 && lower(country) && lower(side) && digit(number),
        [country, kind, side, number] => {
            country.len() == 2 && lower(country) && special(kind) && lower(side) && digit(number)
        }
        _ => false,
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: &str = "arn:aws:sqs:eu-west-1:123456789012:failed";
    const NOTIFICATION: &str = "arn:aws-cn:sns:cn-north-1:123456789012:failed-1_x";
    const BUCKET: &str = "arn:aws:s3:::failed.records";
    const TOPIC: &str = "kafka://failed.orders-1";

    fn fits(text: &str) -> bool {
        let mut found = Violations::default();
        check_model(text, "at", &mut found);
        found.into_result().is_ok()
    }

    #[test]
    fn the_four_kinds_and_their_texts() {
        let kinds = [
            (QUEUE, Destination::Queue(QUEUE.to_owned())),
            (NOTIFICATION, Destination::Notification(NOTIFICATION.to_owned())),
            (BUCKET, Destination::Bucket(BUCKET.to_owned())),
            (TOPIC, Destination::Topic("failed.orders-1".to_owned())),
        ];
        for (text, kind) in kinds {
            assert_eq!(text.parse(), Ok(kind.clone()));
            assert_eq!(kind.to_string(), text);
            let json = serde_json::to_string(&kind).expect("JSON");
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Destination>(&json).expect("a destination"), kind);
            assert!(fits(text));
        }
        assert!(serde_json::from_str::<Destination>("\"elsewhere\"").is_err());
    }

    #[test]
    fn fifo_queues_and_topics_are_refused_as_such() {
        for text in
            ["arn:aws:sqs:eu-west-1:123456789012:q.fifo", "arn:aws:sns:us-gov-west-1:123456789012:t.fifo"]
        {
            let error = text.parse::<Destination>().expect_err("FIFO");
            assert_eq!(error, DestinationError::Fifo(text.to_owned()));
            assert!(error.to_string().contains(text) && error.to_string().contains("FIFO"), "{error}");
        }
        assert!("arn:aws:s3:::bucket.fifo".parse::<Destination>().is_ok(), "a bucket may be called so");
    }

    #[test]
    fn what_is_no_destination() {
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
            "arn:aws:lambda:eu-west-1:123456789012:function:f",
            "arn:google:sqs:eu-west-1:123456789012:failed",
        ] {
            assert_eq!(text.parse::<Destination>(), Err(DestinationError::Unsupported(text.to_owned())));
        }
        assert!(format!("kafka://{}", "a".repeat(249)).parse::<Destination>().is_ok());
        assert!(format!("kafka://{}", "a".repeat(250)).parse::<Destination>().is_err());
    }

    #[test]
    fn the_models_pattern() {
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
