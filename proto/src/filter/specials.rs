//! Search for the bytes that end a run of ordinary characters in a JSON string. Filters spend much of their time here.

/// Number of bytes that are searched at once: one bit of a word for each.
const BLOCK: usize = 64;

/// Search for quotes, backslashes and control characters in a text, one block of it after the other. A block is
/// searched once, however many strings it holds, and before the position of its first string is known: the
/// processor need not wait for the end of one string to search for the end of the next.
pub(super) struct SpecialBytes {
    /// Position of the block.
    start: usize,
    /// A bit for each byte of the block, the first in the lowest: 1 for a special byte.
    bits: u64,
}

impl SpecialBytes {
    /// Creates a search that has no block yet: no text has this position.
    pub(super) fn new() -> Self {
        Self { start: usize::MAX / 2, bits: 0 }
    }

    /// Returns the position of the first special byte of `text` from `at` on, or the length of `text` if there is
    /// none. All calls are for the same text.
    #[expect(clippy::inline_always, reason = "a call would take as long as the search")]
    #[inline(always)]
    pub(super) fn next(&mut self, text: &[u8], at: usize) -> usize {
        let behind = at.wrapping_sub(self.start);
        if behind < BLOCK {
            let found = self.bits >> behind;
            if found != 0 {
                return at + found.trailing_zeros() as usize;
            }
        } else if behind >= 2 * BLOCK {
            return self.elsewhere(text, at);
        }
        self.later(text, at)
    }

    /// Continues in the following blocks. `at` is in this block or the next.
    #[inline(never)]
    fn later(&mut self, text: &[u8], at: usize) -> usize {
        let mut start = self.start + BLOCK;
        while let Some(block) = text.get(start..).and_then(<[u8]>::first_chunk) {
            let bits = special_bits(block);
            let found = bits >> at.saturating_sub(start);
            if found != 0 {
                (self.start, self.bits) = (start, bits);
                return at.max(start) + found.trailing_zeros() as usize;
            }
            start += BLOCK;
        }
        self.last(text, at, start)
    }

    /// Continues in the last block, at `start`, which is incomplete.
    #[inline(never)]
    fn last(&mut self, text: &[u8], at: usize, start: usize) -> usize {
        let left = text.get(start..).unwrap_or_default();
        let mut block = [b' '; BLOCK];
        block[..left.len()].copy_from_slice(left);
        let bits = special_bits(&block);
        (self.start, self.bits) = (start, bits);
        match bits >> at.saturating_sub(start) {
            0 => text.len(),
            found => at.max(start) + found.trailing_zeros() as usize,
        }
    }

    /// Searches the block of `at`, which is neither this one nor the next.
    #[inline(never)]
    fn elsewhere(&mut self, text: &[u8], at: usize) -> usize {
        let start = at - at % BLOCK;
        let Some(block) = text.get(start..).and_then(<[u8]>::first_chunk) else {
            return self.last(text, at, start);
        };
        (self.start, self.bits) = (start, special_bits(block));
        self.next(text, at)
    }
}

#[inline]
fn special_bits(block: &[u8; BLOCK]) -> u64 {
    // Multiplication by this moves the lowest bits of eight bytes into the highest byte.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let mut marks = [0u8; BLOCK];
    // Compiles to vector instructions. With bit 1 flipped, a quote becomes 0x20, just above the control characters,
    // and a space becomes larger than that.
    for (mark, byte) in marks.iter_mut().zip(block) {
        *mark = u8::from(byte ^ 0x02 <= 0x20) | u8::from(*byte == b'\\');
    }
    let (words, _) = marks.as_chunks();
    let gathered = words.iter().map(|word| u64::from_le_bytes(*word).wrapping_mul(GATHER) >> 56);
    gathered.rev().fold(0, |bits, byte| bits << 8 | byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ordinary bytes with few special ones, so that runs are longer than a block.
    fn sparse() -> impl Strategy<Value = Vec<u8>> {
        let ordinary =
            || any::<u8>().prop_map(|byte| if matches!(byte, b'"' | b'\\' | 0..=0x1f) { b'x' } else { byte });
        prop::collection::vec(prop_oneof![60 => ordinary(), 1 => any::<u8>()], 0..400)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn search_returns_first_special_byte(
            text in prop_oneof![sparse(), prop::collection::vec(any::<u8>(), 0..150)],
            places in prop::collection::vec(0usize..420, 1..12),
        ) {
            let mut search = SpecialBytes::new();
            for at in places.into_iter().map(|at| at.min(text.len())) {
                let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
                let expected = text[at..].iter().position(special).map_or(text.len(), |found| at + found);
                prop_assert_eq!(search.next(&text, at), expected, "from {}", at);
            }
        }
    }
}
