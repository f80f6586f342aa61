//! What makes a topic this topic and no other of its name (KIP-516).

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Characters of the text.
const TEXT_CHARS: usize = 22;

/// The id of a topic; one that is deleted and made again under the same name has another. Its text is Kafka's own, as
/// `kafka-topics.sh --describe` shows it: 22 characters of base64 for URLs (`org.apache.kafka.common.Uuid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(Uuid);

/// The text is not one of Kafka's topic ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a topic id is {TEXT_CHARS} characters of base64 for URLs, and not zero")]
pub struct NotATopicId;

impl TopicId {
    /// As a broker says it; zero is said by one that gives its topics no ids.
    pub fn of(id: Uuid) -> Option<Self> {
        (!id.is_nil()).then_some(Self(id))
    }

    /// As it goes over the wire.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

/// Whether what is known of the topic `known` says nothing of the topic `now` of the same name. Where one of them has no id, from a
/// broker before 2.8 or from a time before ids were kept, nobody can tell by it.
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
        // Bits that stand behind the last byte would make two texts of one id.
        if id.to_string() == text { Ok(id) } else { Err(NotATopicId) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_text_is_kafkas() {
        // `Uuid.fromString("bGlnaHRlcm1hbi10ZXN0cw")` of Kafka's own tools holds these bytes.
        let id = TopicId::of(Uuid::from_bytes(*b"lighterman-tests"));
        assert_eq!(id.map(|id| id.to_string()).as_deref(), Some("bGlnaHRlcm1hbi10ZXN0cw"));
        assert_eq!("bGlnaHRlcm1hbi10ZXN0cw".parse().ok(), id);
    }

    #[test]
    fn what_is_no_id_is_refused() {
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
    fn only_two_different_ids_tell_two_topics_apart() {
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
