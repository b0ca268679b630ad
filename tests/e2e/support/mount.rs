//! A small file system of one's own, for full and read-only disks. Needs root; a test that cannot have one says so and is over.

use std::{path::PathBuf, process::Command};

/// A tmpfs that is unmounted when dropped.
#[derive(Debug)]
pub struct Tmpfs {
    /// Where it is mounted.
    pub path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Tmpfs {
    /// One of so many bytes; `None`, said out loud, where this user may not mount.
    pub fn of(bytes: u64) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("mlfs").tempdir().unwrap();
        let path = dir.path().to_owned();
        if mount(&["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700"), "mlctl-test"], &path) {
            return Some(Self { path, _dir: dir });
        }
        println!("SKIPPED: mounting a file system needs root");
        None
    }

    /// Takes the right to write to it, or gives it back.
    pub fn read_only(&self, read_only: bool) {
        let how = if read_only { "remount,ro" } else { "remount,rw" };
        assert!(mount(&["-o", how], &self.path), "remounting {}", self.path.display());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn mount(args: &[&str], path: &std::path::Path) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    is_root && Command::new("mount").args(args).arg(path).status().is_ok_and(|status| status.success())
}
