//! Benchmark from fetched frame to finished payload, by record size and codec, compared with the usual crates.

#![allow(missing_docs)] // criterion's macro creates an undocumented function

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kafka_protocol::records::Compression;
use lighterman_benches::usual::{through_kafka_protocol, through_rskafka};
use lighterman_benches::{PartitionScratch, envelope, frame, payload};

fn payloads(criterion: &mut Criterion) {
    let envelope = envelope();
    let codecs = [
        ("none", Compression::None),
        ("gzip", Compression::Gzip),
        ("snappy", Compression::Snappy),
        ("lz4", Compression::Lz4),
        ("zstd", Compression::Zstd),
    ];
    for (size, batches, each) in [(100, 2, 500), (1024, 16, 63), (10_240, 50, 6)] {
        let mut group = criterion.benchmark_group(format!("payload_{size}b"));
        group.sample_size(20);
        group.throughput(Throughput::Elements(batches * each));
        for (name, codec) in codecs {
            let frame = frame(batches as usize, each as usize, size, codec);
            let mut scratch = PartitionScratch::default();
            group.bench_function(name, |bench| bench.iter(|| payload(&frame, &envelope, &mut scratch)));
            group.bench_function(format!("{name}_kafka_protocol"), |bench| {
                bench.iter(|| through_kafka_protocol(&frame));
            });
            if codec == Compression::None {
                group.bench_function("none_rskafka", |bench| bench.iter(|| through_rskafka(&frame)));
            }
        }
        group.finish();
    }
}

criterion_group!(benches, payloads);
criterion_main!(benches);
