//! Speed relative to the usual implementations. They alternate over many short rounds, and the median of the
//! rounds' ratios is shown, so that other load on the machine affects both.

use std::time::{Duration, Instant};

use kafka_protocol::records::Compression;
use lighterman_benches::usual::{through_kafka_protocol, through_rskafka};
use lighterman_benches::{PartitionScratch, envelope, frame, payload};

const ROUNDS: usize = 41;
const ROUND: Duration = Duration::from_millis(60);

/// Returns the seconds per call, measured over about [`ROUND`].
fn per_call(mut call: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut calls = 0_u32;
    while began.elapsed() < ROUND {
        call();
        calls += 1;
    }
    began.elapsed().as_secs_f64() / f64::from(calls)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let envelope = envelope();
    println!(
        "{:<10}{:>16}{:>16}{:>10}{:>18}{:>10}",
        "", "ours", "rskafka", "ratio", "kafka-protocol", "ratio"
    );
    for (value_bytes, batches, each) in [(100, 2, 500), (1024, 16, 63), (10_240, 50, 6)] {
        let frame = frame(batches, each, value_bytes, Compression::None);
        let mut scratch = PartitionScratch::default();
        let mut rounds = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            rounds[0].push(per_call(|| {
                payload(&frame, &envelope, &mut scratch);
            }));
            rounds[1].push(per_call(|| drop(through_rskafka(&frame))));
            rounds[2].push(per_call(|| drop(through_kafka_protocol(&frame))));
        }
        let ns = |way: usize| median(rounds[way].clone()) * 1e9 / (batches * each) as f64;
        let ratio = |way: usize| {
            median(rounds[way].iter().zip(&rounds[0]).map(|(other, ours)| other / ours).collect())
        };
        println!(
            "{:<10}{:>13.0} ns{:>13.0} ns{:>10.1}{:>15.0} ns{:>10.1}",
            format!("{value_bytes} B"),
            ns(0),
            ns(1),
            ratio(1),
            ns(2),
            ratio(2)
        );
    }
}
