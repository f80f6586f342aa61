//! Exact comparison of JSON numbers by their text, without rounding or a limit on their size.

use std::cmp::Ordering;

/// Compares two JSON numbers by value: 300 equals 3.0e2. Exponents beyond ±10¹⁷ count as ±10¹⁷.
pub(super) fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let (left, right) = (DecimalNumber::read(left), DecimalNumber::read(right));
    match (left.sign(), right.sign()) {
        (1, 1) => left.compare_magnitude(&right),
        (-1, -1) => right.compare_magnitude(&left),
        (one, other) => one.cmp(&other),
    }
}

/// Number of digits on either side of the point of a fixed-point number.
const FIXED_PLACES: usize = 9;

/// Reads a JSON number in units of 10⁻⁹, exactly; `None` for a number with an exponent or with more than nine digits
/// before or after the point. Most numbers have neither.
#[inline]
pub(super) fn fixed(text: &[u8]) -> Option<i64> {
    const SCALE: [i64; FIXED_PLACES + 1] =
        [1_000_000_000, 100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    if digits.len() > 2 * FIXED_PLACES + 1 {
        return None;
    }
    // Nineteen digits, the most that get here, fit into 64 bits.
    let (mut value, mut point) = (0_u64, None);
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value * 10 + u64::from(byte - b'0'),
            b'.' => point = Some(at),
            _ => return None,
        }
    }
    let whole = point.unwrap_or(digits.len());
    let places = point.map_or(0, |point| digits.len() - point - 1);
    let scale = SCALE.get(places).filter(|_| whole <= FIXED_PLACES)?;
    let size = value as i64 * scale;
    Some(if negative { -size } else { size })
}

/// Maximum length of an `i64` in decimal: 19 digits and a sign.
const DIGITS_MAX: usize = 20;
const EXPONENT_MAX: i64 = 100_000_000_000_000_000;

/// Parsed number `0.whole fraction × 10^point`, without leading zeros.
struct DecimalNumber<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    point: i64,
}

impl<'a> DecimalNumber<'a> {
    fn read(text: &'a [u8]) -> Self {
        let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
        let exponent_at = text.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(text.len());
        let (digits, exponent) = text.split_at(exponent_at);
        let point_at = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
        let (whole, fraction) = digits.split_at(point_at);
        let fraction = fraction.get(1..).unwrap_or_default();
        let (whole, _) = without_zeros(whole);
        let (fraction, point) = match without_zeros(fraction) {
            (behind, zeros) if whole.is_empty() => (behind, -(zeros as i64)),
            _ => (fraction, whole.len() as i64),
        };
        let exponent = read_exponent(exponent.get(1..).unwrap_or_default());
        Self { negative, whole, fraction, point: point.saturating_add(exponent) }
    }

    fn sign(&self) -> i8 {
        match (self.whole.is_empty() && self.fraction.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    fn compare_magnitude(&self, other: &Self) -> Ordering {
        self.point.cmp(&other.point).then_with(|| self.significant().cmp(other.significant()))
    }

    /// Returns the digits from the first nonzero to the last nonzero one.
    fn significant(&self) -> impl Iterator<Item = &u8> {
        let fraction = trimmed(self.fraction);
        let whole = if fraction.is_empty() { trimmed(self.whole) } else { self.whole };
        whole.iter().chain(fraction)
    }
}

/// Integer in JSON's spelling, held without allocation.
pub(super) struct DecimalDigits {
    text: [u8; DIGITS_MAX],
    from: usize,
}

impl DecimalDigits {
    pub(super) fn of(value: i64) -> Self {
        let (mut text, mut from, mut left) = ([0; DIGITS_MAX], DIGITS_MAX, value.unsigned_abs());
        loop {
            from -= 1;
            text[from] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        if value < 0 {
            from -= 1;
            text[from] = b'-';
        }
        Self { text, from }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.text[self.from..]
    }
}

fn without_zeros(digits: &[u8]) -> (&[u8], usize) {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    (&digits[zeros..], zeros)
}

fn trimmed(digits: &[u8]) -> &[u8] {
    let kept = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    &digits[..kept]
}

fn read_exponent(text: &[u8]) -> i64 {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let size = digits
        .iter()
        .fold(0i64, |size, digit| (size * 10 + i64::from(digit.wrapping_sub(b'0'))).min(EXPONENT_MAX));
    if negative { -size } else { size }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_of_few_digits_are_fixed() {
        assert_eq!(fixed(b"999999999.999999999"), Some(999_999_999_999_999_999));
        assert_eq!(
            (fixed(b"-12.5"), fixed(b"-0"), fixed(b"0.000000001")),
            (Some(-12_500_000_000), Some(0), Some(1))
        );
        for other in ["1e1", "1234567890", "1.0000000000", "1E0", "9999999999999999999"] {
            assert_eq!(fixed(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn numbers_in_any_spelling_compare_by_value() {
        let equal = [
            ("300", "3.0e2"),
            ("0", "-0.000"),
            ("0e9", "0"),
            ("0.001", "1e-3"),
            ("100", "1E+2"),
            ("-1.50", "-1.5"),
            ("123.456", "0.123456e3"),
        ];
        for (left, right) in equal {
            assert_eq!(compare(left.as_bytes(), right.as_bytes()), Ordering::Equal, "{left} {right}");
        }
        let rising = [
            "-1e999999999999999999999",
            "-1e400",
            "-2",
            "-1.5",
            "-0.1",
            "0",
            "1e-999999999999999999999",
            "1e-400",
            "0.09",
            "0.1",
            "1",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993.5",
            "1e400",
            "1e999999999999999999999",
        ];
        for pair in rising.windows(2) {
            assert_eq!(compare(pair[0].as_bytes(), pair[1].as_bytes()), Ordering::Less, "{pair:?}");
        }
    }

    proptest! {
        #[test]
        fn fixed_numbers_compare_as_exact_ones(
            left in "-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,11})?([eE][+-]?[0-9])?",
            right in "-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,11})?",
        ) {
            let (left, right) = (left.as_bytes(), right.as_bytes());
            if let (Some(one), Some(other)) = (fixed(left), fixed(right)) {
                prop_assert_eq!(one.cmp(&other), compare(left, right));
            }
        }

        #[test]
        fn digits_equal_display_output(value: i64) {
            let digits = DecimalDigits::of(value);
            prop_assert_eq!(str::from_utf8(digits.as_bytes()), Ok(&*value.to_string()));
        }

        #[test]
        fn agrees_with_integers_scaled(left in -10_000_000i64..10_000_000, right in -10_000_000i64..10_000_000, places in 0usize..6) {
            let write = |value: i64, places: usize| {
                let scale = 10i64.pow(places as u32);
                let sign = if value < 0 { "-" } else { "" };
                let (whole, part) = (value.abs() / scale, value.abs() % scale);
                if places == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part:0places$}") }
            };
            prop_assert_eq!(compare(write(left, places).as_bytes(), write(right, places).as_bytes()), left.cmp(&right));
            let shifted = format!("{right}e-{places}");
            prop_assert_eq!(compare(write(left, places).as_bytes(), shifted.as_bytes()), left.cmp(&right));
        }
    }
}
