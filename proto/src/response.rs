//! Partial batch response of a function with `ReportBatchItemFailures`: the records of the batch that it could not
//! process.
//!
//! Shape: <https://docs.aws.amazon.com/lambda/latest/dg/kafka-retry-configurations.html>. An item is identified by
//! `{"partition": "<topic>-<n>", "offset": 100}`, or by the string `<topic>-<n>-<offset>` of AWS's samples for
//! share groups. Responses that count as full success, and those that count as no response at all, were recorded
//! from AWS with Kinesis.
//!
//! Parsing is strict, because a report misread as full success loses records. Anything unexpected is an error, and
//! an error means that the whole batch failed. The bytes come from a tenant's function: at most twice `items_max`
//! items are held, nothing here recurses, and texts in errors are short.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

use crate::ids::Offset;

/// Record that the function reports as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FailedItem {
    /// Partition index in the batch's topic.
    pub partition: i32,
    /// Offset in the partition, never negative. The caller must check that the batch holds it.
    pub offset: Offset,
}

/// Reason why a response identifies no single records, so that the whole batch failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReplyError {
    /// Response that is not JSON.
    #[error("the function's answer is not JSON: {0}; answer with {{\"batchItemFailures\": […]}}")]
    NotJson(String),
    /// JSON of another shape.
    #[error("the function's answer is no partial batch response: {0}")]
    Shape(String),
    /// Identifier that matches no record of the batch's topic.
    #[error(
        "itemIdentifier `{given}` names no record of topic `{topic}`: \
         write {{\"partition\": \"{topic}-0\", \"offset\": 100}} or \"{topic}-0-100\""
    )]
    Identifier {
        /// Identifier as given, truncated if long.
        given: String,
        /// Topic of the batch.
        topic: String,
    },
    /// Response with more items than the batch has records.
    #[error("the function reports more than the {0} records of its batch as failed")]
    TooMany(usize),
}

/// Parses the response to a batch of `topic` with at most `items_max` records. Returns the failed records, sorted
/// and deduplicated.
///
/// Full success is an empty body, `null`, `""`, `[]`, or any object in which `batchItemFailures` is absent, `null`
/// or empty. Unknown members are skipped, but a misspelling of `batchItemFailures` is an error. An offset is a
/// JSON integer or a string of digits, as in failure messages.
pub fn failed_items(body: &[u8], topic: &str, items_max: usize) -> Result<Vec<FailedItem>, ReplyError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let mut report = FailureReport { topic, items_max, items: Vec::new(), refused: None };
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = json.deserialize_any(WholeReply(&mut report)).and_then(|()| json.end());
    let error = match (read, report.refused.take()) {
        (Ok(()), _) => return report.finish(),
        (Err(_), Some(refused)) => return Err(refused),
        (Err(error), None) => error,
    };
    let text = beginning(&error.to_string());
    Err(if error.is_data() { ReplyError::Shape(text) } else { ReplyError::NotJson(text) })
}

/// Returns the beginning of a text on one line, short enough for an error.
fn beginning(text: &str) -> String {
    const CHARACTERS_MAX: usize = 160;
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(CHARACTERS_MAX).map(plain).collect()
}

/// State of parsing one response.
struct FailureReport<'t> {
    topic: &'t str,
    items_max: usize,
    items: Vec<FailedItem>,
    /// Typed error to return in place of the parser's error.
    refused: Option<ReplyError>,
}

impl FailureReport<'_> {
    /// Keeps an item; returns `false` if there are too many.
    fn keep(&mut self, item: FailedItem) -> bool {
        const ROOM_MIN: usize = 16;
        if self.items.len() >= self.items_max.saturating_mul(2).max(ROOM_MIN) {
            self.tidy();
        }
        self.items.push(item);
        self.refused.is_none()
    }

    /// Sorts and deduplicates the items, and checks their number.
    fn tidy(&mut self) {
        self.items.sort_unstable();
        self.items.dedup();
        if self.items.len() > self.items_max {
            self.refused = Some(ReplyError::TooMany(self.items_max));
        }
    }

    fn finish(mut self) -> Result<Vec<FailedItem>, ReplyError> {
        self.tidy();
        self.refused.map_or(Ok(self.items), Err)
    }

    fn unknown(&mut self, given: &str) {
        self.refused = Some(ReplyError::Identifier { given: beginning(given), topic: self.topic.to_owned() });
    }
}

/// Parses a canonical decimal number: digits only, no leading zero.
fn decimal<N: std::str::FromStr>(text: &str) -> Option<N> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// Returns `text` without the prefix `<topic>-`.
fn behind_topic<'i>(text: &'i str, topic: &str) -> Option<&'i str> {
    text.strip_prefix(topic)?.strip_prefix('-')
}

/// Parses `<topic>-<partition>-<offset>`.
fn item_of(text: &str, topic: &str) -> Option<FailedItem> {
    let (partition, offset) = behind_topic(text, topic)?.split_once('-')?;
    Some(FailedItem { partition: decimal(partition)?, offset: Offset(decimal(offset)?) })
}

/// Visitor of the whole response.
struct WholeReply<'r, 't>(&'r mut FailureReport<'t>);

impl<'de> Visitor<'de> for WholeReply<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `batchItemFailures`")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if text.is_empty() { Ok(()) } else { Err(E::invalid_type(serde::de::Unexpected::Str(text), &self)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        match list.next_element::<IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(name) = members.next_key::<String>()? {
            if name != "batchItemFailures" {
                if is_meant(&name) {
                    let text = format!("the member is called `batchItemFailures`, not `{name}`");
                    return Err(A::Error::custom(text));
                }
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            if seen {
                return Err(A::Error::duplicate_field("batchItemFailures"));
            }
            seen = true;
            members.next_value_seed(FailureList(&mut *self.0))?;
        }
        Ok(())
    }
}

/// Returns true for other spellings of `batchItemFailures`. AWS reads them as an unknown member and thus as full
/// success.
fn is_meant(name: &str) -> bool {
    const LETTERS_MAX: usize = 32;
    if name.len() > LETTERS_MAX {
        return false;
    }
    let letters = name.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase());
    matches!(letters.collect::<String>().as_str(), "batchitemfailures" | "batchitemfailure")
}

/// Visitor of the value of `batchItemFailures`.
struct FailureList<'r, 't>(&'r mut FailureReport<'t>);

impl<'de> DeserializeSeed<'de> for FailureList<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FailureList<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of failed items")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(FailureItem(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

/// Visitor of one list item: `{"itemIdentifier": …}`.
struct FailureItem<'r, 't>(&'r mut FailureReport<'t>);

impl<'de> DeserializeSeed<'de> for FailureItem<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FailureItem<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `itemIdentifier`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut item = None;
        while let Some(name) = members.next_key::<String>()? {
            if name != "itemIdentifier" {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            if item.is_some() {
                return Err(A::Error::duplicate_field("itemIdentifier"));
            }
            item = Some(members.next_value_seed(ItemIdentifier(&mut *self.0))?);
        }
        let item = item.ok_or_else(|| A::Error::missing_field("itemIdentifier"))?;
        if self.0.keep(item) { Ok(()) } else { Err(A::Error::custom("too many items")) }
    }
}

/// Visitor of the value of `itemIdentifier`.
struct ItemIdentifier<'r, 't>(&'r mut FailureReport<'t>);

impl<'de> DeserializeSeed<'de> for ItemIdentifier<'_, '_> {
    type Value = FailedItem;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<FailedItem, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemIdentifier<'_, '_> {
    type Value = FailedItem;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item's partition and offset")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<FailedItem, E> {
        item_of(text, self.0.topic).ok_or_else(|| {
            self.0.unknown(text);
            E::custom("unknown item")
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<FailedItem, A::Error> {
        let (mut partition, mut offset) = (None, None);
        while let Some(name) = members.next_key::<String>()? {
            match name.as_str() {
                "partition" if partition.is_some() => return Err(A::Error::duplicate_field("partition")),
                "offset" if offset.is_some() => return Err(A::Error::duplicate_field("offset")),
                "partition" => {
                    let text: String = members.next_value()?;
                    let index = behind_topic(&text, self.0.topic).and_then(decimal);
                    partition = Some(index.ok_or_else(|| {
                        self.0.unknown(&text);
                        A::Error::custom("unknown partition")
                    })?);
                }
                "offset" => offset = Some(members.next_value_seed(ItemOffset)?),
                _ => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        let partition = partition.ok_or_else(|| A::Error::missing_field("partition"))?;
        let offset = offset.ok_or_else(|| A::Error::missing_field("offset"))?;
        Ok(FailedItem { partition, offset })
    }
}

/// Visitor of an offset: an integer, or its digits as a string.
struct ItemOffset;

impl<'de> DeserializeSeed<'de> for ItemOffset {
    type Value = Offset;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Offset, D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for ItemOffset {
    type Value = Offset;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an offset from 0 to 9223372036854775807")
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Offset, E> {
        let offset = i64::try_from(number).map(Offset);
        offset.map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Offset, E> {
        decimal(text).map(Offset).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}
