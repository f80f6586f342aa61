//! Topic ids, which distinguish a topic from others of the same name (KIP-516).

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Length of the text form, in characters.
const TEXT_CHARS: usize = 22;

/// Id of a topic. A topic that is deleted and recreated under the same name has another id. Its text form is
/// Kafka's, as `kafka-topics.sh --describe` shows it: 22 characters of base64 for URLs
/// (`org.apache.kafka.common.Uuid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(Uuid);

/// Error for a text that is not a topic id in Kafka's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a topic id is {TEXT_CHARS} characters of base64 for URLs, and not zero")]
pub struct NotATopicId;

impl TopicId {
    /// Creates a topic id from a broker's response. Zero means that the broker assigns no ids.
    pub fn of(id: Uuid) -> Option<Self> {
        (!id.is_nil()).then_some(Self(id))
    }

    /// Returns the id as sent on the wire.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

/// Returns true if the topic was recreated: `known` and `now` are both set and differ. An id is missing with a
/// broker before 2.8, or in state written before ids were stored; the topics then count as the same.
#[must_use]
pub fn is_another(known: Option<TopicId>, now: Option<TopicId>) -> bool {
    matches!((known, now), (Some(known), Some(now)) if known != now)
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64_turbo::URL_SAFE_NO_PAD.encode(self.0.as_bytes()))
    }
}

impl FromStr for TopicId {
    type Err = NotATopicId;

    fn from_str(text: &str) -> Result<Self, NotATopicId> {
        if text.len() != TEXT_CHARS {
            return Err(NotATopicId);
        }
        let bytes = base64_turbo::URL_SAFE_NO_PAD.decode(text).map_err(|_| NotATopicId)?;
        let id = Uuid::from_slice(&bytes).ok().and_then(Self::of).ok_or(NotATopicId)?;
        // Bits after the last byte must be zero; otherwise one id would have several texts.
        if id.to_string() == text { Ok(id) } else { Err(NotATopicId) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_form_equals_kafkas() {
        // Kafka's own tools give these bytes for `Uuid.fromString("bGlnaHRlcm1hbi10ZXN0cw")`.
        let id = TopicId::of(Uuid::from_bytes(*b"lighterman-tests"));
        assert_eq!(id.map(|id| id.to_string()).as_deref(), Some("bGlnaHRlcm1hbi10ZXN0cw"));
        assert_eq!("bGlnaHRlcm1hbi10ZXN0cw".parse().ok(), id);
    }

    #[test]
    fn invalid_topic_id_text_is_rejected() {
        for text in [
            "",
            "AAAAAAAAAAAAAAAAAAAAAA",
            "bGlnaHRlcm1hbi10ZXN0cx",
            "bGlnaHRlcm1hbi10ZXN0c",
            "bGlnaHRlcm1hbi10ZXN0c=",
        ] {
            assert_eq!(text.parse::<TopicId>(), Err(NotATopicId), "{text}");
        }
        assert_eq!(TopicId::of(Uuid::nil()), None);
    }

    #[test]
    fn topics_differ_only_if_both_ids_differ() {
        let id = |number| TopicId::of(Uuid::from_u128(number));
        assert!(is_another(id(1), id(2)) && !is_another(id(1), id(1)));
        assert!(!is_another(None, id(1)) && !is_another(id(1), None) && !is_another(None, None));
    }

    proptest! {
        #[test]
        fn texts_round_trip(bytes in any::<[u8; 16]>()) {
            if let Some(id) = TopicId::of(Uuid::from_bytes(bytes)) {
                prop_assert_eq!(id.to_string().parse::<TopicId>(), Ok(id));
            }
        }
    }
}
