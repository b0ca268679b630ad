//! A small file system of one's own, for full and read-only disks. Needs root; a test that cannot have one says so and is over.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

/// A file system that is unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    /// Where it is mounted.
    pub path: PathBuf,
    /// With the image, where there is one.
    _dir: tempfile::TempDir,
}

impl Disk {
    /// One in memory, of so many bytes; `None`, said out loud, where this user may not mount.
    pub fn tmpfs(bytes: u64) -> Option<Self> {
        Self::new(|path| mount(&["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700"), "mlctl-test"], path))
    }

    /// An ext4 in a file of so many bytes, as [`Self::tmpfs`].
    pub fn ext4(bytes: u64) -> Option<Self> {
        Self::new(|path| {
            let image = path.with_file_name("image");
            File::create(&image).unwrap().set_len(bytes).unwrap();
            // Root's share of the blocks is what full means to others; here root fills it.
            let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).status();
            made.is_ok_and(|status| status.success()) && mount(&["-o", "loop", image.to_str().unwrap()], path)
        })
    }

    fn new(mounted: impl FnOnce(&Path) -> bool) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("mlfs").tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::create_dir(&path).unwrap();
        if rustix::process::geteuid().is_root() && mounted(&path) {
            return Some(Self { path, _dir: dir });
        }
        println!("SKIPPED: mounting a file system needs root");
        None
    }

    /// Bytes that are free on it.
    pub fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.path).map(|stat| stat.f_bavail * stat.f_frsize).unwrap()
    }

    /// Takes the right to write to it, or gives it back.
    pub fn read_only(&self, read_only: bool) {
        let how = if read_only { "remount,ro" } else { "remount,rw" };
        assert!(mount(&["-o", how], &self.path), "remounting {}", self.path.display());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn mount(args: &[&str], path: &Path) -> bool {
    Command::new("mount").args(args).arg(path).status().is_ok_and(|status| status.success())
}
