//! The learning rate as a function of the step: nothing of it is saved, and a resumed run has the same. Closed forms of the schedulers in `torch.optim.lr_scheduler`, whose values
//! are the fixtures of `tests/engine/schedules.rs`; the warm-up is a `LinearLR` from `1 / (steps + 1)`, and `inverse_sqrt` the `LambdaLR` that people write.

use std::f64::consts::PI;

use mlctl_protocol::spec::ScheduleSpec;

use crate::fault::Fault;

/// The part of a cycle that goes up, where the spec does not say.
const RISING: f64 = 0.3;

/// Steps after which an inverse square root has fallen to `sqrt(1/2)`, where neither the spec nor a warm-up says.
const TIMESCALE: u64 = 10_000;

/// How the learning rate goes: the schedule, from which rate, over how many steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    spec: ScheduleSpec,
    rate: f64,
    total: f64,
}

impl Schedule {
    /// The same rate for ever.
    #[must_use]
    pub const fn constant(rate: f64) -> Self {
        Self { spec: ScheduleSpec::Constant { warmup_steps: 0 }, rate, total: f64::INFINITY }
    }

    /// The schedule of a training of so many steps at most.
    ///
    /// # Errors
    /// `spec` when its warm-up takes all of them.
    pub fn new(spec: &ScheduleSpec, rate: f64, steps: u64) -> Result<Self, Fault> {
        let total = spec.steps().unwrap_or(steps);
        // Beyond its own length there is no schedule, and beyond the training's nobody sees it.
        let shortest = total.min(steps);
        match spec.warmup_steps() {
            Some(warmup) if warmup > 0 && warmup >= shortest => Err(Fault::spec(
                format!("the warm-up of {warmup} steps leaves nothing of the {shortest} that there are"),
                "lower train.schedule.warmup_steps, or train for longer",
            )),
            _ => Ok(Self { spec: spec.clone(), rate, total: float(total) }),
        }
    }

    /// The rate of the update after `step` others.
    #[must_use]
    pub fn rate(&self, step: u64) -> f64 {
        let (rate, floor) = (self.rate, self.spec.min_learning_rate());
        if let ScheduleSpec::OneCycle { warmup_steps, div_factor, final_div_factor, .. } = self.spec {
            let rising = warmup_steps.map_or(RISING * self.total, float);
            let first = rate / div_factor;
            return self.cycle(float(step), (rising - 1.0).max(0.0), [first, first / final_div_factor]);
        }
        let warmup = self.spec.warmup_steps().unwrap_or(0);
        let Some(after) = step.checked_sub(warmup) else {
            return rate * (float(step) + 1.0) / (float(warmup) + 1.0);
        };
        let done = (float(after) / (self.total - float(warmup)).max(1.0)).min(1.0);
        match self.spec {
            ScheduleSpec::Constant { .. } | ScheduleSpec::OneCycle { .. } => rate,
            ScheduleSpec::Linear { .. } => rate + (floor - rate) * done,
            ScheduleSpec::Cosine { .. } => floor + (rate - floor) * f64::midpoint(1.0, (PI * done).cos()),
            ScheduleSpec::Step { step_size, gamma, .. } => {
                (rate * gamma.powf(float(after / step_size.max(1)))).max(floor)
            }
            ScheduleSpec::InverseSqrt { timescale, .. } => {
                let scale = timescale.unwrap_or(if warmup > 0 { warmup } else { TIMESCALE }).max(1);
                (rate / (1.0 + float(after) / float(scale)).sqrt()).max(floor)
            }
        }
    }

    /// The rate at a step of a cycle with its peak at another, between what it begins and what it ends with.
    fn cycle(&self, step: f64, peak: f64, [first, last]: [f64; 2]) -> f64 {
        let between = |from: f64, to: f64, done: f64| to + (from - to) * f64::midpoint(1.0, (PI * done).cos());
        if step < peak {
            return between(first, self.rate, step / peak);
        }
        let done = ((step - peak) / (self.total - 1.0 - peak).max(1.0)).min(1.0);
        between(self.rate, last, done).max(self.spec.min_learning_rate())
    }
}

#[expect(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
const fn float(steps: u64) -> f64 {
    steps as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(warmup_steps: u64, min_learning_rate: f64) -> Vec<ScheduleSpec> {
        vec![
            ScheduleSpec::Constant { warmup_steps },
            ScheduleSpec::Linear { warmup_steps, min_learning_rate, steps: None },
            ScheduleSpec::Cosine { warmup_steps, min_learning_rate, steps: Some(30) },
            ScheduleSpec::Step { warmup_steps, min_learning_rate, step_size: 3, gamma: 0.5 },
            ScheduleSpec::OneCycle {
                warmup_steps: Some(warmup_steps),
                min_learning_rate,
                steps: None,
                div_factor: 10.0,
                final_div_factor: 100.0,
            },
            ScheduleSpec::InverseSqrt { warmup_steps, min_learning_rate, timescale: None },
        ]
    }

    #[test]
    fn each_rises_to_its_rate_and_falls_no_lower_than_its_floor() {
        for (warmup, floor) in [(0, 0.0), (1, 0.0), (5, 0.02), (39, 0.1)] {
            for spec in all(warmup, floor) {
                let Ok(schedule) = Schedule::new(&spec, 0.1, 40) else {
                    assert_eq!((warmup, spec.steps()), (39, Some(30)));
                    continue;
                };
                let rates: Vec<_> = (0..100).map(|step| schedule.rate(step)).collect();
                let peak = usize::try_from(warmup).unwrap()
                    - usize::from(
                        warmup > 0 && spec.warmup_steps() != Some(0) && matches!(spec, ScheduleSpec::OneCycle { .. }),
                    );
                assert!((rates[peak] - 0.1).abs() < 1e-15, "{spec:?}: {rates:?}");
                assert!(rates[..peak].windows(2).all(|pair| pair[0] < pair[1]), "{spec:?}: {rates:?}");
                assert!(rates[peak..].windows(2).all(|pair| pair[0] >= pair[1]), "{spec:?}: {rates:?}");
                assert!(
                    rates[peak..].iter().all(|rate| *rate >= floor - 1e-15 && rate.is_finite()),
                    "{spec:?}: {rates:?}"
                );
                assert!(rates[0] > 0.0, "{spec:?}: the first step does nothing");
            }
        }
    }

    #[test]
    fn a_warm_up_that_takes_everything_is_the_users_error() {
        for spec in all(40, 0.0) {
            let fault = Schedule::new(&spec, 0.1, 40).unwrap_err();
            assert!(fault.message.contains("the warm-up of 40 steps leaves nothing"), "{fault}");
        }
        assert!(all(29, 0.0).iter().all(|spec| Schedule::new(spec, 0.1, 40).is_ok()));
    }

    #[test]
    fn the_shortest_trainings_have_a_rate() {
        for spec in all(0, 0.0) {
            let rate = Schedule::new(&spec, 0.1, 1).unwrap().rate(0);
            assert!((rate - 0.1).abs() < 1e-15, "{spec:?}: {rate}");
        }
    }
}
