use proptest::prelude::*;

use super::*;

fn of(partitions_at_activation: i32, progress: CommittedProgress) -> CommitMetadata {
    CommitMetadata { partitions_at_activation, topic: None, progress: Some(progress) }
}

fn any_progress(items: usize, size: u64) -> impl Strategy<Value = CommittedProgress> {
    let piece = (1..=size, any::<u32>(), any::<bool>());
    let piece = piece.prop_map(|(length, attempts, alone)| ProgressPiece { length, attempts, alone });
    let pieces = prop::collection::vec(piece, 0..items);
    let resolved = prop::collection::vec((0..=size, 1..=size), 0..items);
    let some = |progress: &CommittedProgress| *progress != CommittedProgress::default();
    let leader_epoch = prop::option::of(0..=i32::MAX);
    (pieces, any::<u32>(), leader_epoch, any::<Option<i64>>(), resolved)
        .prop_map(|(pieces, filters, leader_epoch, first_failure_ms, resolved)| CommittedProgress {
            pieces,
            filters,
            leader_epoch,
            first_failure_ms,
            resolved,
        })
        .prop_filter("contains progress", some)
}

#[test]
fn encoded_text_equals_documentation() {
    let progress = CommittedProgress {
        pieces: vec![
            ProgressPiece { length: 100, attempts: 3, alone: false },
            ProgressPiece { length: 1, attempts: 7, alone: true },
        ],
        filters: 0,
        leader_epoch: None,
        first_failure_ms: Some(1_700_000_000_123),
        resolved: vec![(2, 40), (5, 1)],
    };
    let metadata = of(8, progress.clone());
    assert_eq!(metadata.encode(), "lighterman/1 n=8 p=100x3,1x7! f=1700000000123 r=2+40,5+1");
    assert_eq!(CommitMetadata::parse(&metadata.encode()), Some(metadata));
    let filtered = of(8, CommittedProgress { filters: 2_166_136_261, leader_epoch: Some(7), ..progress });
    assert_eq!(
        filtered.encode(),
        "lighterman/1 n=8 h=2166136261 e=7 p=100x3,1x7! f=1700000000123 r=2+40,5+1"
    );
    assert_eq!(CommitMetadata::parse(&filtered.encode()), Some(filtered));
}

#[test]
fn alo_1_topic_id_present_or_absent_round_trips() {
    let topic = TopicId::of(uuid::Uuid::from_bytes(*b"lighterman-tests"));
    let metadata = CommitMetadata { partitions_at_activation: 8, topic, progress: None };
    assert_eq!(metadata.encode(), "lighterman/1 n=8 t=bGlnaHRlcm1hbi10ZXN0cw");
    assert_eq!(CommitMetadata::parse(&metadata.encode()), Some(metadata.clone()));
    let without = CommitMetadata::parse("lighterman/1 n=8").expect("ours");
    assert_eq!(without, CommitMetadata { topic: None, ..metadata });
}

#[test]
fn first_version_text_round_trips_unchanged() {
    let old = CommitMetadata { partitions_at_activation: 8, topic: None, progress: None };
    assert_eq!(CommitMetadata::parse("lighterman/1 n=8"), Some(old.clone()));
    assert_eq!(old.encode(), "lighterman/1 n=8");
    assert_eq!(of(8, CommittedProgress::default()).encode(), "lighterman/1 n=8");
    let newer =
        CommitMetadata::parse("lighterman/1 n=8 zz=anything:at,all").expect("unknown fields are skipped");
    assert_eq!(newer, old);
}

#[test]
fn open_start_stays_readable_without_support() {
    let plain = CommitMetadata { partitions_at_activation: 8, topic: None, progress: None };
    for timestamp in [-2, 0, 1_700_000_000_123] {
        let text = with_open_start(&plain.encode(), timestamp);
        assert_eq!(open_start(&text), Some(timestamp), "{text}");
        assert_eq!(CommitMetadata::parse(&text), Some(plain.clone()));
    }
    for text in ["lighterman/1 n=8", "another s=5", "lighterman/1 n=8 s=", "lighterman/1 n=8 s=1 s=2"] {
        assert_eq!(open_start(text), None, "{text}");
    }
}

#[test]
fn foreign_or_malformed_text_is_rejected() {
    let long = format!("lighterman/1 n=1 p={}1x1", "1x1,".repeat(300));
    let far = "lighterman/1 n=1 p=9223372036854775807x1,1x1";
    let wide = "lighterman/1 n=1 r=9223372036854775807+1";
    for text in [
        "",
        "lighterman/1",
        "lighterman/1 ",
        "lighterman/2 n=8",
        "lighterman/1 n=-1",
        "lighterman/1 n=+1",
        "lighterman/1 n=",
        "lighterman/1 n=2147483648",
        "lighterman/1 n=1 n=1",
        "lighterman/1 n=1  f=1",
        "lighterman/1 f=1",
        "lighterman/1 n=1 p=",
        "lighterman/1 n=1 p=0x1,1x1",
        "lighterman/1 n=1 p=1x1,",
        "lighterman/1 n=1 p=1x1!!",
        "lighterman/1 n=1 t=",
        "lighterman/1 n=1 t=AAAAAAAAAAAAAAAAAAAAAA",
        "lighterman/1 n=1 t=bGlnaHRlcm1hbi10ZXN0cx",
        "lighterman/1 n=1 p=1x4294967296",
        "lighterman/1 n=1 e=-1",
        "lighterman/1 n=1 e=2147483648",
        "lighterman/1 n=1 f=",
        "lighterman/1 n=1 f=--1",
        "lighterman/1 n=1 r=1",
        "lighterman/1 n=1 r=1+0",
        "lighterman/1 n=1 r=1+1 words",
        "lighterman/1 n=\u{661}",
        " lighterman/1 n=1",
        "NoMetadata n=3",
        &long,
        far,
        wide,
    ] {
        assert_eq!(CommitMetadata::parse(text), None, "{text}");
    }
}

#[test]
fn mem_1_entries_beyond_size_limit_dropped_from_end() {
    let piece = |length| ProgressPiece { length, attempts: 1, alone: false };
    let resolved: Vec<(u64, u64)> = (0..1_000_000).map(|n| (n, 1)).collect();
    let full = of(
        8,
        CommittedProgress {
            pieces: vec![piece(10)],
            filters: 0,
            leader_epoch: None,
            first_failure_ms: Some(5),
            resolved: resolved.clone(),
        },
    );
    let read = CommitMetadata::parse(&full.encode()).and_then(|read| read.progress).expect("ours");
    assert_eq!((read.pieces.as_slice(), read.first_failure_ms), (&[piece(10)][..], Some(5)));
    assert!(read.resolved.len() > 100 && resolved.starts_with(&read.resolved));
    let pieces: Vec<ProgressPiece> = (1..1_000_000).map(piece).collect();
    let fuller = of(
        8,
        CommittedProgress {
            pieces: pieces.clone(),
            first_failure_ms: Some(5),
            resolved,
            ..CommittedProgress::default()
        },
    );
    let read = CommitMetadata::parse(&fuller.encode()).and_then(|read| read.progress).expect("ours");
    assert!(read.pieces.len() > 100 && pieces.starts_with(&read.pieces));
    assert_eq!(
        (read.first_failure_ms, read.resolved.len()),
        (Some(5), 0),
        "ranges are dropped before pieces"
    );
}

#[test]
fn unrepresentable_entries_are_dropped() {
    let progress = CommittedProgress {
        pieces: vec![
            ProgressPiece { length: 2, attempts: 1, alone: true },
            ProgressPiece { length: u64::MAX, attempts: 1, alone: true },
            ProgressPiece { length: 3, attempts: 1, alone: true },
        ],
        filters: 0,
        leader_epoch: None,
        first_failure_ms: None,
        resolved: vec![(1, 2), (3, 0), (4, 5), (u64::MAX, 1), (1, 1)],
    };
    assert_eq!(of(-1, progress).encode(), "lighterman/1 n=0 p=2x1! r=1+2,7+5");
}

#[test]
fn piece_of_undecided_length_is_last() {
    let piece = |length| ProgressPiece { length, attempts: 1, alone: false };
    let progress = CommittedProgress {
        pieces: vec![piece(3), piece(0), piece(4)],
        filters: 0,
        leader_epoch: None,
        first_failure_ms: None,
        resolved: vec![],
    };
    let text = of(8, progress).encode();
    assert_eq!(text, "lighterman/1 n=8 p=3x1,0x1");
    let read = CommitMetadata::parse(&text).and_then(|read| read.progress).expect("ours");
    assert_eq!(read.pieces, [piece(3), piece(0)]);
}

proptest! {
    #[test]
    fn metadata_that_fits_round_trips(n in 0..=i32::MAX, topic: u128, progress in any_progress(12, 1 << 40)) {
        let metadata = CommitMetadata { topic: TopicId::of(uuid::Uuid::from_u128(topic)), ..of(n, progress) };
        let text = metadata.encode();
        prop_assert!(text.is_ascii() && text.len() <= BYTES_MAX, "{}", text);
        prop_assert_eq!(CommitMetadata::parse(&text), Some(metadata));
    }

    #[test]
    fn encoded_text_is_bounded_ascii_prefix(n: i32, progress in any_progress(300, u64::MAX)) {
        let text = of(n, progress.clone()).encode();
        prop_assert!(text.is_ascii() && text.len() <= BYTES_MAX, "{}", text);
        let read = CommitMetadata::parse(&text).expect("ours");
        prop_assert_eq!(read.encode(), text, "encoding is stable");
        let read = read.progress.unwrap_or_default();
        prop_assert!(progress.pieces.starts_with(&read.pieces));
        prop_assert!(progress.resolved.starts_with(&read.resolved));
        prop_assert_eq!(progress.first_failure_ms, read.first_failure_ms);
    }

    #[test]
    fn arbitrary_text_never_panics_and_reencodes(text in ".{0,60}", fields in "[npfrtx=+!,0-9 -]{0,80}") {
        for text in [text, format!("{FORMAT}{fields}"), format!("{FORMAT}n=3 {fields}")] {
            if let Some(read) = CommitMetadata::parse(&text) {
                prop_assert_eq!(CommitMetadata::parse(&read.encode()), Some(read));
            }
        }
    }
}
