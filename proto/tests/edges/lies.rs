//! Invalid batches with a valid checksum, one for each field that can be wrong.

use lighterman_proto::records::{RecordBatch, RecordError, batches, records};

use super::forge::{BatchForge, RecordForge, inside, sized, varint};

fn first(bytes: &[u8]) -> Result<RecordBatch<'_>, RecordError> {
    batches(bytes).next().expect("one batch")
}

fn header_error(bytes: &[u8]) -> &'static str {
    match first(bytes) {
        Err(RecordError::Header { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

/// Returns the error of the first record of a batch whose records section is `body`.
fn record_error(mut body: Vec<u8>) -> &'static str {
    // Append bytes, so that only the record's own length can stop a reader.
    body.extend([0; 16]);
    let bytes = BatchForge { body, count: 1, ..BatchForge::new(0, &[]) }.bytes();
    let batch = first(&bytes).expect("the header is valid");
    batch.verify_crc().expect("the checksum is valid");
    let mut walk = records(&batch.header, batch.body);
    let found = walk.next().expect("one");
    assert!(walk.next().is_none(), "later bytes are not read");
    match found {
        Err(RecordError::Record { offset: 0, index: 0, what }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn invalid_header_fields_are_rejected() {
    let good = BatchForge::new(0, &[RecordForge::value(0, b"a")]);
    let with = |change: fn(&mut BatchForge)| {
        let mut forged = good.clone();
        change(&mut forged);
        header_error(&forged.bytes())
    };
    for codec in [5, 6, 7] {
        let bytes = BatchForge { attributes: codec, ..good.clone() }.bytes();
        assert_eq!(header_error(&bytes), "unknown compression codec");
    }
    assert_eq!(with(|batch| batch.count = -1), "negative record count");
    assert_eq!(with(|batch| batch.count = i32::MAX), "more records than bytes for them");
    assert_eq!(with(|batch| batch.base_offset = -1), "offsets out of range");
    assert_eq!(with(|batch| batch.last_offset_delta = -1), "offsets out of range");
    assert_eq!(with(|batch| batch.base_offset = i64::MAX), "offsets out of range");
}

#[test]
fn invalid_lengths_are_rejected() {
    let mut bytes = BatchForge::new(0, &[RecordForge::value(0, b"a")]).bytes();
    let mut with = |length: i32| {
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes.clone()
    };
    assert_eq!(header_error(&with(-1)), "negative length");
    assert_eq!(header_error(&with(48)), "length is shorter than a batch header");
    assert_eq!(header_error(&with(0)), "length is shorter than a batch header");
    assert!(batches(&with(i32::MAX)).next().is_none(), "longer than the frame: a cut tail");
}

#[test]
fn flipped_bit_after_checksum_is_detected() {
    let good = BatchForge::new(0, &[RecordForge::value(0, b"abc")]).bytes();
    for bit in 21 * 8..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let found = first(&bad).and_then(|batch| batch.verify_crc());
        assert!(found.is_err(), "bit {bit}");
    }
}

#[test]
fn invalid_record_fields_are_rejected() {
    let good = inside(&RecordForge::value(0, b"a"));
    // Attributes, timestamp delta, offset delta and a null key; each case appends the rest.
    let start = [0, 0, 0, 1];
    let after = |tail: &[Vec<u8>]| sized(&[&start[..], &tail.concat()].concat());
    let null = varint(-1);
    assert_eq!(record_error(sized(&[])), "its timestamp cannot be read");
    assert_eq!(record_error(varint(-5).repeat(7)), "its length is negative");
    assert_eq!(record_error([varint(1 << 20), good.clone()].concat()), "it is longer than its batch");
    assert_eq!(record_error([&varint(8)[..], &good, &[0]].concat()), "it is shorter than it says");
    assert_eq!(record_error([&[0xff; 11][..]].concat()), "its length cannot be read");
    let stray = |delta| {
        record_error(sized(&inside(&RecordForge { offset_delta: delta, ..RecordForge::value(0, b"a") })))
    };
    assert_eq!(
        (stray(1), stray(-1)),
        ("its offset lies outside its batch", "its offset lies outside its batch")
    );
    assert_eq!(stray(i64::from(i32::MAX) + 1), "its offset cannot be read");
    assert_eq!(record_error(after(&[varint(-2), null.clone()])), "a length is negative");
    assert_eq!(record_error(after(&[varint(9), null.clone()])), "a field is longer than its record");
    assert_eq!(record_error(after(&[varint(i64::MAX), null.clone()])), "a length cannot be read");
    assert_eq!(record_error(after(&[null.clone(), varint(-1)])), "its header count is negative");
    assert_eq!(
        record_error(after(&[null.clone(), varint(i64::from(i32::MAX))])),
        "it has more headers than bytes for them"
    );
    assert_eq!(record_error(after(&[null.clone(), varint(1), null, vec![0]])), "a header has no name");
}

#[test]
fn count_beyond_records_fails_with_record_index() {
    // Two records are large enough for a count of 20 to pass the header's check; reading fails at the third.
    let recs = [RecordForge::value(0, &[b'x'; 70]), RecordForge::value(1, &[b'y'; 70])];
    let bytes = BatchForge { count: 20, ..BatchForge::new(9, &recs) }.bytes();
    let batch = first(&bytes).expect("a batch");
    let found: Vec<_> = records(&batch.header, batch.body).collect();
    assert_eq!(found.len(), 3);
    assert!(matches!(found[2], Err(RecordError::Record { offset: 9, index: 2, .. })));
}

#[test]
fn record_overlapping_the_next_is_rejected() {
    // The first value's length covers its own byte and the whole second record.
    let second = sized(&inside(&RecordForge::value(1, b"b")));
    let mut lying = vec![0, 0, 0, 1];
    lying.extend(varint(1 + second.len() as i64));
    lying.push(b'a');
    let body = [sized(&lying), second].concat();
    let bytes = BatchForge { body, count: 2, last_offset_delta: 1, ..BatchForge::new(0, &[]) }.bytes();
    let batch = first(&bytes).expect("a batch");
    assert!(records(&batch.header, batch.body).next().expect("one").is_err());
}
