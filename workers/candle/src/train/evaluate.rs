//! Measures a model on rows it is not trained on: loss, accuracy, and the confusion matrix that goes into `evaluation.json`.

use std::ops::ControlFlow;

use candle_core::Device;
use mlctl_protocol::{
    progress::Metrics,
    spec::{Loss, SplitPart},
};
use serde::{Deserialize, Serialize};

use crate::{
    data::{examples::Batch, rows::Source},
    fault::Fault,
    loss::{loss, predicted_classes},
    nn::Network,
};

/// The file beside the final model.
pub const EVALUATION_FILE: &str = "evaluation.json";

/// Rows per forward pass at most.
const BATCH: usize = 1024;

/// Classes up to which a confusion matrix is kept.
const MAX_CONFUSION: usize = 1000;

/// How a model did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Rows measured, or tokens of text.
    pub rows: u64,
    /// The sum of their losses.
    pub loss: f64,
    /// Rows of which the class was predicted; `None` where there are no classes.
    pub correct: Option<u64>,
}

impl Score {
    /// The loss averaged over the rows.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        ratio(self.loss, self.rows)
    }

    /// The share of rows predicted right.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "rows are counted in u32")]
        self.correct.map(|correct| ratio(correct as f64, self.rows))
    }

    /// Adds `<part>_loss` and `<part>_accuracy`.
    pub fn name(&self, part: &str, metrics: &mut Metrics) {
        put(metrics, &format!("{part}_loss"), self.mean_loss());
        if let Some(accuracy) = self.accuracy() {
            put(metrics, &format!("{part}_accuracy"), accuracy);
        }
    }
}

/// Adds a metric that JSON can hold.
pub(super) fn put(metrics: &mut Metrics, name: &str, value: f64) {
    if value.is_finite() {
        metrics.insert(name.to_owned(), value);
    }
}

/// What is measured with.
#[derive(Clone, Copy)]
pub struct Measure<'a> {
    /// The model, over tensors outside any graph.
    pub model: &'a Network,
    /// The loss.
    pub loss: Loss,
    /// Where the rows are.
    pub source: &'a dyn Source,
    /// Where the model is.
    pub device: &'a Device,
}

impl std::fmt::Debug for Measure<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measure").field("loss", &self.loss).finish_non_exhaustive()
    }
}

impl Measure<'_> {
    /// Measures the rows of a part, telling `seen` of each row's (class, prediction). `None` when `interrupted` said so between batches.
    ///
    /// # Errors
    /// When tensor arithmetic fails.
    pub fn rows(
        &self,
        part: SplitPart,
        mut interrupted: impl FnMut() -> bool,
        mut seen: impl FnMut(u32, u32),
    ) -> Result<Option<Score>, Fault> {
        let mut score = Score { correct: self.source.has_classes().then_some(0), ..Score::default() };
        let mut stopped = false;
        self.source.walk(part, self.model.rows_at_once(BATCH), self.device, &mut |batch| {
            stopped = interrupted();
            if stopped {
                return Ok(ControlFlow::Break(()));
            }
            self.count(&batch, &mut score, &mut seen)?;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(if stopped { None } else { Some(score) })
    }

    fn count(&self, batch: &Batch, score: &mut Score, mut seen: impl FnMut(u32, u32)) -> Result<(), Fault> {
        let rows = batch.measured()?;
        let outputs = self.model.forward(&batch.features, None)?;
        let mean = f64::from(loss(self.loss, &outputs, &batch.targets)?.to_scalar::<f32>()?);
        #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
        let sum = mean * rows as f64;
        score.loss += sum;
        score.rows += rows;
        if let Some(correct) = &mut score.correct {
            for (class, predicted) in batch.classes.iter().zip(predicted_classes(&outputs)?) {
                *correct += u64::from(*class == predicted);
                seen(*class, predicted);
            }
        }
        Ok(())
    }

    /// Measures the rows of a part in full, for `evaluation.json`. `None` when interrupted.
    ///
    /// # Errors
    /// When tensor arithmetic fails.
    pub fn in_full(
        &self,
        part: SplitPart,
        outputs: usize,
        interrupted: impl FnMut() -> bool,
    ) -> Result<Option<(Score, Evaluation)>, Fault> {
        let classes = if self.source.has_classes() && outputs <= MAX_CONFUSION { outputs } else { 0 };
        let mut confusion = vec![vec![0_u64; classes]; classes];
        let score = self.rows(part, interrupted, |class, predicted| {
            if let Some(count) = confusion.get_mut(class as usize).and_then(|row| row.get_mut(predicted as usize)) {
                *count += 1;
            }
        })?;
        Ok(score.map(|score| (score, Evaluation::new(name(part), score, confusion))))
    }
}

/// The content of `evaluation.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The version of this format: 1.
    pub format: u32,
    /// The part of the data measured on.
    pub part: String,
    /// Its rows, or the tokens of its text.
    pub rows: u64,
    /// Their mean loss.
    pub loss: Option<f64>,
    /// The share predicted right, where there are classes.
    pub accuracy: Option<f64>,
    /// Rows by class and, within, by predicted class; empty without classes or with more than 1,000 of them.
    pub confusion: Vec<Vec<u64>>,
    /// By class, the share of its rows predicted right; null for a class without rows.
    pub recall: Vec<Option<f64>>,
}

impl Evaluation {
    #[expect(clippy::cast_precision_loss, reason = "rows are counted in u32")]
    fn new(part: &str, score: Score, confusion: Vec<Vec<u64>>) -> Self {
        let recall = confusion.iter().enumerate().map(|(class, row)| {
            let total: u64 = row.iter().sum();
            (total > 0).then(|| ratio(row[class] as f64, total))
        });
        let loss = Some(score.mean_loss()).filter(|loss| loss.is_finite());
        let (rows, accuracy, recall) = (score.rows, score.accuracy(), recall.collect());
        Self { format: 1, part: part.to_owned(), rows, loss, accuracy, confusion, recall }
    }
}

const fn name(part: SplitPart) -> &'static str {
    match part {
        SplitPart::Train => "train",
        SplitPart::Validation => "validation",
        SplitPart::Test => "test",
    }
}

#[expect(clippy::cast_precision_loss, reason = "rows are counted in u32")]
fn ratio(sum: f64, count: u64) -> f64 {
    sum / count as f64
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;
    use mlctl_protocol::spec::{Activation, ModelSpec};

    use super::*;
    use crate::{
        data::{
            examples::{Answers, Examples},
            rows::Shuffled,
        },
        nn::Tensors,
    };

    /// A model that predicts class 1 where the feature is above 0.
    fn model() -> Network {
        let spec = ModelSpec::Mlp { layers: vec![1, 2], activation: Activation::Relu, dropout: 0.0 };
        let tensors = Tensors::from([
            ("layer1.weight".into(), Tensor::new(&[[0f32], [1.0]], &Device::Cpu).unwrap()),
            ("layer1.bias".into(), Tensor::new(&[0f32, 0.0], &Device::Cpu).unwrap()),
        ]);
        Network::new(&spec, &tensors).unwrap()
    }

    #[test]
    fn the_confusion_matrix_counts_rows_by_class_and_prediction() {
        let examples = Examples {
            features: vec![1.0, -1.0, 2.0, -2.0, 3.0],
            width: 1,
            answers: Answers::Classes(vec![1, 0, 1, 1, 0]),
            train: vec![0],
            validation: vec![0, 2],
            test: (0..5).collect(),
        };
        let (model, source) = (model(), Shuffled::new(&examples, 0));
        let measure = Measure { model: &model, loss: Loss::CrossEntropy, source: &source, device: &Device::Cpu };
        let (score, full) = measure.in_full(SplitPart::Test, 2, || false).unwrap().unwrap();
        assert_eq!((score.rows, score.correct), (5, Some(3)));
        assert_eq!(full.confusion, [[1, 1], [1, 2]]);
        assert_eq!(full.recall, [Some(0.5), Some(2.0 / 3.0)]);
        assert_eq!(full.accuracy, Some(0.6));
        assert!(measure.rows(SplitPart::Train, || true, |_, _| {}).unwrap().is_none());
        let (_, none) = measure.in_full(SplitPart::Validation, 2, || false).unwrap().unwrap();
        assert_eq!(none.recall, [None, Some(1.0)], "a class without rows has no recall");
    }

    #[test]
    fn the_mean_does_not_depend_on_how_rows_are_cut() {
        let rows = BATCH + 17;
        let examples = Examples {
            features: vec![0.5; rows],
            width: 1,
            answers: Answers::Values { values: vec![0.25; 2 * rows], width: 2 },
            train: vec![],
            validation: vec![],
            test: (0..u32::try_from(rows).unwrap()).collect(),
        };
        let (model, source) = (model(), Shuffled::new(&examples, 0));
        let measure = Measure { model: &model, loss: Loss::Mse, source: &source, device: &Device::Cpu };
        let score = measure.rows(SplitPart::Test, || false, |_, _| {}).unwrap().unwrap();
        assert_eq!((score.rows, score.correct, score.mean_loss()), (rows as u64, None, 0.0625));
    }
}
