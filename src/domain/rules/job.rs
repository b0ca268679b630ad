//! The rules of what every job has: its name, labels and retries.

use std::collections::BTreeMap;

use mlctl_protocol::{
    ExitClass, JobSpec,
    spec::{Concurrency, Resources, RetryPolicy, Wins},
};

use super::Problem;
use crate::domain::{gate::Gate, queue::queue_name};

/// The longest name, in characters.
const MAX_NAME: usize = 100;

/// Labels of a job.
const MAX_LABELS: usize = 64;

/// The longest key of a label, in characters.
const MAX_LABEL_KEY: usize = 63;

/// The longest value of a label, in bytes.
const MAX_LABEL_VALUE_BYTES: usize = 1024;

pub(super) fn problems(spec: &JobSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(name(&spec.name));
    found.extend(queue_name(&spec.queue));
    found.extend(labels(&spec.labels));
    found.extend(retry(&spec.retry));
    found.extend(spec.concurrency.as_ref().and_then(concurrency));
    found.extend(vram(&spec.resources));
    found
}

/// Memory of no GPU would be asked for in vain.
fn vram(needs: &Resources) -> Option<Problem> {
    let message = format!("{} MiB of each GPU are asked for, and no GPU", needs.vram_mib);
    let is_vain = needs.vram_mib > 0 && needs.gpus == 0;
    is_vain.then(|| Problem::new("resources.vram_mib", message, "say how many with resources.gpus, or take it away"))
}

pub(super) fn labels(labels: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut found = Vec::new();
    if labels.len() > MAX_LABELS {
        let message = format!("a job has {MAX_LABELS} labels at most, found {}", labels.len());
        found.push(Problem::new("labels", message, "keep those that you look for jobs by"));
    }
    for (key, value) in labels {
        found.extend(label(key, value));
    }
    found
}

/// A name stands on command lines and in paths of URLs, beside ids and `@last`, and must be taken for none of them.
pub(super) fn name(name: &str) -> Option<Problem> {
    let problem = |message: &str, hint: &str| Some(Problem::new("name", message, hint));
    let stray = name.chars().find(|c| !is_plain(*c));
    if name.is_empty() || name.chars().count() > MAX_NAME {
        problem("a name has 1 to 100 characters", "choose a short one; labels can say more")
    } else if name.starts_with('@') {
        problem("names with `@` in front are reserved, as in @last", "take the `@` away")
    } else if let Some(stray) = stray {
        problem(
            &format!("{stray:?} cannot be in a name"),
            "use letters and digits of ASCII, `.`, `_` and `-`, for example \"digits-2\"",
        )
    } else if name.chars().all(|c| c.is_ascii_digit()) {
        problem("a name of digits alone would be taken for a job's id", "add a letter")
    } else if name.starts_with(['-', '.']) {
        problem("a name starts with a letter, a digit or `_`", "one that starts with `-` would be taken for a flag")
    } else {
        None
    }
}

fn label(key: &str, value: &str) -> Option<Problem> {
    let path = format!("labels.{key}");
    let is_key = |c| is_plain(c) || c == '/';
    if key.is_empty() || key.chars().count() > MAX_LABEL_KEY || !key.chars().all(is_key) {
        let message = format!("{:?} cannot be the key of a label", key.chars().take(MAX_LABEL_KEY).collect::<String>());
        return Some(Problem::new(path, message, "use 1 to 63 letters and digits of ASCII, `.`, `_`, `-` and `/`"));
    }
    if value.len() > MAX_LABEL_VALUE_BYTES {
        let message = format!("the value of a label has {MAX_LABEL_VALUE_BYTES} bytes at most, found {}", value.len());
        return Some(Problem::new(path, message, "put long texts into a file"));
    }
    if value.chars().any(char::is_control) {
        let message = "the value of a label is one line without control characters";
        return Some(Problem::new(path, message, "take line breaks and tabs away"));
    }
    None
}

fn concurrency(policy: &Concurrency) -> Option<Problem> {
    let path = "concurrency.key";
    if policy.key.chars().any(char::is_control) {
        return Some(Problem::new(path, "a key is one line without control characters", "for example \"nightly\""));
    }
    if policy.wins == Wins::Newest && policy.limit > Gate::MOST_NEWEST {
        let message =
            format!("where the newest wins, {} run at once at most, found {}", Gate::MOST_NEWEST, policy.limit);
        return Some(Problem::new("concurrency.limit", message, "name fewer, or let the oldest win"));
    }
    None
}

const fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn retry(policy: &RetryPolicy) -> Vec<Problem> {
    let RetryPolicy { backoff_seconds, max_backoff_seconds, on, .. } = policy;
    let mut found = Vec::new();
    if backoff_seconds > max_backoff_seconds {
        let message = format!("it is smaller than backoff_seconds, {backoff_seconds}");
        found.push(Problem::new("retry.max_backoff_seconds", message, "it is what the doubled waits never exceed"));
    }
    for (index, class) in on.iter().flatten().enumerate().filter(|(_, class)| !class.is_retriable()) {
        let classes: Vec<_> = ExitClass::ALL.into_iter().filter(|class| class.is_retriable()).collect();
        let classes: Vec<_> = classes.iter().map(|class| class.as_str()).collect();
        let message = format!("a job that ended as {class} is not tried again by itself");
        found.push(Problem::new(format!("retry.on[{index}]"), message, format!("name some of {}", classes.join(", "))));
    }
    found
}
