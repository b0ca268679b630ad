//! What the user may have meant.

/// The candidate closest to `word`, if it is close enough to be a slip of the fingers: one edit in three characters, or the same but for case, `-` and `_`.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' ', '_'], "");
    let word = plain(word);
    let distance = |candidate: &str| strsim::damerau_levenshtein(&word, &plain(candidate));
    let near = candidates.into_iter().map(|candidate| (distance(candidate), candidate));
    let (distance, candidate) = near.min_by_key(|(distance, _)| *distance)?;
    (distance <= word.chars().count().max(3) / 3).then_some(candidate)
}

/// `allowed` as words for a hint, the nearest one first: ``did you mean `a`? allowed: `a`, `b` ``.
pub(super) fn suggest(word: &str, allowed: &[&str], quote: char) -> String {
    let list: Vec<_> = allowed.iter().map(|name| format!("{quote}{name}{quote}")).collect();
    let list = list.join(", ");
    match nearest(word, allowed.iter().copied()) {
        Some(meant) => format!("did you mean {quote}{meant}{quote}? allowed: {list}"),
        None => format!("allowed: {list}"),
    }
}
