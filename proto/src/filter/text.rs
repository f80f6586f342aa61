//! Text of a record, compared without being unescaped into memory.

/// Contents of a JSON string, or plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JsonText<'a> {
    /// Bytes as in the record, without quotes.
    pub(super) raw: &'a [u8],
    /// True if `raw` has JSON escapes; it is then UTF-8.
    pub(super) escaped: bool,
}

/// Compares two texts. Those of up to 16 bytes, as most names are, are compared without a call, as two words that
/// may overlap.
#[inline]
pub(super) fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    fn ends<const LEN: usize>(text: &[u8]) -> Option<(&[u8; LEN], &[u8; LEN])> {
        text.first_chunk().zip(text.last_chunk())
    }
    one.len() == other.len()
        && match one.len() {
            0..4 => one.iter().eq(other),
            4..8 => ends::<4>(one) == ends(other),
            8..=16 => ends::<8>(one) == ends(other),
            _ => one == other,
        }
}

impl<'a> JsonText<'a> {
    /// Creates text without escapes.
    pub(super) fn plain(raw: &'a [u8]) -> Self {
        Self { raw, escaped: false }
    }

    #[inline]
    pub(super) fn equals(self, other: &str) -> bool {
        if !self.escaped {
            return same_bytes(self.raw, other.as_bytes());
        }
        self.code_points().is_some_and(|ours| ours.eq(points(other)))
    }

    pub(super) fn starts_with(self, start: &str) -> bool {
        if !self.escaped {
            return self.raw.starts_with(start.as_bytes());
        }
        self.code_points().is_some_and(|ours| begins(ours, points(start)))
    }

    pub(super) fn ends_with(self, end: &str) -> bool {
        if !self.escaped {
            return self.raw.ends_with(end.as_bytes());
        }
        self.code_points().is_some_and(|ours| ends(ours, points(end)))
    }

    pub(super) fn equals_folded(self, other: &FoldedText) -> bool {
        if let Some(ours) = self.ascii() {
            return same_in_lower_case(ours, &other.0);
        }
        self.code_points().is_some_and(|ours| ours.flat_map(fold).eq(points(&other.0)))
    }

    pub(super) fn starts_with_folded(self, start: &FoldedText) -> bool {
        if let Some(ours) = self.ascii() {
            return ours.get(..start.0.len()).is_some_and(|ours| same_in_lower_case(ours, &start.0));
        }
        self.code_points().is_some_and(|ours| begins(ours.flat_map(fold), points(&start.0)))
    }

    pub(super) fn ends_with_folded(self, end: &FoldedText) -> bool {
        if let Some(ours) = self.ascii() {
            let from = ours.len().checked_sub(end.0.len());
            return from.is_some_and(|from| same_in_lower_case(&ours[from..], &end.0));
        }
        self.code_points().is_some_and(|ours| ends(ours.flat_map(fold), points(&end.0)))
    }

    /// Returns the bytes if each is an ASCII character as it stands. Most texts are, and fold byte by byte.
    fn ascii(self) -> Option<&'a [u8]> {
        (!self.escaped && self.raw.is_ascii()).then_some(self.raw)
    }

    /// Returns the unescaped text; `None` if it contains a lone surrogate or is not UTF-8.
    pub(super) fn to_text(self) -> Option<String> {
        self.code_points()?.map(char::from_u32).collect()
    }

    /// Returns the code points, or `None` if the text is not UTF-8; it then equals nothing. A lone surrogate can
    /// be written as an escape but not in UTF-8, so it is a code point that no pattern has.
    fn code_points(self) -> Option<CodePoints<'a>> {
        Some(CodePoints { left: str::from_utf8(self.raw).ok()?, escaped: self.escaped })
    }
}

/// Text of a pattern for case-insensitive comparison: Unicode lower case, character by character.
#[derive(Clone, Debug)]
pub(super) struct FoldedText(Box<str>);

impl FoldedText {
    pub(super) fn new(text: &str) -> Self {
        Self(text.chars().flat_map(char::to_lowercase).collect())
    }
}

/// Compares ASCII characters with text that is in lower case.
fn same_in_lower_case(ours: &[u8], folded: &str) -> bool {
    ours.len() == folded.len()
        && ours.iter().zip(folded.as_bytes()).all(|(ours, folded)| ours.to_ascii_lowercase() == *folded)
}

fn points(text: &str) -> impl Iterator<Item = u32> + Clone {
    text.chars().map(u32::from)
}

/// Maps one code point to lower case, which is up to three code points.
fn fold(point: u32) -> impl Iterator<Item = u32> + Clone {
    let lower = char::from_u32(point).map(char::to_lowercase);
    let itself = if lower.is_none() { Some(point) } else { None };
    lower.into_iter().flatten().map(u32::from).chain(itself)
}

fn begins(mut ours: impl Iterator<Item = u32>, start: impl Iterator<Item = u32>) -> bool {
    start.into_iter().all(|point| ours.next() == Some(point))
}

fn ends(ours: impl Iterator<Item = u32> + Clone, end: impl Iterator<Item = u32> + Clone) -> bool {
    let before = ours.clone().count().checked_sub(end.clone().count());
    before.is_some_and(|before| ours.skip(before).eq(end))
}

/// Iterator over the code points of a text whose escapes the scanner has validated.
#[derive(Clone)]
struct CodePoints<'a> {
    left: &'a str,
    escaped: bool,
}

impl CodePoints<'_> {
    fn escape(&mut self) -> u32 {
        let mut characters = self.left.chars();
        let point = match characters.next() {
            Some('b') => 0x08,
            Some('f') => 0x0c,
            Some('n') => 0x0a,
            Some('r') => 0x0d,
            Some('t') => 0x09,
            Some('u') => {
                self.left = characters.as_str();
                return self.unicode();
            }
            Some(other) => u32::from(other),
            None => u32::from('\\'),
        };
        self.left = characters.as_str();
        point
    }

    /// Reads the digits after `\u`: four hex digits, and another escape of four if they are the first half of a
    /// surrogate pair.
    fn unicode(&mut self) -> u32 {
        let high = self.four_digits();
        if !(0xd800..0xdc00).contains(&high) {
            return high;
        }
        let Some(behind) = self.left.strip_prefix("\\u") else { return high };
        let mut ahead = CodePoints { left: behind, escaped: true };
        let low = ahead.four_digits();
        if !(0xdc00..0xe000).contains(&low) {
            return high;
        }
        self.left = ahead.left;
        0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)
    }

    fn four_digits(&mut self) -> u32 {
        let (digits, behind) = self.left.split_at_checked(4).unwrap_or((self.left, ""));
        self.left = behind;
        u32::from_str_radix(digits, 16).unwrap_or_default()
    }
}

impl Iterator for CodePoints<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let mut characters = self.left.chars();
        let character = characters.next()?;
        self.left = characters.as_str();
        Some(if self.escaped && character == '\\' { self.escape() } else { u32::from(character) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(raw: &str) -> JsonText<'_> {
        JsonText { raw: raw.as_bytes(), escaped: true }
    }

    #[test]
    fn escapes_are_compared_in_place() {
        assert!(escaped(r#"\u0041\n\"\\\/\b\f\r\t"#).equals("A\n\"\\/\u{8}\u{c}\r\t"));
        assert!(escaped(r"\ud83d\ude00!").equals("😀!"));
        assert!(escaped(r"x\u00e9").ends_with("é") && escaped(r"\u00e9x").starts_with("é"));
        assert!(!escaped(r"\u0041").equals("AA") && !escaped(r"\u0041").starts_with("AA"));
        assert!(!escaped(r"\u0041").ends_with("BA"));
    }

    #[test]
    fn lone_surrogate_equals_nothing() {
        assert_eq!(escaped(r"\ud800").to_text(), None);
        assert!(!escaped(r"\ud800\u0041").equals("\u{fffd}A"));
        assert!(escaped(r"\ud800\u0041").ends_with("A"), "the neighbouring text is compared as usual");
    }

    #[test]
    fn case_folding_follows_unicode() {
        assert!(JsonText::plain("STRASSE Ä".as_bytes()).equals_folded(&FoldedText::new("strasse ä")));
        assert!(escaped(r"\u00c4b").starts_with_folded(&FoldedText::new("ä")));
        assert!(JsonText::plain(b"photo.PNG").ends_with_folded(&FoldedText::new(".png")));
        assert!(!JsonText::plain(b"\xffA").equals_folded(&FoldedText::new("a")), "not UTF-8");
    }
}
