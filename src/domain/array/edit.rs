//! An edit of an array: what of it members can take where they stand. Called by the API.

use crate::domain::{Edit, Terms};

/// Members in these states, and what of an edit they can take: those that wait all of it; one that runs has what it waited for; of one that has failed or was cancelled the terms can be
/// changed on which it is tried again. Where nothing is left, none are named.
#[must_use]
pub fn parts(edit: &Edit) -> Vec<(&'static [&'static str], Edit)> {
    let terms = Terms { begin: None, ..edit.terms.clone() };
    let running = Edit { labels: edit.labels.clone(), terms: terms.clone(), ..Edit::default() };
    let ended = Edit { terms, ..Edit::default() };
    let all: [(&[&str], Edit); 3] =
        [(&["queued", "blocked", "held"], edit.clone()), (&["running"], running), (&["failed", "cancelled"], ended)];
    all.into_iter().filter(|(_, part)| *part != Edit::default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Change;

    #[test]
    fn members_take_what_they_can() {
        let labels = [("team".to_owned(), Some("vision".to_owned()))];
        let terms = Terms { retries: Some(3), begin: Some(Change::Clear), ..Terms::default() };
        let edit = Edit { priority: Some(80), queue: Some("night".into()), labels: labels.into(), terms };
        let kept = Terms { begin: None, ..edit.terms.clone() };
        let all = parts(&edit);
        assert_eq!(all[0], (["queued", "blocked", "held"].as_slice(), edit.clone()));
        assert_eq!(all[1].1, Edit { labels: edit.labels.clone(), terms: kept.clone(), ..Edit::default() });
        assert_eq!(all[2].1, Edit { terms: kept, ..Edit::default() });
        let alone = parts(&Edit { priority: Some(80), ..Edit::default() });
        assert_eq!(alone.len(), 1, "one that runs has no use for it");
    }
}
