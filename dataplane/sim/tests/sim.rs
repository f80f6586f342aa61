//! The simulator's command line.
//!
//! ```text
//! cargo test --release -p lighterman-sim --features mutants --test sim as in CI
//! … --test sim -- --schedules 1000000                                  more schedules
//! … --test sim -- --seed 7                                             one schedule in detail
//! … --test sim -- --seed 7 --edits 'without=Loss;nodes=1'              the same schedule, shrunk
//! … --test sim -- --mutant budget-leak                                 one mutant of production code, and a
//!                                                                      small schedule that shows it
//! … --test sim -- --fingerprints 1000                                  one line for each schedule, to be
//!                                                                      compared before and after a refactoring
//! … --test sim -- --mutants-table "$PWD/dataplane/sim/MUTANTS.md"      all mutants, written to a page
//! ```

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lighterman::mutants;
use lighterman_sim::history::Invariant;
use lighterman_sim::shrink::{ScheduleEdits, shrink};
use lighterman_sim::{FaultSchedule, run};

/// Number of schedules after which a mutant counts as not caught.
const MUTANT_SCHEDULES: u64 = 400_000;
/// Marker before the table on its page.
const TABLE_BEGINS: &str = "<!-- written by the simulator from here on -->";
/// Schedules that once found a bug in production code. With the bug reintroduced they must find it again, and
/// without it nothing. Each entry is a mutant, a seed, its edits, and a description. A change in how plans are
/// drawn requires new ones, which `--mutant NAME` prints.
const REGRESSIONS: &[(&str, u64, &str, &str)] = &[
    (
        "seal-takes-in-what-came-later",
        17,
        "without=SlowReplies,Failover,Truncation,HangingFunction,StoreCrash,PartitionsAdded;spared=0,1,2,3,4,5,6,7;batches=6;until=834",
        "an offer was sealed while its extension was in the mailbox",
    ),
    (
        "filtered-tail-not-committed",
        14,
        "without=ReplyLoss,LateService,Crash,Freeze,Stall,SlowReplies,ClockJump,Storm,Stranger,SlowFunction,ServiceErrors,LostInvocationReply,LostInvocation,PartitionsAdded;spared=0;until=757",
        "a filtered tail was not committed",
    ),
    (
        "truncation-not-gone-back-for",
        7,
        "without=Delay,Duplicate,ClockJump,LostInvocation;spared=0,1,2,3;batches=1;until=14342",
        "a truncated log was gone on with at its end",
    ),
    (
        "barrier-not-minded",
        3126,
        "without=Cut,SlowFunction,LostInvocationReply;spared=0,3",
        "the lease outlived a barrier that was not reached",
    ),
    (
        "grown-too-old-in-an-offer",
        2749,
        "without=ClockJump,LostInvocation,SlowFunction,LostInvocationReply,DestinationTrouble;spared=0",
        "nobody looked again at an offer whose record had grown too old",
    ),
    (
        "regrowing-starves-others",
        27_395,
        "",
        "partitions that gathered remembered batches kept each other's bytes",
    ),
    (
        "overwritten-is-believed",
        7050,
        "without=Cut,DestinationTrouble,PartitionsAdded,Retention",
        "what was remembered was believed of a log that had been cut off",
    ),
    (
        "rewound-commit-stays",
        18,
        "without=Crash,Throttling,Loss,DestinationTrouble,Delay;spared=0;partitions=3;batches=6;until=6564",
        "a commit that was served late stood for good",
    ),
];

#[derive(Default)]
struct SimArguments {
    schedules: Option<u64>,
    fingerprints: Option<u64>,
    from: u64,
    seed: Option<u64>,
    edits: ScheduleEdits,
    mutant: Option<String>,
    table: Option<String>,
    trace: bool,
    without_mutants: bool,
}

fn arguments() -> Result<SimArguments, String> {
    let mut arguments = SimArguments { from: 1, ..SimArguments::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            "--schedules" => arguments.schedules = Some(number(value()?)?),
            "--fingerprints" => arguments.fingerprints = Some(number(value()?)?),
            "--from" => arguments.from = number(value()?)?,
            "--seed" => arguments.seed = Some(number(value()?)?),
            "--edits" => arguments.edits = value()?.parse()?,
            "--mutant" => arguments.mutant = Some(value()?),
            "--mutants-table" => arguments.table = Some(value()?),
            "--trace" => arguments.trace = true,
            "--without-mutants" => arguments.without_mutants = true,
            // Arguments that `cargo test` passes to every test program.
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
        return tell_mutant(name);
    }
    if let Some(path) = &arguments.table {
        return write_table(path);
    }
    if let Some(count) = arguments.fingerprints {
        return print_fingerprints(arguments.from, count);
    }
    let schedules = arguments.schedules.unwrap_or(if cfg!(debug_assertions) { 2_000 } else { 100_000 });
    // Both run even if the first fails: the complete result helps after a change of a core.
    let good = same_seed_same_trace() && (regressions() & many(arguments.from, schedules));
    let good = good && (arguments.without_mutants || all_mutants());
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs and prints one schedule.
fn tell(seed: u64, arguments: &SimArguments) -> ExitCode {
    let name = arguments.mutant.as_ref().and_then(|name| mutants::ALL.iter().find(|known| *known == name));
    mutants::switch_on(name.copied().unwrap_or_default());
    let plan = arguments.edits.apply(FaultSchedule::draw(seed));
    println!("{plan:#?}");
    let outcome = run(&plan, true);
    if arguments.trace {
        println!("{}", outcome.trace);
    }
    println!("{}", outcome.timeline);
    for violation in &outcome.violations {
        println!("{violation}");
    }
    println!("{} events, {} invocations, {:?} simulated", outcome.events, outcome.invocations, outcome.took);
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints events, invocations and simulated time of each schedule, and a hash of every number in its trace.
/// Renaming a type does not change the hash.
fn print_fingerprints(from: u64, count: u64) -> ExitCode {
    for seed in from..from + count {
        let outcome = run(&FaultSchedule::draw(seed), true);
        let mut hasher = DefaultHasher::new();
        numbers_of(&outcome.trace).for_each(|number| number.hash(&mut hasher));
        let (events, invocations, micros) = (outcome.events, outcome.invocations, outcome.took.as_micros());
        println!(
            "{seed} {events} {invocations} {micros} {} {:016x}",
            outcome.violations.len(),
            hasher.finish()
        );
    }
    ExitCode::SUCCESS
}

/// Returns the numbers that are separate words.
fn numbers_of(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()))
}

fn same_seed_same_trace() -> bool {
    for seed in 1..=20 {
        let (one, other) = (run(&FaultSchedule::draw(seed), true), run(&FaultSchedule::draw(seed), true));
        if one.trace != other.trace || one.timeline != other.timeline || one.trace.is_empty() {
            println!("seed {seed} does not decide everything: two runs differ");
            return false;
        }
    }
    println!("determinism: 20 seeds, each twice, byte-identical traces");
    true
}

fn regressions() -> bool {
    let wrong: Vec<String> = REGRESSIONS.iter().filter_map(|regression| regress(regression).err()).collect();
    for what in &wrong {
        println!("{what}");
    }
    println!(
        "{} of {} regressions: found with its fault, not without",
        REGRESSIONS.len() - wrong.len(),
        REGRESSIONS.len()
    );
    wrong.is_empty()
}

fn regress((mutant, seed, edits, what): &(&str, u64, &str, &str)) -> Result<(), String> {
    let edits: ScheduleEdits = edits.parse().map_err(|_| format!("{edits} are no edits"))?;
    let plan = edits.apply(FaultSchedule::draw(*seed));
    if under(mutant, || run(&plan, false)).violations.is_empty() {
        return Err(format!(
            "seed {seed} does not find any more that {what}: `--mutant {mutant}` finds another that does"
        ));
    }
    match run(&plan, false).violations.first() {
        Some(violation) => Err(format!("seed {seed}, where once {what}: {violation}")),
        None => Ok(()),
    }
}

/// Runs `what` with one mutant enabled on this thread.
fn under<T>(mutant: &str, what: impl FnOnce() -> T) -> T {
    let name = mutants::ALL.iter().find(|known| **known == mutant).copied().unwrap_or_default();
    mutants::switch_on(name);
    let done = what();
    mutants::switch_on("");
    done
}

fn threads() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

/// Runs `count` schedules on all cores. The lowest failing seed is shrunk and printed.
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
                    let outcome = catch_unwind(|| run(&FaultSchedule::draw(seed), false));
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
    let Ok(outcome) = catch_unwind(|| run(&FaultSchedule::draw(seed), false)) else {
        println!("seed {seed}: a core panicked");
        println!(
            "reproduce: cargo test --release -p lighterman-sim --features mutants --test sim -- --seed {seed}"
        );
        return;
    };
    let Some(first) = outcome.violations.first() else { return };
    println!("seed {seed}: {first}");
    let edits = shrink(seed, first.invariant);
    let smaller = run(&edits.apply(FaultSchedule::draw(seed)), false);
    for violation in smaller.violations.iter().take(5) {
        println!("  shrunk: {violation}");
    }
    println!("  {} events, shrunk from {}", smaller.events, outcome.events);
    println!(
        "reproduce: cargo test --release -p lighterman-sim --features mutants --test sim -- --seed {seed} --edits '{edits}'"
    );
}

/// Result of a caught mutant.
struct CaughtMutant {
    /// Lowest seed that shows it.
    seed: u64,
    /// Violated invariant; `None` if a core panicked.
    by: Option<Invariant>,
    what: String,
    took: Duration,
}

impl CaughtMutant {
    fn by(&self) -> &'static str {
        self.by.map_or("panic", Invariant::id)
    }
}

/// Returns the schedule that catches a mutant, and the violated invariant.
fn caught_after(name: &'static str) -> Option<CaughtMutant> {
    let began = Instant::now();
    let (next, done) = (AtomicU64::new(1), AtomicBool::new(false));
    let caught = std::sync::Mutex::new(None::<CaughtMutant>);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                mutants::switch_on(name);
                while !done.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > MUTANT_SCHEDULES {
                        return;
                    }
                    let (by, what) = match catch_unwind(|| run(&FaultSchedule::draw(seed), false)) {
                        Ok(outcome) => match outcome.violations.first() {
                            Some(first) => (Some(first.invariant), first.what.clone()),
                            None => continue,
                        },
                        Err(_) => (None, "a core panicked".to_owned()),
                    };
                    done.store(true, Ordering::Relaxed);
                    let mut caught = caught.lock().expect("whole");
                    if caught.as_ref().is_none_or(|before| seed < before.seed) {
                        *caught = Some(CaughtMutant { seed, by, what, took: began.elapsed() });
                    }
                }
            });
        }
    });
    caught.into_inner().expect("whole").filter(|caught| is_its_own(name, caught.seed))
}

/// Returns true if a schedule fails only because of the mutant. A schedule that also fails without it is printed,
/// since it proves nothing.
fn is_its_own(name: &str, seed: u64) -> bool {
    let without = under("", || catch_unwind(|| run(&FaultSchedule::draw(seed), false)));
    let clean = without.is_ok_and(|outcome| outcome.violations.is_empty());
    if !clean {
        println!("seed {seed}, which shows {name}, breaks a promise without that fault too");
    }
    clean
}

fn mutant_line(name: &str, caught: Option<&CaughtMutant>) -> String {
    match caught {
        Some(caught) => {
            let seconds = caught.took.as_secs_f64();
            format!("{name:<36} {:>7} {seconds:>7.1}  {:<14} {}", caught.seed, caught.by(), caught.what)
        }
        None => format!("{name:<36} not caught in {MUTANT_SCHEDULES} schedules"),
    }
}

/// Runs and prints one mutant, with a small schedule that shows it.
fn tell_mutant(name: &'static str) -> ExitCode {
    let caught = caught_after(name);
    println!("{}", mutant_line(name, caught.as_ref()));
    let Some(caught) = caught else { return ExitCode::FAILURE };
    if let Some(invariant) = caught.by {
        let edits = under(name, || shrink(caught.seed, invariant));
        println!("reproduce: … --test sim -- --mutant {name} --seed {} --edits '{edits}'", caught.seed);
    }
    ExitCode::SUCCESS
}

fn all_mutants() -> bool {
    catch_all().iter().all(|(_, caught)| caught.is_some())
}

/// Runs all mutants and prints each when it is caught.
fn catch_all() -> Vec<(&'static str, Option<CaughtMutant>)> {
    std::panic::set_hook(Box::new(|_| {}));
    println!("\nmutant                             schedules seconds  caught by      how");
    let mut all = Vec::new();
    for name in mutants::ALL {
        let caught = caught_after(name);
        println!("{}", mutant_line(name, caught.as_ref()));
        all.push((*name, caught));
    }
    let survivors = all.iter().filter(|(_, caught)| caught.is_none()).count();
    let seconds: f64 = all.iter().filter_map(|(_, caught)| Some(caught.as_ref()?.took.as_secs_f64())).sum();
    println!("{} mutants in {seconds:.0} s, {survivors} not caught", all.len());
    all
}

/// Writes the results of all mutants after the marker of the page at `path`.
fn write_table(path: &str) -> ExitCode {
    let page = match std::fs::read_to_string(path) {
        Ok(page) => page,
        Err(error) => {
            println!("{path} cannot be read: {error}");
            return ExitCode::from(2);
        }
    };
    let kept = page.split_inclusive(TABLE_BEGINS).next().unwrap_or_default();
    let mut table = format!(
        "{kept}\n\n| Fault | Caught by | How it showed | Schedules | Seconds |\n|---|---|---|---:|---:|\n"
    );
    let all = catch_all();
    for (name, caught) in &all {
        let row = caught.as_ref().map_or_else(
            || format!("| `{name}` | **not caught** | | {MUTANT_SCHEDULES} | |\n"),
            |caught| {
                let seconds = caught.took.as_secs_f64();
                format!("| `{name}` | {} | {} | {} | {seconds:.1} |\n", caught.by(), caught.what, caught.seed)
            },
        );
        table.push_str(&row);
    }
    if let Err(error) = std::fs::write(path, table) {
        println!("{path} cannot be written: {error}");
        return ExitCode::from(2);
    }
    if all.iter().all(|(_, caught)| caught.is_some()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
