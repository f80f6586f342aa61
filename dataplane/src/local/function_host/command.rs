//! Resolution of a function's name to the program and arguments that run it.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

/// Hidden subcommand that runs this program as the sample function.
pub const SAMPLE_SUBCOMMAND: &str = "sample-function";

/// Program that speaks the Runtime API, with its arguments and directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionCommand {
    /// Executable.
    pub program: PathBuf,
    /// Arguments of the executable.
    pub args: Vec<OsString>,
    /// Working directory: the folder of the code.
    pub directory: PathBuf,
    /// Value of `_HANDLER`.
    pub handler: String,
    /// Runtime as `GetFunctionConfiguration` names it.
    pub runtime: &'static str,
}

/// Interpreters of Python and Node functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterpreterPaths {
    /// Python 3 with `awslambdaric`.
    pub python: PathBuf,
    /// Node.js interpreter.
    pub node: PathBuf,
}

impl Default for InterpreterPaths {
    fn default() -> Self {
        Self { python: "python3".into(), node: "node".into() }
    }
}

/// Reason that a function cannot be run.
#[derive(Debug, Error)]
pub enum FunctionCommandError {
    /// No executable or handler of that name exists.
    #[error(
        "there is no function `{function}` in {directory}: give an executable, `app.handler` of app.py, `package.app.handler` \
         or `package/app.handler` of package/app.py, or `index.handler` of index.js or index.mjs"
    )]
    NotFound {
        /// Function as it was named.
        function: String,
        /// Folder that was searched.
        directory: PathBuf,
    },
    /// File without the executable bit.
    #[error("{0} is not executable: `chmod +x` it, or name a Python or Node handler as `file.handler`")]
    NotExecutable(PathBuf),
    /// Python cannot be run.
    #[error("{function} needs Python, but `{program}` cannot be run: {source}. Install Python 3")]
    Python {
        /// Function as it was named.
        function: String,
        /// Interpreter that failed.
        program: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Python has no `awslambdaric`.
    #[error("{function} needs the Lambda runtime of Python: run `{program} -m pip install awslambdaric`")]
    PythonRuntime {
        /// Function as it was named.
        function: String,
        /// Interpreter without it.
        program: PathBuf,
    },
    /// Node has no `aws-lambda-ric`.
    #[error("{function} needs the Lambda runtime of Node: run `npm install aws-lambda-ric` in {directory}")]
    NodeRuntime {
        /// Function as it was named.
        function: String,
        /// Folder of the function.
        directory: PathBuf,
    },
    /// Path of this program cannot be read.
    #[error("the sample function is this program itself, whose path cannot be read: {0}")]
    Ourselves(io::Error),
}

impl FunctionCommand {
    /// Returns the built-in sample, run by this program.
    pub fn sample() -> Result<Self, FunctionCommandError> {
        Ok(Self::sample_of(std::env::current_exe().map_err(FunctionCommandError::Ourselves)?))
    }

    /// Returns the built-in sample of the `lighterman` program at `program`.
    pub fn sample_of(program: PathBuf) -> Self {
        let args = vec![SAMPLE_SUBCOMMAND.into()];
        Self { program, args, directory: ".".into(), handler: "sample".into(), runtime: "provided.al2023" }
    }

    /// Resolves an executable, or a handler in Lambda's notation. Modules are imported from `project`, the equivalent
    /// of `LAMBDA_TASK_ROOT`: `package.app.handler` and `package/app.handler` both mean package/app.py, which may
    /// import its siblings as `package.…`. A path outside of `project` has its own folder as the project.
    pub fn resolve(
        text: &str,
        project: &Path,
        interpreters: &InterpreterPaths,
    ) -> Result<Self, FunctionCommandError> {
        let path = project.join(text);
        if path.is_file() {
            return Self::executable(&path);
        }
        let (root, handler) = import_root(text, project);
        let not_found = || FunctionCommandError::NotFound { function: text.into(), directory: root.clone() };
        if python_module(&handler).is_some_and(|module| is_python_module(&root, &module)) {
            return Self::python(text, &root, handler, interpreters);
        }
        let is_file = |module: &str, extension: &str| root.join(format!("{module}.{extension}")).is_file();
        let module = node_module(&handler).ok_or_else(not_found)?;
        if ["js", "mjs", "cjs"].into_iter().any(|extension| is_file(&module, extension)) {
            return Self::node(text, &root, handler, interpreters);
        }
        Err(not_found())
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
        interpreters: &InterpreterPaths,
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
        interpreters: &InterpreterPaths,
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

/// Returns the folder that modules are imported from, and the handler relative to it.
fn import_root(text: &str, project: &Path) -> (PathBuf, String) {
    let path = Path::new(text);
    let inside = path.strip_prefix(project).unwrap_or(path);
    let stays_inside =
        inside.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if stays_inside {
        let parts: Vec<_> =
            inside.iter().filter(|part| *part != ".").map(|part| part.to_string_lossy()).collect();
        return (project.into(), parts.join("/"));
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let handler = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    (project.join(folder), handler)
}

/// Returns the module path of a Python handler: all but the last of the names between dots and slashes, as
/// `awslambdaric` reads it.
fn python_module(handler: &str) -> Option<String> {
    let (module, name) = handler.rsplit_once('.')?;
    let module = module.replace('.', "/");
    let is_named = !name.is_empty() && !name.contains('/') && module.split('/').all(|part| !part.is_empty());
    is_named.then_some(module)
}

fn is_python_module(root: &Path, module: &str) -> bool {
    root.join(format!("{module}.py")).is_file() || root.join(module).join("__init__.py").is_file()
}

/// Returns the module path of a Node handler: up to the first dot of its last part, as `aws-lambda-ric` reads it.
fn node_module(handler: &str) -> Option<String> {
    let (folder, last) = handler.rsplit_once('/').map_or(("", handler), |(folder, last)| (folder, last));
    let (module, name) = last.split_once('.')?;
    let is_named = !module.is_empty() && !name.is_empty();
    is_named.then(|| if folder.is_empty() { module.into() } else { format!("{folder}/{module}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unresolvable_function_error_names_its_fix() {
        let folder = tempfile::tempdir().expect("folder");
        for name in ["app.py", "index.mjs", "plain"] {
            std::fs::write(folder.path().join(name), "").expect("file");
        }
        let missing = InterpreterPaths { python: "/nowhere/python".into(), node: "node".into() };
        let without = InterpreterPaths { python: "false".into(), node: "node".into() };
        let said = |name: &str, with: &InterpreterPaths| {
            FunctionCommand::resolve(name, folder.path(), with).expect_err("wrong").to_string()
        };
        assert!(said("other.handler", &missing).contains("there is no function"));
        assert!(said("other", &missing).contains(&folder.path().display().to_string()));
        assert!(said("plain", &missing).contains("chmod +x"));
        assert!(said("app.handler", &missing).contains("Install Python 3"));
        assert!(said("app.handler", &without).contains("false -m pip install awslambdaric"));
        assert!(said("index.handler", &missing).contains("npm install aws-lambda-ric"));
    }

    #[test]
    fn handler_resolves_with_project_as_import_root() {
        let project = tempfile::tempdir().expect("folder");
        let root = project.path();
        std::fs::create_dir_all(root.join("pkg/sub")).expect("folders");
        for name in ["app.py", "pkg/app.py", "pkg/sub/__init__.py"] {
            std::fs::write(root.join(name), "").expect("file");
        }
        // `true` succeeds with any arguments, so that no Python is needed.
        let any = InterpreterPaths { python: "true".into(), node: "node".into() };
        let found = |text: &str, project: &Path| {
            let command = FunctionCommand::resolve(text, project, &any).expect("found");
            (command.directory, command.handler)
        };
        let in_project = |handler: &str| (root.to_path_buf(), handler.to_owned());
        for text in ["app.handler", "pkg.app.handler", "pkg/app.handler", "pkg.sub.handler"] {
            assert_eq!(found(text, root), in_project(text));
        }
        assert_eq!(found("./pkg/app.handler", root), in_project("pkg/app.handler"));
        let absolute = root.join("pkg/app.handler").display().to_string();
        assert_eq!(found(&absolute, root), in_project("pkg/app.handler"));
        let elsewhere = tempfile::tempdir().expect("folder");
        assert_eq!(found(&absolute, elsewhere.path()), (root.join("pkg"), "app.handler".to_owned()));
        let (up, handler) = found("../app.handler", &root.join("pkg"));
        assert_eq!(
            (up.canonicalize().expect("there"), handler.as_str()),
            (root.canonicalize().expect("there"), "app.handler")
        );
    }

    #[test]
    fn node_module_ends_at_first_dot() {
        assert_eq!(node_module("src/index.a.handler").as_deref(), Some("src/index"));
        assert_eq!(node_module("index.handler").as_deref(), Some("index"));
        assert_eq!(node_module("src.d/index"), None);
        assert_eq!(python_module("a.b/c.handler").as_deref(), Some("a/b/c"));
        assert_eq!(python_module("a..handler"), None);
    }
}
