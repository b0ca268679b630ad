//! The division of rows into train, validation and test parts, a pure function of seed, shares and number of rows. Specified in
//! `docs/rng.md`: an inference job repeats it to predict the part its model was not trained on.

use mlctl_protocol::spec::{Split, SplitPart};

use crate::{
    fault::Fault,
    rng::{Rng, Stream},
};

/// The rows of each part, in the order of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Rows trained on.
    pub train: Vec<u32>,
    /// Rows validated on after each epoch.
    pub validation: Vec<u32>,
    /// Rows tested on at the end.
    pub test: Vec<u32>,
}

impl Parts {
    /// The rows of one part.
    #[must_use]
    pub fn of(&self, part: SplitPart) -> &[u32] {
        match part {
            SplitPart::Train => &self.train,
            SplitPart::Validation => &self.validation,
            SplitPart::Test => &self.test,
        }
    }
}

/// Divides `rows` rows.
///
/// # Errors
/// `spec` when a share is not one, a part that is asked for gets no row, or none is left to train on.
pub fn divide(split: &Split, rows: u32) -> Result<Parts, Fault> {
    let [train, validation, test] = sizes(split, rows)?;
    let mut order = Rng::new(split.seed, Stream::Split).permutation(rows);
    let mut cut = |length: u32| {
        let mut part = order.split_off(order.len() - length as usize);
        part.sort_unstable();
        part
    };
    let (test, validation) = (cut(test), cut(validation));
    let train = cut(train);
    Ok(Parts { train, validation, test })
}

/// How many of `rows` rows are to train, to validate and to test on.
///
/// # Errors
/// As [`divide`].
pub(super) fn sizes(split: &Split, rows: u32) -> Result<[u32; 3], Fault> {
    let validation = count("validation", split.validation, rows)?;
    let test = count("test", split.test, rows)?;
    let Some(train) = rows.checked_sub(validation).and_then(|left| left.checked_sub(test)).filter(|left| *left > 0)
    else {
        return Err(Fault::spec(
            format!("of {rows} rows, {validation} are to validate and {test} to test on: none is left to train on"),
            "lower split.validation and split.test, or bring more data",
        ));
    };
    Ok([train, validation, test])
}

/// A share of the rows, rounded to the nearest number, halves up.
fn count(name: &str, share: f64, rows: u32) -> Result<u32, Fault> {
    if !(0.0..1.0).contains(&share) {
        return Err(Fault::spec(
            format!("split.{name} is {share}, which is no share of the rows"),
            "write a number from 0 to 0.9",
        ));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "less than the number of rows")]
    let count = (f64::from(rows) * share + 0.5).floor() as u32;
    if share > 0.0 && count == 0 {
        return Err(Fault::spec(
            format!("split.{name} = {share} of {rows} rows is less than one row"),
            format!("raise split.{name}, set it to 0, or bring more data"),
        ));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(validation: f64, test: f64) -> Split {
        Split { validation, test, seed: 7 }
    }

    #[test]
    fn parts_are_disjoint_whole_and_of_the_shares_asked_for() {
        for (validation, test, rows, sizes) in [
            (0.0, 0.0, 5, [5, 0, 0]),
            (0.15, 0.15, 1797, [1257, 270, 270]),
            (0.5, 0.25, 10, [2, 5, 3]),
            (0.9, 0.05, 10, [0, 9, 1]),
        ] {
            let Ok(parts) = divide(&split(validation, test), rows) else {
                assert_eq!(sizes[0], 0);
                continue;
            };
            assert_eq!([parts.train.len(), parts.validation.len(), parts.test.len()], sizes);
            let mut all = [parts.train.clone(), parts.validation.clone(), parts.test].concat();
            all.sort_unstable();
            assert_eq!(all, (0..rows).collect::<Vec<_>>());
            assert!(parts.train.is_sorted() && parts.validation.is_sorted());
        }
    }

    #[test]
    fn the_permutation_is_cut_in_the_order_of_the_parts() {
        // From `docs/rng.md`, seed 7.
        let order = Rng::new(7, Stream::Split).permutation(8);
        let parts = divide(&split(0.25, 0.125), 8).unwrap();
        assert_eq!(parts.test, [order[7]]);
        let mut validation = order[5..7].to_vec();
        validation.sort_unstable();
        assert_eq!(parts.of(SplitPart::Validation), validation);
    }

    #[test]
    fn the_seed_decides_and_nothing_else() {
        let parts = |seed| divide(&Split { seed, ..split(0.2, 0.2) }, 100).unwrap();
        assert_eq!(parts(1), parts(1));
        assert_ne!(parts(1), parts(2));
    }

    #[test]
    fn what_cannot_be_divided_is_the_users_error() {
        for (validation, test, rows, part) in [
            (0.6, 0.4, 10, "none is left to train on"),
            (0.9, 0.9, 10, "none is left"),
            (0.01, 0.0, 10, "less than one row"),
            (f64::NAN, 0.0, 10, "no share"),
            (0.0, -0.1, 10, "no share"),
            (0.0, 0.0, 0, "none is left"),
        ] {
            let fault = divide(&split(validation, test), rows).unwrap_err();
            assert!(fault.message.contains(part), "{}", fault.message);
        }
    }
}
