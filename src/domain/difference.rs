//! In what two documents differ, by key, and two jobs in their metrics. Called by the verbs that compare, and where a schedule becomes another; pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

/// A key of two documents with its values; none where it is not set.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The key, with dots.
    pub key: String,
    /// What the first says.
    pub a: Option<Value>,
    /// What the other says.
    pub b: Option<Value>,
}

/// A metric of two versions.
#[derive(Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Its name.
    pub name: String,
    /// The first's.
    pub a: Option<f64>,
    /// The other's.
    pub b: Option<f64>,
    /// By how much the other's is more.
    pub change: Option<f64>,
}

/// The keys in which two documents differ, by name. Tables are entered; a list is one value.
#[must_use]
pub fn differences(a: &Value, b: &Value) -> Vec<Difference> {
    let (mut a, mut b) = (flat(a), flat(b));
    let keys: Vec<_> = a.keys().chain(b.keys()).cloned().collect();
    let mut found = BTreeMap::new();
    for key in keys {
        let (a, b) = (a.remove(&key), b.remove(&key));
        if a != b {
            found.insert(key.clone(), Difference { key, a, b });
        }
    }
    found.into_values().collect()
}

/// Every value of a document by its dotted key, without those that say nothing.
fn flat(document: &Value) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), document)];
    while let Some((path, value)) = open.pop() {
        match value {
            Value::Object(fields) => {
                let below = |key: &String| if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                open.extend(fields.iter().map(|(key, value)| (below(key), value)));
            }
            Value::Null => {}
            value => drop(found.insert(path, value.clone())),
        }
    }
    found
}

/// Every metric that one of two has, by name.
#[must_use]
pub fn pairs(a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>) -> Vec<Pair> {
    let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    let pair = |name: &String| {
        let (a, b) = (a.get(name).copied(), b.get(name).copied());
        Pair { name: name.clone(), a, b, change: a.zip(b).map(|(a, b)| b - a) }
    };
    names.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn specs_differ_by_the_keys_whose_values_do() {
        let a =
            json!({"name": "x", "train": {"seed": 1, "model": {"layers": [1, 2]}, "init": null, "data": {"uri": "u"}}});
        let b = json!({"name": "x", "train": {"seed": 2, "model": {"layers": [1, 3]}, "data": {"dataset": "d/1"}}});
        let found = differences(&a, &b);
        let told: Vec<_> = found.iter().map(|one| (one.key.as_str(), one.a.clone(), one.b.clone())).collect();
        let expected = [
            ("train.data.dataset", None, Some(json!("d/1"))),
            ("train.data.uri", Some(json!("u")), None),
            ("train.model.layers", Some(json!([1, 2])), Some(json!([1, 3]))),
            ("train.seed", Some(json!(1)), Some(json!(2))),
        ];
        assert_eq!(told, expected);
        assert_eq!(differences(&a, &a), []);
    }

    #[test]
    fn metrics_stand_side_by_side_even_where_one_has_none() {
        let metrics = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let found = pairs(&metrics(&[("loss", 0.5), ("old", 1.0)]), &metrics(&[("loss", 0.25), ("new", 2.0)]));
        let told: Vec<_> = found.iter().map(|one| (one.name.as_str(), one.a, one.b, one.change)).collect();
        let expected = [
            ("loss", Some(0.5), Some(0.25), Some(-0.25)),
            ("new", None, Some(2.0), None),
            ("old", Some(1.0), None, None),
        ];
        assert_eq!(told, expected);
    }
}
