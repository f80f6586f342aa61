//! Streaming decompression against decompression at once, for all codecs and arbitrary records and piece sizes.

use bytes::Bytes;
use lighterman_proto::records::{
    BatchHeader, BatchInflater, BatchStream, RecordError, batches, records, records_at,
};
use proptest::prelude::*;

use crate::codecs::framings;
use crate::forge::{BatchForge, RecordForge, body};

const WINDOW: usize = 8 << 20;

/// Returns the header of a batch of `recs`, and its records section in every framing.
fn packed(recs: &[RecordForge<'_>]) -> Vec<(&'static str, BatchHeader, Vec<u8>)> {
    let plain = body(recs);
    let of = |(name, codec, packed): (&'static str, _, Vec<u8>)| {
        let attributes = codec as i16;
        let forge = BatchForge { attributes, body: packed.clone(), ..BatchForge::new(40, recs) };
        let frame = forge.bytes();
        let header = batches(&frame).next().expect("one").expect("a batch").header;
        assert_eq!(header.compression, codec, "{name}");
        (name, header, packed)
    };
    framings(&plain).into_iter().map(of).collect()
}

fn stream(header: BatchHeader, packed: &[u8]) -> Result<BatchStream, RecordError> {
    let memory = BatchStream::memory_bytes(header.compression, packed, WINDOW)?;
    BatchStream::new(header, Bytes::copy_from_slice(packed), memory)
}

/// Records read from a batch: offset, timestamp and value, or `None` for a value that is null or a record that was
/// skipped.
type SeenPiece = Vec<(i64, i64, Option<Vec<u8>>)>;

/// Reads in pieces of `piece_bytes`, and skips records larger than `record_bytes_max`.
fn walk(
    mut stream: BatchStream,
    header: &BatchHeader,
    piece_bytes: usize,
    record_bytes_max: usize,
) -> (SeenPiece, Option<RecordError>) {
    let mut seen = SeenPiece::new();
    loop {
        let step = (|| {
            let Some(bytes) = stream.next_record_bytes()? else { return Ok(false) };
            if bytes > record_bytes_max {
                let passed = loop {
                    if let Some(passed) = stream.pass_over(1_000)? {
                        break passed;
                    }
                    assert!(stream.is_passing());
                };
                assert_eq!(passed.bytes, bytes);
                let stub = records_at(header, &passed.stub, 0, 1).next().expect("one")?;
                assert!(stub.key.is_none() && stub.value.is_none() && stub.headers.is_empty());
                seen.push((stub.offset.0, stub.timestamp.0, None));
                return Ok(true);
            }
            let piece = stream.next_piece(piece_bytes.max(bytes))?;
            assert!(piece.records > 0 && piece.plain.len() <= piece_bytes.max(bytes));
            let mut walk = records_at(header, &piece.plain, 0, piece.records);
            for record in walk.by_ref() {
                let record = record?;
                seen.push((record.offset.0, record.timestamp.0, record.value.map(<[u8]>::to_vec)));
            }
            assert_eq!(walk.at(), piece.plain.len(), "whole records");
            Ok(true)
        })();
        match step {
            Ok(true) => {}
            Ok(false) => return (seen, None),
            Err(error) => return (seen, Some(error)),
        }
    }
}

fn at_once(header: &BatchHeader, packed: &[u8]) -> Result<SeenPiece, RecordError> {
    let mut plain = Vec::new();
    BatchInflater::default().inflate(header.compression, packed, 64 << 20, &mut plain)?;
    records(header, &plain)
        .map(|record| record.map(|r| (r.offset.0, r.timestamp.0, r.value.map(<[u8]>::to_vec))))
        .collect()
}

fn values() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let value = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        2 => (any::<u8>(), 0usize..5_000).prop_map(|(byte, length)| vec![byte; length]),
        1 => (0u32..9, 0usize..200_000).prop_map(|(seed, length)| {
            (0u32..).flat_map(|number| number.wrapping_mul(seed + 7).to_le_bytes()).take(length).collect()
        }),
    ];
    prop::collection::vec(value, 1..30)
}

fn recs(values: &[Vec<u8>]) -> Vec<RecordForge<'_>> {
    values
        .iter()
        .enumerate()
        .map(|(index, value)| RecordForge {
            timestamp_delta: index as i64 * 3,
            ..RecordForge::value(index as i64 * 2, value)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn pieces_together_equal_whole_batch(values in values(), piece_bytes in 1usize..300_000, record_bytes_max in 1usize..220_000) {
        for (name, header, packed) in packed(&recs(&values)) {
            let whole = at_once(&header, &packed).expect("reads");
            let (seen, error) = walk(stream(header, &packed).expect("opens"), &header, piece_bytes, usize::MAX);
            prop_assert_eq!(error, None, "{}", name);
            prop_assert!(seen == whole, "{}", name);
            let (seen, error) = walk(stream(header, &packed).expect("opens"), &header, piece_bytes, record_bytes_max);
            prop_assert_eq!(error, None, "{}", name);
            prop_assert_eq!(seen.len(), whole.len());
            for (got, wanted) in seen.iter().zip(&whole) {
                prop_assert_eq!((got.0, got.1), (wanted.0, wanted.1));
                prop_assert!(got.2.is_none() || got.2 == wanted.2, "{}", name);
            }
        }
    }

    /// A defect causes an error and no panic, and the records before it are correct.
    #[test]
    fn damaged_stream_fails_after_valid_records(
        values in values(), cut in any::<prop::sample::Index>(), flip in any::<u8>()
    ) {
        for (name, header, packed) in packed(&recs(&values)) {
            let whole = at_once(&header, &packed).expect("reads");
            let mut bad = packed.clone();
            let at = cut.index(bad.len());
            if flip == 0 {
                bad.truncate(at);
            } else {
                bad[at] ^= flip;
            }
            if let Ok(stream) = stream(header, &bad) {
                let (seen, error) = walk(stream, &header, 5_000, 1 << 20);
                prop_assert!(error.is_some() || seen.len() == whole.len(), "{}", name);
                if flip == 0 {
                    prop_assert!(seen[..] == whole[..seen.len()], "{}", name);
                }
            }
        }
    }
}

#[test]
fn large_records_stream_in_bounded_memory() {
    let value = vec![b'x'; 1_000_000];
    let recs: Vec<RecordForge<'_>> = (0..10).map(|delta| RecordForge::value(delta, &value)).collect();
    for (name, header, packed) in packed(&recs).into_iter().filter(|(name, ..)| *name != "none") {
        let memory = BatchStream::memory_bytes(header.compression, &packed, WINDOW).expect("little");
        assert!(memory <= 14 << 20, "{name}: {memory}");
        let (seen, error) = walk(stream(header, &packed).expect("opens"), &header, 1 << 20, 8 << 20);
        assert_eq!(error, None, "{name}");
        assert_eq!(seen.len(), 10, "{name}");
    }
}

/// Data after the last record is not decompressed.
#[test]
fn data_after_last_record_is_not_decompressed() {
    let recs = [RecordForge::value(0, b"v")];
    let mut plain = body(&recs);
    plain.resize(200 << 20, 0);
    let packed = zstd::encode_all(&plain[..], 1).expect("memory");
    let forge = BatchForge { attributes: 4, body: packed.clone(), ..BatchForge::new(0, &recs) };
    let frame = forge.bytes();
    let header = batches(&frame).next().expect("one").expect("a batch").header;
    let (seen, error) = walk(stream(header, &packed).expect("opens"), &header, 1 << 20, 8 << 20);
    assert_eq!((seen.len(), error), (1, None));
}

#[test]
fn window_beyond_limit_is_rejected_before_allocation() {
    // zstd frame header with a window of 1 GiB.
    let lie = [0x28, 0xB5, 0x2F, 0xFD, 0, 20 << 3, 0, 0, 0];
    let found = BatchStream::memory_bytes(lighterman_proto::records::Compression::Zstd, &lie, WINDOW);
    assert!(matches!(found, Err(RecordError::Window { bytes, .. }) if bytes == 1 << 30), "{found:?}");
}
