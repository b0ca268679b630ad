//! Keeps what workers print within bounds. A worker writes to its files itself, so that a dead daemon breaks no pipe; the daemon is told by inotify that a file
//! has grown, and cuts it once it is too large. Called by the attempts; `api` reads the files by the paths given here. It never stops a worker.
//!
//! A stream is at most `files` files of `max_bytes`, those that were cut off an eighth larger, plus what the worker writes in the time between two looks ([`PAUSE`] and one copy). While no daemon runs
//! nobody cuts; the next daemon does, as soon as it has adopted the worker.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write as _},
    mem::MaybeUninit,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    fd::OwnedFd,
    fs::inotify::{self, CreateFlags, WatchFlags},
};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::readiness;

/// The least time between two looks at files that keep growing. A file at rest is not looked at.
const PAUSE: Duration = Duration::from_millis(25);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// How often the end of a file is copied that grows too fast to be copied to its end.
const MAX_COPIES: u32 = 3;

/// Notifications taken at one look; the rest wait for the next.
const MAX_EVENTS: usize = 4096;

/// One of the two streams of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// The name used in the API and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// The file in an attempt's folder that the worker writes to. What was cut off it is in the files of this name with `.1` (the newest), `.2` … at its end.
    #[must_use]
    pub fn path(self, attempt_dir: &Path) -> PathBuf {
        attempt_dir.join(format!("{}.log", self.as_str()))
    }
}

/// How much of a stream is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The size of a file, in bytes.
    pub max_bytes: u64,
    /// Files of a stream, the one being written included; at least 1.
    pub files: u32,
}

/// Cuts the files of the attempts it is told about. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogKeeper {
    shared: Arc<Shared>,
}

struct Shared {
    bounds: Bounds,
    /// Held while a file is cut: of two that cut the same one, the second would find nothing and tell of bytes dropped.
    cutting: Mutex<()>,
    inotify: AsyncFd<OwnedFd>,
    watched: Mutex<BTreeMap<i32, PathBuf>>,
}

/// Ends the watch over an attempt's files when dropped.
pub(crate) struct Watched {
    shared: Arc<Shared>,
    paths: [PathBuf; 2],
    descriptors: Vec<i32>,
}

impl Watched {
    /// Cuts what the worker wrote last and ends the watch.
    pub(crate) async fn finish(self) {
        let shared = self.shared.clone();
        let is_large = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.len() >= shared.bounds.max_bytes);
        let large: Vec<PathBuf> = self.paths.iter().filter(|path| is_large(path)).cloned().collect();
        drop(self);
        if !large.is_empty() {
            let cut = move || shared.cut(&large);
            // It does not panic, and is not aborted but with the runtime.
            let _ = tokio::task::spawn_blocking(cut).await;
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut watched = self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for descriptor in &self.descriptors {
            watched.remove(descriptor);
            // It fails only when the file was deleted, which ended the watch.
            let _ = inotify::remove_watch(self.shared.inotify.get_ref(), *descriptor);
        }
    }
}

impl LogKeeper {
    /// Makes a keeper that does nothing until [`run`](Self::run).
    ///
    /// # Errors
    /// When the user's inotify instances are used up.
    pub(crate) fn new(bounds: Bounds) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let inotify = readiness::readable(fd)?;
        Ok(Self { shared: Arc::new(Shared { bounds, cutting: Mutex::default(), inotify, watched: Mutex::default() }) })
    }

    /// Keeps an attempt's files within bounds from now on, until the answer is dropped.
    pub(crate) fn watch(&self, attempt_dir: &Path) -> Watched {
        let mut descriptors = Vec::new();
        let paths = Stream::ALL.map(|stream| stream.path(attempt_dir));
        for path in &paths {
            match inotify::add_watch(self.shared.inotify.get_ref(), path, WatchFlags::MODIFY) {
                Ok(descriptor) => {
                    self.lock().insert(descriptor, path.clone());
                    descriptors.push(descriptor);
                }
                Err(error) => {
                    let error = io::Error::from(error);
                    warn!(path = %path.display(), %error, "a log file cannot be bounded");
                }
            }
        }
        // What was written while nobody looked.
        self.shared.cut(&paths);
        Watched { shared: self.shared.clone(), paths, descriptors }
    }

    /// Looks at files that grow, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let looking = async {
            loop {
                let pause = match self.look().await {
                    Ok(()) => PAUSE,
                    Err(error) => {
                        warn!(%error, "log files are not bounded for a moment");
                        PAUSE_AFTER_ERROR
                    }
                };
                tokio::time::sleep(pause).await;
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    /// Waits until a file has grown, and cuts those that are too large.
    async fn look(&self) -> io::Result<()> {
        let grown = self.grown().await?;
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || shared.cut(&grown)).await.map_err(io::Error::other)
    }

    async fn grown(&self) -> io::Result<Vec<PathBuf>> {
        let mut ready = self.shared.inotify.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.shared.inotify.get_ref(), &mut buffer);
        let mut descriptors = Vec::new();
        while descriptors.len() < MAX_EVENTS {
            match reader.next() {
                Ok(event) => descriptors.push(event.wd()),
                Err(rustix::io::Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        descriptors.sort_unstable();
        descriptors.dedup();
        let watched = self.lock();
        // An overflow of the kernel's queue comes as -1: look at all of them.
        if descriptors.first() == Some(&-1) {
            return Ok(watched.values().cloned().collect());
        }
        Ok(descriptors.iter().filter_map(|descriptor| watched.get(descriptor).cloned()).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, PathBuf>> {
        self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Cuts those of some files that are too large.
    fn cut(&self, paths: &[PathBuf]) {
        let _alone = self.cutting.lock().unwrap_or_else(PoisonError::into_inner);
        for path in paths {
            if let Err(error) = cut(path, self.bounds)
                && error.kind() != io::ErrorKind::NotFound
            {
                warn!(path = %path.display(), %error, "a log file cannot be cut");
            }
        }
    }
}

/// Moves the end of a file that is too large to `.1` and empties it. The worker appends, so it goes on at the new end. What it writes between the copy's last
/// read and the truncation, a few microseconds, is lost.
fn cut(path: &Path, bounds: Bounds) -> io::Result<()> {
    if fs::metadata(path)?.len() < bounds.max_bytes {
        return Ok(());
    }
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if bounds.files > 1 {
        for number in (1..bounds.files - 1).rev() {
            match fs::rename(numbered(path, number), numbered(path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        copy_end(&file, &numbered(path, 1), bounds.max_bytes)?;
    }
    file.set_len(0)
}

/// Copies the last `max_bytes` of a file, and what is appended to it meanwhile; what stood before is counted in the copy's first line. Where more than an eighth
/// of that is appended meanwhile, it begins again with what is the end by then, a few times.
fn copy_end(mut file: impl Read + Seek, to: &Path, max_bytes: u64) -> io::Result<()> {
    let mut copy = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    let room = max_bytes + max_bytes / 8;
    for _ in 0..MAX_COPIES {
        copy.set_len(0)?;
        copy.rewind()?;
        let skipped = file.seek(SeekFrom::End(0))?.saturating_sub(max_bytes);
        if skipped > 0 {
            writeln!(copy, "[{skipped} bytes dropped: the worker printed faster than its log is kept]")?;
        }
        file.seek(SeekFrom::Start(skipped))?;
        if io::copy(&mut file.by_ref().take(room), &mut copy)? < room {
            break;
        }
    }
    Ok(())
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const BOUNDS: Bounds = Bounds { max_bytes: 100, files: 3 };

    fn sizes(dir: &Path) -> Vec<(String, u64)> {
        let mut sizes: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
            .collect();
        sizes.sort();
        sizes
    }

    #[test]
    fn a_file_is_cut_only_when_full_and_old_files_fall_off_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = Stream::Stdout.path(dir.path());
        let mut worker = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        worker.write_all(&[b'a'; 99]).unwrap();
        cut(&path, BOUNDS).unwrap();
        assert_eq!(sizes(dir.path()), [("stdout.log".into(), 99)]);
        for letter in b'a'..=b'e' {
            worker.write_all(&[letter; 100]).unwrap();
            cut(&path, BOUNDS).unwrap();
            worker.write_all(b"after").unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"after", "the worker goes on at the new end");
        let names: Vec<_> = sizes(dir.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["stdout.log", "stdout.log.1", "stdout.log.2"]);
        assert!(fs::read_to_string(numbered(&path, 1)).unwrap().ends_with("eee"));
        assert!(fs::read_to_string(numbered(&path, 2)).unwrap().ends_with("ddd"));
        assert!(fs::read_to_string(numbered(&path, 1)).unwrap().starts_with("[5 bytes dropped"));
    }

    #[test]
    fn one_file_alone_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = Stream::Stderr.path(dir.path());
        fs::write(&path, [b'x'; 300]).unwrap();
        cut(&path, Bounds { max_bytes: 100, files: 1 }).unwrap();
        assert_eq!(sizes(dir.path()), [("stderr.log".into(), 0)]);
    }

    /// A file to which a worker appends at every read, so many times.
    struct Growing {
        file: File,
        worker: File,
        times: u32,
        by: usize,
    }

    impl Read for Growing {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if let Some(left) = self.times.checked_sub(1) {
                self.times = left;
                self.worker.write_all(&vec![b'y'; self.by])?;
                self.worker.write_all(b"z")?;
            }
            self.file.read(out)
        }
    }

    impl Seek for Growing {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.file.seek(to)
        }
    }

    #[test]
    fn what_a_worker_prints_while_its_file_is_copied_is_copied_too() {
        let dir = tempfile::tempdir().unwrap();
        let (path, to) = (dir.path().join("log"), dir.path().join("copy"));
        // A little meanwhile; too much for a while; and too much without an end.
        for (times, by, whole) in [(1, 9, true), (2, 500, true), (1000, 500, false)] {
            fs::write(&path, [b'x'; 150]).unwrap();
            let worker = OpenOptions::new().append(true).open(&path).unwrap();
            let file = File::open(&path).unwrap();
            copy_end(Growing { file, worker, times, by }, &to, 100).unwrap();
            let copied = fs::read_to_string(&to).unwrap();
            assert!(copied.len() < 112 + 100, "{} bytes", copied.len());
            let end = format!("{}z", "y".repeat(by.min(99)));
            assert_eq!(copied.ends_with(&end), whole, "{copied}");
        }
    }

    #[tokio::test]
    async fn two_that_cut_a_file_at_once_cut_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = Stream::Stdout.path(dir.path());
        let keeper = LogKeeper::new(BOUNDS).unwrap();
        let paths = vec![path.clone()];
        for _ in 0..50 {
            fs::write(&path, [&[b'x'; 300][..], b"the end"].concat()).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| keeper.shared.cut(&paths));
                }
            });
            let kept = fs::read_to_string(numbered(&path, 1)).unwrap();
            assert!(kept.starts_with("[207 bytes") && kept.ends_with("the end"), "{kept}");
        }
    }

    #[tokio::test]
    async fn a_flood_stays_bounded_and_quiet_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for stream in Stream::ALL {
            File::create(stream.path(dir.path())).unwrap();
        }
        let bounds = Bounds { max_bytes: 64 * 1024, files: 4 };
        let keeper = LogKeeper::new(bounds).unwrap();
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        let running = tokio::spawn(keeper.clone().run(stop));
        let watched = keeper.watch(dir.path());
        let flood = Stream::Stdout.path(dir.path());
        let mut worker = OpenOptions::new().append(true).open(&flood).unwrap();
        let mut written = 0_u64;
        for _ in 0..200 {
            worker.write_all(&[b'x'; 16 * 1024]).unwrap();
            written += 16 * 1024;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let settled = async {
            while fs::metadata(&flood).unwrap().len() >= bounds.max_bytes {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), settled).await.unwrap();
        let kept: u64 = sizes(dir.path()).into_iter().map(|(_, size)| size).sum();
        assert!(kept < bounds.max_bytes * 4 + 1000, "{kept} of {written} bytes are kept");
        assert!(kept >= bounds.max_bytes, "the newest are kept");
        assert!(!running.is_finished());
        drop(watched);
        assert!(keeper.lock().is_empty());
    }
}
