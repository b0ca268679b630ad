//! A folder of cgroup v2 for tests with real cgroups.

use std::{fs, path::PathBuf};

/// A folder of the test's own, removed when dropped.
pub struct Tree(pub PathBuf);

impl Tree {
    /// None, said out loud, where this user may not have one.
    pub fn plant() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let at = mount.and_then(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let tree = at.map(|at| at.join(format!("mld-test-{}", std::process::id())));
        match tree.map(|tree| fs::create_dir(&tree).map(|()| tree)) {
            Some(Ok(tree)) => Some(Self(tree)),
            why => {
                println!("left out: no cgroup v2 to plant a tree in: {why:?}");
                None
            }
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
