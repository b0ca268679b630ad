//! An evaluation: models side by side on the same rows, with how sure it is that one is better than the first. Each reads the rows as it was trained to, all in step, so that memory holds one batch of each
//! and what is known so far. What comes of it is one JSON object that appears at the end. A retry begins anew.

mod paired;
mod tally;

use mlctl_protocol::{
    evaluation::{self, Difference, Evaluation, FILE, Interval, SCHEMA},
    progress::{Metrics, Progress},
    result::OutputRef,
    spec::{EvaluateSpec, InferSpec, ModelSource, OutputFormat},
};

use self::tally::Tally;
use crate::{
    bundle::{self, config::ModelConfig},
    data::pinned,
    device,
    fault::Fault,
    host::Done,
    infer::{Batch, Input, Predictor, Results, Row, Score},
    job::Job,
    orders::Orders,
};

/// A model and the rows as it reads them.
struct Contender<'a> {
    predictor: Predictor<'a>,
    input: Input<'a>,
}

/// Runs an evaluation to what it publishes.
///
/// # Errors
/// Whatever a job can end with, see `Fault`.
pub fn run(job: Job<'_>, spec: &EvaluateSpec) -> Result<Done, Fault> {
    let (pinned, plain) = pinned::resolve(job, &spec.data)?;
    let job = Job { pinned: pinned.as_ref(), ..job };
    let evaluated = evaluate(job, &EvaluateSpec { data: plain, ..spec.clone() });
    evaluated.map_err(|fault| pinned::explained(pinned.as_ref(), fault))
}

fn evaluate(job: Job<'_>, spec: &EvaluateSpec) -> Result<Done, Fault> {
    let device = device::open(&job.start.spec.resources)?;
    let (mut contenders, mut last) = (Vec::new(), None);
    // The last first: parts are of the data that it was trained on.
    for source in spec.models.iter().rev() {
        let model = bundle::read::read(job, source)?;
        let mut input = Input::open(job, &reading(spec, source), &model)?;
        if let (Some(_), Some(config)) = (spec.part, &model.config) {
            match &last {
                None => last = Some(config.clone()),
                Some(last) if is_divided_alike(config, last) => input.let_grow(),
                Some(_) => return Err(uneven()),
            }
        }
        contenders.push(Contender { predictor: Predictor::new(model, &device)?, input });
    }
    contenders.reverse();
    let mut tally = Tally::new(contenders.len(), &spec.bootstrap);
    let (mut orders, mut rows, mut left_out) = (Orders::default(), 0, 0);
    loop {
        orders.poll(job.host);
        if let Some(ending) = orders.ending() {
            return Err(ending.fault.clone());
        }
        let Some((seen, scored)) = step(&mut contenders, spec, &mut tally)? else { break };
        rows += seen;
        left_out += seen - scored;
        let total = contenders.first().and_then(|first| first.input.total());
        job.host.progress(Progress { records: Some(rows), total, ..Progress::default() });
    }
    if rows == left_out {
        return Err(Fault::spec(
            "no row could be compared: each lacks a label, or some model cannot read it",
            "name the label's column in evaluate.data.targets, and columns that every model takes",
        ));
    }
    for contender in &mut contenders {
        contender.input.check_whole()?;
    }
    publish(job, spec, &tally, left_out)
}

/// How a model reads the rows.
fn reading(spec: &EvaluateSpec, source: &ModelSource) -> InferSpec {
    InferSpec {
        model: source.clone(),
        data: spec.data.clone(),
        part: spec.part,
        id_column: spec.slice.clone(),
        batch_size: spec.batch_size,
        output: OutputFormat::Jsonl,
    }
}

/// The next batch of each. Answers with the rows that were read, and those of them that were compared; `None` at the end.
fn step(contenders: &mut [Contender<'_>], spec: &EvaluateSpec, tally: &mut Tally) -> Result<Option<(u64, u64)>, Fault> {
    let mut scores: Vec<Vec<(Row, Score)>> = Vec::new();
    let mut seen = None;
    for contender in contenders.iter_mut() {
        let batch = contender.input.next_batch(spec.batch_size as usize)?;
        let read = batch.as_ref().map(|batch| (batch.rows.len() + batch.bad.len()) as u64);
        if seen.is_some_and(|seen| seen != read) {
            return Err(uneven());
        }
        seen = Some(read);
        if let Some(batch) = batch {
            scores.push(scored(contender, batch)?);
        }
    }
    let Some(seen) = seen.flatten() else { return Ok(None) };
    let Some((first, others)) = scores.split_first() else { return Ok(None) };
    let mut others: Vec<_> = others.iter().map(|rows| rows.iter().peekable()).collect();
    let mut compared = 0;
    for (row, score) in first {
        let mut of_row = vec![*score];
        for rows in &mut others {
            while rows.next_if(|(other, _)| other.number < row.number).is_some() {}
            of_row.extend(rows.next_if(|(other, _)| other.number == row.number).map(|(_, score)| *score));
        }
        if of_row.len() == others.len() + 1 {
            tally.take(row.number, row.id.as_deref(), &of_row);
            compared += 1;
        }
    }
    Ok(Some((seen, compared)))
}

/// The rows of a batch that have a label and a prediction, and how the model did on each.
fn scored(contender: &Contender<'_>, batch: Batch) -> Result<Vec<(Row, Score)>, Fault> {
    let outputs = contender.predictor.outputs(&batch)?;
    let width = contender.input.task().width().max(1);
    let rows = batch.rows.into_iter().zip(outputs.chunks_exact(width));
    Ok(rows.filter_map(|(row, outputs)| Score::of(outputs, row.expected.as_ref()?).map(|score| (row, score))).collect())
}

/// Whether no row of a part of the last model's data was trained on by another: they were trained on the same data, or each row of both was divided by its number alone, so that what was added since changes nothing.
fn is_divided_alike(config: &ModelConfig, last: &ModelConfig) -> bool {
    let (data, other) = (&config.dataset, &last.dataset);
    let is_same = (data.rows, &data.content_digest) == (other.rows, &other.content_digest);
    config.split == last.split && data.streamed == other.streamed && (is_same || data.streamed)
}

fn uneven() -> Fault {
    Fault::spec(
        "the models were trained on other data or on other divisions of it, so that what one was tested on another may have been trained on",
        "name data that none of them was trained on and leave evaluate.part out (retrain.holdout.data of a retraining), or train with [train.stream], which divides rows by their numbers",
    )
}

fn publish(job: Job<'_>, spec: &EvaluateSpec, tally: &Tally, left_out: u64) -> Result<Done, Fault> {
    let (all, slices, others) = tally.account();
    let (records, metrics) = (all.rows, numbered(&all));
    let found = Evaluation {
        schema: SCHEMA,
        models: spec.models.iter().map(|model| model.from.clone()).collect(),
        bootstrap: spec.bootstrap.clone(),
        left_out,
        all,
        slice: spec.slice.clone(),
        slices,
        others,
    };
    let text = serde_json::to_vec_pretty(&found).map_err(|error| {
        Fault::new(mlctl_protocol::ExitClass::Crash, format!("what was found cannot be written: {error}"))
    })?;
    let mut results = Results::new(job, FILE)?;
    results.write(&text)?;
    let uri = results.uri().to_owned();
    results.finish()?;
    Ok(Done { metrics, model: None, output: Some(OutputRef { uri, records, errors: left_out }) })
}

/// The metrics of all models by name, those of the second as `1.loss` and so on; and by how much each is above the first, as `1.loss_difference`, with the ends of its interval.
fn numbered(all: &evaluation::Group) -> Metrics {
    let mut named = Metrics::new();
    for (index, of_model) in all.models.iter().enumerate() {
        let name = |metric: &String| if index == 0 { metric.clone() } else { format!("{index}.{metric}") };
        named.extend(of_model.iter().map(|(metric, value)| (name(metric), *value)));
    }
    for Difference { model, loss, accuracy } in &all.differences {
        for (metric, interval) in [("loss", loss), ("accuracy", accuracy)] {
            let Some(Interval { mean, low, high, .. }) = interval else { continue };
            for (part, value) in [("", mean), ("_low", low), ("_high", high)] {
                named.insert(format!("{model}.{metric}_difference{part}"), *value);
            }
        }
    }
    named
}
