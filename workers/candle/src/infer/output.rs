//! The results of an inference job on their way to storage: `predictions.jsonl` or `predictions.csv`, and `errors.jsonl` beside it for the rows
//! that could not be predicted. Both appear at the end, the predictions last. The folder belongs to the
//! attempt alone, so an attempt that is no longer valid can overwrite nobody else's results.

use mlctl_protocol::{message::ReportBody, result::OutputRef, spec::OutputFormat};
use serde::Serialize;

use super::{
    input::Batch,
    lines::{self, Prediction},
    meter::Meter,
    results::Results,
    task::Task,
};
use crate::{data::columns::BadRow, fault::Fault, job::Job};

/// The rows that could not be predicted, beside the predictions.
const ERRORS_FILE: &str = "errors.jsonl";

/// A job fails when more than one row in so many cannot be predicted.
const BAD_SHARE: u64 = 10;

/// Rows after which a file that is mostly bad is given up before its end.
const ENOUGH_ROWS: u64 = 10_000;

/// Results being written.
pub(super) struct Output<'a> {
    job: Job<'a>,
    format: OutputFormat,
    task: Task,
    predictions: Results<'a>,
    bad: Results<'a>,
    records: u64,
    errors: u64,
    first: Option<BadRow>,
}

/// A line of `errors.jsonl`.
#[derive(Serialize)]
struct ErrorLine<'a> {
    row: u64,
    /// Its file's name, where there are several; the line is counted in it, the row over all.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<&'a str>,
    error: &'a str,
}

impl<'a> Output<'a> {
    pub(super) fn new(job: Job<'a>, format: OutputFormat, task: &Task) -> Result<Self, Fault> {
        let name = match format {
            OutputFormat::Jsonl => "predictions.jsonl",
            OutputFormat::Csv => "predictions.csv",
        };
        let (predictions, bad) = (Results::new(job, name)?, Results::new(job, ERRORS_FILE)?);
        let task_of_rows = task.clone();
        let mut output = Self { job, format, task: task_of_rows, predictions, bad, records: 0, errors: 0, first: None };
        output.predictions.write(&lines::header(format, task))?;
        Ok(output)
    }

    /// Rows predicted so far.
    pub(super) const fn records(&self) -> u64 {
        self.records
    }

    /// Rows that could not be predicted so far.
    pub(super) const fn errors(&self) -> u64 {
        self.errors
    }

    /// Writes a batch: its rows' outputs, row-major, and the rows that are bad.
    pub(super) fn write(&mut self, batch: &Batch, outputs: &[f32], meter: &mut Meter) -> Result<(), Fault> {
        let mut text = Vec::new();
        for (row, outputs) in batch.rows.iter().zip(outputs.chunks_exact(self.task.width().max(1))) {
            let Some(prediction) = Prediction::of(outputs, &self.task) else {
                let what = "the model's outputs for it are not finite".into();
                self.refuse(BadRow::of_row(row.number, None, what))?;
                continue;
            };
            if let Some(expected) = &row.expected {
                meter.take(outputs, prediction.class(), expected);
            }
            text.extend(lines::line(self.format, row, &prediction));
            self.records += 1;
        }
        self.predictions.write(&text)?;
        for bad in &batch.bad {
            self.refuse(bad.clone())?;
        }
        if self.records + self.errors >= ENOUGH_ROWS { self.check_share() } else { Ok(()) }
    }

    /// Makes the results appear.
    pub(super) fn publish(self) -> Result<OutputRef, Fault> {
        if self.records + self.errors == 0 {
            return Err(Fault::spec("the data has no rows", "a header alone is not enough: bring at least one row"));
        }
        self.check_share()?;
        let Self { job, predictions, bad, records, errors, first, .. } = self;
        if let Some(first) = first {
            let uri = bad.uri().to_owned();
            bad.finish()?;
            let rows = records + errors;
            let message =
                format!("{errors} of {rows} rows could not be predicted, listed in {uri}; the first: {first}");
            job.host.report(ReportBody::Warning { message })?;
        }
        let uri = predictions.uri().to_owned();
        predictions.finish()?;
        Ok(OutputRef { uri, records, errors })
    }

    /// Gives the results up.
    pub(super) fn abort(self) {
        self.predictions.abort();
        self.bad.abort();
    }

    fn refuse(&mut self, bad: BadRow) -> Result<(), Fault> {
        let (file, column) = (bad.file.as_deref(), bad.column.as_deref());
        let line = ErrorLine { row: bad.number(), file, line: bad.line, column, error: &bad.what };
        // Numbers and text: nothing in them can fail to be written.
        let mut json = serde_json::to_vec(&line).unwrap_or_default();
        json.push(b'\n');
        self.errors += 1;
        self.first.get_or_insert(bad);
        self.bad.write(&json)
    }

    fn check_share(&self) -> Result<(), Fault> {
        let rows = self.records + self.errors;
        match &self.first {
            Some(first) if self.errors * BAD_SHARE > rows => Err(Fault::spec(
                format!(
                    "{} of {rows} rows cannot be predicted, more than one in {BAD_SHARE}; the first: {first}",
                    self.errors
                ),
                "correct the data: a few bad rows are passed over, this many mean that something else is wrong",
            )),
            _ => Ok(()),
        }
    }
}
