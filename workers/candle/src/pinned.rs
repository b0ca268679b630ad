//! A version of a dataset: what its files were when it was made, and what is said of one that is another. Handed on with the job; `data` reads by it.

use mlctl_protocol::{
    ExitClass,
    dataset::{Manifest, Object},
};

use crate::fault::Fault;

/// What to do about a file that is not what it was.
const HINT: &str = "put the files back as they were, or make a version of what is there now with `mlctl dataset pin` and submit the job anew; `mlctl dataset verify` compares all of them";

/// A version of a dataset that a job reads.
#[derive(Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The dataset and its version, as people name them: `digits/3`.
    pub name: String,
    /// What it is of.
    pub manifest: Manifest,
}

impl Pinned {
    /// The files of a URI of the job's data; `None` for one that the version does not have.
    #[must_use]
    pub fn objects(&self, uri: &str) -> Option<&[Object]> {
        let Manifest { uri: named, objects, targets_uri, targets, .. } = &self.manifest;
        match uri {
            uri if uri == named => Some(objects),
            uri if Some(uri) == targets_uri.as_deref() => Some(targets),
            _ => None,
        }
    }

    /// Whether a file that was read to its end has the content that the version has.
    ///
    /// # Errors
    /// `spec` when it has not.
    pub fn check(&self, uri: &str, number: usize, file: &str, blake3: &str) -> Result<(), Fault> {
        let expected = self.objects(uri).and_then(|objects| objects.get(number));
        match expected {
            Some(object) if object.blake3 != blake3 => Err(self.changed(file, "its content is another")),
            _ => Ok(()),
        }
    }

    /// The end of a job of which a file is not what it was.
    #[must_use]
    pub fn changed(&self, file: &str, how: &str) -> Fault {
        let name = &self.name;
        Fault::spec(format!("{file} is not what it was when version {name} of the dataset was made: {how}"), HINT)
    }

    /// A fault with what a mistake in the data may come from.
    #[must_use]
    pub fn explain(&self, fault: Fault) -> Fault {
        let Some(hint) = fault.hint.clone().filter(|hint| fault.class == ExitClass::Spec && hint != HINT) else {
            return fault;
        };
        let name = &self.name;
        fault.with_hint(format!(
            "{hint}; whether it is still what it was as version {name}: `mlctl dataset verify {name}`"
        ))
    }
}
