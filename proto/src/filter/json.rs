//! JSON scanner over borrowed text. It enforces the grammar of RFC 8259 and builds no tree.
//!
//! The functions named `after_…` take a position and return a later one, and are inlined into the loops over members,
//! so that the position stays in a register.

#![expect(
    clippy::inline_always,
    reason = "left to itself the compiler makes calls of them, which take a third longer"
)]

use super::specials::SpecialBytes;
use super::text::JsonText;

/// Maximum nesting of objects and arrays. `serde_json` has the same limit.
pub(super) const DEPTH_MAX: u32 = 127;

/// Distance of `}` from `{` and of `]` from `[`.
const CLOSE_BEHIND_OPEN: u8 = 2;

/// Error of a text that is not JSON within the scanner's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotJson {
    /// Byte position at which scanning stopped.
    pub(super) at: usize,
    /// Description of what was expected. A thin reference, so that results fit into two registers.
    pub(super) what: &'static &'static str,
}

/// Position and nesting depth in a JSON text.
pub(super) struct JsonScanner<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
    specials: SpecialBytes,
}

impl<'a> JsonScanner<'a> {
    /// Creates a scanner before the first value of `text`, which is UTF-8.
    pub(super) fn new(text: &'a [u8]) -> Self {
        let mut scanner = Self { text, at: 0, depth: 0, specials: SpecialBytes::new() };
        scanner.skip_space();
        scanner
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Fails unless only white space follows.
    pub(super) fn end(&mut self) -> Result<(), NotJson> {
        self.skip_space();
        if self.at == self.text.len() { Ok(()) } else { Err(self.wrong(&"more text behind the JSON value")) }
    }

    pub(super) fn wrong(&self, what: &'static &'static str) -> NotJson {
        NotJson { at: self.at, what }
    }

    /// Enters an object or array, at whose first byte the scanner is. Returns false if it is empty, and then has
    /// skipped it.
    #[inline(always)]
    pub(super) fn enter(&mut self, close: u8) -> Result<bool, NotJson> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.wrong(&"nested more than 127 deep"));
        }
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(close) {
            self.leave();
            return Ok(false);
        }
        Ok(true)
    }

    /// Advances past a member or element. Returns true if another follows, and false at the end of the object or
    /// array.
    #[inline(always)]
    pub(super) fn more(&mut self, close: u8) -> Result<bool, NotJson> {
        if self.peek() != Some(b',') {
            self.skip_space();
        }
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.skip_space();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.leave();
                Ok(false)
            }
            _ if close == b'}' => Err(self.wrong(&"expected `,` or `}`")),
            _ => Err(self.wrong(&"expected `,` or `]`")),
        }
    }

    #[inline]
    fn leave(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    /// Reads a member's name and colon, and stops before the member's value.
    #[inline(always)]
    pub(super) fn name(&mut self) -> Result<JsonText<'a>, NotJson> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong(&"expected a name in quotes"));
        }
        let name = self.string()?;
        self.colon()?;
        Ok(name)
    }

    #[inline(always)]
    fn colon(&mut self) -> Result<(), NotJson> {
        self.at = after_colon(self.text, self.at)?;
        Ok(())
    }

    /// Reads a string, at whose opening quote the scanner is.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Result<JsonText<'a>, NotJson> {
        let from = self.at + 1;
        let end = self.specials.next(self.text, from);
        if self.text.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(JsonText { raw: &self.text[from..end], escaped: false });
        }
        self.at = after_unusual_string(self.text, &mut self.specials, end)?;
        Ok(JsonText { raw: &self.text[from..self.at - 1], escaped: true })
    }

    /// Reads a number, `true`, `false` or `null`, and returns its spelling.
    #[inline]
    pub(super) fn token(&mut self) -> Result<&'a [u8], NotJson> {
        let from = self.at;
        self.at = after_token(self.text, from)?;
        Ok(&self.text[from..self.at])
    }

    /// Skips one value of any kind and validates it.
    #[inline(always)]
    pub(super) fn skip(&mut self) -> Result<(), NotJson> {
        match self.peek() {
            Some(b'"') => self.at = after_string(self.text, &mut self.specials, self.at)?,
            Some(b'{' | b'[') => self.skip_nested()?,
            _ => self.at = after_token(self.text, self.at)?,
        }
        Ok(())
    }

    /// Skips an object or array. Loops instead of recursing, because the input determines the depth. The position
    /// is a variable that stays in a register: through memory, each step would wait for the one before.
    #[inline(never)]
    fn skip_nested(&mut self) -> Result<(), NotJson> {
        let Self { text, mut at, depth: floor, ref mut specials } = *self;
        let mut depth = floor;
        // One bit for each open level above `floor`, the innermost in the lowest bit: 1 for an object.
        let mut objects = 0u128;
        loop {
            if objects & 1 == 1 {
                at = after_name(text, specials, at)?;
            }
            match text.get(at) {
                Some(b'"') => at = after_string(text, specials, at)?,
                Some(open @ (b'{' | b'[')) => {
                    depth += 1;
                    if depth > DEPTH_MAX {
                        return Err(NotJson { at, what: &"nested more than 127 deep" });
                    }
                    objects = objects << 1 | u128::from(*open == b'{');
                    at = after_space(text, at + 1);
                    if text.get(at) != Some(&(*open + CLOSE_BEHIND_OPEN)) {
                        continue;
                    }
                }
                _ => at = after_token(text, at)?,
            }
            while text.get(at) != Some(&b',') {
                let close = if objects & 1 == 1 { b'}' } else { b']' };
                if text.get(at) == Some(&close) {
                    at += 1;
                    depth -= 1;
                    objects >>= 1;
                    if depth == floor {
                        self.at = at;
                        return Ok(());
                    }
                    continue;
                }
                let behind = after_all_space(text, at);
                if behind == at {
                    return Err(NotJson { at, what: &"expected `,` or the end of an object or list" });
                }
                at = behind;
            }
            at = after_space(text, at + 1);
        }
    }

    #[inline]
    fn skip_space(&mut self) {
        self.at = after_space(self.text, self.at);
    }
}

/// Returns the position after white space.
#[inline(always)]
fn after_space(text: &[u8], at: usize) -> usize {
    if text.get(at).is_some_and(|byte| *byte > b' ') {
        return at;
    }
    after_all_space(text, at)
}

#[inline(never)]
fn after_all_space(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = text.get(at) {
        at += 1;
    }
    at
}

/// Returns the position of the value after a member's name, whose opening quote is expected at `at`.
#[inline(always)]
fn after_name(text: &[u8], specials: &mut SpecialBytes, at: usize) -> Result<usize, NotJson> {
    if text.get(at) != Some(&b'"') {
        return Err(NotJson { at, what: &"expected a name in quotes" });
    }
    let at = after_string(text, specials, at)?;
    after_colon(text, at)
}

#[inline(always)]
fn after_colon(text: &[u8], mut at: usize) -> Result<usize, NotJson> {
    if text.get(at) != Some(&b':') {
        at = after_space(text, at);
        if text.get(at) != Some(&b':') {
            return Err(NotJson { at, what: &"expected `:`" });
        }
    }
    Ok(after_space(text, at + 1))
}

/// Returns the position after a string, whose opening quote is at `at`.
#[inline(always)]
fn after_string(text: &[u8], specials: &mut SpecialBytes, at: usize) -> Result<usize, NotJson> {
    let end = specials.next(text, at + 1);
    if text.get(end) == Some(&b'"') { Ok(end + 1) } else { after_unusual_string(text, specials, end) }
}

/// Continues at the first special byte of a string that is not a quote. Most strings have none.
#[cold]
fn after_unusual_string(text: &[u8], specials: &mut SpecialBytes, mut at: usize) -> Result<usize, NotJson> {
    loop {
        match text.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at += escape_len(text, at)?,
            Some(_) => return Err(NotJson { at, what: &"a control character in a string" }),
            None => return Err(NotJson { at, what: &"the string does not end" }),
        }
        at = specials.next(text, at);
    }
}

fn escape_len(text: &[u8], at: usize) -> Result<usize, NotJson> {
    match text.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
        Some(b'u')
            if text.get(at + 2..at + 6).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) =>
        {
            Ok(6)
        }
        _ => Err(NotJson { at, what: &"no such escape" }),
    }
}

/// Returns the position after a number, `true`, `false` or `null`.
#[inline(always)]
fn after_token(text: &[u8], at: usize) -> Result<usize, NotJson> {
    match text.get(at) {
        Some(b'-' | b'0'..=b'9') => after_number(text, at),
        Some(b't') => after_word(text, at, b"true"),
        Some(b'f') => after_word(text, at, b"false"),
        Some(b'n') => after_word(text, at, b"null"),
        _ => Err(NotJson { at, what: &"expected a value" }),
    }
}

/// The length of `word` is a constant, so that it is compared without a call.
#[inline(always)]
fn after_word<const LEN: usize>(text: &[u8], at: usize, word: &[u8; LEN]) -> Result<usize, NotJson> {
    if text.get(at..).and_then(<[u8]>::first_chunk) == Some(word) {
        Ok(at + LEN)
    } else {
        Err(NotJson { at, what: &"expected a value" })
    }
}

#[inline(always)]
fn after_number(text: &[u8], mut at: usize) -> Result<usize, NotJson> {
    if text.get(at) == Some(&b'-') {
        at += 1;
    }
    at = if text.get(at) == Some(&b'0') { at + 1 } else { after_digits(text, at)? };
    if text.get(at) == Some(&b'.') {
        at = after_digits(text, at + 1)?;
    }
    match text.get(at) {
        Some(b'e' | b'E') => after_exponent(text, at + 1),
        _ => Ok(at),
    }
}

#[cold]
fn after_exponent(text: &[u8], at: usize) -> Result<usize, NotJson> {
    let sign = usize::from(matches!(text.get(at), Some(b'+' | b'-')));
    after_digits(text, at + sign)
}

#[inline(always)]
fn after_digits(text: &[u8], from: usize) -> Result<usize, NotJson> {
    let mut at = from;
    while let Some(b'0'..=b'9') = text.get(at) {
        at += 1;
    }
    if at == from { Err(NotJson { at, what: &"expected a digit" }) } else { Ok(at) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_json(text: &[u8]) -> bool {
        let mut scanner = JsonScanner::new(text);
        scanner.skip().and_then(|()| scanner.end()).is_ok()
    }

    #[test]
    fn valid_json_accepted_and_invalid_rejected() {
        for good in [
            "1",
            "-0",
            "1.5e-3",
            "1E400",
            "\"\"",
            "\"\\u00e9\\ud800\\n\"",
            "[]",
            " { } ",
            "[1,[2,{}],{\"a\":[]}]",
            "{\"a\":1,\"a\":2}",
            "true",
            "null",
            "\t{\n\"a\" :\r[ false ] }\n",
        ] {
            assert!(is_json(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            " ",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "tru",
            "nul",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\t\"",
            "[1,]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\":1,}",
            "[}",
            "{]",
            "1 2",
            "\u{feff}1",
            "[",
            "{\"a\":1",
            "NaN",
        ] {
            assert!(!is_json(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn nesting_beyond_limit_rejected_without_recursion() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(is_json(&nested(DEPTH_MAX as usize)));
        assert!(!is_json(&nested(DEPTH_MAX as usize + 1)));
        assert!(!is_json(&vec![b'['; 5_000_000]));
        assert!(serde_json::from_slice::<serde_json::Value>(&nested(DEPTH_MAX as usize)).is_ok());
        assert!(serde_json::from_slice::<serde_json::Value>(&nested(DEPTH_MAX as usize + 1)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// Strings and objects here cross the blocks in which special bytes are searched.
        #[test]
        fn long_text_agrees_with_serde_json_on_validity(
            pads in prop::collection::vec("[a-zé ]{0,90}", 1..6),
            parts in prop::collection::vec(
                prop_oneof![
                    4 => "[0-9]{1,3}|true|null|\"[\u{e9}\u{1f600}a]{0,70}\"",
                    2 => "\\{\"a\": \\[\\] ?\\}|\\[ ?\\{\\} ,\n1\\]",
                    1 => "\"a\":|\"\\\\u12g4\"|\"\t\"|,|\\}|\\]",
                ],
                1..6,
            ),
        ) {
            let mut text = String::new();
            for (pad, part) in pads.iter().zip(parts.iter().cycle()) {
                text.extend([",\"", pad, "\\n\":", part]);
            }
            let list = text.replace("\":", "\",");
            for text in [format!("[0{list}]"), format!("{{\"a\":1{text}}}"), format!("[0{list}")] {
                let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
                prop_assert_eq!(is_json(text.as_bytes()), theirs, "{}", text);
            }
        }

        #[test]
        fn mixed_nesting_agrees_with_serde_json(
            objects in prop::collection::vec(any::<bool>(), 120..135),
        ) {
            let open = objects.iter().map(|object| if *object { "{\"a\":" } else { "[" });
            let close = objects.iter().rev().map(|object| if *object { "}" } else { "]" });
            let text: String = open.chain(["1"]).chain(close).collect();
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert_eq!(is_json(text.as_bytes()), theirs, "{} deep", objects.len());
        }

        #[test]
        fn scanner_agrees_with_serde_json_on_validity(text in r#"([\[\]{}:,"\\ ]|[0-9]|-|\.|e|true|null|\\u[0-9a-f]{4}|\t|"a"|"a":){0,12}"#) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(is_json(text.as_bytes()), theirs, "{}", text);
        }
    }
}
