//! Instruction counts of the hot functions by valgrind, which do not depend on other load. `counts check` compares
//! them with `benches/counts.json` and fails beyond ±2 %; `counts write` writes that file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use kafka_protocol::records::Compression;
use lighterman_benches::whole_batch::whole_batches;
use lighterman_benches::{
    FILTER_TOP, PartitionScratch, committed, envelope, filters, frame, json_frame, ledger, payload, sift,
    start_plan, walk,
};

const WORKLOADS: [&str; 8] = [
    "cursor_1kib",
    "payload_1kib",
    "payload_100b",
    "batches_1kib_x_100",
    "batches_1kib_x_1",
    "ledger",
    "filter_1pct_1kib",
    "start_plan_10k",
];
const TOLERANCE: f64 = 0.02;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", name, times] => run(name, times.parse()?),
        ["write"] => {
            let text = serde_json::to_string_pretty(&count_all()?)? + "\n";
            Ok(std::fs::write(file(), text)?)
        }
        ["check"] => check(),
        _ => bail!("counts check | write"),
    }
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("counts.json")
}

/// Runs a workload `times` times, each with 1,000 records, 8,000 ranges or 10,000 partitions.
fn run(name: &str, times: u64) -> Result<()> {
    let (envelope, mut scratch) = (envelope(), PartitionScratch::default());
    let large = frame(16, 63, 1024, Compression::None);
    let small = frame(2, 500, 100, Compression::None);
    let frame_of_1_000 = frame(10, 100, 1024, Compression::None);
    let (orders, wanted) = (json_frame(10, 100), filters(FILTER_TOP));
    let (commits, owned) = (committed(10_000), (0..10_000).collect::<Vec<i32>>());
    for _ in 0..times {
        match name {
            "cursor_1kib" => walk(&large, &mut scratch),
            "payload_1kib" => payload(&large, &envelope, &mut scratch),
            "payload_100b" => payload(&small, &envelope, &mut scratch),
            "filter_1pct_1kib" => sift(&orders, &wanted),
            "batches_1kib_x_100" => whole_batches(&frame_of_1_000, &envelope, 100) as usize,
            "batches_1kib_x_1" => whole_batches(&frame_of_1_000, &envelope, 1) as usize,
            "ledger" => ledger(8_000) as usize,
            "start_plan_10k" => start_plan(&commits, &owned),
            other => bail!("no workload {other}"),
        };
    }
    Ok(())
}

fn count(name: &str, times: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["run", name, &times.to_string()])
        .output()
        .context("valgrind is needed: apt-get install valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{name}: {text}");
    let collected = text.lines().find_map(|line| line.split("Collected :").nth(1)).context("no count")?;
    Ok(collected.trim().parse()?)
}

/// Counts the instructions of one run of each workload, without the surrounding program.
fn count_all() -> Result<BTreeMap<String, u64>> {
    let one = |name: &&str| Ok(((*name).to_owned(), (count(name, 5)? - count(name, 1)?) / 4));
    WORKLOADS.iter().map(one).collect()
}

fn check() -> Result<()> {
    let known: BTreeMap<String, u64> = serde_json::from_str(&std::fs::read_to_string(file())?)?;
    let mut moved = Vec::new();
    for (name, now) in count_all()? {
        let before =
            *known.get(&name).with_context(|| format!("{name} is not in counts.json: counts write"))?;
        let change = now as f64 / before as f64 - 1.0;
        println!("{name:<18} {now:>12} instructions  {:+.2} %", change * 100.0);
        if change.abs() > TOLERANCE {
            moved.push(name);
        }
    }
    ensure!(moved.is_empty(), "changed by more than 2 %: {}. If intended: counts write", moved.join(", "));
    Ok(())
}
