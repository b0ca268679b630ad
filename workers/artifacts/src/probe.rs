//! Whether a store keeps what everything here relies on: that an object comes back as it was written, and that of several who create an object one alone succeeds.
//! Some servers answer a conditional create with success and overwrite what is there; a checkpoint there could be overwritten by an attempt that has lost its job. Then what else it can do, which
//! makes things faster or safer and is done without where it is not there.

use std::fmt;

use bytes::Bytes;

use crate::{ArtifactError, Location, crc, digest};

/// What a probe object holds, at most.
const PROBE_BYTES: u64 = 64;

/// What is wrong with a store that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// An object was read back otherwise than written.
    #[error("an object was read back otherwise than it was written")]
    Mangles,
    /// A create of what is there succeeded.
    #[error("it lets an object be created over one that is there (it ignores If-None-Match on PUT)")]
    Overwrites,
}

/// What a store can do that is fit. What only S3's can is `None` for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// A range of an object can be read alone: without it, nothing large can be.
    pub ranges: bool,
    /// An object can be written in parts: without it, nothing large can be.
    pub parts: bool,
    /// It refuses an object that arrives with another checksum than it was sent with (CRC-64/NVME).
    pub compares_checksums: Option<bool>,
    /// It says an object's checksum to whoever reads it, of one that came in parts too.
    pub keeps_checksums: Option<bool>,
    /// It says which uploads are open, so that what was left of one can be found.
    pub lists_uploads: Option<bool>,
}

impl Abilities {
    /// Each by its name.
    #[must_use]
    pub fn named(&self) -> [(&'static str, Option<bool>); 5] {
        [
            ("reads ranges", Some(self.ranges)),
            ("takes parts", Some(self.parts)),
            ("compares checksums", self.compares_checksums),
            ("keeps checksums", self.keeps_checksums),
            ("lists open uploads", self.lists_uploads),
        ]
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.named().iter().all(|(_, has)| *has != Some(false))
    }
}

impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |wanted| {
            let named = self.named().into_iter().filter(move |(_, has)| *has == Some(wanted));
            named.map(|(name, _)| name).collect::<Vec<_>>().join(", ")
        };
        let (can, cannot) = (of(true), of(false));
        match (can.is_empty(), cannot.is_empty()) {
            (_, true) => f.write_str(&can),
            (true, false) => write!(f, "not: {cannot}"),
            (false, false) => write!(f, "{can}; not: {cannot}"),
        }
    }
}

/// Writes, reads, creates again and deletes an object of a random name under `folder`.
///
/// # Errors
/// As [`Location::put`] and [`Location::get`].
pub async fn run(folder: &Location) -> Result<Result<(), Unfit>, ArtifactError> {
    let at = somewhere(folder)?;
    let found = look(&at).await;
    at.delete().await?;
    found
}

/// As [`run`], and finds out what else a store that is fit can do.
///
/// # Errors
/// As [`run`].
pub async fn examine(folder: &Location) -> Result<Result<Abilities, Unfit>, ArtifactError> {
    let at = somewhere(folder)?;
    let found = match look(&at).await {
        Ok(Ok(())) => Ok(Ok(abilities(&at).await)),
        Ok(Err(unfit)) => Ok(Err(unfit)),
        Err(error) => Err(error),
    };
    at.delete().await?;
    found
}

fn somewhere(folder: &Location) -> Result<Location, ArtifactError> {
    let name = digest::nonce()
        .map_err(|error| ArtifactError::Unavailable { uri: folder.uri().to_owned(), source: error.into() })?;
    folder.join(&name)
}

/// What the store can do. Whatever fails here is not there.
async fn abilities(at: &Location) -> Abilities {
    let ranges = at.piece(6..11, None).await.is_ok_and(|piece| piece == "probe");
    let (parts, lists_uploads) = parts(at).await;
    let mut abilities = Abilities { ranges, parts, compares_checksums: None, keeps_checksums: None, lists_uploads };
    if let Some(bucket) = at.bucket() {
        let kept = at.look().await.is_ok_and(|found| found.crc64nvme == Some(crc::of(PARTED)));
        abilities.keeps_checksums = Some(kept);
        let compared = bucket.direct.compares_checksums(at.uri(), at.key().as_ref()).await;
        abilities.compares_checksums = Some(compared.unwrap_or(false));
    }
    abilities
}

/// What is written in parts.
const PARTED: &[u8] = b"mlctl probe in parts";

/// Whether the object can be written in parts, and whether the upload is listed meanwhile.
async fn parts(at: &Location) -> (bool, Option<bool>) {
    let Ok(mut upload) = at.begin_parts().await else { return (false, at.bucket().map(|_| false)) };
    let listed = match at.bucket() {
        Some(_) => Some(at.open_uploads().await.is_ok_and(|open| open.iter().any(|open| open.uri == at.uri()))),
        None => None,
    };
    let written = match upload.put_part(Bytes::from_static(PARTED).into()).await {
        Ok(()) => upload.complete().await.is_ok(),
        Err(_) => false,
    };
    if !written {
        crate::transfer::abort(at.uri(), &mut *upload).await;
    }
    (written && at.get(PROBE_BYTES).await.is_ok_and(|read| read == PARTED), listed)
}

async fn look(at: &Location) -> Result<Result<(), Unfit>, ArtifactError> {
    let (first, second) = (Bytes::from_static(b"mlctl probe 1"), Bytes::from_static(b"mlctl probe 2"));
    match at.create(first.clone()).await {
        // The name is random: it is our own try, whose answer was lost.
        Ok(()) | Err(ArtifactError::AlreadyExists { .. }) => {}
        Err(error) => return Err(error),
    }
    let overwrote = match at.create(second.clone()).await {
        Ok(()) => true,
        Err(ArtifactError::AlreadyExists { .. }) => false,
        Err(error) => return Err(error),
    };
    let read = at.get(PROBE_BYTES).await?;
    Ok(if overwrote || read == second {
        Err(Unfit::Overwrites)
    } else if read != first {
        Err(Unfit::Mangles)
    } else {
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_can_do_is_said_in_words() {
        let all = Abilities {
            ranges: true,
            parts: true,
            compares_checksums: Some(true),
            keeps_checksums: Some(true),
            lists_uploads: Some(true),
        };
        let disk = Abilities { compares_checksums: None, keeps_checksums: None, lists_uploads: None, ..all };
        assert_eq!(disk.to_string(), "reads ranges, takes parts");
        let some = Abilities { keeps_checksums: Some(false), lists_uploads: Some(false), ..all };
        assert_eq!(
            some.to_string(),
            "reads ranges, takes parts, compares checksums; not: keeps checksums, lists open uploads"
        );
        assert!(all.is_complete() && disk.is_complete() && !some.is_complete());
    }
}
