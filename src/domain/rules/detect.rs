//! The rules of which weights are the model, and of when a training is given up.

use mlctl_protocol::spec::{DetectSpec, Diverged, Loss, Plateau, Select, TrainSpec};

use super::{Problem, train::positive};

pub(super) fn problems(train: &TrainSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    if train.select != Select::Last && train.split.validation == 0.0 {
        let message = "the best weights are chosen by rows that are validated on, and there are none";
        found.push(Problem::new("train.select", message, "set split.validation, for example to 0.1"));
    }
    if train.select == Select::BestAccuracy && train.loss != Loss::CrossEntropy {
        let message = "there is an accuracy only where classes are learnt";
        found.push(Problem::new("train.select", message, "use select = \"best\", which goes by the loss"));
    }
    let Some(DetectSpec { diverged, plateau, dead_gradients }) = &train.detect else { return found };
    if let Some(Diverged { factor, .. }) = diverged
        && !(positive(*factor) && *factor > 1.0)
    {
        let message = format!("expected a number above 1, found {factor:?}");
        found.push(Problem::new("train.detect.diverged.factor", message, "10 is far above the best"));
    }
    if let Some(Plateau { share, .. }) = plateau
        && !(0.0..1.0).contains(share)
    {
        let message = format!("expected a share from 0 to less than 1, found {share:?}");
        found.push(Problem::new("train.detect.plateau.share", message, "0.01 is one percent"));
    }
    if diverged.is_none() && plateau.is_none() && dead_gradients.is_none() {
        let message = "nothing is looked for";
        found.push(Problem::new("train.detect", message, "name diverged, plateau or dead_gradients, or leave it out"));
    }
    found
}
