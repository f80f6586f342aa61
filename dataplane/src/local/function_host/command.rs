//! What runs as a function: from what a person writes to a program with arguments.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

/// The hidden subcommand under which this program is the sample function.
pub const SAMPLE_SUBCOMMAND: &str = "sample-function";

/// A program that speaks the Runtime API, and how to start it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where it runs: the folder of the code.
    pub directory: PathBuf,
    /// `_HANDLER`.
    pub handler: String,
    /// As `GetFunctionConfiguration` names it.
    pub runtime: &'static str,
}

/// Which interpreters run Python and Node functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreters {
    /// A Python 3 that has `awslambdaric`.
    pub python: PathBuf,
    /// Node.
    pub node: PathBuf,
}

impl Default for Interpreters {
    fn default() -> Self {
        Self { python: "python3".into(), node: "node".into() }
    }
}

/// Why a function cannot be run.
#[derive(Debug, Error)]
pub enum FunctionCommandError {
    /// Nothing there.
    #[error(
        "there is no function `{0}`: give an executable, `app.handler` of app.py, or `index.handler` of index.js or index.mjs"
    )]
    NotFound(String),
    /// A file that may not be run.
    #[error("{0} is not executable: `chmod +x` it, or name a Python or Node handler as `file.handler`")]
    NotExecutable(PathBuf),
    /// No Python.
    #[error("{function} needs Python, but `{program}` cannot be run: {source}. Install Python 3")]
    Python {
        /// The function.
        function: String,
        /// What was tried.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// No runtime client for Python.
    #[error("{function} needs the Lambda runtime of Python: run `{program} -m pip install awslambdaric`")]
    PythonRuntime {
        /// The function.
        function: String,
        /// The interpreter.
        program: PathBuf,
    },
    /// No runtime client for Node.
    #[error("{function} needs the Lambda runtime of Node: run `npm install aws-lambda-ric` in {directory}")]
    NodeRuntime {
        /// The function.
        function: String,
        /// Where.
        directory: PathBuf,
    },
    /// We do not know our own path.
    #[error("the sample function is this program itself, whose path cannot be read: {0}")]
    Ourselves(io::Error),
}

impl FunctionCommand {
    /// The built-in sample: this very program again.
    pub fn sample() -> Result<Self, FunctionCommandError> {
        Ok(Self::sample_of(std::env::current_exe().map_err(FunctionCommandError::Ourselves)?))
    }

    /// The built-in sample of the `lighterman` program at `program`.
    pub fn sample_of(program: PathBuf) -> Self {
        let args = vec![SAMPLE_SUBCOMMAND.into()];
        Self { program, args, directory: ".".into(), handler: "sample".into(), runtime: "provided.al2023" }
    }

    /// Finds what a person means: an executable, `dir/app.handler` (Python) or `dir/index.handler` (Node).
    pub fn resolve(text: &str, interpreters: &Interpreters) -> Result<Self, FunctionCommandError> {
        let path = Path::new(text);
        if path.is_file() {
            return Self::executable(path);
        }
        let (folder, handler) = folder_and_handler(path);
        let Some((module, _)) =
            handler.rsplit_once('.').filter(|(module, name)| !module.is_empty() && !name.is_empty())
        else {
            return Err(FunctionCommandError::NotFound(text.into()));
        };
        let has = |extension: &str| folder.join(format!("{module}.{extension}")).is_file();
        if has("py") {
            return Self::python(text, &folder, handler, interpreters);
        }
        if ["js", "mjs", "cjs"].into_iter().any(has) {
            return Self::node(text, &folder, handler, interpreters);
        }
        Err(FunctionCommandError::NotFound(text.into()))
    }

    fn executable(path: &Path) -> Result<Self, FunctionCommandError> {
        use std::os::unix::fs::PermissionsExt;
        let program = path.canonicalize().unwrap_or_else(|_| path.into());
        let mode = program.metadata().map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o111 == 0 {
            return Err(FunctionCommandError::NotExecutable(program));
        }
        let directory = program.parent().unwrap_or(Path::new("/")).into();
        Ok(Self {
            program,
            args: Vec::new(),
            directory,
            handler: "bootstrap".into(),
            runtime: "provided.al2023",
        })
    }

    fn python(
        text: &str,
        folder: &Path,
        handler: String,
        interpreters: &Interpreters,
    ) -> Result<Self, FunctionCommandError> {
        let program = interpreters.python.clone();
        let mut probe = Command::new(&program);
        probe
            .args(["-c", "import awslambdaric"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match probe.status() {
            Err(source) => Err(FunctionCommandError::Python { function: text.into(), program, source }),
            Ok(status) if !status.success() => {
                Err(FunctionCommandError::PythonRuntime { function: text.into(), program })
            }
            Ok(_) => {
                let args = ["-m".into(), "awslambdaric".into(), handler.clone().into()].to_vec();
                Ok(Self { program, args, directory: folder.into(), handler, runtime: "python3.13" })
            }
        }
    }

    fn node(
        text: &str,
        folder: &Path,
        handler: String,
        interpreters: &Interpreters,
    ) -> Result<Self, FunctionCommandError> {
        let absolute = folder.canonicalize().unwrap_or_else(|_| folder.into());
        let in_folder = |folder: &Path| folder.join("node_modules/aws-lambda-ric/bin/index.mjs");
        let Some(client) = absolute.ancestors().map(in_folder).find(|path| path.is_file()) else {
            return Err(FunctionCommandError::NodeRuntime { function: text.into(), directory: absolute });
        };
        let args = vec![client.into(), handler.clone().into()];
        let program = interpreters.node.clone();
        Ok(Self { program, args, directory: absolute, handler, runtime: "nodejs22.x" })
    }
}

fn folder_and_handler(path: &Path) -> (PathBuf, String) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let handler = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    (folder.into(), handler)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_function_names_its_mend() {
        let folder = tempfile::tempdir().expect("folder");
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        for name in ["app.py", "index.mjs", "plain"] {
            std::fs::write(path(name), "").expect("file");
        }
        let missing = Interpreters { python: "/nowhere/python".into(), node: "node".into() };
        let without = Interpreters { python: "false".into(), node: "node".into() };
        let said = |name: &str, with: &Interpreters| {
            FunctionCommand::resolve(&path(name), with).expect_err("wrong").to_string()
        };
        assert!(said("other.handler", &missing).contains("there is no function"));
        assert!(said("plain", &missing).contains("chmod +x"));
        assert!(said("app.handler", &missing).contains("Install Python 3"));
        assert!(said("app.handler", &without).contains("false -m pip install awslambdaric"));
        assert!(said("index.handler", &missing).contains("npm install aws-lambda-ric"));
    }
}
