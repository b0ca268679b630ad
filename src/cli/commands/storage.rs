//! `mlctl storage`: files to and from object storage, without a daemon: by the same room of the code that workers use, with the same settings, so that no byte takes a detour.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use mlctl_artifacts::{
    ArtifactError, Entry, Location, Stores,
    streams::{Moved, Step, Streams},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use crate::{
    cli::{
        Context, Done, Failure,
        exit::Exit,
        output::{
            pull::Bar,
            storage::{self, Aborted, AbortedUpload, Listed, Listing, Transferred},
        },
        sizes, times,
    },
    config,
    domain::causes,
};

const EXAMPLES: &str = "\
URI is s3://bucket/key or file:///absolute/path. The server is that of [storage.s3] in mld's settings file where you may read it, AWS_ENDPOINT_URL and AWS_REGION where they are set;
the key is that of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else of storage.s3.credentials_file.

What is large goes in parts, many at a time. An upload that is cut off or killed is gone on with by the same command; a file that is fetched appears when it is whole, on the disk, and
compared with the store's checksum where it keeps one.

Examples:
  mlctl storage put model.safetensors s3://ml/models/7/model.safetensors
  mlctl storage put -r images/ s3://ml/data/images
  mlctl storage get s3://ml/models/7/model.safetensors .
  mlctl storage get -r s3://ml/data/images images/
  mlctl storage ls s3://ml/data -o json
  mlctl storage abort s3://ml/data --older-than 2d --dry-run   uploads that nobody will finish";

/// The folder of the user's state in which uploads that can be gone on with are written down.
const JOURNALS: &str = "mlctl/uploads";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a file as an object, or a folder's files as objects under a prefix
    #[command(after_help = EXAMPLES)]
    Put(Put),
    /// Write an object as a file, or all objects under a prefix as files in a folder
    #[command(after_help = EXAMPLES)]
    Get(Get),
    /// List what lies under a prefix
    #[command(after_help = EXAMPLES)]
    Ls(Ls),
    /// Give up uploads that were left open, with the parts that nobody sees and somebody pays for
    #[command(after_help = EXAMPLES)]
    Abort(Abort),
}

#[derive(Debug, Args)]
struct Put {
    /// The file, or the folder with -r
    file: PathBuf,
    /// The object; a prefix with -r, or where it ends in a slash
    uri: String,
    /// All files under a folder, at any depth
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Debug, Args)]
struct Get {
    /// The object, or the prefix with -r
    uri: String,
    /// The file; a folder with -r, or where one is there
    file: PathBuf,
    /// All objects under a prefix, at any depth
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Debug, Args)]
struct Ls {
    /// The prefix, or an object
    uri: String,
    /// At any depth
    #[arg(short, long)]
    recursive: bool,
}

#[derive(Debug, Args)]
struct Abort {
    /// The prefix, or an object
    uri: String,
    /// Only those that are open for longer
    #[arg(long, value_name = "DURATION", value_parser = times::duration, default_value = "1d")]
    older_than: Duration,
    /// Only list them
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Limits {
    /// Bytes that are in memory at a time, such as 256MiB; at least 16MiB
    #[arg(long, value_name = "SIZE", value_parser = budget, default_value = "40MiB")]
    memory: u32,
    /// Give up after so long
    #[arg(long, value_name = "DURATION", value_parser = times::duration)]
    timeout: Option<Duration>,
}

fn budget(text: &str) -> Result<u32, String> {
    match sizes::mib(text)? {
        mib @ 16..=65_536 => Ok(mib),
        _ => Err("expected between 16MiB and 64GiB".into()),
    }
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Put(put) => format!("put {} to {}", put.file.display(), put.uri),
            Verb::Get(get) => format!("get {}", get.uri),
            Verb::Ls(ls) => format!("list {}", ls.uri),
            Verb::Abort(abort) => format!("abort uploads under {}", abort.uri),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let stores = Stores::with_s3(config::s3::own_access(context.environment)?);
        match self.verb {
            Verb::Put(put) => put.run(context, &stores).await,
            Verb::Get(get) => get.run(context, &stores).await,
            Verb::Ls(ls) => ls.run(context, &stores).await,
            Verb::Abort(abort) => abort.run(context, &stores).await,
        }
    }
}

impl Put {
    async fn run(self, context: &mut Context<'_>, stores: &Stores) -> Done {
        let file = context.environment.absolute(&self.file);
        let to = target(stores, &self.uri, (!self.recursive).then_some(&file))?;
        let bar = Arc::new(Bar::new(&context.out, 0));
        let streams = self.limits.streams(context, &bar);
        let began = Instant::now();
        let work = async {
            match self.recursive {
                true => streams.send_folder(&file, &to).await,
                false => streams.send(&file, &to).await.map(Moved::from),
            }
        };
        let left = match (to.is_remote() && context.environment.state_home.is_some(), self.recursive) {
            (true, false) => "what has arrived of a large file is kept: the same command goes on with it",
            (true, true) => "files that have arrived are there, and the same command goes on with a large one",
            (false, _) => "what was not whole is not there",
        };
        let moved = self.limits.watch(work, left).await;
        bar.close();
        let (from, to) = (file.display().to_string(), to.uri().to_owned());
        storage::transferred(&mut context.out, &Transferred::new(from, to, moved?, began.elapsed()))?;
        Ok(Exit::Ok)
    }
}

impl Get {
    async fn run(self, context: &mut Context<'_>, stores: &Stores) -> Done {
        let mut file = context.environment.absolute(&self.file);
        let from = stores.open(&self.uri).map_err(failure)?;
        if !self.recursive && (file.is_dir() || self.file.to_string_lossy().ends_with('/')) {
            file.push(from.name());
        }
        let bar = Arc::new(Bar::new(&context.out, 0));
        let streams = self.limits.streams(context, &bar);
        let began = Instant::now();
        let work = async {
            match self.recursive {
                true => streams.receive_folder(&from, &file).await,
                false => streams.receive(&from, &file).await.map(Moved::from),
            }
        };
        let moved = self.limits.watch(work, "no half file is left").await;
        bar.close();
        let is_remote = from.is_remote();
        let (from, to, took) = (from.uri().to_owned(), file.display().to_string(), began.elapsed());
        let done = match is_remote {
            true => Transferred::received(from, to, moved?, took),
            false => Transferred::new(from, to, moved?, took),
        };
        storage::transferred(&mut context.out, &done)?;
        Ok(Exit::Ok)
    }
}

impl Ls {
    async fn run(self, context: &mut Context<'_>, stores: &Stores) -> Done {
        let at = stores.open(&self.uri).map_err(failure)?;
        let object = |entry: Entry| Listed { name: entry.name, kind: "object", size_bytes: Some(entry.size) };
        let mut entries: Vec<_> = match self.recursive {
            true => at.list().await.map_err(failure)?.into_iter().map(object).collect(),
            false => {
                let (objects, folders) = at.children().await.map_err(failure)?;
                let folders =
                    folders.into_iter().map(|name| Listed { name: name + "/", kind: "folder", size_bytes: None });
                folders.chain(objects.into_iter().map(object)).collect()
            }
        };
        if entries.is_empty() {
            let size = at.size().await.map_err(failure)?;
            let found = size.ok_or_else(|| failure(ArtifactError::NotFound { uri: at.uri().to_owned() }))?;
            entries.push(Listed { name: at.name().to_owned(), kind: "object", size_bytes: Some(found) });
        }
        storage::listing(&mut context.out, &Listing::new(at.uri().to_owned(), entries))?;
        Ok(Exit::Ok)
    }
}

impl Abort {
    async fn run(self, context: &mut Context<'_>, stores: &Stores) -> Done {
        let at = stores.open(&self.uri).map_err(failure)?;
        let until = context.clock.now().saturating_sub(self.older_than).unwrap_or(Timestamp::MIN);
        let (mut uploads, mut failed) = (Vec::new(), None);
        for open in at.open_uploads().await.map_err(failure)? {
            // A moment that cannot be read is none that is long ago.
            if !open.begun.parse::<Timestamp>().is_ok_and(|begun| begun <= until) {
                continue;
            }
            if !self.dry_run {
                match stores.open(&open.uri).map_err(failure)?.abort_upload(&open.id).await {
                    Ok(()) | Err(ArtifactError::NotFound { .. }) => {}
                    Err(error) => {
                        failed.get_or_insert(error);
                        continue;
                    }
                }
            }
            uploads.push(AbortedUpload { uri: open.uri, upload_id: open.id, begun_at: open.begun });
        }
        storage::aborted(&mut context.out, &Aborted::new(self.dry_run, uploads))?;
        failed.map_or(Ok(Exit::Ok), |error| Err(failure(error)))
    }
}

impl Limits {
    pub(super) fn streams(&self, context: &Context<'_>, bar: &Arc<Bar>) -> Streams {
        let bytes = usize::try_from(self.memory).unwrap_or(usize::MAX).saturating_mul(1024 * 1024);
        let bar = Arc::clone(bar);
        let streams = Streams::new(bytes).with_progress(Arc::new(move |step| match step {
            Step::Expect(bytes) => bar.expect(bytes),
            Step::Moved(bytes) => bar.advance(bytes),
        }));
        match &context.environment.state_home {
            Some(state) => streams.with_journals(state.join(JOURNALS)),
            None => streams,
        }
    }

    /// Does it until it is done, somebody wants its end, or the time is over.
    pub(super) async fn watch(
        &self,
        work: impl Future<Output = Result<Moved, ArtifactError>>,
        left: &'static str,
    ) -> Result<Moved, Failure> {
        let started = |error| Failure::caused("wait for signals", &error);
        let mut interrupts = signal(SignalKind::interrupt()).map_err(started)?;
        let mut terminations = signal(SignalKind::terminate()).map_err(started)?;
        let over = async {
            match self.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            moved = work => moved.map_err(failure),
            _ = interrupts.recv() => Err(Failure::new(Exit::Interrupted, "it was interrupted").hint(left)),
            _ = terminations.recv() => Err(Failure::new(Exit::Interrupted, "it was told to end").hint(left)),
            () = over => Err(Failure::new(Exit::WaitedTooLong, "it was not done in time").hint(left)),
        }
    }
}

/// Where a file goes: to the URI, or under it by its own name where the URI ends in a slash.
fn target(stores: &Stores, uri: &str, file: Option<&PathBuf>) -> Result<Location, Failure> {
    let at = stores.open(uri).map_err(failure)?;
    let name = file.filter(|_| uri.ends_with('/')).and_then(|file| Path::new(file).file_name());
    match name {
        Some(name) => at.join(&name.to_string_lossy()).map_err(failure),
        None => Ok(at),
    }
}

pub(super) fn failure(error: ArtifactError) -> Failure {
    let exit = match &error {
        ArtifactError::NotFound { .. } => Exit::NotFound,
        ArtifactError::AlreadyExists { .. } => Exit::Conflict,
        ArtifactError::BadUri { .. } => Exit::Usage,
        ArtifactError::Denied { .. } => Exit::NotPermitted,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, causes(&error));
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
