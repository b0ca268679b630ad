//! The cases. Each has a folder of its own under a prefix, and says its name before it begins.

use bytes::Bytes;
use mlctl_artifacts::{
    ArtifactError, Body, Entry, Location, Stores, Upload, blake3_hex,
    checkpoint::{self, Header, Part},
    keys,
    manifest::{Manifest, Object, Role},
    probe, publish, references,
    restore::Reader,
};

use super::header::header;

const MIB: usize = 1 << 20;

/// Tries everything on the stores, under a prefix in which nothing is yet.
pub async fn all(stores: &Stores, prefix: &str) {
    macro_rules! run {
        ($($case:ident)+) => {
            $(
                println!("{prefix}: {}", stringify!($case));
                $case(stores, &stores.open(&format!("{prefix}/{}", stringify!($case))).unwrap()).await;
            )+
        };
    }
    run! {
        objects_come_back_as_written
        names_are_taken_as_they_are
        what_is_not_there_is_said_so
        of_many_creators_one_succeeds
        limits_hold
        large_objects_go_in_parts
        uploads_appear_at_the_end_or_not_at_all
        versions_are_never_mixed
        lists_are_whole_and_sorted
        folders_are_deleted_whole
        checkpoints_are_whole_or_invisible
        what_checkpoints_share_is_stored_once
        a_damaged_checkpoint_is_found
        what_is_needed_is_read_in_verified_pieces
        results_are_published_whole
        a_probe_finds_it_fit
    }
}

/// Bytes that no two positions or seeds share by accident.
pub fn noise(seed: u8, size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes.into()
}

async fn objects_come_back_as_written(_: &Stores, folder: &Location) {
    for size in [0, 1, 1000, MIB] {
        let at = folder.join(&format!("deep/er/x-{size}")).unwrap();
        at.put(noise(1, size)).await.unwrap();
        assert_eq!(at.get(size as u64).await.unwrap(), noise(1, size), "{size}");
        assert_eq!(at.size().await.unwrap(), Some(size as u64));
        at.put(noise(2, size)).await.unwrap();
        assert_eq!(at.get(size as u64).await.unwrap(), noise(2, size), "{size}, written over");
        assert_eq!(at.digest().await.unwrap(), (size as u64, blake3_hex(&noise(2, size))));
        at.delete().await.unwrap();
        at.delete().await.unwrap();
        assert_eq!(at.size().await.unwrap(), None);
    }
}

async fn names_are_taken_as_they_are(stores: &Stores, folder: &Location) {
    let names = ["a b", "ü-日本", "50%", "%2F", "a+b", "a&b=c;d", "a?b", "q'uote", "(x)!*~", "a=1,b@2:3"];
    for name in names {
        let at = folder.join(name).unwrap();
        at.put(Bytes::from(name)).await.unwrap();
        let again = stores.open(at.uri()).unwrap();
        assert_eq!(again.get(100).await.unwrap(), name, "{name}");
    }
    let mut sorted: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    sorted.sort_unstable();
    assert_eq!(folder.list().await.unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>(), sorted);
}

async fn what_is_not_there_is_said_so(_: &Stores, folder: &Location) {
    let at = folder.join("absent").unwrap();
    assert!(matches!(at.get(9).await, Err(ArtifactError::NotFound { .. })));
    assert!(matches!(at.pieces(9).await, Err(ArtifactError::NotFound { .. })));
    assert!(matches!(at.digest().await, Err(ArtifactError::NotFound { .. })));
    assert_eq!(at.get_optional(9).await.unwrap(), None);
    assert_eq!((at.size().await.unwrap(), at.list().await.unwrap()), (None, vec![]));
    assert_eq!(at.folders().await.unwrap(), Vec::<String>::new());
    at.join("deeper").unwrap().delete_prefix().await.unwrap();
}

async fn of_many_creators_one_succeeds(_: &Stores, folder: &Location) {
    for round in 0..4 {
        let at = folder.join(&format!("round-{round}")).unwrap();
        let tries = (0..16_u8).map(|writer| {
            let at = at.clone();
            async move { (writer, at.create(noise(writer, 100)).await) }
        });
        let mut winners = Vec::new();
        for (writer, end) in futures_util::future::join_all(tries).await {
            match end {
                Ok(()) => winners.push(writer),
                Err(ArtifactError::AlreadyExists { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(at.get(100).await.unwrap(), noise(winners[0], 100), "and it is the winner's that is there");
    }
}

async fn limits_hold(_: &Stores, folder: &Location) {
    let at = folder.join("ten").unwrap();
    at.put(noise(1, 10)).await.unwrap();
    let too_large = |error: ArtifactError| matches!(error, ArtifactError::TooLarge { size: 10, limit: 9, .. });
    assert!(too_large(at.get(9).await.unwrap_err()));
    assert!(too_large(at.pieces(9).await.unwrap_err()));
    for name in ["..", "a/../b", "", "a\nb"] {
        assert!(matches!(folder.join(name), Err(ArtifactError::BadUri { .. })), "{name:?}");
    }
}

async fn large_objects_go_in_parts(_: &Stores, folder: &Location) {
    for size in [16 * MIB, 16 * MIB + 1, 35 * MIB + 7] {
        let at = folder.join(&format!("x-{size}")).unwrap();
        let whole = noise(3, size);
        at.put(whole.clone()).await.unwrap();
        assert!(at.get(u64::MAX).await.unwrap() == whole, "{size}");
        let mut pieces = at.pieces(u64::MAX).await.unwrap();
        let mut read = Vec::new();
        while let Some(piece) = pieces.next().await.unwrap() {
            assert!(piece.len() <= 8 * MIB);
            read.extend_from_slice(&piece);
        }
        assert!(read == whole, "{size}");
        at.delete().await.unwrap();
    }
}

async fn uploads_appear_at_the_end_or_not_at_all(_: &Stores, folder: &Location) {
    for size in [0, 100, 8 * MIB, 17 * MIB + 3] {
        let at = folder.join(&format!("x-{size}")).unwrap();
        let whole = noise(4, size);
        let mut upload = Upload::new(at.clone());
        for piece in whole.chunks(3 * MIB) {
            upload.write(piece).await.unwrap();
            assert_eq!(at.size().await.unwrap(), None, "nothing is seen before the end");
        }
        assert_eq!(upload.finish().await.unwrap(), size as u64);
        assert!(at.get(u64::MAX).await.unwrap() == whole, "{size}");
    }
    let at = folder.join("given-up").unwrap();
    let mut upload = Upload::new(at.clone());
    upload.write(&noise(5, 17 * MIB)).await.unwrap();
    upload.abort().await;
    assert_eq!(at.size().await.unwrap(), None);
    assert_eq!(folder.list().await.unwrap().len(), 4);
}

async fn versions_are_never_mixed(_: &Stores, folder: &Location) {
    let at = folder.join("x").unwrap();
    at.put(noise(1, 50 * MIB)).await.unwrap();
    let mut pieces = at.pieces(u64::MAX).await.unwrap();
    let first = pieces.next().await.unwrap().unwrap();
    assert_eq!(first, noise(1, 50 * MIB).slice(..first.len()));
    at.put(noise(2, 50 * MIB)).await.unwrap();
    let mut seen = first.len();
    let error = loop {
        match pieces.next().await {
            // Fetched before the change.
            Ok(Some(piece)) => {
                assert!(piece == noise(1, 50 * MIB).slice(seen..seen + piece.len()));
                seen += piece.len();
            }
            Ok(None) => panic!("the old version was read to its end after it was gone"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ArtifactError::Corrupt { .. }) && error.to_string().contains("changed"), "{error:?}");
    let version = |pieces: mlctl_artifacts::Pieces| pieces.version().map(str::to_owned);
    let now = version(at.pieces(u64::MAX).await.unwrap());
    at.put(noise(3, 10)).await.unwrap();
    let then = version(at.pieces(u64::MAX).await.unwrap());
    assert!(then != now || at.uri().starts_with("file:"), "a version has a name where it is not a local file: {now:?}");
}

async fn lists_are_whole_and_sorted(_: &Stores, folder: &Location) {
    // More than a page of S3's holds.
    let names: Vec<String> = (0..1100).map(|n| format!("{:02}/{n:05}", n % 7)).collect();
    for chunk in names.chunks(64) {
        let puts = chunk.iter().map(|name| {
            let at = folder.join(name).unwrap();
            async move { at.put(Bytes::from_static(b"x")).await.unwrap() }
        });
        futures_util::future::join_all(puts).await;
    }
    let mut expected: Vec<_> = names.into_iter().map(|name| Entry { name, size: 1 }).collect();
    expected.sort_unstable();
    assert_eq!(folder.list().await.unwrap(), expected);
    assert_eq!(folder.folders().await.unwrap(), ["00", "01", "02", "03", "04", "05", "06"]);
    // A name that begins alike is another folder.
    assert_eq!(folder.join("0").unwrap().list().await.unwrap(), []);
    folder.join("03").unwrap().delete_prefix().await.unwrap();
    // Some servers go on naming a folder whose objects are gone.
    expected.retain(|entry| !entry.name.starts_with("03/"));
    assert_eq!(folder.list().await.unwrap(), expected);
}

async fn folders_are_deleted_whole(_: &Stores, folder: &Location) {
    let inner = folder.join("a").unwrap();
    for name in ["x", "b/y", "b/c/z"] {
        inner.join(name).unwrap().put(Bytes::from_static(b"x")).await.unwrap();
    }
    folder.join("ab/x").unwrap().put(Bytes::from_static(b"x")).await.unwrap();
    inner.delete_prefix().await.unwrap();
    inner.delete_prefix().await.unwrap();
    let left: Vec<_> = folder.list().await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(left, ["ab/x"]);
}

fn parts(seed: u8) -> Vec<Part> {
    let part = |name: &str, role, bytes| Part { name: name.into(), role, bytes };
    vec![
        part(keys::CHECKPOINT_MODEL, Role::Model, noise(seed, 17 * MIB)),
        part(keys::CHECKPOINT_OPTIMIZER, Role::Optimizer, noise(seed + 1, 1000)),
        part(keys::CHECKPOINT_STATE, Role::State, noise(seed + 2, 10)),
    ]
}

async fn checkpoints_are_whole_or_invisible(stores: &Stores, folder: &Location) {
    let first = checkpoint::write(folder, header(10), parts(1)).await.unwrap();
    let second = checkpoint::write(folder, header(20), parts(2)).await.unwrap();
    let read = checkpoint::read(stores, &first, u64::MAX).await.unwrap();
    assert_eq!((read.reference, read.parts), (first.clone(), parts(1)));
    // The same again is the same; another under its name is refused, and nothing of it is written.
    assert_eq!(checkpoint::write(folder, header(10), parts(1)).await.unwrap(), first);
    let other = checkpoint::write(folder, header(10), parts(9)).await;
    assert!(matches!(other, Err(ArtifactError::AlreadyExists { .. })), "{other:?}");
    assert!(checkpoint::verify(stores, &first).await.unwrap().problems.is_empty());
    // Objects without a manifest are no checkpoint.
    folder.join(&keys::checkpoint(30)).unwrap().join("state.json").unwrap().put(noise(1, 1)).await.unwrap();
    let listing = checkpoint::list(folder).await.unwrap();
    assert_eq!((listing.found, listing.damaged.len()), (vec![second.clone(), first], 0));
    checkpoint::delete(stores, &second.uri).await.unwrap();
    let gone = checkpoint::read(stores, &second, u64::MAX).await;
    assert!(matches!(gone, Err(ArtifactError::NotFound { .. })), "{gone:?}");
    assert_eq!(stores.open(&second.uri).unwrap().list().await.unwrap(), []);
}

/// The parts of a checkpoint of which the model is shared.
fn sharing(seed: u8) -> Vec<Part<Body>> {
    let parts = parts(seed).into_iter().map(|Part { name, role, bytes }| {
        let bytes = if role == Role::Model { noise(1, 17 * MIB) } else { bytes };
        Part { name, role, bytes: Body::from(bytes).shared(role == Role::Model) }
    });
    parts.collect()
}

async fn what_checkpoints_share_is_stored_once(stores: &Stores, job: &Location) {
    let [one, two] = ["1", "2"].map(|attempt| job.join(attempt).unwrap());
    let models = || async { job.list().await.unwrap().into_iter().filter(|entry| entry.size > MIB as u64).collect() };
    let first = checkpoint::write(&one, header(10), sharing(1)).await.unwrap();
    let second = checkpoint::write(&one, header(20), sharing(2)).await.unwrap();
    // A later attempt goes on naming what the one before it has stored.
    let later = Header { parent: Some(second.uri.clone()), ..header(30) };
    let parts = sharing(3);
    let third = checkpoint::write(&two, later.clone(), parts.clone()).await.unwrap();
    // Even when what it began with is gone.
    let gone = Header { parent: Some(job.join("gone").unwrap().uri().to_owned()), ..header(40) };
    let fourth = checkpoint::write(&two, gone, parts).await.unwrap();
    let stored: Vec<Entry> = models().await;
    assert!(stored.len() == 1 && stored[0].name.starts_with("1/shared/"), "{stored:?}");
    let uri = format!("{}/{}", job.uri(), stored[0].name);
    for (reference, seed) in [(&first, 1), (&second, 2), (&third, 3), (&fourth, 3)] {
        let read = checkpoint::read(stores, reference, u64::MAX).await.unwrap();
        let expected: Vec<_> = sharing(seed).iter().map(|part| part.bytes.whole()).collect();
        assert!(read.parts.iter().map(|part| &part.bytes).eq(&expected), "step {}", reference.step);
        assert!(checkpoint::verify(stores, reference).await.unwrap().problems.is_empty());
        let folder = stores.open(&reference.uri).unwrap();
        assert_eq!(references::of(&folder, "elsewhere://x").await.unwrap(), std::slice::from_ref(&uri));
    }
    assert_eq!(checkpoint::write(&two, later, sharing(3)).await.unwrap(), third, "the same again is the same");
    // Who copies a checkpoint has all of it beside the manifest; and nothing outside of a job is read for it.
    let copy = job.join("copies/of/a/checkpoint/30").unwrap();
    let manifest = stores.open(&third.uri).unwrap().join(keys::MANIFEST).unwrap().get(u64::MAX).await.unwrap();
    copy.join(keys::MANIFEST).unwrap().put(manifest).await.unwrap();
    let objects = checkpoint::manifest(stores, &third).await.unwrap().objects;
    for (object, part) in objects.iter().zip(sharing(3)) {
        let read = checkpoint::read(stores, copy.uri(), u64::MAX).await;
        assert!(matches!(read, Err(ArtifactError::Corrupt { .. })), "{read:?}");
        copy.join(&object.name).unwrap().put(part.bytes.whole()).await.unwrap();
    }
    assert_eq!(checkpoint::read(stores, copy.uri(), u64::MAX).await.unwrap().reference.step, 30);
    // The others go, and it stays for who needs it.
    checkpoint::delete(stores, &first.uri).await.unwrap();
    checkpoint::delete(stores, &second.uri).await.unwrap();
    assert!(checkpoint::verify(stores, &third).await.unwrap().problems.is_empty());
    stores.open(&uri).unwrap().put(noise(2, 17 * MIB)).await.unwrap();
    let problems = checkpoint::verify(stores, &third).await.unwrap().problems;
    assert!(problems.len() == 1 && problems[0].contains("checksum"), "{problems:?}");
}

async fn a_damaged_checkpoint_is_found(stores: &Stores, folder: &Location) {
    let whole = checkpoint::write(folder, header(10), parts(1)).await.unwrap();
    let at = |name: &str| stores.open(&whole.uri).unwrap().join(name).unwrap();
    let weights = at(keys::CHECKPOINT_MODEL);
    let good = weights.get(u64::MAX).await.unwrap();
    let mut flipped = good.to_vec();
    flipped[9 * MIB] ^= 1;
    let cut = good.slice(..good.len() - 1);
    for (damage, words) in [(Some(Bytes::from(flipped)), "checksum"), (Some(cut), "bytes"), (None, "not there")] {
        match damage {
            Some(bytes) => weights.put(bytes).await.unwrap(),
            None => weights.delete().await.unwrap(),
        }
        let error = checkpoint::read(stores, &whole, u64::MAX).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Corrupt { .. }), "{error:?}");
        let problems = checkpoint::verify(stores, &whole).await.unwrap().problems;
        assert!(problems.len() == 1 && problems[0].contains(words), "{words}: {problems:?}");
    }
    weights.put(good).await.unwrap();
    assert!(checkpoint::read(stores, &whole, u64::MAX).await.is_ok());
    at(keys::MANIFEST).put(Bytes::from_static(b"{}")).await.unwrap();
    let error = checkpoint::read(stores, &whole, u64::MAX).await.unwrap_err();
    assert!(error.to_string().contains("not the manifest that was recorded"), "{error}");
}

/// What a reader hands on of some objects, put together, before it ends; and how it ends.
async fn pieces(reader: &Reader, objects: &[&Object]) -> (Vec<Vec<u8>>, Result<(), ArtifactError>) {
    let mut read = vec![Vec::new(); objects.len()];
    let take = |piece: mlctl_artifacts::restore::Piece| {
        read[piece.object].extend_from_slice(&piece.bytes);
        Ok(())
    };
    let end = reader.read(objects, take).await;
    (read, end)
}

async fn what_is_needed_is_read_in_verified_pieces(stores: &Stores, folder: &Location) {
    // Of pieces as well, as a worker writes it.
    let whole = parts(1).into_iter().map(|Part { name, role, bytes }| {
        let cut = bytes.len() / 3;
        Part { name, role, bytes: Body::new(vec![bytes.slice(..cut), bytes.slice(cut..)]) }
    });
    let whole = checkpoint::write(folder, header(10), whole.collect()).await.unwrap();
    let reader = Reader::open(stores, &whole).await.unwrap();
    let objects: Vec<&Object> = reader.manifest().objects.iter().collect();
    let chunks = objects.iter().map(|object| object.chunks.as_ref().map(|chunks| chunks.blake3.len()));
    assert_eq!(chunks.collect::<Vec<_>>(), [Some(3), None, None]);
    let good: Vec<Vec<u8>> = parts(1).iter().map(|part| part.bytes.to_vec()).collect();
    let (read, end) = pieces(&reader, &objects).await;
    assert!(read == good && end.is_ok(), "{end:?}");
    let state = reader.get(keys::CHECKPOINT_STATE, 1000).await.unwrap();
    assert_eq!(state.as_deref(), Some(&good[2][..]));
    assert!(matches!(reader.get(keys::CHECKPOINT_STATE, 9).await, Err(ArtifactError::TooLarge { .. })));
    assert_eq!(reader.get("none", 9).await.unwrap(), None);
    // What is wrong with the optimizer is nothing to who wants the model; a bit of the last chunk is found when it comes.
    let at = |object: &Object| stores.open(&whole.uri).unwrap().join(&object.name).unwrap();
    at(objects[1]).delete().await.unwrap();
    assert!(pieces(&reader, &objects[..1]).await.1.is_ok());
    assert!(pieces(&reader, &objects).await.1.unwrap_err().to_string().contains("not there"));
    for (place, words) in [(16 * MIB, "bytes 16777216 to 17825792"), (3, "bytes 0 to 8388608")] {
        let mut flipped = good[0].clone();
        flipped[place] ^= 1;
        at(objects[0]).put(flipped.into()).await.unwrap();
        let (read, end) = pieces(&reader, &objects[..1]).await;
        let error = end.unwrap_err();
        assert!(matches!(error, ArtifactError::Corrupt { .. }) && error.to_string().contains(words), "{error}");
        assert!(read[0][..] == good[0][..place / (8 * MIB) * 8 * MIB], "no byte of a damaged chunk is handed on");
    }
    at(objects[0]).put(good[0][..17 * MIB - 1].to_vec().into()).await.unwrap();
    assert!(pieces(&reader, &objects[..1]).await.1.unwrap_err().to_string().contains("it has 17825791 bytes"));
    a_manifest_without_chunks_is_read(stores, &stores.open(&whole.uri).unwrap(), (reader.manifest(), good)).await;
}

/// As earlier releases wrote them.
async fn a_manifest_without_chunks_is_read(
    stores: &Stores,
    folder: &Location,
    (manifest, good): (&Manifest, Vec<Vec<u8>>),
) {
    let mut manifest = manifest.clone();
    manifest.objects.iter_mut().for_each(|object| object.chunks = None);
    folder.join(keys::MANIFEST).unwrap().put(manifest.to_json().unwrap().into()).await.unwrap();
    let model = folder.join(&manifest.objects[0].name).unwrap();
    let reader = Reader::open(stores, folder.uri()).await.unwrap();
    let objects = [&reader.manifest().objects[0]];
    model.put(good[0].clone().into()).await.unwrap();
    let (read, end) = pieces(&reader, &objects).await;
    assert!(read[..] == good[..1] && end.is_ok(), "{end:?}");
    let mut flipped = good[0].clone();
    flipped[17 * MIB - 1] ^= 1;
    model.put(flipped.into()).await.unwrap();
    let (read, end) = pieces(&reader, &objects).await;
    assert!(read[0].is_empty() && end.unwrap_err().to_string().contains("checksum"));
}

async fn results_are_published_whole(_: &Stores, folder: &Location) {
    let files = |seed| vec![("config.json".to_owned(), noise(seed, 5)), ("w".to_owned(), noise(seed, 17 * MIB))];
    let mut first = files(1);
    first.push(("left".into(), noise(1, 1)));
    publish::folder(folder, first, "config.json").await.unwrap();
    publish::folder(folder, files(2), "config.json").await.unwrap();
    let names: Vec<_> = folder.list().await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["config.json", "w"]);
    assert!(folder.join("w").unwrap().get(u64::MAX).await.unwrap() == noise(2, 17 * MIB));
}

async fn a_probe_finds_it_fit(_: &Stores, folder: &Location) {
    assert_eq!(probe::run(folder).await.unwrap(), Ok(()));
    let can = probe::examine(folder).await.unwrap().unwrap();
    assert!(can.is_complete(), "{can}");
    let is_s3 = folder.uri().starts_with("s3://");
    assert_eq!(can.compares_checksums.is_some(), is_s3, "{can}");
    assert_eq!(folder.list().await.unwrap(), [], "and leaves nothing");
}
