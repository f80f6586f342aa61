//! Benchmark of a filter on records of 1 KiB of JSON, of which 1 % pass, per record; for comparison, the same
//! filter written by hand with `serde_json`.

#![allow(missing_docs)] // criterion's macro creates an undocumented function

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lighterman_benches::{FILTER_NESTED, FILTER_TOP, json_frame, sift, usual_sift};

fn filters(criterion: &mut Criterion) {
    let frame = json_frame(10, 100);
    let mut group = criterion.benchmark_group("filter_1pct_1kib");
    group.throughput(Throughput::Elements(1_000));
    for (name, pattern) in [("top", FILTER_TOP), ("nested", FILTER_NESTED)] {
        let filters = lighterman_benches::filters(pattern);
        group.bench_function(name, |bench| bench.iter(|| sift(&frame, &filters)));
    }
    let none = lighterman_benches::filters("");
    group.bench_function("cursor_alone", |bench| bench.iter(|| sift(&frame, &none)));
    group.bench_function("usual", |bench| bench.iter(|| usual_sift(&frame)));
    group.finish();
}

criterion_group!(benches, filters);
criterion_main!(benches);
