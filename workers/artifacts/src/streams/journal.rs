//! How far an upload in parts has come, in a file beside nothing that matters: when it is lost, all parts are sent again. It names the source as it was, so that parts of two contents are never
//! mixed; each part's checksum is compared with the source's once more before it is relied on.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use object_store::MultipartId;
use serde::{Deserialize, Serialize};

use super::local::{Identity, open_locked};

/// What it begins with. Another number is another form, which is not read.
const VERSION: u32 = 1;

/// The largest that is read, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// An upload that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    version: u32,
    uri: String,
    file: String,
    source: Identity,
    part_bytes: u64,
    pub(super) id: MultipartId,
}

/// A part that has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Arrived {
    /// From 0.
    pub(super) number: usize,
    /// What the store calls it.
    pub(super) content_id: String,
    pub(super) crc64nvme: u64,
}

/// What an upload is of, and to where.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) uri: String,
    pub(super) file: PathBuf,
    pub(super) source: Identity,
    pub(super) part_bytes: u64,
}

/// What was left by an earlier process.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// An upload of the same content, and the parts that have arrived by their numbers.
    pub(super) same: Option<(MultipartId, BTreeMap<usize, Arrived>)>,
    /// An upload of another content to the same place: nothing that anybody wants.
    pub(super) stale: Option<MultipartId>,
}

/// Locked while it is held: two uploads of one file to one place would write over each other's record.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    subject: Subject,
}

impl Journal {
    /// Opens the journal of a subject, new or as it was left.
    pub(super) fn open(folder: &Path, subject: Subject) -> io::Result<(Self, Left)> {
        fs::create_dir_all(folder)?;
        let name = blake3::hash(format!("{}\0{}", subject.uri, subject.file.display()).as_bytes()).to_hex();
        let path = folder.join(format!("{}.jsonl", &name[..32]));
        let options = OpenOptions::new().read(true).append(true).create(true).to_owned();
        let mut file = open_locked(&path, &options, "another process sends the same file there")?;
        let mut bytes = Vec::new();
        (&mut file).take(MAX_BYTES).read_to_end(&mut bytes)?;
        let left = read(&bytes, &subject);
        if !matches!(bytes.last(), None | Some(b'\n')) {
            file.write_all(b"\n")?;
        }
        Ok((Self { path, file, subject }, left))
    }

    /// Begins anew with an upload that is open from now on.
    pub(super) fn begin(&mut self, id: &MultipartId) -> io::Result<()> {
        let Subject { uri, file, source, part_bytes } = &self.subject;
        let begun = Begun {
            version: VERSION,
            uri: uri.clone(),
            file: file.display().to_string(),
            source: source.clone(),
            part_bytes: *part_bytes,
            id: id.clone(),
        };
        self.file.set_len(0)?;
        self.write(&begun)?;
        self.file.sync_data()
    }

    /// A part has arrived.
    pub(super) fn arrived(&mut self, part: &Arrived) -> io::Result<()> {
        self.write(part)
    }

    fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)
    }

    /// The upload is over, one way or the other.
    pub(super) fn close(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

fn read(bytes: &[u8], subject: &Subject) -> Left {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let begun: Option<Begun> = lines.next().and_then(|line| serde_json::from_slice(line).ok());
    let Some(begun) = begun.filter(|begun| begun.version == VERSION && begun.uri == subject.uri) else {
        return Left::default();
    };
    if begun.source != subject.source || begun.part_bytes != subject.part_bytes {
        return Left { same: None, stale: Some(begun.id) };
    }
    // A line that cannot be read was not written to its end.
    let parts = lines.filter_map(|line| serde_json::from_slice::<Arrived>(line).ok());
    Left { same: Some((begun.id, parts.map(|part| (part.number, part)).collect())), stale: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(size: u64) -> Subject {
        let source = serde_json::from_str(&format!(r#"{{"size":{size},"modified":[1,2],"inode":3}}"#)).unwrap();
        Subject { uri: "s3://b/x".into(), file: "/data/x".into(), source, part_bytes: 8 }
    }

    fn part(number: usize) -> Arrived {
        Arrived { number, content_id: format!("etag-{number}"), crc64nvme: u64::MAX - number as u64 }
    }

    #[test]
    fn an_upload_is_found_again_by_whoever_sends_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let open = |size| Journal::open(&dir.path().join("uploads"), subject(size));
        let (mut journal, left) = open(20).unwrap();
        assert_eq!(left, Left::default());
        journal.begin(&"u1".into()).unwrap();
        journal.arrived(&part(1)).unwrap();
        journal.arrived(&part(0)).unwrap();
        assert!(open(20).is_err(), "one at a time");
        journal.file.write_all(b"{\"number\":2,\"content").unwrap();
        drop(journal);
        let (mut journal, left) = open(20).unwrap();
        let parts = [part(0), part(1)].map(|part| (part.number, part));
        assert_eq!(left.same, Some(("u1".into(), parts.into())), "but for the line that was cut off");
        journal.arrived(&part(2)).unwrap();
        drop(journal);
        let (journal, left) = open(20).unwrap();
        assert_eq!(left.same.unwrap().1.len(), 3);
        drop(journal);
        let (mut journal, left) = open(21).unwrap();
        assert_eq!(left, Left { same: None, stale: Some("u1".into()) }, "another content begins anew");
        journal.begin(&"u2".into()).unwrap();
        drop(journal);
        let (journal, left) = open(21).unwrap();
        assert_eq!(left.same, Some(("u2".into(), BTreeMap::new())));
        journal.close().unwrap();
        assert_eq!(open(21).unwrap().1, Left::default());
    }

    #[test]
    fn what_cannot_be_read_is_no_journal() {
        for text in ["", "\n", "{}", "nonsense", r#"{"version":2,"uri":"s3://b/x","id":"u"}"#] {
            assert_eq!(read(text.as_bytes(), &subject(1)), Left::default(), "{text}");
        }
    }

    #[test]
    fn lines_are_as_they_were() {
        let text = r#"{"version":1,"uri":"s3://b/x","file":"/data/x","source":{"size":20,"modified":[1,2],"inode":3},"part_bytes":8,"id":"u1"}
{"number":0,"content_id":"etag-0","crc64nvme":18446744073709551615}"#;
        let left = read(text.as_bytes(), &subject(20));
        assert_eq!(left.same, Some(("u1".into(), [(0, part(0))].into())));
    }
}
