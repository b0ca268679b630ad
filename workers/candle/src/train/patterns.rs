//! Patterns over the names of a model's tensors, as in `train.freeze` and `train.groups`: which tensors they mean, and a refusal of those that mean none.

use glob::Pattern;

use crate::fault::Fault;

/// Which of some names the patterns of the spec's key `path` fit. Messages say of a pattern that it fits `none`, and begin a list of the names with `there_are`.
///
/// # Errors
/// `spec` when a pattern is none or fits no name.
pub(super) fn fitting(
    (path, patterns): (&str, &[String]),
    names: &[&str],
    (none, there_are): (&str, &str),
) -> Result<Vec<bool>, Fault> {
    let mut fits = vec![false; names.len()];
    for (number, pattern) in patterns.iter().enumerate() {
        let wrong = |what: String| {
            Fault::spec(
                format!("{path}[{number}], {pattern:?}, {what}"),
                format!("{there_are} {}", crate::coverage::list(names)),
            )
        };
        let compiled = Pattern::new(pattern).map_err(|error| wrong(format!("is no pattern: {}", error.msg)))?;
        let mut is_used = false;
        for (fits, _) in fits.iter_mut().zip(names).filter(|(_, name)| compiled.matches(name)) {
            (*fits, is_used) = (true, true);
        }
        if !is_used {
            return Err(wrong(format!("fits {none}")));
        }
    }
    Ok(fits)
}
