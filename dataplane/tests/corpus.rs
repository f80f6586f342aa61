//! Fuzzing corpora as ordinary tests, together with their neighbours: the same bytes with a few changes.

use proptest::prelude::*;

#[path = "../fuzz/subjects/answers.rs"]
mod answers;
#[path = "../fuzz/subjects/config.rs"]
mod config;
#[path = "../fuzz/subjects/frame.rs"]
mod frame;
#[path = "../fuzz/subjects/line.rs"]
mod line;
#[path = "../fuzz/subjects/membership.rs"]
mod membership;
#[path = "../fuzz/subjects/reply.rs"]
mod reply;
#[path = "../fuzz/subjects/shelf.rs"]
mod shelf;
#[path = "../fuzz/subjects/sigv4.rs"]
mod sigv4;
#[path = "../fuzz/subjects/store.rs"]
mod store;

#[path = "../../proto/fuzz/seeds.rs"]
mod corpus_files;

fn seeds(subject: &str) -> Vec<Vec<u8>> {
    corpus_files::seeds(env!("CARGO_MANIFEST_DIR"), subject)
}

/// Runs a corpus, of which some inputs must be valid.
fn holds(subject: &str, run: fn(&[u8]) -> usize) {
    let good: usize = seeds(subject).iter().map(|seed| run(seed)).sum();
    assert!(good > 0, "some seeds are accepted");
}

/// Runs neighbours of a corpus: some bytes changed, some inserted, some removed at the end.
fn neighbours_hold(subject: &str, cases: u32, run: fn(&[u8]) -> usize) {
    let all = seeds(subject);
    let changes = prop::collection::vec(any::<(prop::sample::Index, u8, bool)>(), 0..5);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    proptest!(config, |(seed in prop::sample::select(all), changes in changes, cut in 0usize..8)| {
        let mut bytes = seed;
        for (at, byte, is_new) in changes {
            if is_new || bytes.is_empty() {
                bytes.insert(at.index(bytes.len() + 1), byte);
            } else {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        run(&bytes);
    });
}

#[test]
fn reply_corpus_upholds_invariants() {
    holds("reply", reply::run);
}

#[test]
fn answers_corpus_upholds_invariants() {
    holds("answers", answers::run);
    for reader in 0..answers::READERS {
        let of_it = seeds("answers").into_iter().filter(|seed| seed.first() == Some(&reader));
        let good: usize = of_it.map(|seed| answers::run(&seed)).sum();
        assert!(good > 0, "reader {reader} accepts some seeds");
    }
}

#[test]
fn frame_corpus_upholds_invariants() {
    holds("frame", frame::run);
}

#[test]
fn membership_corpus_upholds_invariants() {
    holds("membership", membership::run);
}

#[test]
fn sigv4_corpus_upholds_invariants() {
    holds("sigv4", sigv4::run);
}

#[test]
fn config_corpus_upholds_invariants() {
    holds("config", config::run);
}

#[test]
fn store_corpus_upholds_invariants() {
    holds("store", store::run);
}

#[test]
fn mutated_reply_corpus_upholds_invariants() {
    neighbours_hold("reply", 4_000, reply::run);
}

#[test]
fn mutated_answers_corpus_upholds_invariants() {
    neighbours_hold("answers", 4_000, answers::run);
}

#[test]
fn mutated_frame_corpus_upholds_invariants() {
    neighbours_hold("frame", 2_000, frame::run);
}

#[test]
fn mutated_membership_corpus_upholds_invariants() {
    neighbours_hold("membership", 4_000, membership::run);
}

#[test]
fn mutated_sigv4_corpus_upholds_invariants() {
    neighbours_hold("sigv4", 500, sigv4::run);
}

#[test]
fn mutated_config_corpus_upholds_invariants() {
    neighbours_hold("config", 500, config::run);
}

#[test]
fn mutated_store_corpus_upholds_invariants() {
    neighbours_hold("store", 150, store::run);
}
