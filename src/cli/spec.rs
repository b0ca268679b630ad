//! From a TOML file and flags to a job spec, with every mistake at its place: the document against the schema, then the rules, then whether the files it names are there.
//! Called by `submit` and `spec validate`. Relative paths become absolute here, as the daemon has no working directory that they could mean: they are relative to the spec's
//! folder, or to the working directory when they come from a flag or the spec from standard input.

use std::{
    io,
    path::{Path, PathBuf},
};

use mlctl_protocol::{
    JobSpec,
    spec::{CommandSpec, MAX_SPEC_BYTES, Sources, Work, file_set},
};

use super::{Failure, exit::Exit};
use crate::{
    config::{
        Environment,
        document::{self, Document, Problem},
        env::absolute_in,
    },
    domain::{alias::MODEL_SCHEME, rules},
};

/// What stands for standard input.
pub const STANDARD_INPUT: &str = "-";

/// Where a spec comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A file, or standard input.
    File(&'a str),
    /// A program and its arguments on the command line.
    Command(&'a [String]),
}

/// What a spec says that a command line alone makes: that it fails is the program's business, and what it has done is not done once more unasked.
const COMMAND: &str = "version = 1\nretry = { limit = 0 }\n";

/// What flags lay over a spec.
#[derive(Debug, Default)]
pub struct Overlay<'a> {
    /// `--set key=value`, in order.
    pub set: &'a [String],
    /// `--name`.
    pub name: Option<&'a str>,
    /// `--queue`.
    pub queue: Option<&'a str>,
    /// `--label key=value`.
    pub labels: &'a [(String, String)],
    /// Flags with whole numbers: the flag, the key, the number.
    pub numbers: &'a [(&'static str, &'static [&'static str], Option<u32>)],
    /// `--begin`, as it is written in a spec.
    pub begin: Option<&'a str>,
    /// `--deadline`, as it is written in a spec.
    pub deadline: Option<&'a str>,
    /// `--retry-on`, as exit classes.
    pub retry_on: Option<&'a [&'a str]>,
    /// `--concurrency-key`.
    pub concurrency_key: Option<&'a str>,
    /// `--concurrency`.
    pub concurrency: Option<&'a str>,
    /// `--preemptible`.
    pub preemptible: bool,
    /// `--cwd`.
    pub cwd: Option<&'a str>,
    /// `--checkpoint-dir`.
    pub checkpoint_dir: Option<&'a str>,
    /// `--env key=value`.
    pub env: &'a [(String, String)],
    /// `--after`, as it is written in a spec.
    pub after: Option<&'a [&'a str]>,
    /// `--after-failed`.
    pub after_failed: Option<&'a str>,
}

/// A spec that has passed every check that needs no daemon, and where each of its keys was written.
pub struct Written {
    /// The spec, its paths absolute.
    pub spec: JobSpec,
    document: Document,
}

impl Written {
    /// A spec that has passed every check, and its document.
    pub const fn new(spec: JobSpec, document: Document) -> Self {
        Self { spec, document }
    }

    /// A refusal by the daemon, its mistakes shown where they were written.
    pub fn located(&self, refusal: Failure) -> Failure {
        if refusal.problems.is_empty() {
            return refusal;
        }
        let placed = refusal.problems.into_iter().map(|found| placed(&self.document, found)).collect();
        Failure { code: refusal.code, ..Failure::report(refusal.exit, self.document.report(placed)) }
    }
}

/// Reads and checks a spec.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(source: Source<'_>, overlay: &Overlay<'_>, environment: &Environment) -> Result<JobSpec, Failure> {
    open(source, overlay, environment).map(|written| written.spec)
}

/// [`load`], for who may hear of further mistakes from the daemon.
///
/// # Errors
/// Everything that is wrong with it.
pub fn open(source: Source<'_>, overlay: &Overlay<'_>, environment: &Environment) -> Result<Written, Failure> {
    let Draft { document, folder } = draft(source, overlay, environment)?;
    match examine(&document, &folder, environment) {
        Ok(spec) => Ok(Written { spec, document }),
        Err(problems) => Err(Failure::report(Exit::Invalid, document.report(problems))),
    }
}

/// A spec that is written and not yet checked.
pub struct Draft {
    /// The file with the flags over it.
    pub document: Document,
    /// What relative paths in the file are relative to.
    pub folder: PathBuf,
}

/// Reads a spec without a look at what is in it.
///
/// # Errors
/// The file cannot be read or is no TOML, a flag is no assignment.
pub fn draft(source: Source<'_>, overlay: &Overlay<'_>, environment: &Environment) -> Result<Draft, Failure> {
    let (mut document, folder) = written(source, environment)?;
    let wrong: Vec<_> = overlay.set.iter().filter_map(|set| document.set("--set", set).err()).collect();
    if !wrong.is_empty() {
        return Err(Failure::report(Exit::Usage, document.report(wrong)));
    }
    if let Some(name) = overlay.name {
        document.set_text("--name", &["name"], name);
    }
    if let Some(queue) = overlay.queue {
        document.set_text("--queue", &["queue"], queue);
    }
    for (key, value) in overlay.labels {
        document.set_text("--label", &["labels", key], value);
    }
    if let Some(begin) = overlay.begin {
        document.set_text("--begin", &["time", "begin"], begin);
    }
    if let Some(deadline) = overlay.deadline {
        document.set_text("--deadline", &["time", "deadline"], deadline);
    }
    if let Some(classes) = overlay.retry_on {
        document.set_texts("--retry-on", &["retry", "on"], classes);
    }
    if let Some(key) = overlay.concurrency_key {
        document.set_text("--concurrency-key", &["concurrency", "key"], key);
    }
    if let Some(wins) = overlay.concurrency {
        document.set_text("--concurrency", &["concurrency", "wins"], wins);
    }
    if overlay.preemptible {
        document.set_true("--preemptible", &["preemptible"]);
    }
    if let Some(cwd) = overlay.cwd {
        document.set_text("--cwd", &["command", "cwd"], cwd);
    }
    if let Some(dir) = overlay.checkpoint_dir {
        document.set_text("--checkpoint-dir", &["command", "checkpoint_dir"], dir);
    }
    for (name, value) in overlay.env {
        document.set_text("--env", &["command", "env", name], value);
    }
    if let Some(after) = overlay.after {
        document.set_texts("--after", &["after"], after);
    }
    if let Some(then) = overlay.after_failed {
        document.set_text("--after-failed", &["after_failed"], then);
    }
    for (flag, key, number) in overlay.numbers {
        if let Some(number) = number {
            document.set_integer(flag, key, i64::from(*number));
        }
    }
    // Memory is asked for of one GPU where nothing says of how many.
    let asks_for_vram = overlay.numbers.iter().any(|(flag, _, number)| *flag == "--vram" && number.is_some());
    if asks_for_vram && !document.has("resources.gpus") {
        document.set_integer("--vram", &["resources", "gpus"], 1);
    }
    Ok(Draft { document, folder })
}

/// The document without flags, and the folder that paths in it are relative to.
fn written(source: Source<'_>, environment: &Environment) -> Result<(Document, PathBuf), Failure> {
    let parse =
        |name: &str, text: &str| Document::parse(name, text).map_err(|report| Failure::report(Exit::Invalid, report));
    match source {
        Source::File(file) => {
            let document = parse(file, &read(file, environment)?)?;
            let folder = match file {
                STANDARD_INPUT => environment.working_dir.clone(),
                file => environment.absolute(Path::new(file)).parent().map_or_else(PathBuf::new, Path::to_owned),
            };
            Ok((document, folder))
        }
        Source::Command(argv) => {
            let mut document = parse("command line", COMMAND)?;
            let texts: Vec<&str> = argv.iter().map(String::as_str).collect();
            document.set_text("--name", &["name"], &name_of(texts.first().copied().unwrap_or_default()));
            document.set_texts("--", &["command", "argv"], &texts);
            Ok((document, environment.working_dir.clone()))
        }
    }
}

/// A job's name after its program's.
fn name_of(program: &str) -> String {
    let file = program.rsplit('/').next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = file.chars().take(MAX_NAME_CHARS).map(plain).collect();
    let name = name.trim_start_matches(['-', '.']);
    if name.chars().any(|c| !c.is_ascii_digit()) { name.to_owned() } else { "command".into() }
}

/// Characters that a job's name has from its program's at most.
const MAX_NAME_CHARS: usize = 50;

/// Checks a spec: the schema, the rules, the files that it names, whose paths become absolute.
///
/// # Errors
/// Everything that is wrong with it.
pub fn examine(document: &Document, folder: &Path, environment: &Environment) -> Result<JobSpec, Vec<Problem>> {
    let mut spec: JobSpec = document.parse_as(&mlctl_protocol::spec::schema())?;
    for (path, uri, _) in files(&mut spec.work) {
        let base = if document.is_from_flag(&path) { &environment.working_dir } else { folder };
        if let Some(absolute) = absolute(uri, base) {
            *uri = absolute;
        }
    }
    if let Work::Command(command) = &mut spec.work {
        settle(command, document, folder, environment);
    }
    let mut problems: Vec<_> = rules::misfits(&spec).into_iter().map(|found| placed(document, found)).collect();
    if problems.is_empty() {
        problems.extend(files(&mut spec.work).filter_map(|(path, uri, kind)| missing(document, &path, uri, kind)));
        problems.extend(no_folder(&spec.work, document));
    }
    if problems.is_empty() { Ok(spec) } else { Err(problems) }
}

/// Makes the folder of a command absolute.
fn settle(command: &mut CommandSpec, document: &Document, folder: &Path, environment: &Environment) {
    const PATH: &str = "command.cwd";
    let base = if document.is_from_flag(PATH) { &environment.working_dir } else { folder };
    let cwd = command.cwd.as_ref().map_or_else(|| folder.to_owned(), |cwd| absolute_in(base, Path::new(cwd)));
    command.cwd = cwd.to_str().map(str::to_owned);
}

/// What is wrong with the folder of a command.
fn no_folder(work: &Work, document: &Document) -> Option<Problem> {
    let Work::Command(command) = work else { return None };
    let cwd = Path::new(command.cwd.as_deref()?);
    // One that this user may not look at may still be the daemon's to use.
    let found = cwd.metadata().map(|found| found.is_dir());
    let wrong = match found {
        Ok(true) => return None,
        Ok(false) => "is no folder",
        Err(error) if error.kind() == io::ErrorKind::NotFound => "does not exist",
        Err(_) => return None,
    };
    let problem = document.problem("command.cwd", format!("{} {wrong}", cwd.display()));
    Some(problem.hint("name the folder in which the command is to run; a relative one begins at the spec's folder"))
}

fn read(file: &str, environment: &Environment) -> Result<String, Failure> {
    let most = MAX_SPEC_BYTES as u64;
    let read = match file {
        STANDARD_INPUT => document::read_text(io::stdin().lock(), most),
        file => document::read_file(&environment.absolute(Path::new(file)), most),
    };
    read.map_err(|error| {
        let failure = Failure::caused(format!("read {file}"), &error);
        match error.kind() {
            io::ErrorKind::NotFound => Failure { exit: Exit::Invalid, ..failure }
                .hint("check the path; `mlctl spec init train > job.toml` writes a spec to begin with"),
            _ => Failure { exit: Exit::Invalid, ..failure },
        }
    })
}

/// What a file that a spec names must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A file with rows.
    Data,
    /// A file or a folder with weights.
    Model,
}

/// Where a spec names files: the dotted path, the text, and what must be there. A job's model is no file.
fn files(work: &mut Work) -> impl Iterator<Item = (String, &mut String, Kind)> {
    let Sources { data, weights } = work.sources_mut();
    let data = data
        .into_iter()
        .flat_map(|(path, data)| data.files_mut().map(move |(key, uri)| (format!("{path}.{key}"), uri, Kind::Data)));
    let is_file = |from: &str| !from.starts_with("job:") && !from.starts_with(MODEL_SCHEME);
    let weights = weights.into_iter().filter(move |(_, from)| is_file(from));
    data.chain(weights.map(|(path, from)| (path, from, Kind::Model)))
}

/// A path as a `file://` URI; nothing for what has a scheme already. A pattern is kept as it is behind its folder.
pub fn absolute(uri: &str, folder: &Path) -> Option<String> {
    if uri.is_empty() || uri.contains("://") {
        return None;
    }
    let (path, rest) = match file_set(uri) {
        Some((path, pattern)) => (path, format!("/{pattern}")),
        None => (uri, String::new()),
    };
    absolute_in(folder, Path::new(path)).to_str().map(|path| format!("file://{path}{rest}"))
}

/// A problem where it was written.
pub fn placed(document: &Document, found: rules::Problem) -> Problem {
    let problem = document.problem(&found.path, found.message);
    match found.hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// Whether a file is plainly not there. One that this user may not look at may still be the daemon's to read.
fn missing(document: &Document, path: &str, uri: &str, kind: Kind) -> Option<Problem> {
    let several = if kind == Kind::Data { file_set(uri) } else { None };
    let file = Path::new(several.map_or(uri, |(folder, _)| folder).strip_prefix("file://")?);
    let wanted = if kind == Kind::Data { "a file of rows" } else { "a model's folder, a .safetensors or a .pth file" };
    match file.metadata() {
        Ok(found) if several.is_some() && !found.is_dir() => {
            let hint = "name a folder, `data/`, or a pattern of files in one, `data/part-*.csv`";
            Some(document.problem(path, format!("{} is no folder", file.display())).hint(hint))
        }
        Ok(found) if several.is_none() && found.is_dir() && kind == Kind::Data => Some(
            document
                .problem(path, format!("{} is a folder", file.display()))
                .hint(format!("name {wanted} in it, or end it with `/` for all in it")),
        ),
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let problem = document.problem(path, format!("{} does not exist", file.display()));
            Some(problem.hint(
                meant(file).unwrap_or_else(|| format!("expected {wanted}; paths are relative to the spec's folder")),
            ))
        }
        Err(_) => None,
    }
}

/// The file of the same folder that may have been meant, or the folder that is not there either.
fn meant(file: &Path) -> Option<String> {
    let folder = file.parent()?;
    if !folder.exists() {
        return Some(format!(
            "there is no folder {} either; paths are relative to the spec's folder",
            folder.display()
        ));
    }
    let name = file.file_name()?.to_str()?;
    let names = folder.read_dir().ok()?.take(MAX_NEIGHBOURS);
    let names: Vec<String> = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let near = document::nearest(name, names.iter().map(String::as_str))?;
    Some(format!("did you mean {}?", folder.join(near).display()))
}

/// Files of a folder that are looked at for what was meant.
const MAX_NEIGHBOURS: usize = 1000;

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
