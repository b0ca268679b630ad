//! What a spec names outside itself: files that must be there, a job whose model is meant, jobs that it waits for. Called by `submit` before a job is kept. The daemon reads none of it: a
//! worker does, and finds what is wrong inside.

use std::{
    io,
    path::{Path, PathBuf},
};

use mlctl_artifacts::{keys, shards, uri};
use mlctl_protocol::{
    JobSpec,
    spec::{CommandSpec, DataSource, Work, file_set},
};
use rustix::fs::Access;
use tokio::fs;

use super::{Shared, after, datasets, error::Failure};
use crate::{
    domain::{
        JobState,
        alias::{MODEL_SCHEME, Reference},
        registry::is_within,
        rules::{self, Problem},
    },
    store::StoreError,
};

/// Checks what the spec names, adds what is wrong to `problems`, and puts into the spec what is to be kept: URIs for paths, a model for a job.
pub(super) async fn resolve(api: &Shared, spec: &mut JobSpec, problems: &mut Vec<Problem>) -> Result<(), Failure> {
    after::resolve(api, spec, problems).await?;
    let roots = canonical(&api.policy().data_roots).await;
    let sources = spec.work.sources_mut();
    for (path, from) in sources.weights {
        problems.extend(model(api, &path, from, &roots).await?);
    }
    for (path, read) in sources.data {
        problems.extend(datasets::pin(api, path, read).await?);
        problems.extend(data(api, path, read, &roots).await);
    }
    if let Work::Command(command) = &mut spec.work {
        problems.extend(runnable(command).await);
    }
    Ok(())
}

/// What is wrong with a spec that reads a version of a dataset, by what that is of: the rules of its format. None of any other.
pub(super) fn of_pinned(spec: &JobSpec) -> Vec<Problem> {
    let is_pinned = |data: &DataSource| matches!(data, DataSource::Dataset { pinned: Some(_), .. });
    if spec.work.data().into_iter().any(is_pinned) { rules::problems(spec) } else { Vec::new() }
}

/// The folders that may be read from, as the kernel knows them.
#[derive(Debug, Clone)]
enum Roots {
    Any,
    Only(Vec<PathBuf>),
}

async fn canonical(roots: &[PathBuf]) -> Roots {
    if roots.is_empty() {
        return Roots::Any;
    }
    let mut found = Vec::with_capacity(roots.len());
    for root in roots {
        // One that is not there holds nothing.
        found.extend(fs::canonicalize(root).await);
    }
    Roots::Only(found)
}

async fn data(api: &Shared, path: &str, data: &mut DataSource, roots: &Roots) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let DataSource::Dataset { dataset, pinned: Some(pinned), .. } = data {
        for uri in [Some(&pinned.uri), pinned.targets_uri.as_ref()].into_iter().flatten() {
            // What was pushed is in the storage itself, where no root has to allow it.
            let roots = if is_pushed(api, uri) { &Roots::Any } else { roots };
            if let Err(wrong) = unchanged(api, uri, roots).await {
                let message = format!("{dataset} cannot be read: {}", wrong.message);
                problems.push(Wrong { message, ..wrong }.at(&format!("{path}.dataset")));
            }
        }
    }
    for (key, uri) in data.files_mut() {
        let found = match file_set(uri) {
            Some((folder, pattern)) => several(api, folder, pattern, roots).await,
            None => place(api, uri, roots, Kind::File).await,
        };
        match found {
            Ok(kept) => *uri = kept,
            Err(wrong) => problems.push(wrong.at(&format!("{path}.{key}"))),
        }
    }
    problems
}

/// Whether files lie where `mlctl dataset push` brings them.
fn is_pushed(api: &Shared, uri: &str) -> bool {
    is_within(uri, &keys::pushed_uri(&api.config.storage_url, &api.store.instance().id))
}

/// Whether the files of a dataset are there and may be read, by the very name that its manifest has.
async fn unchanged(api: &Shared, uri: &str, roots: &Roots) -> Result<(), Wrong> {
    let kept = match file_set(uri) {
        Some((folder, pattern)) => several(api, folder, pattern, roots).await?,
        None => place(api, uri, roots, Kind::File).await?,
    };
    if matches!(roots, Roots::Only(_)) && kept != uri {
        let message = format!("{uri} leads over a link to {kept}");
        return Err(Wrong::new(message, "add the dataset by the name without links, with `mlctl dataset add`"));
    }
    Ok(())
}

/// The URI to be kept for files by their folder and pattern. On a local disk one at least must be there.
async fn several(api: &Shared, folder: &str, pattern: &str, roots: &Roots) -> Result<String, Wrong> {
    const SYNTAX: &str = "`*` and `?` stand for parts of a name, `**/` for folders, [0-9] for one of these";
    if let Some(why) = shards::problem(pattern) {
        return Err(Wrong::new(format!("{pattern:?} is no pattern of files: {why}"), SYNTAX));
    }
    let kept = place(api, folder, roots, Kind::Folder).await?;
    if matches!(uri::to_path(&kept), Ok(Some(_))) {
        let found = shards::find(&api.artifacts, &kept, pattern).await;
        let found = found.map_err(|error| Wrong::new(error.to_string(), "name a folder with these files alone"))?;
        if found.is_empty() {
            let which = if pattern.is_empty() { String::new() } else { format!(" that matches {pattern:?}") };
            return Err(Wrong::new(format!("there is no file{which} in {folder}"), SYNTAX));
        }
    }
    Ok(format!("{kept}/{pattern}"))
}

/// What keeps a command from running: its folder, and its program where that is named by its path. What PATH finds depends on the environment, and is found by the worker.
async fn runnable(command: &CommandSpec) -> Option<Problem> {
    let cwd = Path::new(command.cwd.as_deref().filter(|cwd| cwd.starts_with('/'))?);
    let folder = async {
        let found = fs::metadata(cwd).await.map_err(|error| unreadable(cwd, &error))?;
        if !found.is_dir() {
            return Err(Wrong::new(format!("{} is no folder", cwd.display()), "name the folder in which it is to run"));
        }
        // A call that answers at once: what it asks of was just looked at.
        rustix::fs::access(cwd, Access::EXEC_OK).map_err(|error| unreadable(cwd, &error.into()))
    };
    if let Err(wrong) = folder.await {
        return Some(wrong.at("command.cwd"));
    }
    let name = command.arguments().into_iter().next().filter(|name| name.contains('/') && !name.contains('\0'))?;
    let file = cwd.join(name.trim_start_matches("./"));
    let shown = file.display();
    let wrong = match fs::metadata(&file).await {
        Ok(found) if !found.is_file() => Wrong::new(format!("{shown} is no file"), "name a program"),
        Ok(_) => {
            rustix::fs::access(&file, Access::EXEC_OK).err()?;
            let hint = format!("make it executable for mld's user: `chmod +x {shown}`");
            Wrong::new(format!("{shown} may not be executed by the daemon's user"), hint)
        }
        Err(error) => unreadable(&file, &error),
    };
    Some(wrong.at("command.argv[0]"))
}

async fn model(api: &Shared, path: &str, from: &mut String, roots: &Roots) -> Result<Option<Problem>, Failure> {
    if let Some(reference) = from.strip_prefix("job:") {
        return Ok(match model_of(api, reference).await? {
            Ok(uri) => {
                *from = uri;
                None
            }
            Err(wrong) => Some(wrong.at(path)),
        });
    }
    if let Some(reference) = from.strip_prefix(MODEL_SCHEME) {
        return Ok(match version_of(api, reference).await? {
            Ok(uri) => {
                *from = uri;
                None
            }
            Err(wrong) => Some(wrong.at(path)),
        });
    }
    // Checkpoints and models of this daemon's own may always be used.
    let roots = match (roots, uri::to_path(&api.config.storage_url)) {
        (Roots::Only(roots), Ok(Some(own))) => {
            Roots::Only(roots.iter().cloned().chain(fs::canonicalize(own).await).collect())
        }
        _ => roots.clone(),
    };
    Ok(match place(api, from, &roots, Kind::Model).await {
        Ok(kept) => {
            *from = as_stored(api, kept).await;
            None
        }
        Err(wrong) => Some(wrong.at(path)),
    })
}

/// The URI of weights: in this daemon's own storage as it names them itself, whatever links led there, since what is needed is known by name.
async fn as_stored(api: &Shared, kept: String) -> String {
    let prefix = api.config.storage_url.trim_end_matches('/');
    let (Ok(Some(own)), Ok(Some(path))) = (uri::to_path(prefix), uri::to_path(&kept)) else { return kept };
    let (Ok(own), Ok(real)) = (fs::canonicalize(own).await, fs::canonicalize(path).await) else { return kept };
    match real.strip_prefix(&own).ok().and_then(Path::to_str) {
        Some(rest) if !rest.is_empty() => format!("{prefix}/{rest}"),
        _ => kept,
    }
}

/// What is wrong with something named, and what to do.
struct Wrong {
    message: String,
    hint: String,
}

impl Wrong {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }

    fn at(self, path: &str) -> Problem {
        Problem { path: path.to_owned(), message: self.message, hint: Some(self.hint) }
    }
}

/// The final model of the job that a reference means.
async fn model_of(api: &Shared, reference: &str) -> Result<Result<String, Wrong>, Failure> {
    let id = match api.store.find(reference).await {
        Ok(id) => id,
        Err(error @ (StoreError::NotFound(_) | StoreError::Ambiguous { .. })) => {
            return Ok(Err(Wrong::new(error.to_string(), "`mlctl ls --all` shows the jobs and their ids")));
        }
        Err(error) => return Err(error.into()),
    };
    let job = api.store.job(id).await?.job;
    Ok(match (job.model, &job.state) {
        (Some(model), _) => Ok(model.uri),
        (None, state) if !state.is_terminal() => Err(Wrong::new(
            format!("job {id} is {} and has no model yet", state.name()),
            format!("wait for it with `mlctl wait {id}`, or name an earlier job by its id"),
        )),
        (None, JobState::Succeeded) => {
            Err(Wrong::new(format!("job {id} is of kind {} and makes no model", job.kind), "name a training job"))
        }
        (None, state) => Err(Wrong::new(
            format!("job {id} is {} and made no model", state.name()),
            format!("`mlctl retry {id}` tries it again; a checkpoint of it can be named by its URI"),
        )),
    })
}

/// What the version of a model holds that a reference means by now.
async fn version_of(api: &Shared, reference: &str) -> Result<Result<String, Wrong>, Failure> {
    let Reference { model, pick } = match Reference::parse(reference) {
        Ok(reference) => reference,
        Err(why) => return Ok(Err(Wrong::new(why, "name a version as in model:digits/3"))),
    };
    let (error, hint) = match api.store.model_version(&model, &pick).await {
        Ok(version) => return Ok(Ok(version.content.uri)),
        Err(error @ StoreError::NoModel(_)) => (error, "`mlctl model ls` lists every model".to_owned()),
        Err(error @ (StoreError::NoVersion { .. } | StoreError::Alias { .. })) => {
            (error, format!("`mlctl model show {model}` lists its versions and aliases"))
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Err(Wrong::new(error.to_string(), hint)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    /// A folder with files of rows.
    Folder,
    /// A folder of a model or of a checkpoint, or a file of weights.
    Model,
}

/// The URI to be kept for something that is there and may be read. What is not on a local disk is left to the worker.
async fn place(api: &Shared, named: &str, roots: &Roots, kind: Kind) -> Result<String, Wrong> {
    const FORM: &str = "write an absolute path, file:///absolute/path or s3://bucket/key";
    let named = if named.starts_with('/') { format!("file://{named}") } else { named.to_owned() };
    let path = match uri::to_path(&named) {
        Ok(Some(path)) => path,
        Ok(None) if named.starts_with("s3://") && !api.artifacts.has_s3() => {
            let message = "mld has no credentials for S3, so that none of its workers could read it";
            return Err(Wrong::new(message, "see [storage.s3] in mld.toml, or bring the file to a local disk"));
        }
        Ok(None) => return Ok(named),
        Err(error) => return Err(Wrong::new(error.to_string(), FORM)),
    };
    let real = fs::canonicalize(&path).await.map_err(|error| unreadable(&path, &error))?;
    let kept = match roots {
        Roots::Any => path.clone(),
        Roots::Only(roots) if roots.iter().any(|root| real.starts_with(root)) => real.clone(),
        Roots::Only(_) => {
            let message = format!("{} is in none of the folders that jobs may read from", path.display());
            return Err(Wrong::new(
                message,
                "move it into one of them, or add its folder to storage.data_roots of mld",
            ));
        }
    };
    readable(&path, &real, kind).await?;
    uri::from_path(&kept).map_err(|error| Wrong::new(error.to_string(), FORM))
}

async fn readable(named: &Path, real: &Path, kind: Kind) -> Result<(), Wrong> {
    let found = fs::metadata(real).await.map_err(|error| unreadable(named, &error))?;
    if found.is_dir() {
        match kind {
            Kind::File => {
                let hint = "name a file in it, or end it with `/` for all in it";
                return Err(Wrong::new(format!("{} is a folder", named.display()), hint));
            }
            Kind::Folder => return fs::read_dir(real).await.map(drop).map_err(|error| unreadable(named, &error)),
            Kind::Model => {}
        }
        for name in [keys::MODEL, keys::MANIFEST] {
            if fs::metadata(real.join(name)).await.is_ok() {
                return Ok(());
            }
        }
        let message = format!("{} holds neither {} nor {}", named.display(), keys::MODEL, keys::MANIFEST);
        return Err(Wrong::new(
            message,
            "name the folder of a model or of a checkpoint, a .safetensors or a .pth file",
        ));
    }
    if kind == Kind::Folder {
        return Err(Wrong::new(format!("{} is no folder", named.display()), "name a folder of files, or one file"));
    }
    // Opening a pipe would wait for its writer, for ever.
    if !found.is_file() {
        return Err(Wrong::new(format!("{} is not a regular file", named.display()), "name a file"));
    }
    fs::File::open(real).await.map(drop).map_err(|error| unreadable(named, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> Wrong {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            Wrong::new(format!("{shown} does not exist"), "check the path; it must be there on the daemon's machine")
        }
        io::ErrorKind::PermissionDenied => Wrong::new(
            format!("{shown} may not be read by the daemon's user"),
            "give that user the right to read it and to enter its folders",
        ),
        io::ErrorKind::NotADirectory => {
            Wrong::new(format!("{shown} leads through something that is no folder"), "check the path")
        }
        _ => Wrong::new(format!("{shown} cannot be read: {error}"), "check the path and the disk it is on"),
    }
}
