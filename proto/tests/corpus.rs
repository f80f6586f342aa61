//! What the fuzzer has found worth keeping, run as an ordinary test, and its neighbours: the same bytes with a few changed.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

#[path = "../fuzz/subjects/records.rs"]
mod records;
#[path = "../fuzz/subjects/response.rs"]
mod response;

fn seeds(subject: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(subject);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&folder).expect("a corpus").flatten().map(|entry| entry.path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}", folder.display());
    paths.iter().map(|path| fs::read(path).expect("readable")).collect()
}

/// `seed` with some bytes changed and some cut off.
fn bent(mut seed: Vec<u8>, changes: &[(prop::sample::Index, u8)], cut: usize) -> Vec<u8> {
    for (at, byte) in changes {
        if !seed.is_empty() {
            let at = at.index(seed.len());
            seed[at] = *byte;
        }
    }
    seed.truncate(seed.len().saturating_sub(cut % 8));
    seed
}

#[test]
fn the_records_corpus_holds_and_reads() {
    let read: usize = seeds("records").iter().map(|seed| records::run(seed)).sum();
    assert!(read > 0, "some of it is good");
}

#[test]
fn the_response_corpus_holds_and_reads() {
    let read: usize = seeds("response").iter().map(|seed| response::run(seed)).sum();
    assert!(read > 0, "some of it is good");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn neighbours_of_the_records_corpus_hold(
        at: prop::sample::Index,
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
        cut: usize,
    ) {
        let all = seeds("records");
        records::run(&bent(all[at.index(all.len())].clone(), &changes, cut));
    }

    #[test]
    fn neighbours_of_the_response_corpus_hold(
        at: prop::sample::Index,
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
        cut: usize,
    ) {
        let all = seeds("response");
        response::run(&bent(all[at.index(all.len())].clone(), &changes, cut));
    }
}
