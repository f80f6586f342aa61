//! Location and installation of Apache Kafka's jars.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

const JAVA_IS_MISSING: &str = "Kafka needs Java, and `java` cannot be run: install a JDK of 17 or newer";

/// Validates a version of Apache Kafka such as 4.2.1. Returns a message if it is invalid.
pub fn version(text: &str) -> Result<String, String> {
    let is_number =
        |part: &str| (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if text.split('.').count() == 3 && text.split('.').all(is_number) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not a version of Kafka (4.2.1)"))
}

/// Returns the folder of the jars of `version`. Fails if the jars are incomplete or Java is missing.
pub fn jars(version: &str) -> Result<PathBuf> {
    ensure!(runs("java"), JAVA_IS_MISSING);
    let missing = || format!("the jars of Kafka {version} are not here: run .ci/install-kafka {version}");
    complete(workspace()?, version).with_context(missing)
}

/// Installs the jars of `version` from Maven Central unless they are present. The first installation takes minutes.
pub fn install(version: &str) -> Result<()> {
    let workspace = workspace()?;
    ensure!(runs("java"), JAVA_IS_MISSING);
    if complete(workspace, version).is_some() {
        return Ok(());
    }
    ensure!(
        runs("mvn"),
        "the jars of Kafka {version} are not here, and `mvn` cannot be run to bring them: install Maven"
    );
    println!("bringing Kafka {version} from Maven Central, which may take minutes");
    let mut script = Command::new("bash");
    script.arg(workspace.join(".ci/install-kafka")).arg(version);
    let installed = script.status().context("bash")?;
    ensure!(
        installed.success(),
        "Kafka {version} cannot be brought: Maven says above why. Is there such a version, and a network?"
    );
    jars(version).map(|_| ())
}

fn workspace() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")
}

/// Returns the jars below `workspace` if the installation is complete; an interrupted one leaves some of them.
fn complete(workspace: &Path, version: &str) -> Option<PathBuf> {
    let folder = workspace.join("target/kafka").join(version);
    folder.join("complete").is_file().then(|| folder.join("libs"))
}

fn runs(program: &str) -> bool {
    let asked = Command::new(program)
        .arg("-version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Output;

    use super::*;

    #[test]
    fn version_is_exactly_three_numbers() {
        assert_eq!(version("4.2.1").as_deref(), Ok("4.2.1"));
        for other in
            ["", "4", "4.2", "4.2.", "..", "../4.2.1", "4.2.1-rc1", "4.2.x", "127.0.0.1", "4.2.12345"]
        {
            assert!(version(other).expect_err("none").contains("not a version of Kafka"), "{other}");
        }
    }

    /// Runs the installation script in its own workspace, with `maven` in place of Maven.
    fn install_with(maven: &str, workspace: &Path) -> Output {
        let here = super::workspace().expect("a workspace").join(".ci/install-kafka");
        let ci = workspace.join(".ci");
        fs::create_dir_all(&ci).expect("folder");
        fs::copy(here, ci.join("install-kafka")).expect("the script");
        fs::write(ci.join("mvn"), format!("#!/bin/sh\n{maven}\n")).expect("written");
        fs::set_permissions(ci.join("mvn"), fs::Permissions::from_mode(0o755)).expect("to be run");
        let path = format!("{}:{}", ci.display(), std::env::var("PATH").unwrap_or_default());
        let mut script = Command::new("bash");
        script.arg(ci.join("install-kafka")).arg("4.2.1").env("PATH", path).output().expect("bash")
    }

    #[test]
    fn only_incomplete_installation_is_repeated() {
        const COPIES: &str = r#"cd "$(dirname "$4")" && mkdir -p libs && echo x >> libs/kafka.jar"#;
        let workspace = tempfile::tempdir().expect("folder");
        let jar = workspace.path().join("target/kafka/4.2.1/libs/kafka.jar");
        let cut = install_with(&format!("{COPIES}; exit 1"), workspace.path());
        assert!(!cut.status.success() && complete(workspace.path(), "4.2.1").is_none(), "{cut:?}");
        // Killed halfway: the remains are no installation.
        fs::create_dir_all(jar.parent().expect("libs")).expect("folder");
        assert_eq!(complete(workspace.path(), "4.2.1"), None);
        for _ in 0..2 {
            let done = install_with(COPIES, workspace.path());
            assert!(done.status.success(), "{done:?}");
            let libs = complete(workspace.path(), "4.2.1").expect("installed");
            assert_eq!(fs::read_to_string(libs.join("kafka.jar")).expect("there"), "x\n", "once");
        }
    }

    #[test]
    fn missing_version_leaves_no_files() {
        let workspace = tempfile::tempdir().expect("folder");
        let said = install_with("echo 'no such artifact'; exit 1", workspace.path());
        assert!(!said.status.success(), "{said:?}");
        assert!(!workspace.path().join("target/kafka/4.2.1").exists());
    }
}
