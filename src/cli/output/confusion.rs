//! How a classifier tells classes apart: the confusion matrix, or its worst confusions where there are too many classes for one.

use anstyle::AnsiColor;
use serde::{Deserialize, Serialize};

use super::{Output, text};
use crate::cli::Failure;

/// Classes up to which the matrix is drawn.
const MAX_CLASSES: usize = 30;

/// Confusions that are listed where it is not.
const WORST: usize = 10;

/// What is used of a model's `evaluation.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Evaluation {
    /// The part of the data measured on.
    pub part: String,
    /// Its rows.
    pub rows: u64,
    /// Their mean loss.
    pub loss: Option<f64>,
    /// The share predicted right, where there are classes.
    pub accuracy: Option<f64>,
    /// Rows by class and, within, by predicted class.
    pub confusion: Vec<Vec<u64>>,
}

/// Draws it.
pub fn draw(out: &mut Output, evaluation: &Evaluation) -> Result<(), Failure> {
    let Evaluation { part, rows, loss, accuracy, confusion } = evaluation;
    let mut facts = vec![format!("{} rows", text::count(*rows))];
    facts.extend(loss.map(|loss| format!("loss {}", text::number(loss))));
    facts.extend(accuracy.map(|accuracy| format!("accuracy {:.2} %", accuracy * 100.0)));
    out.line(format!("{} part: {}", text::visible_line(part), facts.join(", ")))?;
    match confusion.len() {
        0 => Ok(()),
        1..=MAX_CLASSES => matrix(out, confusion),
        _ => worst(confusion).iter().try_for_each(|line| out.line(line)),
    }
}

/// Rows are classes, columns what they were taken for.
fn matrix(out: &mut Output, confusion: &[Vec<u64>]) -> Result<(), Failure> {
    let digits = |number: u64| number.to_string().len();
    let widest = confusion.iter().flatten().copied().max().map_or(1, digits);
    let width = widest.max(digits(confusion.len() as u64)) + 1;
    let heads: String = (0..confusion.len()).map(|class| format!("{class:>width$}")).collect();
    out.line(format!("  class |{heads}   recall   (columns: what it was taken for)"))?;
    for (class, row) in confusion.iter().enumerate() {
        let cells: String = row
            .iter()
            .enumerate()
            .map(|(predicted, count)| {
                let cell = if *count == 0 { format!("{:>width$}", ".") } else { format!("{count:>width$}") };
                match (predicted == class, *count) {
                    (true, _) => out.styled(AnsiColor::Green.on_default(), &cell),
                    (false, 0) => cell,
                    (false, _) => out.styled(AnsiColor::Red.on_default(), &cell),
                }
            })
            .collect();
        out.line(format!("  {class:>5} |{cells} {:>8}", recall(class, row)))?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn recall(class: usize, row: &[u64]) -> String {
    match (row.get(class), row.iter().sum::<u64>()) {
        (Some(right), total) if total > 0 => format!("{:.1} %", *right as f64 / total as f64 * 100.0),
        _ => String::new(),
    }
}

/// The confusions that happened most often.
fn worst(confusion: &[Vec<u64>]) -> Vec<String> {
    let cells = confusion
        .iter()
        .enumerate()
        .flat_map(|(class, row)| row.iter().enumerate().map(move |(predicted, count)| (*count, class, predicted)));
    let mut wrong: Vec<_> = cells.filter(|(count, class, predicted)| *count > 0 && class != predicted).collect();
    wrong.sort_by(|one, other| other.0.cmp(&one.0).then(one.cmp(other)));
    let line = |(count, class, predicted): &(u64, usize, usize)| {
        format!("  class {class} taken for {predicted}: {} rows", text::count(*count))
    };
    wrong.iter().take(WORST).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_confusions_come_first() {
        let confusion = vec![vec![9, 1, 0], vec![2, 5, 3], vec![0, 1, 7]];
        assert_eq!(
            worst(&confusion),
            [
                "  class 1 taken for 2: 3 rows",
                "  class 1 taken for 0: 2 rows",
                "  class 0 taken for 1: 1 rows",
                "  class 2 taken for 1: 1 rows",
            ]
        );
        assert_eq!(recall(1, &confusion[1]), "50.0 %");
        assert_eq!(recall(0, &[0, 0]), "");
    }
}
