//! The rules of a command job.

use std::path::{Component, Path};

use mlctl_protocol::spec::CommandSpec;

use super::Problem;

/// Variables of an environment.
const MAX_VARIABLES: usize = 256;

/// The longest name of a variable, or of a parameter.
const MAX_NAME_BYTES: usize = 100;

/// The longest value of a variable, in bytes: the kernel takes 128 KiB, its name included.
const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Arguments and variables together, in bytes: the kernel takes 2 MiB where stacks are as large as usual.
const MAX_BYTES: usize = 192 * 1024;

/// Parameters.
const MAX_PARAMS: usize = 64;

/// What stands before the variables that say where a command runs.
const RESERVED: &str = "ML_";

pub(super) fn problems(command: &CommandSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    let arguments = command.arguments();
    found.extend(program(&arguments));
    found.extend(arguments.iter().enumerate().filter(|(_, argument)| argument.contains('\0')).map(|(index, _)| {
        Problem::new(format!("command.argv[{index}]"), "an argument has no NUL in it", "pass binary data in a file")
    }));
    found.extend(folder(command.cwd.as_deref()));
    found.extend(checkpoints(command.checkpoint_dir.as_deref()));
    found.extend(variables(command));
    found.extend(params(command));
    let variables = command.env.iter().map(|(name, value)| name.len() + value.len());
    let bytes: usize = arguments.iter().map(String::len).chain(variables).sum();
    if bytes > MAX_BYTES {
        let message = format!("arguments and variables have {MAX_BYTES} bytes together at most, found {bytes}");
        found.push(Problem::new("command", message, "put long texts into a file"));
    }
    found
}

fn program(arguments: &[String]) -> Option<Problem> {
    let program = arguments.first()?;
    (program.is_empty() || program.ends_with('/')).then(|| {
        let hint = "name one that PATH finds, such as \"python3\", or a path, such as \"./train.sh\"";
        Problem::new("command.argv[0]", format!("{program:?} is no program"), hint)
    })
}

fn folder(cwd: Option<&str>) -> Option<Problem> {
    const PATH: &str = "command.cwd";
    match cwd {
        Some(cwd) if cwd.contains('\0') => Some(Problem::new(PATH, "a path has no NUL in it", "take it away")),
        Some(cwd) if cwd.starts_with('/') => None,
        Some(cwd) => {
            let message = format!("{:?} is no absolute path", cwd.chars().take(100).collect::<String>());
            Some(Problem::new(PATH, message, "the daemon has no working directory that it could mean"))
        }
        None => Some(Problem::new(PATH, "the folder in which it runs is missing", "name one by its absolute path")),
    }
}

fn checkpoints(dir: Option<&str>) -> Option<Problem> {
    const PATH: &str = "command.checkpoint_dir";
    let dir = dir?;
    if dir.contains('\0') {
        return Some(Problem::new(PATH, "a path has no NUL in it", "take it away"));
    }
    let leads_out = Path::new(dir).components().any(|step| step == Component::ParentDir);
    leads_out.then(|| {
        let message = "the path of the checkpoint folder has no `..` in it";
        Problem::new(PATH, message, "write it without; a relative one begins at the attempt's own folder")
    })
}

fn variables(command: &CommandSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    if command.env.len() > MAX_VARIABLES {
        let message = format!("a command has {MAX_VARIABLES} variables at most, found {}", command.env.len());
        found.push(Problem::new("command.env", message, "put them into a file that it reads"));
    }
    for (name, value) in &command.env {
        let path = format!("command.env.{name}");
        if !is_name(name) {
            let shown: String = name.chars().take(MAX_NAME_BYTES).collect();
            let message = format!("{shown:?} cannot be the name of a variable");
            found.push(Problem::new(
                path,
                message,
                "use 1 to 100 letters and digits of ASCII and `_`, and no digit first",
            ));
        } else if name.starts_with(RESERVED) {
            let message = format!("variables that begin with {RESERVED} say where the job runs, and are set by mld");
            found.push(Problem::new(path, message, "choose another name"));
        } else if value.len() > MAX_VALUE_BYTES {
            let message = format!("a variable has {MAX_VALUE_BYTES} bytes at most, found {}", value.len());
            found.push(Problem::new(path, message, "put long texts into a file"));
        } else if value.contains('\0') {
            found.push(Problem::new(path, "a variable has no NUL in it", "pass binary data in a file"));
        }
    }
    found
}

fn params(command: &CommandSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    if command.params.len() > MAX_PARAMS {
        let message = format!("a command has {MAX_PARAMS} parameters at most, found {}", command.params.len());
        found.push(Problem::new("command.params", message, "put the others into a file that it reads"));
    }
    for name in command.params.keys() {
        let path = format!("command.params.{name}");
        let placeholder = format!("{{{name}}}");
        if !is_name(name) {
            let shown: String = name.chars().take(MAX_NAME_BYTES).collect();
            let message = format!("{shown:?} cannot be the name of a parameter");
            found.push(Problem::new(
                path,
                message,
                "use 1 to 100 letters and digits of ASCII and `_`, and no digit first",
            ));
        } else if !command.argv.iter().any(|argument| argument.contains(&placeholder)) {
            let message = format!("no argument has {placeholder} in it, so that the parameter changes nothing");
            found.push(Problem::new(path, message, format!("write {placeholder} where its value is to stand")));
        }
    }
    found
}

fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty()
        && text.len() <= MAX_NAME_BYTES
        && text.chars().all(plain)
        && !text.starts_with(|c: char| c.is_ascii_digit())
}
