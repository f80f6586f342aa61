//! The house keeps itself in order: what stands at the top, which way the arrows point, how large a file may be, and that
//! cores know nothing of threads, sockets, clocks and chance.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn all_rust_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    rust_files(&root(), &mut files);
    assert!(files.len() > 50, "the walk finds the sources");
    files
}

/// A file without its tests.
fn production(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("readable");
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()
}

#[test]
fn top_level_holds_only_known_entries() {
    let allowed: BTreeSet<&str> = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "LICENSE",
        "rust-toolchain.toml",
        "proto",
        "scaler",
        "dataplane",
        "benches",
        "loadtest",
        "deploy",
        "target",
        "lighterman-data",
    ]
    .into();
    for entry in fs::read_dir(root()).expect("readable").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(name.starts_with('.') || allowed.contains(name.as_str()), "`{name}` at the top level");
    }
}

#[test]
fn crates_depend_in_one_direction() {
    let forbidden = [
        ("proto", &["lighterman-scaler", "lighterman.", "lighterman-sim", "loadtest"][..]),
        ("scaler", &["lighterman.", "lighterman-sim", "loadtest"][..]),
        ("dataplane", &["lighterman-sim", "loadtest", "lighterman-benches"][..]),
        ("dataplane/sim", &["loadtest", "lighterman-benches"][..]),
    ];
    for (package, names) in forbidden {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).expect("readable");
        for name in names {
            assert!(
                !manifest.lines().any(|line| line.starts_with(name)),
                "{package} must not depend on {name}"
            );
        }
    }
}

#[test]
fn files_stay_within_line_limit() {
    for path in all_rust_files() {
        if path.components().any(|part| part.as_os_str() == "tests")
            || path.ends_with("model_tests.rs")
            || path.ends_with("policy_tests.rs")
        {
            continue;
        }
        let lines = production(&path).lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines; split it by concept", path.display());
    }
}

/// Cores beside every `core.rs`, by their paths in `dataplane/src`: files, and folders with all that is in them.
const CORES: &[&str] = &[
    "batcher/results.rs",
    "commits/coalescing.rs",
    "commits/start_plan.rs",
    "commits/verify.rs",
    "control/registry.rs",
    "credit/memory_limit.rs",
    "destination/retry.rs",
    "invoker/facts/questions.rs",
    "invoker/facts/timeout.rs",
    "invoker/outcome.rs",
    "invoker/patience.rs",
    "invoker/retry.rs",
    "invoker/throttle.rs",
    "kafka/fetch/pending.rs",
    "kafka/fetch/session.rs",
    "kafka/fetch/setbacks.rs",
    "kafka/group/assignor.rs",
    "kafka/group/classic.rs",
    "kafka/group/classic/errors.rs",
    "kafka/group/effects.rs",
    "kafka/group/kip848/member.rs",
    "kafka/group/kip848/member/assigned.rs",
    "kafka/group/kip848/member/errors.rs",
    "kafka/group/kip848/session_bounds.rs",
    "kafka/group/member.rs",
    "kafka/group/member_session.rs",
    "kafka/group/operator_errors.rs",
    "kafka/group/owned_partitions.rs",
    "local/broker/coordinator.rs",
    "local/broker/group_messages.rs",
    "local/broker/kip848_coordinator.rs",
    "local/broker/log.rs",
    "messages/outcome.rs",
    "messages/records.rs",
    "messages/resume.rs",
    "partition/attempts",
    "partition/core",
    "partition/effects.rs",
    "partition/progress",
    "partition/reader",
];

#[test]
fn cores_use_no_io_clock_or_randomness() {
    let sources = root().join("dataplane/src");
    for core in CORES {
        assert!(sources.join(core).exists(), "`CORES` names {core}, which is not there");
    }
    let pure = |path: &Path| {
        let text = path.display().to_string();
        let is_named =
            path.strip_prefix(&sources).is_ok_and(|path| CORES.iter().any(|core| path.starts_with(core)));
        is_named || path.ends_with("core.rs") || text.contains("/proto/src/") || text.contains("/scaler/src/")
    };
    let words = [
        "actix",
        "tokio::",
        ".await",
        "Instant::now",
        "SystemTime::now",
        "clock::now",
        "getrandom",
        "rand::",
    ];
    let cores: Vec<PathBuf> = all_rust_files().into_iter().filter(|path| pure(path)).collect();
    assert!(cores.len() > 20, "{} cores", cores.len());
    for path in cores {
        let code: Vec<String> = production(&path)
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(ToOwned::to_owned)
            .collect();
        for word in words {
            let found = code.iter().find(|line| line.contains(word));
            assert!(found.is_none(), "{} uses `{word}`: {found:?}", path.display());
        }
    }
}

#[test]
fn sources_have_no_unfinished_markers() {
    // Written apart, so that this file does not find itself.
    let words =
        [concat!("to", "do!("), concat!("unimpl", "emented!("), concat!("TO", "DO"), concat!("FIX", "ME")];
    for path in all_rust_files() {
        let text = fs::read_to_string(&path).expect("readable");
        for word in words {
            assert!(!text.contains(word), "{} has `{word}`", path.display());
        }
    }
}

/// Words in quotes and backquotes that follow `before`, in `text`.
fn names_after<'t>(text: &'t str, before: &str, quote: char) -> BTreeSet<&'t str> {
    let rest = text.split(before).skip(1);
    rest.filter_map(|rest| rest.trim_start().strip_prefix(quote)?.split(quote).next()).collect()
}

#[test]
fn every_mutant_is_placed_and_documented() {
    let list = fs::read_to_string(root().join("dataplane/src/mutants.rs")).expect("readable");
    let list = list.split("= &[").nth(1).and_then(|list| list.split("];").next()).expect("a list");
    let listed: BTreeSet<&str> = names_after(list, "\n", '"');
    let mut files = Vec::new();
    rust_files(&root().join("dataplane/src"), &mut files);
    let texts: Vec<String> = files.iter().map(|path| fs::read_to_string(path).expect("readable")).collect();
    let placed: BTreeSet<&str> = texts.iter().flat_map(|text| names_after(text, "mutant!(", '"')).collect();
    let page = fs::read_to_string(root().join("dataplane/sim/MUTANTS.md")).expect("readable");
    assert!(listed.len() > 40, "the list is found: {listed:?}");
    assert_eq!(listed, placed, "`ALL` of mutants.rs, and `mutant!` in the sources");
    assert_eq!(listed, names_after(&page, "\n|", '`'), "`ALL` of mutants.rs, and the rows of MUTANTS.md");
}

/// Text after the parenthesis that closes the one which `text` is inside of.
fn after_closing(text: &str) -> &str {
    let mut depth = 1;
    let closing = text.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    closing.map_or("", |at| &text[at + 1..])
}

#[test]
fn every_mutant_is_a_whole_body() {
    let sources = root().join("dataplane/src");
    let mut files = Vec::new();
    rust_files(&sources, &mut files);
    let mut found = 0;
    for path in files {
        let text = fs::read_to_string(&path).expect("readable");
        for (at, opening) in text.match_indices("mutant!(") {
            let signature =
                text[..at].trim_end().strip_suffix('{').and_then(|head| head.rsplit("fn ").next());
            let opens = signature.is_some_and(|signature| !signature.contains(['{', '}']));
            let rest = after_closing(&text[at + opening.len()..]).trim_start_matches(';').trim_start();
            let line = text[at..].lines().next().unwrap_or_default();
            assert!(
                opens && rest.starts_with('}'),
                "{}: not the whole body of a function: {line}",
                path.display()
            );
            found += 1;
        }
    }
    assert!(found > 10, "{found} mutants");
}

/// Pages of the repository.
fn markdown() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let is_ours = !name.starts_with('.') && name != "target" && name != "node_modules";
            if path.is_dir() && is_ours {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

#[test]
fn links_of_pages_lead_to_files() {
    let pages = markdown();
    assert!(pages.len() > 5, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(&page).expect("readable");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let is_elsewhere = link.is_empty() || link.contains("://");
            let there = page.parent().expect("a folder").join(link);
            assert!(is_elsewhere || there.exists(), "{} links to {link}", page.display());
        }
    }
}

/// Ids of hazards in `text`: a letter and a number, as words of their own.
fn hazard_ids(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_id = |word: &&str| {
        let digits = word.strip_prefix(['H', 'D']).unwrap_or_default();
        (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    words.filter(is_id).collect()
}

#[test]
fn named_hazards_are_explained_and_held() {
    let page = fs::read_to_string(root().join("dataplane/HAZARDS.md")).expect("readable");
    let rows: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| H") || line.starts_with("| D")).collect();
    let explained: BTreeSet<&str> =
        rows.iter().filter_map(|row| row.split('|').nth(1)).map(str::trim).collect();
    let texts: Vec<(PathBuf, String)> = all_rust_files()
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).expect("readable")))
        .collect();
    for (path, text) in &texts {
        for line in text.lines() {
            let comment = line.split_once("//").map_or("", |(_, comment)| comment);
            let name = line.split_once("fn ").map_or("", |(_, name)| name).to_uppercase().replace('_', " ");
            for id in hazard_ids(comment).into_iter().chain(hazard_ids(&name)) {
                assert!(
                    explained.contains(id),
                    "{} names {id}, which HAZARDS.md does not explain",
                    path.display()
                );
            }
        }
    }
    for row in &rows {
        let files: Vec<&str> =
            row.rsplit('|').nth(1).into_iter().flat_map(|cell| cell.split('`')).skip(1).step_by(2).collect();
        assert!(!files.is_empty(), "no file holds {row}");
        for file in &files {
            assert!(root().join("dataplane").join(file).is_file(), "{file} is not there: {row}");
        }
        let id = row.split('|').nth(1).unwrap_or_default().trim();
        let names_it = |file: &&str| {
            let text = fs::read_to_string(root().join("dataplane").join(file)).expect("readable");
            hazard_ids(&text).contains(id) || text.contains(&format!("{}_", id.to_lowercase()))
        };
        assert!(files.iter().any(names_it), "no file that holds {id} names it: {row}");
    }
}

#[test]
fn dataplane_readme_lists_each_folder_once() {
    let page = fs::read_to_string(root().join("dataplane/README.md")).expect("readable");
    let rows: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split("/`").next()).collect();
    let layers: Vec<usize> = rows.iter().map(|room| layer_of(room)).collect();
    assert!(layers.is_sorted(), "lowest layer first: {rows:?}");
    for entry in fs::read_dir(root().join("dataplane/src")).expect("readable").flatten() {
        if entry.path().is_dir() {
            let row = format!("\n| `{}/` |", entry.file_name().to_string_lossy());
            assert_eq!(page.matches(&row).count(), 1, "{row}");
        }
    }
}

/// Names that crates of ours may share: what each means is plain where it stands.
const SHARED_NAMES: &[&str] = &["Result", "State"];

#[test]
fn type_name_is_defined_once() {
    let mut defined: BTreeMap<String, PathBuf> = BTreeMap::new();
    let sources = ["proto/src", "scaler/src", "dataplane/src", "dataplane/sim/src", "loadtest/src"];
    let mut files = Vec::new();
    for folder in sources {
        rust_files(&root().join(folder), &mut files);
    }
    for path in files {
        let is_test = path.strip_prefix(root()).expect("inside").to_string_lossy().contains("tests");
        let text = if is_test { String::new() } else { production(&path) };
        for line in text.lines().filter(|line| !line.starts_with(' ')) {
            let line = line.trim_start_matches(|c: char| c != ' ' && line.starts_with("pub")).trim_start();
            let Some(name) =
                ["struct ", "enum ", "trait ", "type "].iter().find_map(|word| line.strip_prefix(word))
            else {
                continue;
            };
            let name: String = name.chars().take_while(|c| c.is_alphanumeric()).collect();
            if let Some(before) = defined.insert(name.clone(), path.clone())
                && !SHARED_NAMES.contains(&name.as_str())
            {
                panic!("{name} is a type in {} and in {}", before.display(), path.display());
            }
        }
    }
    assert!(defined.len() > 500, "{} types", defined.len());
}

/// Layers of `dataplane/src`, lowest first: an import may only point to a lower one. Rooms of one layer do not know each other.
const LAYERS: &[&[&str]] = &[
    &["error", "egress", "hex", "keepalive", "metrics", "mutants"],
    &["runtime"],
    &["credit"],
    &["kafka"],
    &["local", "messages"],
    &["config", "audit"],
    &["telemetry"],
    &["invoker"],
    &["status"],
    &["partition", "batcher", "commits", "destination", "control"],
    &["consumer"],
    &["mapping"],
    &["app"],
    &["cli"],
    &["main", "lib"],
];

fn layer_of(room: &str) -> usize {
    let layer = LAYERS.iter().position(|layer| layer.contains(&room));
    layer.unwrap_or_else(|| panic!("`LAYERS` does not name {room}"))
}

#[test]
fn imports_point_only_to_lower_layers() {
    let sources = root().join("dataplane/src");
    let mut files = Vec::new();
    rust_files(&sources, &mut files);
    let mut arrows = 0;
    for path in files {
        let relative = path.strip_prefix(&sources).expect("inside").to_string_lossy().into_owned();
        let room = relative.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        if relative.contains("tests") {
            continue;
        }
        let text = production(&path);
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for target in line.split("crate::").skip(1) {
                let target =
                    target.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                let is_inside = target == room || target.is_empty();
                arrows += usize::from(!is_inside);
                assert!(
                    is_inside || layer_of(target) < layer_of(room),
                    "{relative} imports {target}, which is not below {room}"
                );
            }
        }
    }
    assert!(arrows > 300, "{arrows} imports between rooms");
}

/// Words that the field does not use: each has a term of Kafka's, AWS's or actix's.
const RETIRED_WORDS: &[&str] = &["desk", "shelf", "burial", "errand", "ordeal", "whoever", "anew"];

#[test]
fn docs_avoid_question_and_retired_words() {
    let question_words = ["What", "Which", "Who", "Whom", "Whose", "Where", "How", "Why", "Whoever"];
    let (mut docs, mut questions) = (0, 0);
    let mut files = Vec::new();
    for folder in ["proto/src", "scaler/src", "dataplane/src", "dataplane/sim/src", "loadtest/src"] {
        rust_files(&root().join(folder), &mut files);
    }
    for path in files {
        let text = fs::read_to_string(&path).expect("readable");
        let mut is_inside = false;
        for line in text.lines().map(str::trim_start) {
            let doc = line.strip_prefix("/// ").or_else(|| line.strip_prefix("//! "));
            if let Some(doc) = doc.filter(|_| !is_inside) {
                docs += 1;
                questions +=
                    usize::from(doc.split(' ').next().is_some_and(|word| question_words.contains(&word)));
            }
            is_inside = doc.is_some();
            let words = doc.unwrap_or_default().split(|c: char| !c.is_alphabetic());
            let retired = words.map(str::to_lowercase).find(|word| RETIRED_WORDS.contains(&word.as_str()));
            assert!(retired.is_none(), "{} says {retired:?}: {line}", path.display());
        }
    }
    assert!(docs > 3_000 && questions * 50 <= docs, "{questions} of {docs} docs open with a question word");
}

const TEST_NAME_WORDS_MAX: usize = 8;

/// Invariants that a test's name may open with, each before its number.
const INVARIANTS: &[&str] = &["own", "ord", "alo", "com", "drn", "liv", "mem", "lim", "slt"];

/// Number of words in a test's name, without the ids of invariants and hazards that it opens with.
fn words_of_test_name(name: &str) -> usize {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let words: Vec<&str> = name.split('_').collect();
    let mut rest = &words[..];
    loop {
        rest = match rest {
            [id, number, rest @ ..] if INVARIANTS.contains(id) && is_number(number) => rest,
            [id, rest @ ..] if id.strip_prefix(['h', 'd']).is_some_and(is_number) => rest,
            _ => return rest.len(),
        };
    }
}

#[test]
fn test_names_stay_within_word_limit() {
    let mut names = 0;
    for path in all_rust_files() {
        let text = fs::read_to_string(&path).expect("readable");
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            let attribute = line.strip_prefix("#[").and_then(|line| line.split(['(', ']']).next());
            is_test |= attribute.is_some_and(|path| path == "test" || path.ends_with("::test"));
            let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test && attribute.is_none()) else {
                continue;
            };
            is_test = false;
            names += 1;
            let name = rest.split('(').next().unwrap_or_default();
            let words = words_of_test_name(name);
            assert!(words <= TEST_NAME_WORDS_MAX, "{} has {words} words in `{name}`", path.display());
        }
    }
    assert!(names > 700, "{names} tests");
}
