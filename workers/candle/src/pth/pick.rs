//! Chooses the model's tensors among what a file made: finds the `state_dict`, and compares its names, shapes and types with the model's.

use std::collections::BTreeMap;

use super::kinds::Kind;
use super::pickle::{Heap, Value};
use crate::fault::Fault;

/// Names listed in one error at most.
const LISTED: usize = 20;

/// The model's tensors: names, and their numbers in the heap.
pub(super) type Chosen<'a> = Vec<(&'a str, usize)>;

/// The tensors of a model of this layout.
pub(super) fn model<'l>(
    heap: &Heap<'_>,
    layout: &'l [(String, Vec<usize>)],
    key: Option<&str>,
) -> Result<Chosen<'l>, Fault> {
    let found = state_dict(heap, key)?;
    let mut problems = Vec::new();
    let mut chosen = Vec::new();
    for (name, shape) in layout {
        let Some(number) = found.get(name.as_str()) else {
            problems.push(format!("tensor {name:?} is missing"));
            continue;
        };
        let view = &heap.tensors[*number];
        let kind = heap.storages[view.storage].kind;
        if view.shape == *shape && matches!(kind, Kind::Float(_)) {
            chosen.push((name.as_str(), *number));
        } else {
            let (kind, dims) = (kind.name(), &view.shape);
            problems.push(format!(
                "tensor {name:?} is {kind} of shape {dims:?} where float32 of shape {shape:?} is needed"
            ));
        }
    }
    let unexpected = found.keys().filter(|name| layout.iter().all(|(known, _)| known != *name));
    problems.extend(unexpected.map(|name| format!("tensor {name:?} is not one of the model's")));
    if problems.is_empty() { Ok(chosen) } else { Err(mismatch(&problems)) }
}

fn mismatch(problems: &[String]) -> Fault {
    let more = problems.len().saturating_sub(LISTED);
    let mut message =
        format!("the PyTorch file is not of this model: {}", problems[..problems.len() - more].join("; "));
    if more > 0 {
        message.push_str(&format!("; and {more} more"));
    }
    Fault::spec(
        message,
        "the network in the spec must be that of the model that was saved; its layers are named layer1, layer2, … in the state_dict",
    )
}

/// The tensors of the dict that is the `state_dict`, by name; the last of equal names, as in Python.
fn state_dict<'a>(heap: &Heap<'a>, key: Option<&str>) -> Result<BTreeMap<&'a str, usize>, Fault> {
    let Some(Value::Dict(root)) = heap.result else {
        return Err(match heap.result {
            Some(Value::Tensor(_)) => no_dict("a single tensor"),
            _ => no_dict("no dict"),
        });
    };
    let Some(key) = key else {
        let tensors = tensors(heap, root);
        return if tensors.is_empty() { Err(without_key(heap, root)) } else { Ok(tensors) };
    };
    let value = heap.dicts[root].iter().rev().find(|(name, _)| *name == Value::Text(key)).map(|(_, value)| *value);
    let inside = match value {
        Some(Value::Dict(number)) => tensors(heap, number),
        _ => BTreeMap::new(),
    };
    if !inside.is_empty() {
        return Ok(inside);
    }
    let what = if value.is_some() { "no state_dict" } else { "nothing" };
    let fault = without_key(heap, root);
    Err(Fault { message: format!("the PyTorch file holds {what} under the key {key:?}"), ..fault })
}

fn tensors<'a>(heap: &Heap<'a>, dict: usize) -> BTreeMap<&'a str, usize> {
    let tensor = |(name, value): &(Value<'a>, Value<'a>)| match (name, value) {
        (Value::Text(name), Value::Tensor(number)) => Some((*name, *number)),
        _ => None,
    };
    heap.dicts[dict].iter().filter_map(tensor).collect()
}

fn no_dict(what: &str) -> Fault {
    Fault::spec(
        format!("the PyTorch file holds {what}, not a state_dict"),
        "save the state_dict: torch.save(model.state_dict(), path)",
    )
}

/// A fault of a file whose `state_dict` is not where it was looked for, with the keys under which there is one.
fn without_key(heap: &Heap<'_>, root: usize) -> Fault {
    let nested = |(name, value): &(Value<'_>, Value<'_>)| match (name, value) {
        (Value::Text(name), Value::Dict(number)) if !tensors(heap, *number).is_empty() => Some(format!("{name:?}")),
        _ => None,
    };
    let mut keys: Vec<String> = heap.dicts[root].iter().filter_map(nested).take(LISTED).collect();
    keys.sort_unstable();
    let message = "the PyTorch file holds no tensors at its top: it is a checkpoint of several things";
    match keys.as_slice() {
        [] if tensors(heap, root).is_empty() => no_dict("no tensors"),
        [] => Fault::spec(message, "its tensors are at its top: leave `key` out"),
        [key] => Fault::spec(message, format!("its state_dict is under a key: set key = {key} beside `from`")),
        _ => Fault::spec(message, format!("set `key` beside `from` to the model's; there are {}", keys.join(", "))),
    }
}
