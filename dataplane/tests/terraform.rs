//! Terraform's unmodified `aws_lambda_event_source_mapping` against a node: created with every block that it has
//! for Kafka, read back without a difference, changed and cleared in place, deleted.
//! `TEST_LIGHTERMAN_TERRAFORM_PLUGINS` names a filesystem mirror with the provider `hashicorp/aws`; without it the
//! test prints one line and is skipped.

mod driven;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use self::driven::{DrivenNode, run};

const CONFIGURATION: &str = include_str!("clients/terraform/main.tf");

fn mirror() -> Option<PathBuf> {
    let mirror = std::env::var_os("TEST_LIGHTERMAN_TERRAFORM_PLUGINS").map(PathBuf::from);
    if mirror.is_none() {
        println!("skipped: TEST_LIGHTERMAN_TERRAFORM_PLUGINS names no mirror of Terraform's providers");
    }
    mirror
}

/// A folder with the configuration, and the environment of every command in it.
struct TerraformWorkspace {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl TerraformWorkspace {
    fn new(mirror: &Path, node: &DrivenNode) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("main.tf"), CONFIGURATION).expect("written");
        let installation = format!(
            "provider_installation {{\n  filesystem_mirror {{\n    path = {:?}\n  }}\n}}\n",
            mirror.display().to_string()
        );
        let settings = folder.path().join("terraform.rc");
        fs::write(&settings, installation).expect("written");
        let mut variables = node.variables.clone();
        let told = |name: &str| {
            node.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        };
        variables.extend([
            ("TF_CLI_CONFIG_FILE", settings.display().to_string()),
            ("TF_IN_AUTOMATION", "1".to_owned()),
            ("CHECKPOINT_DISABLE", "1".to_owned()),
            ("TF_VAR_endpoint", told("ENDPOINT").expect("told")),
            ("TF_VAR_servers", told("SERVERS").expect("told")),
        ]);
        Self { folder, variables }
    }

    fn terraform(&self, arguments: &[&str]) -> String {
        let chdir = format!("-chdir={}", self.folder.path().display());
        let all: Vec<&Path> =
            std::iter::once(chdir.as_str()).chain(arguments.iter().copied()).map(Path::new).collect();
        run(Path::new("terraform"), &all, &self.variables)
    }

    /// Applies a stage of the configuration and plans it again: there must be nothing left to change.
    fn apply(&self, stage: &str) -> Value {
        let stage = format!("-var=stage={stage}");
        self.terraform(&["apply", "-auto-approve", "-input=false", "-no-color", &stage]);
        // Exits with code 2 if there is a difference.
        self.terraform(&["plan", "-detailed-exitcode", "-input=false", "-no-color", &stage]);
        let shown = self.terraform(&["output", "-json"]);
        serde_json::from_str(&shown).expect("JSON")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terraform_creates_reads_updates_and_deletes_mapping() {
    let Some(mirror) = mirror() else { return };
    let node = DrivenNode::start().await;
    let workspace = TerraformWorkspace::new(&mirror, &node);
    let judged = tokio::task::spawn_blocking(move || {
        workspace.terraform(&["init", "-input=false", "-no-color"]);
        let made = workspace.apply("made");
        assert_eq!(made["state"]["value"], "Enabled", "{made}");
        let changed = workspace.apply("changed");
        assert_eq!(changed["uuid"], made["uuid"], "changed in place");
        assert_eq!(changed["batch_size"]["value"], 70, "{changed}");
        let bare = workspace.apply("bare");
        assert_eq!(bare["uuid"], made["uuid"], "cleared in place");
        workspace.terraform(&["destroy", "-auto-approve", "-input=false", "-no-color"]);
    });
    judged.await.expect("Terraform is content");
    node.stop().await;
}
