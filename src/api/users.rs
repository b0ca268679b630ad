//! Login names for user ids, from `/etc/passwd`. Called where a job is shown and where a list names a user. Users that come from elsewhere (LDAP) have no name here:
//! their id stands for it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use super::error::Failure;
use crate::domain::Uid;

/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The users of this machine. The file is read again when it has changed.
#[derive(Debug)]
pub(super) struct Users {
    file: PathBuf,
    read: Mutex<Option<(Version, Names)>>,
}

/// Login names by id.
pub(super) type Names = Arc<BTreeMap<u32, String>>;

/// Tells one state of the file from another.
type Version = (u64, Option<SystemTime>);

/// Says the login name of a user, where there is one on this machine.
pub fn login_names() -> impl Fn(Uid) -> Option<String> + Send + Sync {
    let users = Users::new();
    move |uid| users.names().get(&uid.0).cloned()
}

impl Users {
    pub(super) fn new() -> Self {
        Self::of("/etc/passwd".into())
    }

    fn of(file: PathBuf) -> Self {
        Self { file, read: Mutex::default() }
    }

    /// The login name, or the id in digits.
    #[cfg(test)]
    fn name(&self, uid: Uid) -> String {
        self.names().get(&uid.0).cloned().unwrap_or_else(|| uid.0.to_string())
    }

    /// The user whom a login name or an id in digits means.
    pub(super) fn find(&self, text: &str) -> Option<Uid> {
        if let Ok(uid) = text.parse() {
            return Some(Uid(uid));
        }
        self.names().iter().find(|(_, name)| *name == text).map(|(uid, _)| Uid(*uid))
    }

    /// The same, as somebody names it.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn named(&self, text: &str) -> Result<Uid, Failure> {
        self.find(text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Failure::bad_request(format!("there is no user {shown:?} on this machine"), "name a login or a user id")
        })
    }

    pub(super) fn names(&self) -> Names {
        let Ok(version) = self.version() else { return Arc::default() };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((known, names)) if *known == version => names.clone(),
            _ => {
                let names = Arc::new(parse(&fs::read(&self.file).unwrap_or_default()));
                *read = Some((version, names.clone()));
                names
            }
        }
    }

    fn version(&self) -> io::Result<Version> {
        let found = fs::metadata(&self.file)?;
        if found.len() > MAX_FILE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok((found.len(), found.modified().ok()))
    }
}

/// The first name of each id, as the C library does it. Lines that are none of the format are passed over.
fn parse(file: &[u8]) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for line in String::from_utf8_lossy(file).lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(uid)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if let (false, Ok(uid)) = (name.is_empty(), uid.parse()) {
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_file_as_it_is_now() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("passwd");
        let users = Users::of(file.clone());
        assert_eq!(users.name(Uid(0)), "0", "no file");
        fs::write(
            &file,
            "root:x:0:0:root:/root:/bin/sh\n\n# note\ntoor:x:0:0::/:/bin/sh\nbad:x:y:\n:x:7:\nann:x:1000:",
        )
        .unwrap();
        for (uid, name) in [(0, "root"), (1000, "ann"), (7, "7"), (u32::MAX, "4294967295")] {
            assert_eq!(users.name(Uid(uid)), name);
        }
        for (text, uid) in [("ann", Some(1000)), ("1000", Some(1000)), ("55", Some(55)), ("bob", None), ("", None)] {
            assert_eq!(users.find(text), uid.map(Uid), "{text}");
        }
        fs::write(&file, "ben:x:1000:1000:changed:/:/bin/sh").unwrap();
        assert_eq!(users.name(Uid(1000)), "ben");
    }
}
