//! The rows of a job in memory: scaled features, targets and the division into parts. Cuts batches; knows no file and no model.

use candle_core::{Device, Result, Tensor};

/// What is learnt, a row each.
#[derive(Debug, Clone)]
pub enum Answers {
    /// Class numbers.
    Classes(Vec<u32>),
    /// Values, row-major.
    Values {
        /// All rows' values.
        values: Vec<f32>,
        /// Values a row.
        width: usize,
    },
}

/// All rows of a job.
#[derive(Debug, Clone)]
pub struct Examples {
    /// Row-major, scaled.
    pub features: Vec<f32>,
    /// Features a row.
    pub width: usize,
    /// What is learnt.
    pub answers: Answers,
    /// Rows trained on.
    pub train: Vec<u32>,
    /// Rows validated on after each epoch.
    pub validation: Vec<u32>,
    /// Rows tested on at the end.
    pub test: Vec<u32>,
}

/// Some rows as tensors.
#[derive(Debug)]
pub struct Batch {
    /// (rows, features); u32 (sequences, context) for text.
    pub features: Tensor,
    /// u32 (rows) for classes, f32 (rows, targets) for values; of text u32 for each token.
    pub targets: Tensor,
    /// The class of each row, or what follows each token; empty for values.
    pub classes: Vec<u32>,
}

impl Answers {
    /// Appends a row's of others of the same kind.
    pub fn push(&mut self, from: &Self, row: usize) {
        match (self, from) {
            (Self::Classes(classes), Self::Classes(from)) => classes.extend(from.get(row)),
            (Self::Values { values, width }, Self::Values { values: from, .. }) => {
                values.extend_from_slice(from.get(row * *width..(row + 1) * *width).unwrap_or_default());
            }
            _ => {}
        }
    }
}

impl Batch {
    /// What is measured on: rows, or the tokens of sequences.
    ///
    /// # Errors
    /// When there are no targets at all: a bug.
    pub fn measured(&self) -> Result<u64> {
        Ok(self.targets.dim(0)? as u64)
    }

    /// Rows of `width` features, and what is to be learnt of each.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn new(features: Vec<f32>, width: usize, answers: Answers, device: &Device) -> Result<Self> {
        let count = features.len() / width.max(1);
        let features = Tensor::from_vec(features, (count, width), device)?;
        let (targets, classes) = match answers {
            Answers::Classes(classes) => (Tensor::from_slice(&classes, count, device)?, classes),
            Answers::Values { values, width } => (Tensor::from_vec(values, (count, width), device)?, Vec::new()),
        };
        Ok(Self { features, targets, classes })
    }
}

impl Examples {
    /// The given rows, in the order given.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn batch(&self, rows: impl ExactSizeIterator<Item = u32> + Clone, device: &Device) -> Result<Batch> {
        let features = gather(&self.features, self.width, rows.clone());
        let answers = match &self.answers {
            Answers::Classes(classes) => Answers::Classes(rows.map(|row| classes[row as usize]).collect()),
            Answers::Values { values, width } => {
                Answers::Values { values: gather(values, *width, rows), width: *width }
            }
        };
        Batch::new(features, self.width, answers, device)
    }

    /// Which of so many classes a row to train on has; `None` where there are no classes.
    #[must_use]
    pub fn classes_trained_on(&self, count: usize) -> Option<Vec<bool>> {
        let Answers::Classes(classes) = &self.answers else { return None };
        let mut seen = vec![false; count];
        for row in &self.train {
            if let Some(seen) = seen.get_mut(classes[*row as usize] as usize) {
                *seen = true;
            }
        }
        Some(seen)
    }

    /// Whether rows belong to classes, so that there is an accuracy.
    #[must_use]
    pub const fn has_classes(&self) -> bool {
        matches!(self.answers, Answers::Classes(_))
    }
}

fn gather(values: &[f32], width: usize, rows: impl ExactSizeIterator<Item = u32>) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() * width);
    for row in rows {
        let start = row as usize * width;
        out.extend_from_slice(&values[start..start + width]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_its_rows_in_order() {
        let features = vec![0.0, 0.5, 1.0, 1.5, 2.0, 2.5];
        let answers = Answers::Classes(vec![7, 8, 9]);
        let mut examples = Examples { features, width: 2, answers, train: vec![], validation: vec![], test: vec![] };
        let batch = examples.batch([2, 0].into_iter(), &Device::Cpu).unwrap();
        assert_eq!(batch.features.to_vec2::<f32>().unwrap(), [[2.0, 2.5], [0.0, 0.5]]);
        assert_eq!(batch.targets.to_vec1::<u32>().unwrap(), [9, 7]);
        assert_eq!(batch.classes, [9, 7]);
        examples.answers = Answers::Values { values: vec![1.0, 2.0, 3.0], width: 1 };
        let batch = examples.batch([1].into_iter(), &Device::Cpu).unwrap();
        assert_eq!(batch.targets.to_vec2::<f32>().unwrap(), [[2.0]]);
        assert!(batch.classes.is_empty() && !examples.has_classes());
    }
}
