//! A cgroup (v2) per attempt, below a folder that belongs to the daemon: its memory is bounded by the kernel, what it used up is counted by the kernel, and nothing that it started escapes its end, in whatever
//! session. Called by `supervisor::process`. Where no such folder is to be had, process groups and marks in the environment do what they can.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mlctl_protocol::spec::Resources;
use tracing::{info, warn};

use crate::supervisor::executor::Spent;

/// The daemon's own leaf: in a cgroup whose children are bounded no process may be.
const OWN: &str = "mld";

/// How long killed processes may take to vanish, and how often that is looked at.
const VANISH_LIMIT: Duration = Duration::from_secs(2);
const VANISH_STEP: Duration = Duration::from_millis(2);

const MIB: u64 = 1024 * 1024;

/// Weights of the kernel: 100 is what everybody has; 10,000 the most.
const WEIGHT_OF_A_CORE: u32 = 100;
const MOST_WEIGHT: u32 = 10_000;

/// The folder below which attempts have theirs.
#[derive(Debug)]
pub struct Cgroups {
    root: PathBuf,
    /// What the kernel bounds there: `memory`, `cpu`.
    bounds: BTreeSet<String>,
}

/// An attempt's cgroup.
#[derive(Debug)]
pub(super) struct Cell {
    path: PathBuf,
}

/// Where a cgroup of the daemon's own was found.
struct Delegated {
    root: PathBuf,
    /// Whether the service manager starts the daemon below it, so that its children may be bounded.
    is_above: bool,
}

impl Cgroups {
    /// The folder that was named, or the one that the service manager has delegated to this process, if it has. Why there is none is in the log.
    #[must_use]
    pub fn find(named: Option<&Path>) -> Option<Arc<Self>> {
        let delegated = match named {
            Some(root) => Delegated { root: root.to_owned(), is_above: true },
            None => delegated()?,
        };
        let root = delegated.root.clone();
        match Self::take(delegated) {
            Ok(cgroups) => {
                let bounds: Vec<&String> = cgroups.bounds.iter().collect();
                info!(root = %root.display(), ?bounds, "attempts have cgroups of their own");
                Some(Arc::new(cgroups))
            }
            Err(error) => {
                warn!(root = %root.display(), %error, "attempts cannot have cgroups of their own: process groups are used instead");
                None
            }
        }
    }

    fn take(Delegated { root, is_above }: Delegated) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        if !root.join("cgroup.procs").exists() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no folder of cgroup v2"));
        }
        if own().is_some_and(|own| own == root) {
            let leaf = root.join(OWN);
            make(&leaf)?;
            put(&leaf, std::process::id())?;
        }
        let offered = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let mut bounds = BTreeSet::new();
        for controller in ["memory", "cpu"] {
            // One by one: what cannot be had keeps nobody from the rest. A service manager that starts the daemon in this very folder could not do so again if its children were bounded.
            if is_above && offered.split_ascii_whitespace().any(|offered| offered == controller) {
                match fs::write(root.join("cgroup.subtree_control"), format!("+{controller}")) {
                    Ok(()) => drop(bounds.insert(controller.to_owned())),
                    Err(error) => warn!(controller, %error, "the kernel does not bound attempts here"),
                }
            }
        }
        Ok(Self { root, bounds })
    }

    /// The name of the cgroup of the attempt in a folder: `17-1`.
    fn path(&self, dir: &Path) -> Option<PathBuf> {
        let (job, attempt) = (dir.parent()?.file_name()?.to_str()?, dir.file_name()?.to_str()?);
        Some(self.root.join(format!("{job}-{attempt}")))
    }

    /// Makes the cgroup of the attempt in `dir` and puts a process into it, which must not have started others yet.
    pub(super) fn confine(&self, dir: &Path, pid: u32, resources: &Resources) -> Option<Cell> {
        let path = self.path(dir)?;
        if path.is_dir() {
            // Left by an attempt of that number in the time that a restored database has lost.
            let _ = fs::write(path.join("cgroup.kill"), "1");
        }
        let made = make(&path).and_then(|()| self.bound(&path, resources)).and_then(|()| put(&path, pid));
        match made {
            Ok(()) => Some(Cell { path }),
            Err(error) => {
                warn!(path = %path.display(), %error, "an attempt has no cgroup of its own");
                let _ = fs::remove_dir(&path);
                None
            }
        }
    }

    fn bound(&self, path: &Path, resources: &Resources) -> io::Result<()> {
        if self.bounds_memory() {
            // All of it or nothing: half an attempt is of no use to anybody.
            fs::write(path.join("memory.oom.group"), "1")?;
            if resources.memory_mib > 0 {
                let bytes = u64::from(resources.memory_mib).saturating_mul(MIB);
                fs::write(path.join("memory.max"), bytes.to_string())?;
            }
        }
        if self.bounds.contains("cpu") {
            let weight = resources.cpus.saturating_mul(WEIGHT_OF_A_CORE).clamp(1, MOST_WEIGHT);
            fs::write(path.join("cpu.weight"), weight.to_string())?;
        }
        Ok(())
    }

    /// Whether the kernel bounds the memory of attempts here.
    pub(super) fn bounds_memory(&self) -> bool {
        self.bounds.contains("memory")
    }

    /// The cgroup that the attempt in `dir` was put into by an earlier daemon, if it was.
    pub(super) fn earlier(&self, dir: &Path) -> Option<Cell> {
        self.path(dir).filter(|path| path.is_dir()).map(|path| Cell { path })
    }
}

impl Cell {
    /// Kills all that is in it, waits until that has vanished, and removes it. Returns what was used up in all, where that was counted.
    pub(super) async fn end(&self) -> Option<Spent> {
        if let Err(error) = fs::write(self.path.join("cgroup.kill"), "1") {
            warn!(path = %self.path.display(), %error, "the processes of a cgroup cannot be killed at once");
        }
        let gone = async {
            while self.is_populated() {
                tokio::time::sleep(VANISH_STEP).await;
            }
        };
        if tokio::time::timeout(VANISH_LIMIT, gone).await.is_err() {
            warn!(path = %self.path.display(), "killed processes of a cgroup have not vanished yet");
        }
        let spent = self.spent();
        if let Err(error) = remove(&self.path) {
            warn!(path = %self.path.display(), %error, "the cgroup of an attempt cannot be removed");
        }
        spent
    }

    /// Whether the kernel's out-of-memory killer has struck in here.
    pub(super) fn ran_out_of_memory(&self) -> Option<bool> {
        value(&self.read("memory.events")?, "oom_kill").map(|kills| kills > 0)
    }

    fn spent(&self) -> Option<Spent> {
        let cpu_ms = value(&self.read("cpu.stat")?, "usage_usec")? / 1000;
        let peak_bytes = self.read("memory.peak").and_then(|text| text.trim().parse().ok());
        Some(Spent { cpu_ms, peak_bytes })
    }

    fn is_populated(&self) -> bool {
        self.read("cgroup.events").and_then(|text| value(&text, "populated")).is_some_and(|populated| populated > 0)
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.path.join(file)).ok()
    }
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn put(path: &Path, pid: u32) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), pid.to_string())
}

/// Removes a cgroup with those below it.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The number behind a name in a flat file of the kernel's.
fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The cgroup that the service manager has delegated to this process: the one it is in, or the one above that.
fn delegated() -> Option<Delegated> {
    let own = own()?;
    if is_delegated(&own) {
        return Some(Delegated { root: own, is_above: false });
    }
    let above = own.parent()?.to_owned();
    is_delegated(&above).then_some(Delegated { root: above, is_above: true })
}

/// Whether systemd says so (from 251 on), or it was made this user's.
fn is_delegated(path: &Path) -> bool {
    let mut mark = [0_u8; 1];
    if let Ok(length) = rustix::fs::getxattr(path, "user.delegate", &mut mark) {
        return length == 1 && mark == *b"1";
    }
    let user = rustix::process::geteuid();
    !user.is_root() && fs::metadata(path).is_ok_and(|found| found.uid() == user.as_raw())
}

/// The folder of the cgroup that this process is in.
fn own() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let cgroup = fs::read_to_string("/proc/self/cgroup").ok()?;
    folder(&mounts, &cgroup)
}

fn folder(mounts: &str, cgroup: &str) -> Option<PathBuf> {
    // The root within the hierarchy, where that is mounted, then after a dash the type.
    let mount = mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split_ascii_whitespace().skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup2 ").then(|| (root.to_owned(), PathBuf::from(at)))
    });
    let (root, at) = mount?;
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let below = Path::new(path).strip_prefix(&root).ok()?;
    Some(if below.as_os_str().is_empty() { at } else { at.join(below) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 0:20 / /proc rw,relatime shared:5 - proc proc rw\n\
                          30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_folder_is_found_in_what_the_kernel_says() {
        for (mounts, cgroup, found) in [
            (MOUNTS, "0::/system.slice/mld.service\n", Some("/sys/fs/cgroup/system.slice/mld.service")),
            (MOUNTS, "1:name=systemd:/x\n0::/\n", Some("/sys/fs/cgroup")),
            (MOUNTS, "4:memory:/x\n", None),
            ("22 1 0:20 / /proc rw - proc proc rw\n", "0::/x\n", None),
            ("30 22 0:26 /box /cg rw - cgroup2 cgroup2 rw\n", "0::/box/mld\n", Some("/cg/mld")),
            ("30 22 0:26 /box /cg rw - cgroup2 cgroup2 rw\n", "0::/other\n", None),
        ] {
            assert_eq!(folder(mounts, cgroup), found.map(PathBuf::from), "{cgroup}");
        }
    }

    fn asked(cpus: u32, memory_mib: u32) -> Resources {
        Resources { cpus, memory_mib, ..Resources::NONE }
    }

    /// A tree of plain folders and files: what is written where.
    #[tokio::test]
    async fn what_an_attempt_asked_for_is_its_bound_where_the_kernel_has_such() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        fs::create_dir(&root).unwrap();
        assert!(Cgroups::find(Some(&root)).is_none(), "a folder like any other");
        fs::write(root.join("cgroup.procs"), "").unwrap();
        fs::write(root.join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        let cgroups = Cgroups::find(Some(&root)).unwrap();
        assert_eq!(fs::read_to_string(root.join("cgroup.subtree_control")).unwrap(), "+cpu");
        let cell = cgroups.confine(Path::new("/a/17/2"), 4321, &asked(3, 512)).unwrap();
        let wrote = |file: &str| fs::read_to_string(root.join("17-2").join(file)).ok();
        assert_eq!(wrote("memory.max").as_deref(), Some("536870912"));
        assert_eq!(wrote("memory.oom.group").as_deref(), Some("1"));
        assert_eq!(wrote("cpu.weight").as_deref(), Some("300"));
        assert_eq!(wrote("cgroup.procs").as_deref(), Some("4321"));
        assert_eq!(cell.ran_out_of_memory(), None, "nobody counts");
        for (file, text) in [
            ("cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
            ("memory.peak", "1048576\n"),
            ("memory.events", "low 0\noom 1\noom_kill 1\noom_group_kill 1\n"),
            ("cgroup.events", "populated 0\nfrozen 0\n"),
        ] {
            fs::write(root.join("17-2").join(file), text).unwrap();
        }
        assert_eq!(cell.ran_out_of_memory(), Some(true));
        assert_eq!(cell.end().await, Some(Spent { cpu_ms: 2500, peak_bytes: Some(1_048_576) }));
        assert_eq!(wrote("cgroup.kill").as_deref(), Some("1"));
        // One that asked for no memory is not bounded.
        cgroups.confine(Path::new("/a/18/1"), 1, &asked(1, 0)).unwrap();
        assert!(!root.join("18-1/memory.max").exists());
        assert!(cgroups.earlier(Path::new("/a/18/1")).is_some() && cgroups.earlier(Path::new("/a/18/2")).is_none());
    }

    #[test]
    fn where_nothing_is_bounded_nothing_is_written_and_where_nothing_can_be_made_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        let cgroups = Cgroups::find(Some(dir.path())).unwrap();
        cgroups.confine(Path::new("/a/1/1"), 1, &asked(1, 5)).unwrap();
        let files: Vec<_> =
            fs::read_dir(dir.path().join("1-1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["cgroup.procs"]);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Cgroups::find(Some(&file)).is_none());
        let delegated = Delegated { root: dir.path().to_owned(), is_above: false };
        fs::write(dir.path().join("cgroup.controllers"), "memory").unwrap();
        assert!(Cgroups::take(delegated).unwrap().bounds.is_empty(), "a restart must find room for the daemon");
    }
}
