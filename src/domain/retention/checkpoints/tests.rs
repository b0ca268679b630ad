//! Rules of retention: by example, and against a model that says in the plainest words what must hold.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;

/// 2026-01-05 was a Monday.
fn noon(day: i64) -> Timestamp {
    let monday: Timestamp = "2026-01-05T12:00:00Z".parse().unwrap();
    monday + SignedDuration::from_hours(24 * day)
}

fn none() -> Rules {
    Rules { last: 1, best: None, nightly: 0, weekly: 0, max_bytes: 0 }
}

/// Checkpoints of 10 bytes, newest first, by day and loss.
fn judged(rules: &Rules, all: &[(i64, f64)]) -> Vec<Vec<&'static str>> {
    let metrics: Vec<Metrics> = all.iter().map(|(_, loss)| [("loss".to_owned(), *loss)].into()).collect();
    let all: Vec<_> = all
        .iter()
        .zip(&metrics)
        .map(|((day, _), metrics)| Candidate { at: Some(noon(*day)), size_bytes: 10, metrics, is_needed: false })
        .collect();
    let words = |verdict: &Verdict| match verdict {
        Verdict::Stays(why) => why.iter().map(|why| why.name()).collect(),
        Verdict::Goes { over_budget: true } => vec!["over"],
        Verdict::Goes { over_budget: false } => vec![],
    };
    rules.judge(&all).iter().map(words).collect()
}

fn by_loss(count: u32) -> Option<(Metric, u32)> {
    Some((Metric { name: "loss".into(), goal: Goal::Min }, count))
}

#[test]
fn the_last_the_best_and_one_of_each_day_and_week_are_kept() {
    let all = [(15, 0.5), (15, 0.1), (14, 0.4), (13, 0.4), (7, 0.3), (1, f64::NAN), (0, 0.2)];
    assert_eq!(judged(&Rules { last: 2, ..none() }, &all)[..3], [vec!["newest", "last"], vec!["last"], vec![]]);
    let best = judged(&Rules { best: by_loss(2), ..none() }, &all);
    assert_eq!(best, [vec!["newest", "last"], vec!["best"], vec![], vec![], vec![], vec![], vec!["best"]]);
    let nightly = judged(&Rules { nightly: 3, ..none() }, &all);
    let night = vec!["nightly"];
    let first = vec!["newest", "last", "nightly"];
    assert_eq!(nightly, [first, vec![], night.clone(), night, vec![], vec![], vec![]]);
    let weekly = judged(&Rules { weekly: 9, ..none() }, &all);
    let week = vec!["weekly"];
    let first = vec!["newest", "last", "weekly"];
    assert_eq!(weekly, [first, vec![], vec![], week.clone(), vec![], week, vec![]]);
}

#[test]
fn a_budget_takes_the_oldest_first_and_the_best_last() {
    let all = [(3, 0.5), (2, 0.4), (1, 0.1), (0, 0.2)];
    let rules = |max_bytes| Rules { last: 4, best: by_loss(2), max_bytes, ..none() };
    let newest = vec!["newest", "last"];
    let best = vec!["last", "best"];
    assert_eq!(judged(&rules(40), &all)[1], ["last"]);
    assert_eq!(judged(&rules(39), &all), [newest.clone(), vec!["over"], best.clone(), best.clone()]);
    assert_eq!(judged(&rules(29), &all), [newest.clone(), vec!["over"], best, vec!["over"]]);
    assert_eq!(judged(&rules(1), &all), [newest, vec!["over"], vec!["over"], vec!["over"]], "the newest stays");
}

#[test]
fn the_settings_hold_where_a_spec_says_nothing() {
    let defaults = Defaults { nightly: 7, weekly: 4, max_bytes: 100 };
    let said = Rules::of(&CheckpointPolicy { keep_nightly: Some(0), ..CheckpointPolicy::default() }, defaults);
    assert_eq!(said, Rules { last: 3, best: None, nightly: 0, weekly: 4, max_bytes: 100 });
    let best = |metric: &str| mlctl_protocol::spec::KeepBest { metric: metric.into(), goal: None, count: 2 };
    let rules = |metric| {
        let policy = CheckpointPolicy { keep_best: Some(best(metric)), ..CheckpointPolicy::default() };
        Rules::of(&policy, defaults).best.unwrap().0.goal
    };
    assert_eq!((rules("val_accuracy"), rules("val_loss")), (Goal::Max, Goal::Min));
}

#[test]
fn what_goes_next_is_what_one_more_would_push_out() {
    let metrics = Metrics::new();
    let one = |day| Candidate { at: Some(noon(day)), size_bytes: 10, metrics: &metrics, is_needed: false };
    let rules = Rules { last: 2, ..none() };
    assert_eq!(rules.go_next(&[one(2), one(1), one(0)], noon(3)), [false, true, false]);
    assert_eq!(Rules { nightly: 3, ..rules }.go_next(&[one(2), one(1), one(0)], noon(3)), [false, false, true]);
    assert_eq!(none().go_next(&[], noon(3)), Vec::<bool>::new());
}

#[derive(Debug, Clone)]
struct Drawn {
    hours: Option<i64>,
    size_bytes: u64,
    metrics: Metrics,
    is_needed: bool,
}

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let value = prop_oneof![4 => (0..6_i32).prop_map(f64::from), 1 => Just(f64::NAN), 1 => Just(f64::INFINITY)];
    let one = (prop::option::weighted(0.9, 0..2000_i64), 1..50_u64, prop::option::of(value), prop::bool::weighted(0.1));
    let one = one.prop_map(|(hours, size_bytes, value, is_needed)| {
        let metrics = value.into_iter().map(|value| ("m".to_owned(), value)).collect();
        Drawn { hours, size_bytes, metrics, is_needed }
    });
    prop::collection::vec(one, 0..25)
}

fn rules() -> impl Strategy<Value = Rules> {
    let goal = prop_oneof![Just(Goal::Min), Just(Goal::Max)];
    let best = prop::option::of((goal, 1..5_u32));
    (1..6_u32, best, 0..5_u32, 0..4_u32, prop_oneof![Just(0_u64), 1..400_u64]).prop_map(
        |(last, best, nightly, weekly, max_bytes)| {
            let best = best.map(|(goal, count)| (Metric { name: "m".into(), goal }, count));
            Rules { last, best, nightly, weekly, max_bytes }
        },
    )
}

/// What each rule says of the one at `index`, found by counting instead of walking: it stays if fewer than so many are before it by the rule's own order.
fn model(rules: &Rules, all: &[Candidate<'_>], index: usize) -> Vec<Why> {
    let mut why = Vec::new();
    let mut when = |holds: bool, reason: Why| {
        if holds {
            why.push(reason);
        }
    };
    when(index == 0, Why::Newest);
    when(all[index].is_needed, Why::Needed);
    when(index < rules.last as usize, Why::Last);
    let value = |of: &Candidate<'_>| of.metrics.get("m").copied().filter(|value| value.is_finite());
    if let (Some((metric, count)), Some(own)) = (&rules.best, value(&all[index])) {
        let better = all.iter().enumerate().filter(|(other, of)| {
            value(of).is_some_and(|value| metric.goal.prefers(value, own) || (value == own && *other < index))
        });
        when(better.count() < *count as usize, Why::Best);
    }
    let day = |of: &Candidate<'_>| of.at.map(|at| at.as_second().div_euclid(86_400));
    // The first of January 1970 was a Thursday.
    let week = |of: &Candidate<'_>| day(of).map(|day| (day + 3).div_euclid(7));
    let mut first_of = |count: u32, span: &dyn Fn(&Candidate<'_>) -> Option<i64>, reason: Why| {
        let Some(own) = span(&all[index]) else { return };
        let before: BTreeSet<i64> = all[..index].iter().filter_map(span).collect();
        when(!before.contains(&own) && before.len() < count as usize, reason);
    };
    first_of(rules.nightly, &day, Why::Nightly);
    first_of(rules.weekly, &week, Why::Weekly);
    why
}

proptest! {
    #[test]
    fn verdicts_are_the_models(rules in rules(), drawn in drawn()) {
        let all: Vec<_> = drawn.iter().map(|drawn| Candidate {
            at: drawn.hours.map(|hours| noon(0) + SignedDuration::from_hours(hours)),
            size_bytes: drawn.size_bytes,
            metrics: &drawn.metrics,
            is_needed: drawn.is_needed,
        }).collect();
        let verdicts = rules.judge(&all);
        prop_assert_eq!(verdicts.len(), all.len());
        let (mut bytes, mut gone) = (0, BTreeMap::new());
        for (index, verdict) in verdicts.iter().enumerate() {
            let expected = model(&rules, &all, index);
            match verdict {
                Verdict::Stays(why) => {
                    prop_assert_eq!(why, &expected);
                    bytes += all[index].size_bytes;
                }
                Verdict::Goes { over_budget: false } => prop_assert_eq!(expected, Vec::new()),
                Verdict::Goes { over_budget: true } => drop(gone.insert(index, expected)),
            }
        }
        // What promises rest on: the newest and what is needed stay whatever else is said.
        for index in 0..all.len() {
            prop_assert!(!verdicts[index].goes() || (index > 0 && !all[index].is_needed));
        }
        // The budget takes nothing that has room, and leaves nothing that has none and may go.
        if rules.max_bytes == 0 {
            prop_assert!(gone.is_empty());
        } else {
            let free = |why: &[Why]| !why.contains(&Why::Newest) && !why.contains(&Why::Needed);
            let is_left = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Stays(why) if free(why)));
            prop_assert!(bytes <= rules.max_bytes || !is_left);
            let last = gone.iter().map(|(index, why)| (why.contains(&Why::Best), all[*index].size_bytes)).collect::<Vec<_>>();
            let biggest = last.iter().map(|(_, size)| *size).max().unwrap_or(0);
            prop_assert!(gone.is_empty() || bytes + biggest > rules.max_bytes, "one more would have fitted");
            // Of those that are not among the best, each that stays is newer than each that went.
            for (went, why) in &gone {
                for (index, verdict) in verdicts.iter().enumerate() {
                    if let Verdict::Stays(kept) = verdict && free(kept) && !kept.contains(&Why::Best) {
                        prop_assert!(!why.contains(&Why::Best) && index < *went);
                    }
                }
            }
        }
    }
}
