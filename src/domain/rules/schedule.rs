//! The rules of a learning rate's schedule.

use mlctl_protocol::spec::{ScheduleSpec, TrainSpec};

use super::{Problem, train::positive};

/// Schedules that never leave their warm-up, go uphill or divide by zero.
pub(super) fn problems(train: &TrainSpec) -> Vec<Problem> {
    let Some(schedule) = &train.schedule else { return Vec::new() };
    let mut found = Vec::new();
    let mut require = |is_right: bool, key: &str, message: String, hint: &str| {
        if !is_right {
            found.push(Problem::new(format!("train.schedule.{key}"), message, hint));
        }
    };
    let (rate, floor) = (train.optimizer.learning_rate(), schedule.min_learning_rate());
    let message = format!("expected a number from 0 to the optimizer's learning_rate of {rate:?}, found {floor:?}");
    // A rate that is none is a problem of its own.
    let is_right = floor == 0.0 || (positive(floor) && (floor <= rate || !positive(rate)));
    require(is_right, "min_learning_rate", message, "a tenth or a hundredth of the rate is usual; 0 when absent");
    if let Some(warmup) = schedule.warmup_steps().filter(|warmup| *warmup > 0)
        && let Some(steps) = schedule.steps().into_iter().chain(train.max_steps).min()
    {
        let message = format!("the warm-up of {warmup} steps leaves nothing of the {steps} that there are");
        require(warmup < steps, "warmup_steps", message, "lower it, or train for longer");
    }
    match *schedule {
        ScheduleSpec::Step { gamma, .. } => {
            let message = format!("expected a number above 0 and up to 1, found {gamma:?}");
            require(positive(gamma) && gamma <= 1.0, "gamma", message, "0.1 is usual");
        }
        ScheduleSpec::OneCycle { div_factor, final_div_factor, .. } => {
            for (key, factor) in [("div_factor", div_factor), ("final_div_factor", final_div_factor)] {
                let message = format!("expected a number from 1 on, found {factor:?}");
                require(positive(factor) && factor >= 1.0, key, message, "25 and 1e4 are usual");
            }
        }
        ScheduleSpec::Constant { .. }
        | ScheduleSpec::Linear { .. }
        | ScheduleSpec::Cosine { .. }
        | ScheduleSpec::InverseSqrt { .. } => {}
    }
    found
}
