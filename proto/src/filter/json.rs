//! JSON scanner over borrowed text. It enforces the grammar of RFC 8259 and builds no tree.

use super::text::JsonText;

/// Maximum nesting of objects and arrays. `serde_json` has the same limit.
pub(super) const DEPTH_MAX: u32 = 127;

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
}

impl<'a> JsonScanner<'a> {
    /// Creates a scanner before the first value of `text`, which is UTF-8.
    pub(super) fn new(text: &'a [u8]) -> Self {
        let mut scanner = Self { text, at: 0, depth: 0 };
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
    #[inline]
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
    #[inline]
    pub(super) fn more(&mut self, close: u8) -> Result<bool, NotJson> {
        self.skip_space();
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

    fn leave(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    /// Reads a member's name and colon, and stops before the member's value.
    #[inline]
    pub(super) fn name(&mut self) -> Result<JsonText<'a>, NotJson> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong(&"expected a name in quotes"));
        }
        let name = self.string()?;
        self.colon()?;
        Ok(name)
    }

    #[inline]
    fn skip_name(&mut self) -> Result<(), NotJson> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong(&"expected a name in quotes"));
        }
        self.skip_string()?;
        self.colon()
    }

    #[inline]
    fn colon(&mut self) -> Result<(), NotJson> {
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.wrong(&"expected `:`"));
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    /// Skips a string, at whose opening quote the scanner is.
    #[inline]
    fn skip_string(&mut self) -> Result<(), NotJson> {
        let end = next_special(self.text, self.at + 1);
        if self.text.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(());
        }
        self.string().map(|_| ())
    }

    /// Reads a string, at whose opening quote the scanner is.
    #[inline]
    pub(super) fn string(&mut self) -> Result<JsonText<'a>, NotJson> {
        let from = self.at + 1;
        let end = next_special(self.text, from);
        if self.text.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(JsonText { raw: &self.text[from..end], escaped: false });
        }
        self.rest_of_string(from, end)
    }

    /// Continues at the first special byte that is not a quote. Most strings have none.
    #[cold]
    fn rest_of_string(&mut self, from: usize, mut at: usize) -> Result<JsonText<'a>, NotJson> {
        loop {
            match self.text.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(JsonText { raw: &self.text[from..at], escaped: true });
                }
                Some(b'\\') => at += self.escape_len(at)?,
                Some(_) => return Err(NotJson { at, what: &"a control character in a string" }),
                None => return Err(NotJson { at, what: &"the string does not end" }),
            }
            at = next_special(self.text, at);
        }
    }

    fn escape_len(&self, at: usize) -> Result<usize, NotJson> {
        match self.text.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
            Some(b'u')
                if self
                    .text
                    .get(at + 2..at + 6)
                    .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) =>
            {
                Ok(6)
            }
            _ => Err(NotJson { at, what: &"no such escape" }),
        }
    }

    /// Reads a number, `true`, `false` or `null`, and returns its spelling.
    #[inline]
    pub(super) fn token(&mut self) -> Result<&'a [u8], NotJson> {
        let from = self.at;
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word(b"true")?,
            Some(b'f') => self.word(b"false")?,
            Some(b'n') => self.word(b"null")?,
            _ => return Err(self.wrong(&"expected a value")),
        }
        Ok(&self.text[from..self.at])
    }

    fn word(&mut self, word: &[u8]) -> Result<(), NotJson> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.wrong(&"expected a value"));
        }
        self.at += word.len();
        Ok(())
    }

    #[inline]
    fn number(&mut self) -> Result<(), NotJson> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.skip_digits(),
            _ => return Err(self.wrong(&"expected a digit")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let from = self.at;
        self.skip_digits();
        if self.at == from { Err(self.wrong(&"expected a digit")) } else { Ok(()) }
    }

    #[inline]
    fn skip_digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    /// Skips one value of any kind and validates it. Loops instead of recursing, because the input determines the
    /// depth.
    pub(super) fn skip(&mut self) -> Result<(), NotJson> {
        let floor = self.depth;
        // One bit for each open level above `floor`, the innermost in the lowest bit: 1 for an object.
        let mut objects = 0u128;
        loop {
            match self.peek() {
                Some(b'"') => self.skip_string()?,
                Some(b'{') => {
                    if self.enter(b'}')? {
                        objects = objects << 1 | 1;
                        self.skip_name()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    if self.enter(b']')? {
                        objects <<= 1;
                        continue;
                    }
                }
                _ => drop(self.token()?),
            }
            loop {
                if self.depth == floor {
                    return Ok(());
                }
                let in_object = objects & 1 == 1;
                if self.more(if in_object { b'}' } else { b']' })? {
                    if in_object {
                        self.skip_name()?;
                    }
                    break;
                }
                objects >>= 1;
            }
        }
    }

    #[inline]
    fn skip_space(&mut self) {
        if self.peek().is_some_and(|byte| byte > b' ') {
            return;
        }
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }
}

const LOWS: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Returns the position of the first quote, backslash or control character from `at` on, or the length of `text`.
/// Works on eight bytes at a time: filters spend most of their time here.
#[inline(never)]
fn next_special(text: &[u8], mut at: usize) -> usize {
    while let Some((chunk, _)) = text.get(at..).and_then(<[u8]>::split_first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        // With bit 1 flipped, a quote becomes 0x20, just above the control characters, and a space becomes larger
        // than that.
        let flipped = word ^ (LOWS * 0x02);
        let quote_or_control = flipped.wrapping_sub(LOWS * 0x21) & !flipped;
        let other = word ^ (LOWS * 0x5c);
        let backslash = other.wrapping_sub(LOWS) & !other;
        // A borrow can set bits above a true one, never below, so the lowest set bit is correct.
        let found = (quote_or_control | backslash) & HIGHS;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while text.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
        at += 1;
    }
    at
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

        #[test]
        fn next_special_returns_first_special_byte(text in prop::collection::vec(any::<u8>(), 0..40), at in 0usize..8) {
            let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
            let at = at.min(text.len());
            let expected = text[at..].iter().position(special).map_or(text.len(), |found| at + found);
            prop_assert_eq!(next_special(&text, at), expected);
        }

        #[test]
        fn scanner_agrees_with_serde_json_on_validity(text in r#"([\[\]{}:,"\\ ]|[0-9]|-|\.|e|true|null|\\u[0-9a-f]{4}|\t|"a"|"a":){0,12}"#) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(is_json(text.as_bytes()), theirs, "{}", text);
        }
    }
}
