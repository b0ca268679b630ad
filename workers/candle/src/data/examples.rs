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
    /// (rows, features).
    pub features: Tensor,
    /// u32 (rows) for classes, f32 (rows, targets) for values.
    pub targets: Tensor,
    /// The class of each row; empty for values.
    pub classes: Vec<u32>,
}

impl Examples {
    /// The given rows, in the order given.
    ///
    /// # Errors
    /// When the device refuses memory.
    pub fn batch(&self, rows: impl ExactSizeIterator<Item = u32> + Clone, device: &Device) -> Result<Batch> {
        let count = rows.len();
        let features = Tensor::from_vec(gather(&self.features, self.width, rows.clone()), (count, self.width), device)?;
        let (targets, classes) = match &self.answers {
            Answers::Classes(classes) => {
                let classes: Vec<u32> = rows.map(|row| classes[row as usize]).collect();
                (Tensor::from_slice(&classes, count, device)?, classes)
            }
            Answers::Values { values, width } => {
                (Tensor::from_vec(gather(values, *width, rows), (count, *width), device)?, Vec::new())
            }
        };
        Ok(Batch { features, targets, classes })
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
