//! Fuzzing corpora as ordinary tests, and the same inputs with a few bytes changed.

use proptest::prelude::*;
use serde_json::{Map, Value};

#[path = "../fuzz/subjects/aborted.rs"]
mod aborted;
#[path = "../fuzz/subjects/api.rs"]
mod api;
#[path = "../fuzz/subjects/commit_metadata.rs"]
mod commit_metadata;
#[path = "../fuzz/subjects/filter.rs"]
mod filter;
#[path = "../fuzz/subjects/records.rs"]
mod records;
#[path = "../fuzz/subjects/response.rs"]
mod response;

#[path = "../fuzz/seeds.rs"]
mod corpus_files;

fn seeds(subject: &str) -> Vec<Vec<u8>> {
    corpus_files::seeds(env!("CARGO_MANIFEST_DIR"), subject)
}

/// Returns `seed` with some bytes changed and some removed from the end.
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

/// Returns the leaf values of `body`, for replacement.
fn leaves(body: &mut Value) -> Vec<&mut Value> {
    match body {
        Value::Object(members) => members.values_mut().flat_map(leaves).collect(),
        Value::Array(list) => list.iter_mut().flat_map(leaves).collect(),
        leaf => vec![leaf],
    }
}

/// Numbers around the limits, and near misses of texts in requests.
fn other_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        (-2i64..10_002).prop_map(Value::from),
        (0.0..2e9).prop_map(Value::from),
        "[a-z$.:+ ,-]{0,8}(:[0-9+ ]{0,6})?".prop_map(Value::from),
        "(arn:[a-z]{0,4}:lambda:)?([a-z -]{1,9}:)?([0-9]{1,13}:)?(function:)?[a-zA-Z.$é-]{1,66}(:[a-z$]{0,3})?"
            .prop_map(Value::from),
        "\\PC{0,10}".prop_map(Value::from),
        prop::sample::select(vec![Value::Null, Value::Bool(true), Value::Array(Vec::new())]),
    ]
}

/// Parses `seed` if it is a JSON object with members.
fn object(seed: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(seed).ok().filter(|members: &Map<_, _>| !members.is_empty())
}

#[test]
fn records_corpus_upholds_invariants() {
    let read: usize = seeds("records").iter().map(|seed| records::run(seed)).sum();
    assert!(read > 0, "some seeds are accepted");
}

#[test]
fn aborted_corpus_upholds_invariants() {
    let dropped: usize = seeds("aborted").iter().map(|seed| aborted::run(seed)).sum();
    assert!(dropped > 0, "some batches are dropped");
}

#[test]
fn response_corpus_upholds_invariants() {
    let read: usize = seeds("response").iter().map(|seed| response::run(seed)).sum();
    assert!(read > 0, "some seeds are accepted");
}

#[test]
fn commit_metadata_corpus_upholds_invariants() {
    let read: usize = seeds("commit_metadata").iter().map(|seed| commit_metadata::run(seed)).sum();
    assert!(read > 0, "some seeds are commit metadata of this format");
}

#[test]
fn api_corpus_upholds_invariants() {
    let accepted: usize = seeds("api").iter().map(|seed| api::run(seed)).sum();
    assert!(accepted > 0, "some seeds are accepted");
}

#[test]
fn filter_corpus_upholds_invariants() {
    let good: usize = seeds("filter").iter().map(|seed| filter::run(seed)).sum();
    assert!(good > 0, "some seeds are accepted");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn mutated_filter_corpus_upholds_invariants(
        at: prop::sample::Index,
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
        cut: usize,
    ) {
        let all = seeds("filter");
        filter::run(&bent(all[at.index(all.len())].clone(), &changes, cut));
    }

    /// Combines the pattern of one seed with the value of another.
    #[test]
    fn filter_corpus_with_swapped_values_upholds_invariants(at: prop::sample::Index, of: prop::sample::Index) {
        let all = seeds("filter");
        let split = |seed: &[u8]| seed.iter().position(|byte| *byte == 0).unwrap_or(seed.len());
        let (one, other) = (&all[at.index(all.len())], &all[of.index(all.len())]);
        filter::run(&[&one[..split(one)], &other[split(other)..]].concat());
    }

    #[test]
    fn mutated_records_corpus_upholds_invariants(
        at: prop::sample::Index,
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
        cut: usize,
    ) {
        let all = seeds("records");
        records::run(&bent(all[at.index(all.len())].clone(), &changes, cut));
    }

    #[test]
    fn mutated_aborted_corpus_upholds_invariants(
        at: prop::sample::Index,
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..8),
        cut: usize,
    ) {
        let all = seeds("aborted");
        aborted::run(&bent(all[at.index(all.len())].clone(), &changes, cut));
    }

    #[test]
    fn mutated_response_corpus_upholds_invariants(
        at: prop::sample::Index,
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
        cut: usize,
    ) {
        let all = seeds("response");
        response::run(&bent(all[at.index(all.len())].clone(), &changes, cut));
    }

    #[test]
    fn mutated_commit_metadata_corpus_upholds_invariants(
        at: prop::sample::Index,
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
        cut: usize,
    ) {
        let all = seeds("commit_metadata");
        commit_metadata::run(&bent(all[at.index(all.len())].clone(), &changes, cut));
    }

    #[test]
    fn mutated_api_corpus_upholds_invariants(
        at: prop::sample::Index,
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
        cut in 0usize..2,
    ) {
        let all = seeds("api");
        api::run(&bent(all[at.index(all.len())].clone(), &changes, cut));
    }

    #[test]
    fn api_corpus_with_swapped_members_upholds_invariants(
        at: prop::sample::Index,
        members in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let all = seeds("api");
        let objects: Vec<_> = all.iter().filter_map(|seed| object(seed)).collect();
        let mut mixed = objects[at.index(objects.len())].clone();
        for (of, which) in members {
            let other = &objects[of.index(objects.len())];
            let (name, value) = other.iter().nth(which.index(other.len())).expect("an object with members");
            mixed.insert(name.clone(), value.clone());
        }
        api::run(serde_json::to_string(&mixed).expect("JSON").as_bytes());
    }

    #[test]
    fn api_corpus_with_other_values_upholds_invariants(
        at: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), other_value()), 1..3),
    ) {
        let all = seeds("api");
        let mut body: Value = serde_json::from_slice(&all[at.index(all.len())]).expect("JSON");
        for (which, value) in changes {
            let count = leaves(&mut body).len();
            if count > 0 {
                *leaves(&mut body).swap_remove(which.index(count)) = value;
            }
        }
        api::run(body.to_string().as_bytes());
    }
}
