//! The simulator's command line.
//!
//! ```text
//! cargo test --release -p lighterman --features sim --test sim                         what CI runs
//! … --test sim -- --schedules 1000000                                                  more of it
//! … --test sim -- --seed 7                                                             one schedule, told
//! … --test sim -- --seed 7 --edits 'without=Loss;nodes=1'                              the same, smaller
//! … --test sim -- --mutant budget-leak                                                 one fault of production code
//! ```

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lighterman::history::Invariant;
use lighterman::sim::shrink::{Edits, shrink};
use lighterman::sim::{Outcome, Plan, mutants, run};

/// Schedules that a mutant may survive before it counts as not caught.
const MUTANT_SCHEDULES: u64 = 100_000;
/// Mutants that are known to survive: told in every run, and not held against it. One that is caught is to be taken out.
const SURVIVORS: &[&str] = &[
    "fetch-not-matched",
    "late-heartbeat-answer",
    "rejoins-over-running-invocations",
    "lease-counts-from-the-reply",
    "generation-not-compared",
];
/// Seeds that once found something, each with what it was.
const REGRESSIONS: &[(u64, &str)] = &[
    (103, "an offer was sealed while its extension was in the mailbox"),
    (47, "a filtered tail was not committed"),
    (31, "a truncated log was gone on with at its end"),
    (333, "a commit refused for the generation before was dropped"),
    (109, "one overdraft for two purposes stood still"),
    (1137, "a partition added twice over was taken for one that lost its commit"),
    (2803, "two resolvers, and the later one's beginning overwrote a commit"),
    (2338, "the lease outlived a barrier that was not reached"),
    (52150, "nobody looked again at an offer whose record had grown too old"),
    (6118, "outcomes that were not acknowledged went with a truncated log"),
];

#[derive(Default)]
struct Arguments {
    schedules: Option<u64>,
    from: u64,
    seed: Option<u64>,
    edits: Edits,
    mutant: Option<String>,
    trace: bool,
    without_mutants: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments { from: 1, ..Arguments::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            "--schedules" => arguments.schedules = Some(number(value()?)?),
            "--from" => arguments.from = number(value()?)?,
            "--seed" => arguments.seed = Some(number(value()?)?),
            "--edits" => arguments.edits = value()?.parse()?,
            "--mutant" => arguments.mutant = Some(value()?),
            "--trace" => arguments.trace = true,
            "--without-mutants" => arguments.without_mutants = true,
            // What `cargo test` passes to every test program.
            _ => {}
        }
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            println!("{error}");
            return ExitCode::from(2);
        }
    };
    if let Some(seed) = arguments.seed {
        return tell(seed, &arguments);
    }
    if let Some(name) = &arguments.mutant {
        let Some(name) = mutants::ALL.iter().find(|known| *known == name) else {
            println!("no mutant is called {name}; there are {}", mutants::ALL.join(", "));
            return ExitCode::from(2);
        };
        println!("{}", mutant_line(name, caught_after(name)));
        return ExitCode::SUCCESS;
    }
    let schedules = arguments.schedules.unwrap_or(if cfg!(debug_assertions) { 2_000 } else { 100_000 });
    let good = same_seed_same_trace() && regressions() && many(arguments.from, schedules);
    let good = good && (arguments.without_mutants || all_mutants());
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One schedule, told.
fn tell(seed: u64, arguments: &Arguments) -> ExitCode {
    let name = arguments.mutant.as_ref().and_then(|name| mutants::ALL.iter().find(|known| *known == name));
    mutants::switch_on(name.copied().unwrap_or_default());
    let plan = arguments.edits.apply(Plan::draw(seed));
    println!("{plan:#?}");
    let outcome = run(&plan, true);
    if arguments.trace {
        println!("{}", outcome.trace);
    }
    println!("{}", outcome.story);
    for violation in &outcome.violations {
        println!("{violation}");
    }
    println!("{} events, {} invocations, {:?} simulated", outcome.events, outcome.invocations, outcome.took);
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn same_seed_same_trace() -> bool {
    for seed in 1..=20 {
        let (one, other) = (run(&Plan::draw(seed), true), run(&Plan::draw(seed), true));
        if one.trace != other.trace || one.story != other.story || one.trace.is_empty() {
            println!("seed {seed} does not decide everything: two runs differ");
            return false;
        }
    }
    println!("determinism: 20 seeds, each twice, byte-identical traces");
    true
}

fn regressions() -> bool {
    for (seed, what) in REGRESSIONS {
        if let Some(violation) = broken(*seed) {
            println!("seed {seed}, where once {what}: {violation}");
            return false;
        }
    }
    true
}

/// The first violation of a schedule; a panic counts as one.
fn broken(seed: u64) -> Option<String> {
    match catch_unwind(|| run(&Plan::draw(seed), false)) {
        Ok(Outcome { violations, .. }) => violations.first().map(ToString::to_string),
        Err(_) => Some("a core panicked".to_owned()),
    }
}

fn threads() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

/// Runs `count` schedules on all cores; the lowest seed that fails is shrunk and told.
fn many(from: u64, count: u64) -> bool {
    let began = Instant::now();
    let (next, events, invocations) = (AtomicU64::new(from), AtomicU64::new(0), AtomicU64::new(0));
    let (failed, simulated) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) == u64::MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        return;
                    }
                    let outcome = catch_unwind(|| run(&Plan::draw(seed), false));
                    let Ok(outcome) = outcome else {
                        failed.fetch_min(seed, Ordering::Relaxed);
                        return;
                    };
                    events.fetch_add(outcome.events, Ordering::Relaxed);
                    invocations.fetch_add(outcome.invocations, Ordering::Relaxed);
                    simulated.fetch_add(outcome.took.as_millis() as u64, Ordering::Relaxed);
                    if !outcome.violations.is_empty() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    if failed < u64::MAX {
        tell_failure(failed);
        return false;
    }
    let took = began.elapsed();
    let rate = count as f64 / took.as_secs_f64() / threads() as f64;
    let simulated = Duration::from_millis(simulated.into_inner());
    println!(
        "{count} schedules from seed {from}: 0 violations; {} events, {} invocations, {} h simulated, {took:.1?}, \
         {rate:.0} schedules a second on each of {} cores",
        events.into_inner(),
        invocations.into_inner(),
        simulated.as_secs() / 3600,
        threads()
    );
    true
}

fn tell_failure(seed: u64) {
    let Ok(outcome) = catch_unwind(|| run(&Plan::draw(seed), false)) else {
        println!("seed {seed}: a core panicked");
        println!("reproduce: cargo test --release -p lighterman --features sim --test sim -- --seed {seed}");
        return;
    };
    let Some(first) = outcome.violations.first() else { return };
    println!("seed {seed}: {first}");
    let edits = shrink(seed, first.invariant);
    let smaller = run(&edits.apply(Plan::draw(seed)), false);
    for violation in smaller.violations.iter().take(5) {
        println!("  shrunk: {violation}");
    }
    println!("  {} events, shrunk from {}", smaller.events, outcome.events);
    println!(
        "reproduce: cargo test --release -p lighterman --features sim --test sim -- --seed {seed} --edits '{edits}'"
    );
}

/// After how many schedules a mutant is caught, and by which invariant.
fn caught_after(name: &'static str) -> Option<(u64, Option<Invariant>)> {
    let (next, done) = (AtomicU64::new(1), AtomicBool::new(false));
    let caught = std::sync::Mutex::new(None::<(u64, Option<Invariant>)>);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                mutants::switch_on(name);
                while !done.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > MUTANT_SCHEDULES {
                        return;
                    }
                    let by = match catch_unwind(|| run(&Plan::draw(seed), false)) {
                        Ok(outcome) if outcome.violations.is_empty() => continue,
                        Ok(outcome) => outcome.violations.first().map(|violation| violation.invariant),
                        Err(_) => None,
                    };
                    done.store(true, Ordering::Relaxed);
                    let mut caught = caught.lock().expect("whole");
                    if caught.is_none_or(|(before, _)| seed < before) {
                        *caught = Some((seed, by));
                    }
                }
            });
        }
    });
    caught.into_inner().expect("whole")
}

fn mutant_line(name: &str, caught: Option<(u64, Option<Invariant>)>) -> String {
    match caught {
        Some((schedules, by)) => {
            format!("{name:<36} {schedules:>7}  {}", by.map_or("panic", Invariant::id))
        }
        None => format!("{name:<36} not caught in {MUTANT_SCHEDULES} schedules"),
    }
}

fn all_mutants() -> bool {
    std::panic::set_hook(Box::new(|_| {}));
    println!("\nmutant                             schedules  caught by");
    let mut survivors = 0;
    for name in mutants::ALL {
        let caught = caught_after(name);
        let known = SURVIVORS.contains(name);
        survivors += u32::from(caught.is_none() && !known);
        println!("{}{}", mutant_line(name, caught), if known { "  (known to survive)" } else { "" });
    }
    println!("{} mutants, {survivors} not caught beside {} known", mutants::ALL.len(), SURVIVORS.len());
    survivors == 0
}
