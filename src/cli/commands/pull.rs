//! `mlctl checkpoint pull`: a checkpoint or a final model as a folder here. The daemon hands the objects over, so that nobody needs the store's key; every byte is compared
//! with its checksum here. The folder appears whole: until then what came lies beside it, and a pull that was broken off goes on there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use mlctl_protocol::JobId;
use serde::Serialize;

use super::job_path;
use crate::{
    api::{
        query::{DownloadQuery, address},
        types::{CheckpointDetail, CheckpointList, ModelDetail, SCHEMA},
    },
    cli::{
        Context, Done, Failure,
        client::Client,
        exit::Exit,
        output::pull::{Bar, pulled},
        weights,
    },
};

/// What stands after a job's name and a slash for its final model.
const MODEL: &str = "model";

/// The file of a model whose tensors the digest is over.
const WEIGHTS: &str = "model.safetensors";

/// What is to be pulled: `digits`, `digits/500` or `digits/model`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The job.
    pub job: String,
    which: Which,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Newest,
    Step(u64),
    Model,
}

impl Source {
    /// Reads `JOB`, `JOB/STEP` or `JOB/model`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (job, which) = match text.split_once('/') {
            None => (text, Which::Newest),
            Some((job, MODEL)) => (job, Which::Model),
            Some((job, step)) => match step.parse::<u64>() {
                Ok(number) if number.to_string() == step => (job, Which::Step(number)),
                _ => return Err("write JOB, JOB/STEP or JOB/model".into()),
            },
        };
        Ok(Self { job: super::job_name(job)?, which })
    }
}

/// What was pulled.
#[derive(Debug, Serialize)]
pub struct Pulled {
    schema: u32,
    /// The job.
    pub id: JobId,
    /// The checkpoint's step; nothing for a model.
    pub step: Option<u64>,
    /// The digest of the model; nothing for a checkpoint.
    pub digest: Option<String>,
    /// The folder.
    pub dir: PathBuf,
    /// Files in it.
    pub objects: usize,
    /// Their size.
    pub size_bytes: u64,
}

/// An object to be pulled.
pub(super) struct Object {
    /// The file that it becomes.
    pub name: String,
    /// Where the daemon hands it over.
    pub path: String,
    /// Where it is known beforehand.
    pub size_bytes: Option<u64>,
    /// BLAKE3, where there is one; a model's weights have a digest of their own.
    pub blake3: Option<String>,
}

/// What a folder is to hold.
pub(super) struct Parcel {
    /// The objects.
    pub objects: Vec<Object>,
    /// A text that stands for exactly this content.
    pub mark: String,
    /// The digest over the tensors of a final model.
    pub digest: Option<String>,
    /// Files that are written here, beside the objects.
    pub written: Vec<(&'static str, String)>,
}

/// Pulls into `dir`, which must not be there yet, or be empty.
pub async fn run(context: &mut Context<'_>, source: &Source, dir: &Path) -> Done {
    let dir = context.environment.absolute(dir);
    let (mut result, objects, mark) = find(&context.client, source, &dir).await?;
    let parcel = Parcel { objects, mark, digest: result.digest.clone(), written: Vec::new() };
    result.size_bytes = bring(context, &parcel, &dir).await?;
    pulled(&mut context.out, &result)?;
    Ok(Exit::Ok)
}

/// Has a folder appear that holds a parcel, every byte of it verified. Answers with the size of its objects in bytes.
pub(super) async fn bring(context: &Context<'_>, parcel: &Parcel, dir: &Path) -> Result<u64, Failure> {
    require_free(dir)?;
    let partial = Partial::open(dir, &parcel.mark)?;
    let bar = Bar::new(&context.out, parcel.objects.iter().filter_map(|object| object.size_bytes).sum());
    let mut size_bytes = 0;
    for object in &parcel.objects {
        size_bytes += fetch(&context.client, object, &partial, &bar).await?;
    }
    bar.close();
    if let Some(digest) = &parcel.digest {
        check_weights(&partial.path.join(WEIGHTS), digest)?;
    }
    for (name, text) in &parcel.written {
        partial.write(name, text)?;
    }
    partial.publish(dir)?;
    Ok(size_bytes)
}

fn require_free(dir: &Path) -> Result<(), Failure> {
    let why = match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => return Ok(()),
        Ok(false) => format!("{} is there already and not empty", dir.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => format!("{} is no folder", dir.display()),
        Err(error) => return Err(Failure::caused(format!("look into {}", dir.display()), &error)),
    };
    Err(Failure::new(Exit::Conflict, why).hint("name a folder that is not there yet: it appears when all is in it"))
}

/// What there is to pull, and a text that stands for exactly this content.
async fn find(client: &Client, source: &Source, dir: &Path) -> Result<(Pulled, Vec<Object>, String), Failure> {
    let job = &source.job;
    let step = match source.which {
        Which::Model => {
            let found: ModelDetail = client.get(&job_path(job, "model")).await?;
            let objects = found.objects.iter().map(|object| Object {
                name: object.name.clone(),
                path: job_path(&found.id.to_string(), &format!("model/objects/{}", object.name)),
                size_bytes: Some(object.size_bytes),
                blake3: None,
            });
            let objects: Vec<_> = objects.collect();
            let result = Pulled::new(found.id, dir, objects.len());
            return Ok((Pulled { digest: Some(found.digest.clone()), ..result }, objects, found.digest));
        }
        Which::Step(step) => step,
        Which::Newest => newest(client.get(&job_path(job, "checkpoints")).await?)?,
    };
    let found: CheckpointDetail = client.get(&job_path(job, &format!("checkpoints/{step}"))).await?;
    let path = |name: &str| job_path(&found.id.to_string(), &format!("checkpoints/{step}/objects/{name}"));
    let mut objects: Vec<_> = found
        .objects
        .iter()
        .map(|object| Object {
            name: object.name.clone(),
            path: path(&object.name),
            size_bytes: Some(object.size_bytes),
            blake3: Some(object.blake3.clone()),
        })
        .collect();
    let digest = found.checkpoint.manifest_digest.clone();
    let manifest = mlctl_artifacts::keys::MANIFEST;
    objects.push(Object {
        name: manifest.into(),
        path: path(manifest),
        size_bytes: None,
        blake3: Some(digest.clone()),
    });
    let result = Pulled::new(found.id, dir, objects.len());
    Ok((Pulled { step: Some(step), ..result }, objects, digest))
}

impl Pulled {
    fn new(id: JobId, dir: &Path, objects: usize) -> Self {
        Self { schema: SCHEMA, id, step: None, digest: None, dir: dir.to_owned(), objects, size_bytes: 0 }
    }
}

fn newest(list: CheckpointList) -> Result<u64, Failure> {
    list.checkpoints.first().map(|checkpoint| checkpoint.step).ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("job {} has no checkpoint yet", list.id))
            .hint(format!("`mlctl checkpoint pull {}/model DIR` pulls its final model, where there is one", list.id))
    })
}

/// The folder in which things gather until all are there.
struct Partial {
    path: PathBuf,
    /// Held locked: two pulls into one folder would mix.
    _lock: File,
}

impl Partial {
    fn open(dir: &Path, version: &str) -> Result<Self, Failure> {
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
            return Err(Failure::new(Exit::Usage, format!("{} is no folder that can be made", dir.display())));
        };
        let short: String = version.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        let path = parent.join(format!(".{}.{short}.pull", name.to_string_lossy()));
        let failed = |error: io::Error| Failure::caused(format!("make {}", path.display()), &error);
        fs::create_dir_all(&path).map_err(failed)?;
        let lock = File::open(&path).map_err(failed)?;
        lock.try_lock().map_err(|_| {
            Failure::new(Exit::Conflict, format!("another pull into {} is under way", dir.display()))
                .hint("wait for it, or name another folder")
        })?;
        Ok(Self { path, _lock: lock })
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.path.join(name);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| Failure::caused(format!("write {}", path.display()), &error))
    }

    /// Lets the folder appear. On return it survives a power cut.
    fn publish(self, dir: &Path) -> Result<(), Failure> {
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
        let parent = dir.parent().unwrap_or(dir);
        let done = sync(&self.path).and_then(|()| fs::rename(&self.path, dir)).and_then(|()| sync(parent));
        done.map_err(|error| Failure::caused(format!("make {}", dir.display()), &error))
    }
}

/// Pulls an object, or what is missing of it, and checks it. Answers with its size.
async fn fetch(client: &Client, object: &Object, partial: &Partial, bar: &Bar) -> Result<u64, Failure> {
    let path = partial.path.join(&object.name);
    let failed = |error: io::Error| Failure::caused(format!("write {}", path.display()), &error);
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    let mut had = hasher.update_reader(&mut file).map_err(failed)?.count();
    if object.size_bytes.is_none_or(|size| had > size) {
        file.set_len(0).map_err(failed)?;
        (had, hasher) = (0, blake3::Hasher::new());
    }
    bar.advance(had);
    let began = had;
    if object.size_bytes != Some(had) {
        let mut body = client.download(&address(&object.path, &DownloadQuery { offset: had })).await?;
        while let Some(bytes) = body.next().await? {
            file.write_all(&bytes).map_err(failed)?;
            hasher.update(&bytes);
            had += bytes.len() as u64;
            bar.advance(bytes.len() as u64);
        }
    }
    file.sync_all().map_err(failed)?;
    let is_whole = object.size_bytes.is_none_or(|size| size == had);
    let is_right = object.blake3.as_ref().is_none_or(|blake3| *blake3 == hasher.finalize().to_hex().as_str());
    if is_whole && is_right {
        return Ok(had);
    }
    // What is wrong is not kept: a later try begins it anew.
    fs::remove_file(&path).map_err(failed)?;
    let what = if is_whole { "its checksum is not the one on record" } else { "it ended too early" };
    let hint = match (is_whole, began) {
        (true, 1..) => "what an earlier pull had left of it was wrong, and is gone now: pull again",
        (true, 0) => "`mlctl checkpoint verify` reads what is stored; pull an older one",
        (false, _) => "pull again: what is whole is not fetched twice",
    };
    Err(Failure::new(Exit::Failed, format!("{}: {what}", object.name)).hint(hint))
}

fn check_weights(path: &Path, digest: &str) -> Result<(), Failure> {
    let wrong = match weights::digest(path) {
        Ok(found) if found == digest => return Ok(()),
        Ok(found) => format!("its tensors have the digest {found:.12}…, on record is {digest:.12}…"),
        Err(what) => what,
    };
    let _ = fs::remove_file(path);
    Err(Failure::new(Exit::Failed, format!("{WEIGHTS} is damaged: {wrong}"))
        .hint("pull again; if it stays so, pull a checkpoint of the job instead"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_job_a_step_or_a_model() {
        let source = |job: &str, which| Ok(Source { job: job.into(), which });
        for (text, expected) in [
            ("digits", source("digits", Which::Newest)),
            ("@last", source("@last", Which::Newest)),
            ("7/500", source("7", Which::Step(500))),
            ("digits/0", source("digits", Which::Step(0))),
            ("digits/model", source("digits", Which::Model)),
        ] {
            assert_eq!(Source::parse(text), expected, "{text}");
        }
        for text in ["", "/5", "digits/", "digits/x", "digits/5/6", "digits/+5", "digits/-1", "digits/05"] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
    }
}
