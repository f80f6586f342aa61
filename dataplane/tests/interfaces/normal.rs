//! Texts without what differs from run to run: ports, ids, times.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};

/// Deviation from the present up to which a number counts as a time.
const PRESENT: Duration = Duration::from_secs(24 * 60 * 60);

/// Replaces the `known` texts, and then each UUID by its number in order of appearance, and each time of these days.
pub(crate) fn normal(text: &str, known: &[(String, &str)]) -> String {
    let text = known.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    let (mut shown, mut uuids) = (String::new(), Vec::new());
    let (mut rest, mut is_in_word) = (text.as_str(), false);
    while let Some(first) = rest.chars().next() {
        let (length, piece) = match Varying::at(rest, is_in_word) {
            Some(Varying { length, kind: "uuid" }) => {
                let uuid = rest[..length].to_lowercase();
                let known = uuids.iter().position(|known| *known == uuid);
                let number = known.unwrap_or(uuids.len());
                if known.is_none() {
                    uuids.push(uuid);
                }
                (length, format!("<uuid {}>", number + 1))
            }
            Some(Varying { length, kind }) => (length, format!("<{kind}>")),
            None => (first.len_utf8(), first.to_string()),
        };
        shown.push_str(&piece);
        rest = &rest[length..];
        is_in_word = first.is_ascii_alphanumeric();
    }
    shown
}

/// Beginning of a text that differs from run to run.
struct Varying {
    length: usize,
    kind: &'static str,
}

impl Varying {
    fn at(text: &str, is_in_word: bool) -> Option<Self> {
        // In a path the colon before an id is `%3A`.
        if text.get(..36).is_some_and(|uuid| uuid.contains('-') && uuid::Uuid::try_parse(uuid).is_ok()) {
            return Some(Self { length: 36, kind: "uuid" });
        }
        if is_in_word {
            return None;
        }
        for length in ["2026-11-30T19:20:34Z", "2026-11-30T19:20:34.123Z"].map(str::len) {
            let time = text.get(..length).and_then(|time| DateTime::parse_from_rfc3339(time).ok());
            let ms = time.and_then(|time| u64::try_from(time.timestamp_millis()).ok());
            if ms.is_some_and(|ms| is_present(Duration::from_millis(ms))) {
                return Some(Self { length, kind: "time" });
            }
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number = text[..digits].parse().ok()?;
        match digits {
            10 if is_present(Duration::from_secs(number)) => {
                let fraction = text[digits..].strip_prefix('.').unwrap_or_default();
                let fraction = fraction.bytes().take_while(u8::is_ascii_digit).count();
                let length = digits + if fraction > 0 { fraction + 1 } else { 0 };
                Some(Self { length, kind: "seconds" })
            }
            13 if is_present(Duration::from_millis(number)) => Some(Self { length: digits, kind: "ms" }),
            _ => None,
        }
    }
}

fn is_present(time: Duration) -> bool {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    now.abs_diff(time) < PRESENT
}

#[test]
fn ids_and_present_times_are_replaced() {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    let text = format!(
        "{uuid} a%3A{uuid} at={} 2020-11-30T19:20:34.123Z {}.5 {} 1700000000123 h=2166136261 port",
        Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
        now.as_secs(),
        now.as_millis()
    );
    let known = [("port".to_owned(), "<port>")];
    let shown = "<uuid 1> a%3A<uuid 1> at=<time> 2020-11-30T19:20:34.123Z <seconds> <ms> 1700000000123 \
                 h=2166136261 <port>";
    assert_eq!(normal(&text, &known), shown);
}
