//! Files to and from each store: whole or not at all, gone on with after a kill, never of two contents. Then what only a server can do wrong, played by a puppet.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mlctl_artifacts::{
    ArtifactError, Location, Stores,
    streams::{Moved, Step, Streams},
};
use tokio::sync::Notify;

use super::{
    cases::noise,
    puppet::{Answer, Asked, Puppet},
};

const MIB: usize = 1 << 20;

/// Tries everything on the stores, under a prefix in which nothing is yet.
pub async fn all(stores: &Stores, prefix: &str) {
    let at = |name: &str| stores.open(&format!("{prefix}/{name}")).unwrap();
    files_come_back_as_they_went(&at("files")).await;
    folders_come_back_as_they_went(&at("folders")).await;
    what_is_not_there_leaves_nothing(&at("absent")).await;
    a_killed_upload_is_gone_on_with(&at("killed")).await;
    an_upload_of_another_content_begins_anew(&at("stale")).await;
    a_file_that_changes_is_not_sent(&at("changing")).await;
    many_readers_and_writers_keep_to_the_budget(&at("many")).await;
}

async fn files_come_back_as_they_went(folder: &Location) {
    let dir = tempfile::tempdir().unwrap();
    let streams = Streams::new(16 * MIB);
    for size in [0, 1, 8 * MIB, 8 * MIB + 1, 35 * MIB + 7] {
        let (here, there, back) =
            (dir.path().join("x"), folder.join(&format!("x-{size}")).unwrap(), dir.path().join("y"));
        std::fs::write(&here, noise(1, size)).unwrap();
        let sent = streams.send(&here, &there).await.unwrap();
        assert_eq!((sent.size, sent.reused), (size as u64, 0));
        assert!(there.get(u64::MAX).await.unwrap() == noise(1, size), "{size}");
        let received = streams.receive(&there, &back).await.unwrap();
        assert_eq!(received.size, size as u64);
        assert_eq!(received.is_verified, there.uri().starts_with("s3://"), "{size}: {}", there.uri());
        assert!(std::fs::read(&back).unwrap() == noise(1, size), "{size}, back over an older one");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing lies beside them");
}

async fn folders_come_back_as_they_went(folder: &Location) {
    let dir = tempfile::tempdir().unwrap();
    let (here, back) = (dir.path().join("here"), dir.path().join("far/back"));
    let mut expected = Vec::new();
    for number in 0..120_u8 {
        let name = match number {
            0 => "a b/ü-日本".to_owned(),
            1 => "empty".to_owned(),
            2 => "large/one".to_owned(),
            n => format!("d{}/e{}/x-{n}", n % 5, n % 3),
        };
        let size = match number {
            1 => 0,
            2 => 17 * MIB,
            n => usize::from(n) * 100,
        };
        let path = here.join(&name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, noise(number, size)).unwrap();
        expected.push((name, size));
    }
    std::os::unix::fs::symlink("/", here.join("link-to-a-folder")).unwrap();
    std::os::unix::fs::symlink(here.join("empty"), here.join("link-to-a-file")).unwrap();
    let streams = Streams::default();
    let sent = streams.send_folder(&here, folder).await.unwrap();
    let bytes: usize = expected.iter().map(|(_, size)| size).sum();
    assert_eq!(sent, Moved { files: 121, bytes: bytes as u64, reused: 0, skipped: 1, verified: 0 });
    let received = streams.receive_folder(folder, &back).await.unwrap();
    let verified = if folder.uri().starts_with("s3://") { 121 } else { 0 };
    assert_eq!(received, Moved { files: 121, bytes: bytes as u64, reused: 0, skipped: 0, verified });
    for (number, (name, size)) in (0..).zip(&expected) {
        assert!(std::fs::read(back.join(name)).unwrap() == noise(number, *size), "{name}");
    }
    let missing = folder.sibling("nothing").unwrap();
    assert!(matches!(streams.receive_folder(&missing, &back).await, Err(ArtifactError::NotFound { .. })));
}

async fn what_is_not_there_leaves_nothing(at: &Location) {
    let dir = tempfile::tempdir().unwrap();
    let streams = Streams::default();
    let gone = streams.receive(at, &dir.path().join("x")).await.unwrap_err();
    assert!(matches!(gone, ArtifactError::NotFound { .. }), "{gone:?}");
    let gone = streams.send(&dir.path().join("x"), at).await.unwrap_err();
    assert!(matches!(gone, ArtifactError::NotFound { .. }), "{gone:?}");
    assert!(gone.to_string().contains("file://"), "it is the file that is not there: {gone}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(at.size().await.unwrap(), None);
}

/// Sends until so many bytes are through, and is killed.
async fn killed_after(streams: &Streams, bytes: usize, file: &Path, to: &Location) {
    let (through, enough) = (AtomicU64::new(0), Arc::new(Notify::new()));
    let tell = enough.clone();
    let streams = streams.clone().with_progress(Arc::new(move |step| {
        if let Step::Moved(moved) = step
            && through.fetch_add(moved, Ordering::Relaxed) + moved >= bytes as u64
        {
            tell.notify_one();
        }
    }));
    tokio::select! {
        biased;
        () = enough.notified() => {}
        sent = streams.send(file, to) => panic!("it was faster: {sent:?}"),
    }
}

async fn a_killed_upload_is_gone_on_with(to: &Location) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    std::fs::write(&file, noise(2, 100 * MIB)).unwrap();
    let journals = dir.path().join("journals");
    let streams = Streams::new(16 * MIB).with_journals(journals.clone());
    killed_after(&streams, 48 * MIB, &file, to).await;
    assert_eq!(to.size().await.unwrap(), None, "nothing is seen of it");
    let streams = Streams::new(16 * MIB).with_journals(journals.clone());
    let sent = streams.send(&file, to).await.unwrap();
    if to.is_remote() {
        assert!(sent.reused >= 48 * MIB as u64, "{sent:?}");
        assert_eq!(std::fs::read_dir(&journals).unwrap().count(), 0, "its journal is gone");
    }
    assert!(to.get(u64::MAX).await.unwrap() == noise(2, 100 * MIB));
    require_none_open(to).await;
}

async fn an_upload_of_another_content_begins_anew(to: &Location) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    let streams = Streams::new(16 * MIB).with_journals(dir.path().join("journals"));
    std::fs::write(&file, noise(3, 60 * MIB)).unwrap();
    killed_after(&streams, 24 * MIB, &file, to).await;
    std::fs::write(&file, noise(4, 60 * MIB)).unwrap();
    let sent = streams.send(&file, to).await.unwrap();
    assert_eq!(sent.reused, 0);
    assert!(to.get(u64::MAX).await.unwrap() == noise(4, 60 * MIB));
    require_none_open(to).await;
}

async fn a_file_that_changes_is_not_sent(to: &Location) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    for journals in [None, Some(dir.path().join("journals"))] {
        std::fs::write(&file, noise(5, 40 * MIB)).unwrap();
        let path = file.clone();
        let changed = std::sync::Once::new();
        let streams = Streams::new(16 * MIB).with_progress(Arc::new(move |step| {
            if let Step::Moved(_) = step {
                changed.call_once(|| std::fs::write(&path, noise(6, 40 * MIB)).unwrap());
            }
        }));
        let streams = match journals {
            Some(folder) => streams.with_journals(folder),
            None => streams,
        };
        let error = streams.send(&file, to).await.unwrap_err();
        assert!(error.to_string().contains("changed while it was read"), "{error}");
        assert_eq!(to.size().await.unwrap(), None);
        require_none_open(to).await;
    }
}

async fn many_readers_and_writers_keep_to_the_budget(folder: &Location) {
    let dir = tempfile::tempdir().unwrap();
    let streams = Streams::new(16 * MIB);
    let moves = (0..6_u8).map(|number| {
        let (streams, here, there) = (streams.clone(), dir.path().join(format!("x-{number}")), folder.clone());
        async move {
            let there = there.join(&format!("x-{number}")).unwrap();
            std::fs::write(&here, noise(number, 20 * MIB)).unwrap();
            streams.send(&here, &there).await.unwrap();
            let back = here.with_extension("back");
            streams.receive(&there, &back).await.unwrap();
            assert!(std::fs::read(&back).unwrap() == noise(number, 20 * MIB));
        }
    });
    let all = futures_util::future::join_all(moves);
    tokio::time::timeout(std::time::Duration::from_secs(120), all).await.expect("nobody waits for ever");
}

/// Nothing that somebody pays for was left.
async fn require_none_open(at: &Location) {
    if at.uri().starts_with("s3://") {
        assert_eq!(at.open_uploads().await.unwrap(), []);
    }
}

/// Uploads that nobody will finish are found and given up, those of others are not.
pub async fn left_open(stores: &Stores, prefix: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    std::fs::write(&file, noise(7, 60 * MIB)).unwrap();
    let at = |name: &str| stores.open(&format!("{prefix}/{name}")).unwrap();
    for name in ["a/x", "a/y z+", "ab/x"] {
        let streams = Streams::new(16 * MIB).with_journals(dir.path().join("journals"));
        killed_after(&streams, 16 * MIB, &file, &at(name)).await;
    }
    let open = at("a").open_uploads().await.unwrap();
    let uris: Vec<_> = open.iter().map(|open| open.uri.strip_prefix(prefix).unwrap()).collect();
    assert_eq!(uris, ["/a/x", "/a/y z+"]);
    assert!(open.iter().all(|open| open.begun.starts_with("20")), "{open:?}");
    for open in &open {
        stores.open(&open.uri).unwrap().abort_upload(&open.id).await.unwrap();
    }
    assert_eq!(at("a").open_uploads().await.unwrap(), []);
    assert_eq!(at("ab").open_uploads().await.unwrap().len(), 1);
    // One that was given up behind its back begins anew.
    let streams = Streams::new(16 * MIB).with_journals(dir.path().join("journals"));
    assert_eq!(streams.send(&file, &at("a/x")).await.unwrap().reused, 0);
    assert!(streams.send(&file, &at("ab/x")).await.unwrap().reused >= 16 * MIB as u64);
}

const DATED: &str = "etag: \"e\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n";

/// Of `content`, the range that was asked for.
fn ranged(asked: &Asked, content: &[u8]) -> Vec<u8> {
    let Some(range) = asked.header("range") else { return content.to_vec() };
    let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    content[from.parse().unwrap()..=to.parse::<usize>().unwrap()].to_vec()
}

/// A store with one object, whose ranges are answered by `play`: number of the request, range's first byte, and its bytes.
fn one_object(
    content: Vec<u8>,
    headers: &'static str,
    play: impl Fn(usize, Vec<u8>, &'static str) -> Answer + Send + Sync + 'static,
) -> Puppet {
    let ranges: Vec<&'static str> = (0..content.len().div_ceil(8 * MIB))
        .map(|n| {
            let (begin, end) = (n * 8 * MIB, content.len().min((n + 1) * 8 * MIB) - 1);
            let text = format!("{DATED}content-range: bytes {begin}-{end}/{}\r\n", content.len());
            &*Box::leak(text.into_boxed_str())
        })
        .collect();
    Puppet::new(move |number, asked| {
        if asked.line.starts_with("HEAD ") {
            return Answer::Say(200, headers, content.clone());
        }
        let begin = asked
            .header("range")
            .map_or(0, |range| range["bytes=".len()..].split('-').next().unwrap().parse().unwrap());
        assert!(begin % (8 * MIB) == 0, "ranges are asked for whole");
        play(number, ranged(asked, &content), ranges[begin / (8 * MIB)])
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_found_by_the_checksum_and_leave_nothing() {
    let content = noise(8, 20 * MIB).to_vec();
    let headers =
        "etag: \"e\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nx-amz-checksum-crc64nvme: AAAAAAAAAAA=\r\n";
    let puppet = one_object(content, headers, |_, bytes, headers| Answer::Say(206, headers, bytes));
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x");
    std::fs::write(&target, "old").unwrap();
    let from = puppet.stores().open("s3://bucket/x").unwrap();
    let error = Streams::default().receive(&from, &target).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Corrupt { .. }), "{error:?}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "old");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(puppet.asked().iter().all(|asked| asked.header("x-amz-checksum-mode") == Some("ENABLED")));
    // And of what comes by one request.
    let headers =
        "etag: \"e\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nx-amz-checksum-crc64nvme: rosUhgp5mIg=\r\n";
    for (body, is_right) in [("123456789", true), ("123456798", false)] {
        let puppet = Puppet::new(move |_, _| Answer::Say(200, headers, body.into()));
        let from = puppet.stores().open("s3://bucket/x").unwrap();
        let received = Streams::default().receive(&from, &target).await;
        assert_eq!(received.is_ok_and(|received| received.is_verified), is_right, "{body}");
    }
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "123456789");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_are_cut_off_or_refused_for_now_are_asked_for_again() {
    let content = noise(9, 20 * MIB).to_vec();
    let expected = content.clone();
    let puppet = one_object(content, DATED, |number, bytes, headers| match number {
        1 => Answer::HangUp,
        2 => Answer::Say(503, "", b"<Error><Code>SlowDown</Code></Error>".to_vec()),
        _ => Answer::Say(206, headers, bytes),
    });
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x");
    let received = Streams::default().receive(&puppet.stores().open("s3://bucket/x").unwrap(), &target).await.unwrap();
    assert!(!received.is_verified, "the store has no checksum of it");
    assert!(std::fs::read(&target).unwrap() == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_ends_too_early_is_no_object() {
    let puppet = Puppet::new(|_, asked| match asked.line.starts_with("HEAD ") {
        true => Answer::Say(200, DATED, vec![1; 5 * MIB]),
        false => Answer::Cut(200, DATED, vec![1; 3 * MIB], 2 * MIB),
    });
    let dir = tempfile::tempdir().unwrap();
    let from = puppet.stores().open("s3://bucket/x").unwrap();
    let error = Streams::default().receive(&from, &dir.path().join("x")).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Unavailable { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_lead_out_of_a_folder_are_refused() {
    let list = |key: &str| {
        format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>{key}</Key><Size>1</Size>\
             <LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag></Contents></ListBucketResult>"
        )
    };
    for key in ["data/../../../outside", "data/a/../../x", "data/./x", "data//x"] {
        let body = list(key);
        let puppet = Puppet::new(move |_, asked| match asked.line.contains("list-type") {
            true => Answer::Say(200, "", body.clone().into_bytes()),
            false => Answer::Say(200, DATED, b"x".to_vec()),
        });
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("deep/er/into");
        let from = puppet.stores().open("s3://bucket/data").unwrap();
        assert!(Streams::default().receive_folder(&from, &into).await.is_err(), "{key}");
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert!(left.is_empty(), "{key}: {left:?}");
    }
}

/// A store that takes an upload in parts, as `part` and `complete` answer.
fn taking_parts(
    head: &'static str,
    part: impl Fn(usize) -> Answer + Send + Sync + 'static,
    complete: impl Fn(usize) -> Answer + Send + Sync + 'static,
) -> Puppet {
    Puppet::new(move |number, asked| match asked.line.as_str() {
        line if line.starts_with("POST /bucket/x?uploads") => Answer::Say(
            200,
            "",
            b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>".to_vec(),
        ),
        line if line.starts_with("PUT ") => part(number),
        line if line.starts_with("POST ") => complete(number),
        line if line.starts_with("HEAD ") => Answer::Say(200, head, vec![0; 20 * MIB]),
        _ => Answer::Say(204, "", Vec::new()),
    })
}

fn completed(_: usize) -> Answer {
    Answer::Say(200, "", b"<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>".to_vec())
}

async fn sent_to(puppet: &Puppet) -> Result<u64, ArtifactError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    std::fs::write(&file, vec![0; 20 * MIB]).unwrap();
    Streams::default().send(&file, &puppet.stores().open("s3://bucket/x").unwrap()).await.map(|sent| sent.size)
}

fn deletes(puppet: &Puppet) -> usize {
    puppet.asked().iter().filter(|asked| asked.line == "DELETE /bucket/x?uploadId=u1").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_are_refused_for_now_or_arrive_otherwise_are_sent_again() {
    let puppet = taking_parts(
        DATED,
        |number| match number {
            1 => Answer::Say(503, "", b"<Error><Code>SlowDown</Code></Error>".to_vec()),
            2 => Answer::HangUp,
            3 => Answer::Say(400, "", b"<Error><Code>BadDigest</Code></Error>".to_vec()),
            _ => Answer::Say(200, DATED, Vec::new()),
        },
        completed,
    );
    assert_eq!(sent_to(&puppet).await.unwrap(), 20 * MIB as u64);
    assert_eq!(deletes(&puppet), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_whose_answer_was_lost_is_recognised() {
    let lost = |number: usize| match number {
        4 => Answer::HangUp,
        _ => Answer::Say(404, "", b"<Error><Code>NoSuchUpload</Code></Error>".to_vec()),
    };
    let part = |_| Answer::Say(200, DATED, Vec::new());
    // The checksum of 20 MiB of zeros, and another.
    let right = "etag: \"e\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nx-amz-checksum-crc64nvme: ZEROS\r\n";
    let right = right.replace("ZEROS", &zeros());
    let right: &'static str = Box::leak(right.into_boxed_str());
    let wrong =
        "etag: \"e\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nx-amz-checksum-crc64nvme: rosUhgp5mIg=\r\n";
    let puppet = taking_parts(right, part, lost);
    assert_eq!(sent_to(&puppet).await.unwrap(), 20 * MIB as u64);
    let puppet = taking_parts(wrong, part, lost);
    assert!(sent_to(&puppet).await.is_err(), "somebody else's object is not ours");
    // A store that holds something else than what it took is found out.
    let puppet = taking_parts(wrong, part, completed);
    assert!(sent_to(&puppet).await.unwrap_err().to_string().contains("not what was sent"));
}

/// CRC-64/NVME of 20 MiB of zeros in Base64, bit by bit: another way to it than the program's.
fn zeros() -> String {
    let mut crc = u64::MAX;
    let mut table = [0_u64; 256];
    for (value, entry) in table.iter_mut().enumerate() {
        let mut rest = value as u64;
        for _ in 0..8 {
            rest = if rest & 1 == 1 { rest >> 1 ^ 0x9a6c_9329_ac4b_c9b5 } else { rest >> 1 };
        }
        *entry = rest;
    }
    for _ in 0..20 * MIB {
        crc = crc >> 8 ^ table[(crc & 0xff) as usize];
    }
    let crc = !crc;
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u128::from(crc) << 2;
    (0..11).rev().map(|n| char::from(digits[(bits >> (6 * n) & 63) as usize])).chain(['=']).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_upload_of_a_file_is_cleared_away_where_nobody_can_go_on_with_it() {
    let refused = |_| Answer::Say(403, "", b"<Error><Code>AccessDenied</Code></Error>".to_vec());
    let puppet = taking_parts(DATED, refused, completed);
    assert!(matches!(sent_to(&puppet).await, Err(ArtifactError::Denied { .. })));
    assert_eq!(deletes(&puppet), 1);
}
