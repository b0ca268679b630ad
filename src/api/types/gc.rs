//! The bodies of the collection of what nothing needs.

use serde::{Deserialize, Serialize};

use super::ErrorView;

/// Seconds that an object must be old where a request does not say: a day.
pub const DEFAULT_GRACE_SECONDS: u64 = 24 * 3600;

/// `POST /v1/gc`: answered by a line of JSON, a [`GcView`], now and then, and a last one in which `is_done`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GcRequest {
    /// Whether to say only what would go.
    pub dry_run: bool,
    /// How old an object must be, in seconds; [`DEFAULT_GRACE_SECONDS`] when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u64>,
    /// Whether models and predictions of removed jobs go too.
    pub results: bool,
}

/// What a collection has found and done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Whether it is over.
    pub is_done: bool,
    /// Why it ended before its end.
    pub error: Option<ErrorView>,
    /// Whether nothing is deleted.
    pub dry_run: bool,
    /// How old an object must be.
    pub grace_seconds: u64,
    /// All objects that it came by.
    pub seen: SumView,
    /// What is needed.
    pub needed: SumView,
    /// What nothing needs, and is too young.
    pub young: SumView,
    /// What belongs to other databases, or is not understood.
    pub foreign: SumView,
    /// What nothing needs.
    pub garbage: SumView,
    /// What of it was deleted.
    pub deleted: SumView,
    /// Objects that could not be deleted; the log says why.
    pub failed: u64,
    /// Where the garbage lies, in the last line; the first thousand folders.
    pub folders: Vec<GarbageView>,
    /// Whether there are more.
    pub has_more: bool,
}

/// Objects and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumView {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub size_bytes: u64,
}

/// A folder with objects that nothing needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GarbageView {
    /// Its URI.
    pub uri: String,
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub size_bytes: u64,
}
