//! What stands in the address of a request: the query of each route that has one, and how a text becomes a part of a path. The CLI writes them, the API reads them.
//! `POST /cancel`, `/stop`, `/release`, `/retry`, `/checkpoint` and `/v1/daemon/stop` take neither query nor body; the first four answer with the job's [`JobView`](super::types::JobView).

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::array::Goal;

/// Finished jobs listed beside the unfinished ones when the list names no number.
pub const DEFAULT_FINISHED: u32 = 10;

/// Jobs listed when the list names no limit, and the most that one list has.
pub const DEFAULT_LIST_LIMIT: u32 = 1000;
/// See [`DEFAULT_LIST_LIMIT`].
pub const MAX_LIST_LIMIT: u32 = 10_000;

/// Points or events of an answer that names no limit, and the most that one answer has.
pub const DEFAULT_PAGE_LIMIT: u32 = 1000;
/// See [`DEFAULT_PAGE_LIMIT`].
pub const MAX_PAGE_LIMIT: u32 = 10_000;

/// The longest text of the labels that a list asks for, in bytes.
pub const MAX_LABELS_BYTES: usize = 4096;

/// Jobs of each state that a list looks at, at most, where a filter leaves some out: the newest. Looking at so many takes a tenth of a second.
pub const MAX_LOOKED_AT: u32 = 100_000;

/// The order of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortField {
    /// Last submitted first.
    #[default]
    Newest,
    /// First submitted first.
    Oldest,
    /// Highest priority first, then the oldest: as jobs start.
    Priority,
    /// By name, then the oldest.
    Name,
    /// Last ended first, and before them what has not.
    Finished,
}

impl SortField {
    /// Every field with its name.
    pub const ALL: [(&str, Self); 5] = [
        ("newest", Self::Newest),
        ("oldest", Self::Oldest),
        ("priority", Self::Priority),
        ("name", Self::Name),
        ("finished", Self::Finished),
    ];
}

/// On what terms aliases of a model are moved: the query of `DELETE /v1/models/{model}/aliases/{alias}` and the body of `POST /v1/models/{model}/rollback`; the body of
/// `POST /v1/models/{model}/aliases/{alias}` has them too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MoveQuery {
    /// The version that the alias must mean for that, 0 for none; whatever it means when absent. For a rollback, what the champion is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<u32>,
    /// Why, in a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The job that asks: an id, a unique name or `@last`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// The query of `GET /v1/jobs`. Without `state`: the unfinished jobs and the last finished ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListQuery {
    /// Only these states, separated by commas: `queued,running`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only this kind: `train` or `infer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only this user's: a login name, or a user id in digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Only those of this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Only those with all of these labels: a JSON object of strings, of [`MAX_LABELS_BYTES`] at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// Of those that have ended, only what ended at this moment or later; all of that, where no number is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The order of what is listed, which is the newest in any case; [`SortField::Newest`] when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<SortField>,
    /// Finished jobs beside the unfinished ones, where no state is named; [`DEFAULT_FINISHED`] when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished: Option<u32>,
    /// Only members of this array, by index, whatever their state: its id, its name or `@last`. Besides it, `state`, `filter` and `limit` alone are heeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub array: Option<String>,
    /// Members of arrays one by one, and no arrays.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub members: bool,
    /// Only what this finds ([`Filter`](crate::domain::Filter)), whatever its state, members of arrays one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Jobs at most; [`DEFAULT_LIST_LIMIT`] when absent, never more than [`MAX_LIST_LIMIT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Members shown as the best of an array when no number is named, and the most that are.
pub const DEFAULT_BEST: u32 = 5;
/// See [`DEFAULT_BEST`].
pub const MAX_BEST: u32 = 1000;

/// The query of `GET /v1/arrays/{ref}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArrayQuery {
    /// What members are compared by; what the submit said when absent, or else `val_loss` or `train_loss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Which end of it is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    /// How many members; [`DEFAULT_BEST`] when absent, never more than [`MAX_BEST`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<u32>,
}

/// The query of `GET /v1/jobs/{ref}/metrics` and `/events`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PageQuery {
    /// Only what comes after this id; from the beginning when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// Points or events at most; [`DEFAULT_PAGE_LIMIT`] when absent, never more than [`MAX_PAGE_LIMIT`]. A followed log has no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Events only: whether to go on with what happens from now on, as a stream, until the job has ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}

/// The query of `GET /v1/jobs/{ref}/follow`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FollowQuery {
    /// Only points of the learning curve after this id; all of them when absent. A `Last-Event-ID` header goes over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
}

/// The query of `DELETE /v1/jobs/{ref}` and `DELETE /v1/arrays/{ref}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoveQuery {
    /// Whether models and predictions are deleted too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub objects: bool,
}

/// Runs of a preview that names no number, and the most that one has.
pub const DEFAULT_PREVIEW_RUNS: u32 = 5;
/// See [`DEFAULT_PREVIEW_RUNS`].
pub const MAX_PREVIEW_RUNS: u32 = 10_000;

/// The query of `GET /v1/schedules/{name}/preview`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PreviewQuery {
    /// Only runs after this moment; the present when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Runs at most; [`DEFAULT_PREVIEW_RUNS`] when absent, never more than [`MAX_PREVIEW_RUNS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
}

/// One of the two streams of a worker, kept in files of their own, so that there is no order between their lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output: of a command, all that it prints, on standard error too.
    Stdout,
    /// Standard error: where workers say what they do.
    Stderr,
}

/// The query of `GET /v1/jobs/{ref}/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogsQuery {
    /// The attempt; the current or last one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Which stream; standard output of a command and standard error of other workers when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<LogStream>,
    /// Only the last lines, so many; all that is kept when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Whether to go on with what is printed from now on, as a stream, into later attempts too unless one is named, until the job has ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}

/// A text as one segment of a path: what is not a letter, a digit or one of `-._~@` is percent-encoded. A reference to a job may be any text.
#[must_use]
pub fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The query of `GET …/objects/{object}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DownloadQuery {
    /// The byte to begin at, from 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde calls")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A path with a query, or the path alone when the query says nothing.
#[must_use]
pub fn address(path: &str, query: &impl Serialize) -> String {
    // These types are flat and of plain values, which is all that can go wrong.
    match serde_urlencoded::to_string(query) {
        Ok(query) if !query.is_empty() => format!("{path}?{query}"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_only_what_was_asked_and_come_back_the_same() {
        assert_eq!(address("/v1/jobs", &ListQuery::default()), "/v1/jobs");
        let list = ListQuery { state: Some("queued,running".into()), limit: Some(5), ..ListQuery::default() };
        let logs = LogsQuery { attempt: Some(2), stream: Some(LogStream::Stdout), tail: None, follow: true };
        let page = PageQuery { after: Some(-1), limit: None, follow: false };
        assert_eq!(address("/x", &list), "/x?state=queued%2Crunning&limit=5");
        assert_eq!(address("/x", &logs), "/x?attempt=2&stream=stdout&follow=true");
        assert_eq!(address("/x", &page), "/x?after=-1");
        let read = |text: &str| text.split_once('?').unwrap().1.to_owned();
        assert_eq!(serde_urlencoded::from_str(&read(&address("/x", &list))), Ok(list));
        assert_eq!(serde_urlencoded::from_str(&read(&address("/x", &logs))), Ok(logs));
        assert_eq!(serde_urlencoded::from_str(&read(&address("/x", &page))), Ok(page));
        assert!(serde_urlencoded::from_str::<ListQuery>("stat=queued").is_err(), "misspelt");
    }

    #[test]
    fn segments_hold_any_text() {
        for (text, encoded) in
            [("@last", "@last"), ("mlp-1.a_b~", "mlp-1.a_b~"), ("a/../b", "a%2F..%2Fb"), ("ü %", "%C3%BC%20%25")]
        {
            assert_eq!(segment(text), encoded);
        }
    }
}
