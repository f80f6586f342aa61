//! Benchmark of communication between threads: messages to a thread that blocks on its disk, and counters of which
//! each thread writes its own.

#![allow(missing_docs)] // criterion's macro creates an undocumented function

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_utils::CachePadded;

const ORDERS: u64 = 1_000;
const COUNTS: u64 = 100_000;

/// Message as large as one to the audit thread.
type Order = [u64; 6];

/// Returns the time until a thread has received `ORDERS` messages, `rounds` times. The thread sleeps before the
/// first message of each round.
fn time(rounds: u64, send: impl Fn(Order), received: &AtomicU64) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..rounds {
        let goal = received.load(Ordering::Acquire) + ORDERS;
        let begun = Instant::now();
        for number in 0..ORDERS {
            send([number; 6]);
        }
        while received.load(Ordering::Acquire) < goal {
            thread::yield_now();
        }
        took += begun.elapsed();
    }
    took
}

fn receive(mut next: impl FnMut() -> Option<Order> + Send + 'static) -> Arc<AtomicU64> {
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    thread::spawn(move || {
        while next().is_some() {
            count.fetch_add(1, Ordering::Release);
        }
    });
    received
}

fn orders(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("orders_to_a_thread");
    group.throughput(Throughput::Elements(ORDERS));
    let (sender, receiver) = crossbeam_channel::unbounded::<Order>();
    let received = receive(move || receiver.recv().ok());
    let send = |order| sender.send(order).unwrap_or_default();
    group.bench_function("crossbeam", |bench| bench.iter_custom(|rounds| time(rounds, send, &received)));
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<Order>();
    let received = receive(move || receiver.blocking_recv());
    let send = |order| sender.send(order).unwrap_or_default();
    group.bench_function("tokio", |bench| bench.iter_custom(|rounds| time(rounds, send, &received)));
    let (sender, receiver) = mpsc::channel::<Order>();
    let received = receive(move || receiver.recv().ok());
    let send = |order| sender.send(order).unwrap_or_default();
    group.bench_function("std", |bench| bench.iter_custom(|rounds| time(rounds, send, &received)));
    group.finish();
}

/// Increments one counter while a second thread increments another.
fn count(rounds: u64, mine: &AtomicU64, theirs: &AtomicU64) -> Duration {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                theirs.fetch_add(1, Ordering::Relaxed);
            }
        });
        let begun = Instant::now();
        for _ in 0..rounds * COUNTS {
            mine.fetch_add(1, Ordering::Relaxed);
        }
        let took = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        took
    })
}

fn counters(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("counters_of_two_threads");
    group.throughput(Throughput::Elements(COUNTS));
    let beside = [AtomicU64::new(0), AtomicU64::new(0)];
    group.bench_function("beside", |bench| bench.iter_custom(|rounds| count(rounds, &beside[0], &beside[1])));
    let padded = [CachePadded::new(AtomicU64::new(0)), CachePadded::new(AtomicU64::new(0))];
    group.bench_function("padded", |bench| bench.iter_custom(|rounds| count(rounds, &padded[0], &padded[1])));
    group.finish();
}

criterion_group!(benches, orders, counters);
criterion_main!(benches);
