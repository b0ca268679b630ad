//! A file system of one's own whose power can be cut (ext4 on a loop device and its shutdown ioctl), for processes that have mounts of their own.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::support::until;

/// Waits for a word, and cuts without writing the journal first. (0x8004587D is EXT4_IOC_SHUTDOWN, and 2 its flag for that.)
const CUT: &str = r#"
import fcntl, os, struct, sys
folder = os.open(sys.argv[1], os.O_RDONLY)
print("ready", flush=True)
sys.stdin.readline()
fcntl.ioctl(folder, 0x8004587D, struct.pack("I", 2))
print("cut", flush=True)
"#;

/// Whether a program succeeds.
pub fn run(command: &str, arguments: &[&Path]) -> bool {
    let done = Command::new(command).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// The disk.
pub struct Disk {
    image: PathBuf,
    /// Where it is mounted.
    pub mount: PathBuf,
}

impl Disk {
    /// One in this folder; `None` where this user may not mount, or there is no `mkfs.ext4`.
    pub fn new(dir: &Path) -> Option<Self> {
        let disk = Self { image: dir.join("image"), mount: dir.join("mount") };
        fs::create_dir(&disk.mount).unwrap();
        File::create(&disk.image).unwrap().set_len(512 << 20).unwrap();
        let made = run("mkfs.ext4", &[Path::new("-q"), Path::new("-F"), &disk.image]);
        (made && disk.mount()).then_some(disk)
    }

    pub fn mount(&self) -> bool {
        run("mount", &[Path::new("-o"), Path::new("loop"), &self.image, &self.mount])
    }

    /// Waits until nobody uses it any more.
    pub fn unmount(&self) {
        until("nobody uses the disk", || run("umount", &[&self.mount]).then_some(()));
    }

    /// Who will cut its power.
    pub fn saboteur(&self) -> Saboteur {
        let mut python = Command::new("python3");
        python.args(["-c", CUT]).arg(&self.mount).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut python = python.spawn().unwrap();
        let said = BufReader::new(python.stdout.take().unwrap());
        let mut saboteur = Saboteur { python, said };
        assert_eq!(saboteur.hear(), "ready");
        saboteur
    }
}

/// Has its hand at the switch.
pub struct Saboteur {
    python: Child,
    said: BufReader<ChildStdout>,
}

impl Saboteur {
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Cuts the power: what is not synced is gone, and nothing can be written any more.
    pub fn cut(mut self) {
        self.python.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(self.hear(), "cut");
        self.python.wait().unwrap();
    }
}
