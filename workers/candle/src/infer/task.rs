//! What a model's outputs mean: logits of classes, or values. Known from the model's config; for weights alone from the columns that the
//! spec wants to compare with.

use mlctl_protocol::spec::Loss;

use crate::{
    bundle::{config::shape, read::Model},
    fault::Fault,
};

/// What is predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// One of so many classes.
    Classes(u32),
    /// A value for each name.
    Values(Vec<String>),
}

impl Task {
    /// Outputs of a row.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Classes(classes) => *classes as usize,
            Self::Values(names) => names.len(),
        }
    }

    /// The task of a model whose results are compared with the columns `targets`, if with any.
    ///
    /// Weights alone tell classes apart when one column is to be compared with more than one output, and else give values.
    pub(crate) fn of(model: &Model, targets: &[String]) -> Result<Self, Fault> {
        let (_, outputs) = shape(&model.network);
        let classes = match &model.config {
            Some(config) => config.loss == Loss::CrossEntropy,
            None => targets.len() == 1 && outputs > 1,
        };
        let task = if classes {
            Self::Classes(u32::try_from(outputs).unwrap_or(u32::MAX))
        } else {
            let named =
                model.config.as_ref().map(|config| config.targets.clone()).filter(|names| names.len() == outputs);
            Self::Values(named.unwrap_or_else(|| (0..outputs).map(|output| format!("output{output}")).collect()))
        };
        let comparable = if classes { 1 } else { outputs };
        if !targets.is_empty() && targets.len() != comparable {
            return Err(Fault::spec(
                format!("infer.data has {} target columns, and the model is compared with {comparable}", targets.len()),
                "name as many columns as the model has outputs, one for classes, or none",
            ));
        }
        Ok(task)
    }
}
