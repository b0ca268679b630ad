//! What can go wrong with an object, by what the caller can do about it. Every variant names the object by its URI; the cause is
//! the source. Used by everything that touches storage; it never guesses whose data the object was.

use mlctl_protocol::ExitClass;

use crate::s3::refusal::Refusal;

/// The cause as the storage library gave it.
pub type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A failed operation on object storage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// There is no such object. The user named it wrongly, or it has been deleted.
    #[error("{uri} does not exist")]
    NotFound {
        /// The object.
        uri: String,
    },
    /// A conditional create met an object that is not ours.
    #[error("{uri} exists already")]
    AlreadyExists {
        /// The object.
        uri: String,
    },
    /// The object is larger than the caller reads; nothing of it was kept.
    #[error("{uri} has {size} bytes, more than the {limit} that are read")]
    TooLarge {
        /// The object.
        uri: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The object is there and its content is not what it must be. Another copy or an older checkpoint may do.
    #[error("{uri} is corrupt: {what}")]
    Corrupt {
        /// The object.
        uri: String,
        /// What is wrong with it.
        what: String,
    },
    /// The text cannot name an object.
    #[error("{uri:?} cannot be used as a URI: {why}")]
    BadUri {
        /// The text, shortened.
        uri: String,
        /// What is wrong with it.
        why: String,
    },
    /// The store does not let us, and will not on a second try: permissions, a read-only file system, not a regular file.
    #[error("access to {uri} is refused")]
    Refused {
        /// The object.
        uri: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// An S3 store knows us not, or not as one who may do this: the key, the secret, the region, the bucket, the clock. A second try is
    /// refused as well; other credentials, or another bucket, are not.
    #[error("{uri} cannot be used: {why}")]
    Denied {
        /// The object.
        uri: String,
        /// What is wrong, with the store's name for it.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// The device or quota behind the store is full.
    #[error("no space is left for {uri}")]
    Full {
        /// The object.
        uri: String,
        /// The cause.
        #[source]
        source: Cause,
    },
    /// The store does not answer, or failed in a way that a later try may not.
    #[error("{uri} is not available")]
    Unavailable {
        /// The object.
        uri: String,
        /// The cause.
        #[source]
        source: Cause,
    },
}

impl ArtifactError {
    /// The class of a job's end that this error causes when it meets the user's own data: what the user must change is `spec`, a full
    /// disk is `disk`, everything else is `storage`. Where the object is ours (a checkpoint, a result), [`Self::NotFound`]
    /// and [`Self::TooLarge`] are storage's fault: use [`Self::storage_class`].
    #[must_use]
    pub const fn exit_class(&self) -> ExitClass {
        match self {
            Self::NotFound { .. } | Self::TooLarge { .. } | Self::BadUri { .. } | Self::Denied { .. } => {
                ExitClass::Spec
            }
            _ => self.storage_class(),
        }
    }

    /// The class of a job's end that this error causes when it meets an object that the system itself wrote or writes. A store that
    /// denies in the middle of a job what it had allowed is `storage`: the next attempt is handed the credentials of then.
    #[must_use]
    pub const fn storage_class(&self) -> ExitClass {
        match self {
            Self::Full { .. } => ExitClass::Disk,
            _ => ExitClass::Storage,
        }
    }

    /// What to do, where the store's answer tells.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Denied { hint, .. } => Some(hint),
            _ => None,
        }
    }

    /// The URI of the object.
    #[must_use]
    pub fn uri(&self) -> &str {
        match self {
            Self::NotFound { uri }
            | Self::AlreadyExists { uri }
            | Self::TooLarge { uri, .. }
            | Self::Corrupt { uri, .. }
            | Self::BadUri { uri, .. }
            | Self::Refused { uri, .. }
            | Self::Denied { uri, .. }
            | Self::Full { uri, .. }
            | Self::Unavailable { uri, .. } => uri,
        }
    }

    pub(crate) fn corrupt(uri: &str, what: impl Into<String>) -> Self {
        Self::Corrupt { uri: uri.to_owned(), what: what.into() }
    }

    /// Sorts an error of the operating system.
    pub(crate) fn from_io(uri: &str, error: std::io::Error) -> Self {
        classify(uri, error.kind(), error.into())
    }

    /// Sorts an error of the storage library, by its kind and by the operating system's error inside it.
    pub(crate) fn from_store(uri: &str, error: object_store::Error) -> Self {
        use object_store::Error;
        let uri_owned = || uri.to_owned();
        if let Some(refusal) = Refusal::behind(&error) {
            return Self::Denied { uri: uri_owned(), why: refusal.to_string(), hint: refusal.hint };
        }
        match error {
            Error::NotFound { .. } => Self::NotFound { uri: uri_owned() },
            Error::AlreadyExists { .. } | Error::Precondition { .. } => Self::AlreadyExists { uri: uri_owned() },
            Error::InvalidPath { source } => Self::BadUri { uri: uri_owned(), why: source.to_string() },
            error @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::NotSupported { .. }) => {
                Self::Refused { uri: uri_owned(), source: error.into() }
            }
            error => match io_kind(&error) {
                Some(kind) => classify(uri, kind, error.into()),
                None => Self::Unavailable { uri: uri_owned(), source: error.into() },
            },
        }
    }
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}

fn classify(uri: &str, kind: std::io::ErrorKind, source: Cause) -> ArtifactError {
    use std::io::ErrorKind as Kind;
    let uri = uri.to_owned();
    match kind {
        Kind::NotFound => ArtifactError::NotFound { uri },
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => ArtifactError::Full { uri, source },
        Kind::PermissionDenied
        | Kind::ReadOnlyFilesystem
        | Kind::NotADirectory
        | Kind::IsADirectory
        | Kind::InvalidFilename
        | Kind::InvalidInput
        | Kind::Unsupported => ArtifactError::Refused { uri, source },
        _ => ArtifactError::Unavailable { uri, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn errors_are_sorted_by_what_the_caller_can_do() {
        let generic = |error: Error| object_store::Error::Generic { store: "LocalFileSystem", source: error.into() };
        let class = |error: Error| ArtifactError::from_store("file:///x", generic(error)).exit_class();
        assert_eq!(class(Error::from_raw_os_error(28)), ExitClass::Disk, "ENOSPC");
        assert_eq!(class(Error::from_raw_os_error(122)), ExitClass::Disk, "EDQUOT");
        assert_eq!(class(Error::from_raw_os_error(5)), ExitClass::Storage, "EIO");
        assert_eq!(class(Error::from_raw_os_error(30)), ExitClass::Storage, "EROFS");
        assert_eq!(class(Error::from(ErrorKind::NotFound)), ExitClass::Spec);
        let refused = ArtifactError::from_io("file:///x", Error::from_raw_os_error(13));
        assert!(matches!(refused, ArtifactError::Refused { .. }), "EACCES");
        let missing = ArtifactError::NotFound { uri: "file:///x".into() };
        assert_eq!((missing.exit_class(), missing.storage_class()), (ExitClass::Spec, ExitClass::Storage));
    }
}
