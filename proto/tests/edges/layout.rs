//! Valid but unusual batches: truncated tails, offset gaps, append times, nulls and duplicate headers.

use lighterman_proto::ids::Offset;
use lighterman_proto::records::{Header, RecordError, TimestampType, batches, records, records_at};
use proptest::prelude::*;

use super::forge::{BatchForge, LOG_APPEND_TIME, RecordForge};

#[test]
fn truncated_frame_yields_its_whole_batches() {
    let one = BatchForge::new(5, &[RecordForge::value(0, b"a"), RecordForge::value(1, b"b")]).bytes();
    let two = [&one[..], &BatchForge::new(7, &[RecordForge::value(0, b"c")]).bytes()].concat();
    for cut in 0..=two.len() {
        let whole = usize::from(cut >= one.len()) + usize::from(cut == two.len());
        let found: Vec<_> = batches(&two[..cut]).collect();
        assert_eq!(found.len(), whole, "cut at {cut}");
        for batch in found {
            batch.expect("a whole batch").verify_crc().expect("its checksum");
        }
    }
}

#[test]
fn batch_ranges_point_into_the_frame() {
    let one = BatchForge::new(5, &[RecordForge::value(0, b"a")]).bytes();
    let frame = [&one[..], &one[..]].concat();
    let second = batches(&frame).nth(1).expect("two").expect("a batch");
    assert_eq!(second.range, one.len()..frame.len());
    assert_eq!(&frame[second.body_range.clone()], second.body);
    assert_eq!((second.header.leader_epoch, second.header.record_count), (7, 1));
}

#[test]
fn old_format_is_rejected_with_offset() {
    for magic in [0, 1] {
        let bytes = BatchForge { magic, ..BatchForge::new(41, &[RecordForge::value(0, b"a")]) }.bytes();
        let mut walk = batches(&bytes);
        assert_eq!(walk.next().map(Result::err), Some(Some(RecordError::Magic { offset: 41, magic })));
        assert!(walk.next().is_none(), "later bytes are not read");
    }
}

#[test]
fn com_1_next_offset_survives_compaction() {
    let emptied = BatchForge { last_offset_delta: 9, ..BatchForge::new(100, &[]) }.bytes();
    let batch = batches(&emptied).next().expect("one").expect("an emptied batch is a batch");
    batch.verify_crc().expect("whole");
    assert_eq!(batch.header.next_offset(), Offset(110));
    assert_eq!(records(&batch.header, batch.body).count(), 0);

    let holes = [RecordForge::value(2, b"a"), RecordForge::value(5, b"b")];
    let holed = BatchForge { last_offset_delta: 9, ..BatchForge::new(100, &holes) }.bytes();
    let batch = batches(&holed).next().expect("one").expect("a batch");
    let offsets: Vec<i64> =
        records(&batch.header, batch.body).map(|record| record.expect("a record").offset.0).collect();
    assert_eq!((offsets, batch.header.next_offset()), (vec![102, 105], Offset(110)));
}

#[test]
fn append_time_overrides_record_timestamps() {
    let recs = [
        RecordForge { timestamp_delta: 5, ..RecordForge::default() },
        RecordForge { offset_delta: 1, ..RecordForge::default() },
    ];
    for (attributes, kind, times) in [
        (0, TimestampType::CreateTime, [1_005, 1_000]),
        (LOG_APPEND_TIME, TimestampType::LogAppendTime, [9_999; 2]),
    ] {
        let bytes = BatchForge { attributes, ..BatchForge::new(0, &recs) }.bytes();
        let batch = batches(&bytes).next().expect("one").expect("a batch");
        for (record, time) in records(&batch.header, batch.body).zip(times) {
            let record = record.expect("a record");
            assert_eq!((record.timestamp_type, record.timestamp.0), (kind, time));
        }
    }
}

#[test]
fn nulls_and_header_order_are_kept() {
    let headers = vec![
        (&b"b"[..], Some(&b"1"[..])),
        (b"a", None),
        (b"b", Some(b"")),
        (b"", Some(b"2")),
        (b"\xff\xfe", Some(b"3")),
    ];
    let recs = [
        RecordForge { headers: headers.clone(), ..RecordForge::default() },
        RecordForge { offset_delta: 1, key: Some(b""), value: Some(b""), ..RecordForge::default() },
    ];
    let bytes = BatchForge::new(0, &recs).bytes();
    let batch = batches(&bytes).next().expect("one").expect("a batch");
    let found: Vec<_> = records(&batch.header, batch.body).map(|record| record.expect("a record")).collect();
    assert_eq!((found[0].key, found[0].value), (None, None));
    assert_eq!((found[1].key, found[1].value), (Some(&[][..]), Some(&[][..])));
    assert!(found[1].headers.is_empty());
    let expected: Vec<Header<'_>> =
        headers.iter().map(|(name, value)| Header { name, value: *value }).collect();
    assert_eq!(found[0].headers.len(), expected.len());
    assert_eq!(found[0].headers.collect::<Vec<_>>(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A walk resumed at any record yields the same records as a single walk.
    #[test]
    fn resumed_walk_yields_the_remaining_records(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..20),
        stop in any::<prop::sample::Index>(),
        base_timestamp in any::<i64>(),
        timestamp_delta in any::<i64>(),
    ) {
        let recs: Vec<RecordForge<'_>> = (0..)
            .zip(&values)
            .map(|(delta, value)| RecordForge { timestamp_delta, ..RecordForge::value(delta, value) })
            .collect();
        let bytes = BatchForge { base_timestamp, ..BatchForge::new(3, &recs) }.bytes();
        let batch = batches(&bytes).next().expect("one").expect("a batch");
        let seen = |walk: lighterman_proto::records::Records<'_>| -> Vec<(i64, i64, Vec<u8>)> {
            walk.map(|record| record.expect("a record"))
                .map(|record| (record.offset.0, record.timestamp.0, record.value.unwrap_or_default().to_vec()))
                .collect()
        };
        let whole = seen(records(&batch.header, batch.body));
        prop_assert_eq!(whole.len(), values.len());
        let stop = stop.index(values.len());
        let mut walk = records(&batch.header, batch.body);
        for record in walk.by_ref().take(stop) {
            record.expect("a record");
        }
        let rest = seen(records_at(&batch.header, batch.body, walk.at(), walk.left()));
        prop_assert_eq!(&rest[..], &whole[stop..]);
        for (found, value) in whole.iter().zip(&values) {
            prop_assert_eq!(&found.2, value);
            prop_assert_eq!(found.1, base_timestamp.saturating_add(timestamp_delta));
        }
    }
}
