//! The rules of an evaluation.

use mlctl_protocol::spec::{DataSource, EvaluateSpec};

use super::{Problem, data, infer};

pub(super) fn problems(evaluate: &EvaluateSpec) -> Vec<Problem> {
    let mut found: Vec<_> = evaluate
        .models
        .iter()
        .enumerate()
        .filter_map(|(index, model)| infer::source(&format!("evaluate.models[{index}]"), model))
        .collect();
    let plain = evaluate.data.plain();
    if matches!(*plain, DataSource::Text { .. }) {
        let message = "an evaluation compares what models say of rows of numbers";
        found.push(Problem::new("evaluate.data.format", message, "name a table of rows: csv, jsonl, parquet or npy"));
    }
    found.extend(data::problems("evaluate.data", &evaluate.data));
    if evaluate.slice.is_some() && matches!(*plain, DataSource::Npy { .. } | DataSource::Randn { .. }) {
        let message = "neither generated data nor an array has a column by which rows are told apart";
        found.push(Problem::new("evaluate.slice", message, "leave it out, or bring the rows as a table"));
    }
    found
}
