//! Whether a challenger becomes the champion: what the gate of a retraining asks of an evaluation, and the answers. Pure.

use mlctl_protocol::{
    evaluation::{Evaluation, Group, Interval},
    spec::{GateMetric, GateSpec},
};
use serde::{Deserialize, Serialize};

/// Slices that are named in an answer, at most.
const MOST_NAMED: usize = 5;

/// A question of the gate, and the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The key of the gate that asks.
    pub key: String,
    /// Whether the challenger passed.
    pub passed: bool,
    /// What was found, in a line.
    pub told: String,
}

/// Every question that the gate asks of the last model of an evaluation, which has so many bytes. The first of two is the champion. It is to be promoted if it passes all.
#[must_use]
pub fn checks(gate: &GateSpec, found: &Evaluation, size_bytes: u64) -> Vec<Check> {
    let mut checks = vec![rows(gate, &found.all)];
    let own = value(&found.all, found.all.models.len().saturating_sub(1), gate.metric);
    checks.push(match (own, gate.floor) {
        (None, _) => check("metric", false, format!("the challenger has no {} that is a number", gate.metric.name())),
        (Some(own), Some(floor)) => {
            let bound = if gate.metric == GateMetric::Loss { "at most" } else { "at least" };
            let told = format!("{} {own:.4}, {bound} {floor} is asked for", gate.metric.name());
            check("floor", gate.metric.gain(own - floor) >= 0.0, told)
        }
        (Some(own), None) => check("metric", true, format!("{} {own:.4}", gate.metric.name())),
    });
    if found.models.len() > 1 {
        checks.extend(gains(gate, &found.all));
        checks.extend(gate.max_other_loss.map(|most| other(gate.metric.other(), most, &found.all)));
        checks.extend(gate.max_slice_loss.map(|most| slices(gate, most, found)));
    }
    checks.extend(gate.max_bytes.map(|most| {
        let told = format!("the model has {size_bytes} bytes, at most {most} are allowed");
        check("max_bytes", size_bytes <= most, told)
    }));
    checks
}

fn check(key: &str, passed: bool, told: String) -> Check {
    Check { key: key.to_owned(), passed, told }
}

fn rows(gate: &GateSpec, all: &Group) -> Check {
    let told = format!("{} rows were compared, at least {} are asked for", all.rows, gate.min_rows);
    check("min_rows", all.rows >= gate.min_rows, told)
}

/// What a model's metric is, where that is a number.
fn value(group: &Group, model: usize, metric: GateMetric) -> Option<f64> {
    group.models.get(model)?.get(metric.name()).copied().filter(|value| value.is_finite())
}

/// The difference of the challenger from the champion, where it is known.
fn difference(group: &Group, metric: GateMetric) -> Option<Interval> {
    let found = group.differences.last()?;
    let interval = match metric {
        GateMetric::Loss => found.loss,
        GateMetric::Accuracy => found.accuracy,
    };
    interval.filter(Interval::is_finite)
}

/// How much better the challenger is, and the lower end of that.
fn gain(interval: &Interval, metric: GateMetric) -> (f64, f64) {
    let low = match metric {
        GateMetric::Loss => interval.high,
        GateMetric::Accuracy => interval.low,
    };
    (metric.gain(interval.mean), metric.gain(low))
}

/// `better by 0.0370`.
fn compared(gained: f64) -> String {
    let how = if gained < 0.0 { "worse" } else { "better" };
    format!("{how} by {:.4}", gained.abs())
}

fn gains(gate: &GateSpec, all: &Group) -> Vec<Check> {
    let name = gate.metric.name();
    let Some(interval) = difference(all, gate.metric) else {
        return vec![check("min_gain", false, format!("no difference in {name} is known"))];
    };
    let (mean, low) = gain(&interval, gate.metric);
    let against = value(all, 0, gate.metric).map(|champion| format!(" than the champion's {champion:.4}"));
    let against = against.unwrap_or_default();
    let told = format!("{name} {}{against}, better by at least {} is asked for", compared(mean), gate.min_gain);
    let mut checks = vec![check("min_gain", mean >= gate.min_gain, told)];
    checks.extend(gate.min_gain_low.map(|least| {
        let told = format!(
            "{name} {} at the lower end of the interval, better by at least {least} is asked for",
            compared(low)
        );
        check("min_gain_low", low >= least, told)
    }));
    checks
}

fn other(metric: GateMetric, most: f64, all: &Group) -> Check {
    let name = metric.name();
    let Some(interval) = difference(all, metric) else {
        return check("max_other_loss", false, format!("no difference in {name} is known"));
    };
    let (mean, _) = gain(&interval, metric);
    let told = format!("{name} {}, worse by at most {most} is allowed", compared(mean));
    check("max_other_loss", mean >= -most, told)
}

fn slices(gate: &GateSpec, most: f64, found: &Evaluation) -> Check {
    let large = found.slices.iter().filter(|slice| slice.rows >= gate.min_slice_rows);
    let worse: Vec<_> = large
        .clone()
        .filter_map(|slice| {
            let gained = difference(slice, gate.metric).map(|interval| gain(&interval, gate.metric).0);
            let is_bad = gained.is_none_or(|gained| gained < -most);
            let name = slice.slice.as_deref().unwrap_or_default();
            is_bad.then(|| match gained {
                Some(gained) => format!("{name:?} by {:.4}", -gained),
                None => format!("{name:?} by what is no number"),
            })
        })
        .collect();
    let of = format!("of {} slices with at least {} rows", large.count(), gate.min_slice_rows);
    if worse.is_empty() {
        return check("max_slice_loss", true, format!("{of} none is worse by more than {most}"));
    }
    let named = worse.get(..MOST_NAMED.min(worse.len())).unwrap_or_default().join(", ");
    check("max_slice_loss", false, format!("{of} {} are worse by more than {most}: {named}", worse.len()))
}

#[cfg(test)]
mod tests {
    use mlctl_protocol::{evaluation::Difference, progress::Metrics, spec::BootstrapSpec};

    use super::*;

    fn metrics(loss: f64, accuracy: f64) -> Metrics {
        Metrics::from([("loss".into(), loss), ("accuracy".into(), accuracy)])
    }

    fn interval(mean: f64) -> Option<Interval> {
        Some(Interval { mean, low: mean - 0.01, high: mean + 0.01, above: 0.5 })
    }

    fn group(slice: Option<&str>, rows: u64, loss: f64, accuracy: f64) -> Group {
        let of_challenger = metrics(0.5 + loss, 0.9 + accuracy);
        Group {
            slice: slice.map(str::to_owned),
            rows,
            models: vec![metrics(0.5, 0.9), of_challenger],
            differences: vec![Difference { model: 1, loss: interval(loss), accuracy: interval(accuracy) }],
        }
    }

    fn evaluation(loss: f64, accuracy: f64) -> Evaluation {
        Evaluation {
            schema: 1,
            models: vec!["a".into(), "b".into()],
            bootstrap: BootstrapSpec::default(),
            left_out: 0,
            all: group(None, 200, loss, accuracy),
            slice: Some("country".into()),
            slices: vec![group(Some("is"), 20, 0.3, -0.3), group(Some("de"), 180, loss, accuracy)],
            others: None,
        }
    }

    /// The keys of what was not passed.
    fn failed(gate: &GateSpec, found: &Evaluation) -> Vec<String> {
        checks(gate, found, 1000).into_iter().filter(|check| !check.passed).map(|check| check.key).collect()
    }

    #[test]
    fn each_question_is_answered_by_what_was_found() {
        let gate = GateSpec::default();
        let accuracy = GateSpec { metric: GateMetric::Accuracy, ..gate.clone() };
        for (gate, loss, gained, expected) in [
            (gate.clone(), -0.1, 0.1, &[][..]),
            (gate.clone(), 0.0, 0.0, &[]),
            (gate.clone(), 0.001, 0.1, &["min_gain"]),
            (GateSpec { min_gain: 0.2, ..gate.clone() }, -0.1, 0.1, &["min_gain"]),
            (GateSpec { min_gain: -0.2, ..gate.clone() }, 0.1, 0.1, &[]),
            (GateSpec { min_gain_low: Some(0.0), ..gate.clone() }, -0.005, 0.1, &["min_gain_low"]),
            (GateSpec { min_gain_low: Some(-0.006), ..gate.clone() }, -0.005, 0.1, &[]),
            (GateSpec { min_rows: 201, ..gate.clone() }, -0.1, 0.1, &["min_rows"]),
            (GateSpec { floor: Some(0.39), ..gate.clone() }, -0.1, 0.1, &["floor"]),
            (GateSpec { floor: Some(0.41), ..gate.clone() }, -0.1, 0.1, &[]),
            (GateSpec { max_other_loss: Some(0.05), ..gate.clone() }, -0.1, -0.1, &["max_other_loss"]),
            (GateSpec { max_other_loss: Some(0.05), ..gate.clone() }, -0.1, -0.01, &[]),
            (GateSpec { max_bytes: Some(999), ..gate.clone() }, -0.1, 0.1, &["max_bytes"]),
            // The slice that is worse has too few rows, and then enough.
            (GateSpec { max_slice_loss: Some(0.1), ..gate.clone() }, -0.1, 0.1, &[]),
            (
                GateSpec { max_slice_loss: Some(0.1), min_slice_rows: 20, ..gate.clone() },
                -0.1,
                0.1,
                &["max_slice_loss"],
            ),
            (accuracy.clone(), 0.1, 0.0, &[]),
            (accuracy.clone(), -0.1, -0.001, &["min_gain"]),
            (GateSpec { floor: Some(0.99), ..accuracy.clone() }, -0.1, 0.05, &["floor"]),
            (GateSpec { min_gain_low: Some(0.0), ..accuracy }, -0.1, 0.005, &["min_gain_low"]),
        ] {
            assert_eq!(failed(&gate, &evaluation(loss, gained)), expected, "{gate:?} {loss} {gained}");
        }
    }

    #[test]
    fn answers_are_told_in_words() {
        let told = |loss: f64, key: &str| {
            let gate = GateSpec { min_gain_low: Some(0.0), max_other_loss: Some(0.05), ..GateSpec::default() };
            checks(&gate, &evaluation(loss, 0.1), 1000).into_iter().find(|check| check.key == key).unwrap().told
        };
        assert_eq!(
            told(-0.25, "min_gain"),
            "loss better by 0.2500 than the champion's 0.5000, better by at least 0 is asked for"
        );
        assert_eq!(
            told(0.25, "min_gain"),
            "loss worse by 0.2500 than the champion's 0.5000, better by at least 0 is asked for"
        );
        assert_eq!(
            told(-0.25, "min_gain_low"),
            "loss better by 0.2400 at the lower end of the interval, better by at least 0 is asked for"
        );
        assert_eq!(told(0.25, "max_other_loss"), "accuracy better by 0.1000, worse by at most 0.05 is allowed");
    }

    #[test]
    fn without_a_champion_the_challenger_alone_is_asked_about() {
        let mut found = evaluation(-0.1, 0.1);
        found.models.remove(0);
        found.all = Group { models: vec![metrics(0.4, 0.97)], differences: Vec::new(), ..found.all };
        let gate =
            GateSpec { min_gain: 5.0, min_gain_low: Some(5.0), max_other_loss: Some(0.0), ..GateSpec::default() };
        assert_eq!(failed(&gate, &found), Vec::<String>::new());
        assert_eq!(failed(&GateSpec { floor: Some(0.3), ..gate.clone() }, &found), ["floor"]);
        assert_eq!(failed(&GateSpec { min_rows: 1000, ..gate }, &found), ["min_rows"]);
    }

    /// A loss that is not a number is not written, and what is no number is never better.
    #[test]
    fn what_is_no_number_passes_nothing() {
        let mut found = evaluation(-0.1, 0.1);
        found.all.models[1].remove("loss");
        found.all.differences[0].loss = None;
        assert_eq!(failed(&GateSpec::default(), &found), ["metric", "min_gain"]);
        let nan = Interval { mean: f64::NAN, low: f64::NAN, high: f64::NAN, above: 0.0 };
        found.all.differences[0].accuracy = Some(nan);
        found.all.models[1].insert("accuracy".into(), f64::NAN);
        let gate = GateSpec { metric: GateMetric::Accuracy, max_other_loss: Some(9.0), ..GateSpec::default() };
        assert_eq!(failed(&gate, &found), ["metric", "min_gain", "max_other_loss"]);
    }
}
