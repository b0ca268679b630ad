use serde_json::json;

use super::*;

fn list(key: &str, values: Value) -> Axis {
    let Value::Array(values) = values else { panic!("{values}") };
    Axis { key: key.into(), values, range: None }
}

fn range(key: &str, low: f64, high: f64, scale: Scale, whole: bool) -> Axis {
    Axis { key: key.into(), values: Vec::new(), range: Some(Range { low, high, scale, whole }) }
}

fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|(state, jobs)| ((*state).to_owned(), *jobs)).collect()
}

#[test]
fn a_grid_is_the_product_with_the_last_key_fastest() {
    let sweep = Sweep { axes: vec![list("a", json!([1, 2])), list("b", json!(["x", "y", "z"]))], sample: None };
    assert_eq!(sweep.size(), 6);
    let members: Vec<_> = (1..=6).map(|index| sweep.params(index)).collect();
    let shown: Vec<String> = members.iter().map(|params| format!("{}{}", params["a"], params["b"])).collect();
    assert_eq!(shown, [r#"1"x""#, r#"1"y""#, r#"1"z""#, r#"2"x""#, r#"2"y""#, r#"2"z""#]);
}

#[test]
fn the_size_of_a_grid_is_known_without_making_it() {
    let axes: Vec<_> = (0..32).map(|axis| list(&format!("k{axis}"), json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))).collect();
    assert_eq!(Sweep { axes: axes[..7].to_vec(), sample: None }.size(), 10_000_000);
    assert_eq!(Sweep { axes, sample: None }.size(), u64::MAX);
}

/// Worked out by an independent program from the text at the head of `sweep`.
#[test]
fn the_same_seed_draws_the_same_members_everywhere() {
    let axes = vec![
        range("train.optimizer.learning_rate", 1e-4, 1e-1, Scale::Log, false),
        range("train.batch_size", 8.0, 64.0, Scale::Uniform, true),
        list("train.loss", json!(["mse", "cross_entropy"])),
    ];
    let sweep = Sweep { axes, sample: Some(Sample { count: 3, seed: 7 }) };
    let members: Vec<String> = (1..=3).map(|index| serde_json::to_string(&sweep.params(index)).unwrap()).collect();
    let expected = include_str!("draws.jsonl").lines().collect::<Vec<_>>();
    assert_eq!(members, expected);
    let other = Sweep { sample: Some(Sample { count: 3, seed: 8 }), ..sweep.clone() };
    assert_ne!(other.params(1), sweep.params(1));
    let fewer = Sweep { axes: sweep.axes[..1].to_vec(), ..sweep.clone() };
    let key = "train.optimizer.learning_rate";
    assert_eq!(fewer.params(2)[key], sweep.params(2)[key], "one axis more changes no other");
}

#[test]
fn draws_fill_their_range_and_keep_to_it() {
    let axes = vec![
        range("log", 1e-4, 1e-1, Scale::Log, false),
        range("whole", 1.0, 4.0, Scale::Uniform, true),
        range("flat", -1.0, 1.0, Scale::Uniform, false),
    ];
    let sweep = Sweep { axes, sample: Some(Sample { count: 4000, seed: 1 }) };
    let drawn: Vec<Params> = (1..=4000).map(|index| sweep.params(index)).collect();
    let numbers = |key: &str| drawn.iter().map(|params| params[key].as_f64().unwrap()).collect::<Vec<_>>();
    for decade in [1e-4, 1e-3, 1e-2] {
        let within = numbers("log").iter().filter(|number| (decade..decade * 10.0).contains(*number)).count();
        assert!((1150..1520).contains(&within), "{decade}: {within}");
    }
    for whole in 1..=4 {
        let times = numbers("whole").iter().filter(|number| **number == f64::from(whole)).count();
        assert!((850..1150).contains(&times), "{whole}: {times}");
    }
    assert!(numbers("flat").iter().all(|number| (-1.0..=1.0).contains(number)));
    let mean = numbers("flat").iter().sum::<f64>() / 4000.0;
    assert!(mean.abs() < 0.05, "{mean}");
}

#[test]
fn parameters_are_laid_over_and_tables_made() {
    let mut spec = json!({"train": {"optimizer": {"type": "adam", "eps": 1e-8}}, "time": null});
    let params = [("train.optimizer.eps", json!(0.1)), ("time.limit_seconds", json!(5)), ("labels.x", json!("y"))];
    lay_over(&mut spec, &params.map(|(key, value)| (key.to_owned(), value)).into());
    let expected = json!({"train": {"optimizer": {"type": "adam", "eps": 0.1}}, "time": {"limit_seconds": 5}, "labels": {"x": "y"}});
    assert_eq!(spec, expected);
}

#[test]
fn what_makes_no_array_is_said_at_once() {
    let sweep =
        |axes: Vec<Axis>, sample: Option<u32>| Sweep { axes, sample: sample.map(|count| Sample { count, seed: 0 }) };
    let fine = list("a", json!([1]));
    let cases = [
        (sweep(vec![fine.clone()], None), ""),
        (sweep(vec![range("a", 1.0, 2.0, Scale::Log, false)], Some(3)), ""),
        (sweep(Vec::new(), None), "at least one key"),
        (sweep(vec![fine.clone(); 33], None), "32 keys at most"),
        (sweep(vec![fine.clone(), fine.clone()], None), "set the same"),
        (sweep(vec![list("a.b", json!([1])), fine.clone()], None), "set the same"),
        (sweep(vec![fine.clone()], Some(0)), "at least one member"),
        (sweep(vec![list("a", json!([]))], None), "no values"),
        (sweep(vec![list("", json!([1]))], None), "no path"),
        (sweep(vec![list("a..b", json!([1]))], None), "no path"),
        (sweep(vec![list("name", json!(["x"]))], None), "same for all"),
        (sweep(vec![range("a", 1.0, 2.0, Scale::Log, false)], None), "no end of values"),
        (sweep(vec![range("a", 2.0, 1.0, Scale::Uniform, false)], Some(3)), "no range"),
        (sweep(vec![range("a", f64::NAN, 1.0, Scale::Uniform, false)], Some(3)), "no range"),
        (sweep(vec![range("a", 0.0, 1.0, Scale::Log, false)], Some(3)), "no logarithm"),
        (sweep(vec![range("a", 0.5, 3.0, Scale::Uniform, true)], Some(3)), "whole numbers"),
    ];
    for (sweep, words) in cases {
        let found: Vec<String> = sweep.problems().into_iter().map(|problem| problem.message).collect();
        let fits =
            if words.is_empty() { found.is_empty() } else { found.iter().any(|message| message.contains(words)) };
        assert!(fits, "{words}: {found:?}");
    }
}

#[test]
fn an_array_stands_where_its_members_stand() {
    let cases: [(&[(&str, u64)], &str); 11] = [
        (&[("queued", 3), ("held", 0)], "queued"),
        (&[("held", 3)], "held"),
        (&[("queued", 2), ("held", 1)], "running"),
        (&[("queued", 2), ("succeeded", 1)], "running"),
        (&[("running", 1), ("failed", 2)], "running"),
        (&[("succeeded", 3), ("queued", 0)], "succeeded"),
        (&[("succeeded", 2), ("cancelled", 1)], "cancelled"),
        (&[("failed", 1), ("cancelled", 1), ("succeeded", 1)], "failed"),
        (&[("succeeded", 1), ("stopped", 8)], "succeeded"),
        (&[("succeeded", 1), ("stopped", 7), ("cancelled", 1)], "cancelled"),
        (&[], "succeeded"),
    ];
    for (pairs, expected) in cases {
        assert_eq!(state(&counts(pairs)), expected, "{pairs:?}");
    }
}

#[test]
fn accuracy_is_to_be_high_and_the_rest_low() {
    for (name, goal) in [("val_loss", Goal::Min), ("test_accuracy", Goal::Max), ("perplexity", Goal::Min)] {
        assert_eq!(Metric::named(name).goal, goal, "{name}");
    }
    assert!(Metric::named("$.x").mistake().is_some() && Metric::named("").mistake().is_some());
    assert!(Metric::named("val_loss").mistake().is_none());
}
