//! Snapshots of interfaces: text files beside this one, compared byte for byte.

use std::fmt::Write;
use std::path::{Path, PathBuf};

const ACCEPT: &str = "TEST_LIGHTERMAN_ACCEPT";

/// Compares each text with the file of its name. Panics with all differences.
pub(crate) fn compare(texts: &[(&str, String)]) {
    let mut differences = String::new();
    for (name, text) in texts {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interfaces").join(name);
        if std::env::var_os(ACCEPT).is_some() {
            std::fs::write(&path, text).expect("written");
        } else if let Some(difference) = difference(&path, text) {
            let _ = write!(differences, "\n{name}:\n{difference}");
        }
    }
    assert!(
        differences.is_empty(),
        "a public interface differs from its snapshot (-) in dataplane/tests/interfaces:\n{differences}\n\
         To accept the change, run `{ACCEPT}=1 cargo test -p lighterman --test interfaces` and commit the files."
    );
}

fn difference(path: &PathBuf, text: &str) -> Option<String> {
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    (kept != text).then(|| {
        let lines = changed_lines(&lines(&kept), &lines(text));
        if lines.is_empty() { "the line feed at the end\n".to_owned() } else { lines }
    })
}

fn lines(text: &str) -> Vec<&str> {
    text.split('\n').collect()
}

/// Returns the lines of `before` that are gone and those of `after` that are new, in order, each with its number.
fn changed_lines(before: &[&str], after: &[&str]) -> String {
    let mut common = vec![vec![0_usize; after.len() + 1]; before.len() + 1];
    for old in (0..before.len()).rev() {
        for new in (0..after.len()).rev() {
            common[old][new] = if before[old] == after[new] {
                common[old + 1][new + 1] + 1
            } else {
                common[old + 1][new].max(common[old][new + 1])
            };
        }
    }
    let (mut old, mut new, mut shown) = (0, 0, String::new());
    while old < before.len() || new < after.len() {
        if old < before.len() && new < after.len() && before[old] == after[new] {
            (old, new) = (old + 1, new + 1);
        } else if old < before.len() && (new == after.len() || common[old + 1][new] >= common[old][new + 1]) {
            let _ = writeln!(shown, "{:4} - {}", old + 1, before[old]);
            old += 1;
        } else {
            let _ = writeln!(shown, "{:4} + {}", new + 1, after[new]);
            new += 1;
        }
    }
    shown
}

#[test]
fn changed_lines_are_shown_alone_and_in_order() {
    let shown = changed_lines(&["a", "b", "c", "d"], &["a", "x", "c", "d", "e"]);
    assert_eq!(shown, "   2 - b\n   2 + x\n   5 + e\n");
}
