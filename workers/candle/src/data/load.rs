//! All rows of a training job: read, checked, divided, scaled. What is in memory afterwards is four bytes a value, and no more than
//! half of the memory that was available.

use std::sync::Arc;

use mlctl_protocol::{
    ExitClass,
    progress::Progress,
    spec::{DataSource, Loss, ModelSpec, SplitPart, TrainSpec},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    blocks::{Index, Version},
    columns::{Column, Wanted},
    examples::{Answers, Examples},
    indexing, memory,
    randn::{self, Table as Letter},
    scaling::Scaler,
    split::divide,
    stream::Access,
    streamed::{Loader, Streamed},
    table::Table,
    text::{self, Sequences},
    tokenizer::Tokenizer,
};
use crate::{fault::Fault, job::Job, orders::Orders};

/// The longest index that is kept in checkpoints.
const MAX_INDEX_BYTES: usize = 8 * 1024 * 1024;

/// Rows between two looks at the orders.
const ROWS_PER_LOOK: u64 = 4096;

/// A job's data, ready to train on.
#[derive(Debug)]
pub struct Dataset {
    /// The rows.
    pub rows: Rows,
    /// The names of the feature columns.
    pub features: Vec<String>,
    /// The names of the target columns.
    pub targets: Vec<String>,
    /// How features were scaled.
    pub scaler: Scaler,
    /// Which data it was.
    pub identity: Identity,
    /// Where the rows of streamed data lie, for checkpoints.
    pub index: Option<Box<RawValue>>,
    /// Which classes a row to train on has, where that was looked at.
    pub classes: Option<Vec<bool>>,
    /// How text became tokens.
    pub tokenizer: Option<Tokenizer>,
}

/// Where a job's rows are.
#[derive(Debug)]
pub enum Rows {
    /// In memory, all of them.
    Memory(Examples),
    /// In storage, and some in memory.
    Streamed(Streamed),
    /// In memory, as sequences of tokens.
    Text(Sequences),
}

/// Which data a model was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// BLAKE3 over the content's digest and the columns used: what a run may not change between its attempts.
    pub digest: String,
    /// BLAKE3 of the file, or of the description of generated data.
    pub content_digest: String,
    /// Rows.
    pub rows: u64,
    /// What the store called the version of the file that was read, for messages; nothing for local files and generated data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether rows were divided each by its number, as those are that are streamed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub streamed: bool,
}

/// Unscaled rows.
struct Unscaled {
    features: Vec<f32>,
    answers: Answers,
    count: u64,
}

/// Reads a job's data. `saved` is the index that a checkpoint has of streamed rows, `known` the tokenizer of the model that the training begins with.
///
/// # Errors
/// `spec`, with the row, the column and the text, when the data is not what the spec and the model need; `storage` when it cannot be
/// read; the class of an order to end.
pub fn load(
    job: Job<'_>,
    spec: &TrainSpec,
    saved: impl FnOnce() -> Option<Index>,
    known: impl FnOnce() -> Result<Option<Tokenizer>, Fault>,
) -> Result<Dataset, Fault> {
    match (&spec.model, &spec.data) {
        (ModelSpec::Gpt(gpt), DataSource::Text { uri, tokenizer }) => {
            text::load(job, (spec, gpt), (uri, *tokenizer), known()?)
        }
        (ModelSpec::Gpt(_), _) | (_, DataSource::Text { .. }) => Err(Fault::spec(
            "a gpt learns from text, and nothing else does",
            "let train.model and train.data fit together",
        )),
        _ => load_table(job, spec, saved),
    }
}

/// The same for rows of numbers.
fn load_table(job: Job<'_>, spec: &TrainSpec, saved: impl FnOnce() -> Option<Index>) -> Result<Dataset, Fault> {
    let shape = Shape {
        inputs: spec.model.inputs(),
        is_image: matches!(spec.model, ModelSpec::Cnn { .. }),
        outputs: spec.model.outputs(),
        loss: spec.loss,
    };
    let table = Table::open(&Access::of(job), &spec.data)?;
    let Read { features, targets, mut rows, content_digest, version, table } = match (table, &spec.data) {
        (Some(table), source) if spec.stream.is_some() => {
            return stream(job, spec, (table, wanted(source), shape), saved);
        }
        (Some(table), source) => read(job, table, wanted(source), shape)?,
        (None, DataSource::Randn { rows, features, targets, seed }) => {
            shape.check(*features as usize, *targets as usize)?;
            let generated = generate(*seed, *rows, (*features, *targets), shape)?;
            Read {
                features: randn::names(Letter::Features, *features),
                targets: randn::names(Letter::Targets, *targets),
                rows: generated,
                content_digest: randn_digest(&spec.data),
                version: None,
                table: None,
            }
        }
        (None, _) => return Err(Fault::new(ExitClass::Crash, "the data has neither files nor a generator")),
    };
    let count = u32::try_from(rows.count)
        .map_err(|_| Fault::spec("the data has more than 4,294,967,295 rows", "split it, or take a sample"))?;
    if count == 0 {
        return Err(Fault::spec("the data has no rows", "a header alone is not enough: bring at least one row"));
    }
    let parts = divide(&spec.split, count)?;
    let width = features.len();
    let scaler = Scaler::fit(spec.scaling, &rows.features, width, &parts.train);
    for (number, row) in rows.features.chunks_mut(width).enumerate() {
        if let Some(column) = scaler.apply(row) {
            let (name, number) = (&features[column], number as u64);
            let (uri, row) = table.as_ref().map_or(("", number), |table| table.place(number));
            let colon = if uri.is_empty() { "" } else { ": " };
            return Err(Fault::spec(
                format!("{uri}{colon}row {row}, column {name:?}: the value is too large once it is scaled"),
                "look for a wrong value in that row, or take scaling = \"none\"",
            ));
        }
    }
    let digest = digest(&content_digest, &features, &targets);
    let identity = Identity { digest, content_digest, rows: rows.count, version, streamed: false };
    let examples = Examples {
        features: rows.features,
        width,
        answers: rows.answers,
        train: parts.train,
        validation: parts.validation,
        test: parts.test,
    };
    let classes = examples.classes_trained_on(shape.classes());
    let rows = Rows::Memory(examples);
    Ok(Dataset { rows, features, targets, scaler, identity, index: None, classes, tokenizer: None })
}

/// What the model needs of the data.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    inputs: u64,
    /// Whether a row is an image.
    is_image: bool,
    /// Its outputs.
    pub(super) outputs: u32,
    loss: Loss,
}

impl Shape {
    fn check(self, features: usize, targets: usize) -> Result<(), Fault> {
        let Self { inputs, is_image, outputs, loss } = self;
        if features as u64 != inputs {
            let change = if is_image {
                format!("make channels x height x width of train.model.image {features}")
            } else {
                format!("begin train.model.layers with {features}")
            };
            return Err(Fault::spec(
                format!("the data has {features} feature columns and the model takes {inputs}"),
                format!("{change}, or name the columns in train.data.features"),
            ));
        }
        match loss {
            Loss::CrossEntropy if targets != 1 => Err(Fault::spec(
                format!("cross_entropy learns one column of class numbers, and data.targets names {targets}"),
                "name one column in train.data.targets, or take loss = \"mse\"",
            )),
            Loss::Mse if targets != outputs as usize => Err(Fault::spec(
                format!("the data has {targets} target columns and the model has {outputs} outputs"),
                format!("end train.model.layers with {targets}, or name {outputs} columns in train.data.targets"),
            )),
            _ => Ok(()),
        }
    }

    /// Classes; 0 where values are learnt.
    pub(super) const fn classes(self) -> usize {
        match self.loss {
            Loss::CrossEntropy => self.outputs as usize,
            Loss::Mse => 0,
        }
    }

    pub(super) fn empty(self, targets: usize) -> Answers {
        match self.loss {
            Loss::CrossEntropy => Answers::Classes(Vec::new()),
            Loss::Mse => Answers::Values { values: Vec::new(), width: targets },
        }
    }
}

/// What a source gave.
struct Read<'a> {
    features: Vec<String>,
    targets: Vec<String>,
    rows: Unscaled,
    content_digest: String,
    version: Option<String>,
    /// Where the rows came from, unless they were generated.
    table: Option<Table<'a>>,
}

/// Rows that stay in storage: their index is that of a checkpoint, where the files are still those of then, or is made.
fn stream(
    job: Job<'_>,
    spec: &TrainSpec,
    (mut table, wanted, shape): (Table<'_>, Wanted<'_>, Shape),
    saved: impl FnOnce() -> Option<Index>,
) -> Result<Dataset, Fault> {
    let access = Access::of(job);
    let columns = table.select(wanted)?;
    let names = |columns: &[Column]| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    let (features, targets) = (names(&columns.features), names(&columns.targets));
    shape.check(features.len(), targets.len())?;
    let layout = table.layout();
    let same = |saved: &Index| {
        let content = &saved.identity.content_digest;
        saved.format == indexing::FORMAT
            && saved.scaler.fits(features.len())
            && saved.identity.digest == digest(content, &features, &targets)
    };
    let saved = saved().filter(same);
    let known = saved
        .map(|saved| (indexing::versions(&access, &layout), saved))
        .and_then(|(versions, saved)| versions.is_ok_and(|versions| are(&versions, &saved.files)).then_some(saved));
    let (index, classes) = match known {
        Some(saved) => (saved, None),
        None => {
            let found = indexing::index(job, &mut table, spec, shape)?;
            (found.index, Some(found.classes).filter(|classes| !classes.is_empty()))
        }
    };
    check_parts(spec, &index)?;
    let values = (features.len() + targets.len()) as u64 + 2;
    let window = u64::from(spec.stream.clone().unwrap_or_default().window_mib) << 20;
    let rows = (window / (4 * values)).max(1);
    let largest = index.blocks.iter().map(|block| u64::from(block.train)).max().unwrap_or(0);
    let kept = Some(index.count(SplitPart::Validation)).filter(|kept| *kept <= rows).unwrap_or(0);
    check_budget(
        3 * rows.max(largest).min(index.count(SplitPart::Train)) + kept,
        features.len() + targets.len() + 1,
        memory::budget(),
    )
        .map_err(|fault| fault.with_hint("lower train.stream.window_mib; a compressed file and a row group of Parquet are read as a whole: make smaller ones"))?;
    let raw = serde_json::value::to_raw_value(&index)
        .map_err(|error| Fault::new(ExitClass::Crash, format!("the index of the data cannot be written: {error}")))?;
    let (scaler, identity) = (index.scaler.clone(), index.identity.clone());
    let loader = Loader::new(&access, layout, Arc::new(index), &spec.split, (shape, job.start.threads as usize));
    let rows = Rows::Streamed(Streamed::new(Arc::new(loader), spec.seed, rows, spec.max_epochs));
    // One that is too long for a checkpoint is made again.
    let index = Some(raw).filter(|raw| raw.get().len() <= MAX_INDEX_BYTES);
    Ok(Dataset { rows, features, targets, scaler, identity, index, classes, tokenizer: None })
}

/// Whether files are surely of the versions that an index is of.
fn are(versions: &[Version], indexed: &[Version]) -> bool {
    versions.len() == indexed.len() && versions.iter().zip(indexed).all(|(version, indexed)| version.is(indexed))
}

/// Whether every part that is asked for got a row.
fn check_parts(spec: &TrainSpec, index: &Index) -> Result<(), Fault> {
    if index.identity.rows == 0 {
        return Err(Fault::spec("the data has no rows", "a header alone is not enough: bring at least one row"));
    }
    let parts = [
        ("to train on", 1.0, SplitPart::Train),
        ("to validate on", spec.split.validation, SplitPart::Validation),
        ("to test on", spec.split.test, SplitPart::Test),
    ];
    match parts.into_iter().find(|(_, share, part)| *share > 0.0 && index.count(*part) == 0) {
        None => Ok(()),
        Some((what, ..)) => Err(Fault::spec(
            format!("of {} rows that are divided by chance, each by itself, there is none {what}", index.identity.rows),
            "bring more data, change split.seed, or train without train.stream, which divides exactly",
        )),
    }
}

/// The columns that a spec names.
pub(crate) fn wanted(source: &DataSource) -> Wanted<'_> {
    match source {
        DataSource::Csv { features, targets, .. }
        | DataSource::Jsonl { features, targets, .. }
        | DataSource::Parquet { features, targets, .. } => Wanted { features, targets, id: None },
        DataSource::Npy { .. } | DataSource::Randn { .. } | DataSource::Text { .. } | DataSource::Dataset { .. } => {
            Wanted::default()
        }
    }
}

fn read<'a>(job: Job<'a>, mut table: Table<'a>, wanted: Wanted<'_>, shape: Shape) -> Result<Read<'a>, Fault> {
    let columns = table.select(wanted)?;
    let names = |columns: &[Column]| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    let (names, target_names) = (names(&columns.features), names(&columns.targets));
    shape.check(names.len(), target_names.len())?;
    if let Some(rows) = table.total() {
        check_budget(rows, names.len() + target_names.len(), memory::budget())?;
    }
    let (mut features, mut answers) = (Vec::new(), shape.empty(target_names.len()));
    let mut look = Look::new(job, names.len() + target_names.len());
    while let Some(row) = table.next_row()? {
        let read = row.features(&mut features).and_then(|()| match &mut answers {
            Answers::Classes(classes) => row.class(shape.outputs).map(|class| classes.push(class)),
            Answers::Values { values, .. } => row.targets(values),
        });
        read.map_err(|bad| bad.into_fault(row.uri()))?;
        look.count()?;
    }
    let (content_digest, version) = (table.content_digest(), table.version());
    let rows = Unscaled { features, answers, count: look.count };
    Ok(Read { features: names, targets: target_names, rows, content_digest, version, table: Some(table) })
}

/// Looks up from reading once in a while: for orders, and whether what was read still fits.
pub(super) struct Look<'a> {
    job: Job<'a>,
    columns: usize,
    budget: u64,
    orders: Orders,
    count: u64,
}

impl<'a> Look<'a> {
    fn new(job: Job<'a>, columns: usize) -> Self {
        Self { job, columns, budget: memory::budget(), orders: Orders::default(), count: 0 }
    }

    /// For rows that are not kept.
    pub(super) fn unbounded(job: Job<'a>) -> Self {
        Self { budget: u64::MAX, ..Self::new(job, 0) }
    }

    /// Rows counted.
    pub(super) const fn rows(&self) -> u64 {
        self.count
    }

    /// Counts a row.
    pub(super) fn count(&mut self) -> Result<(), Fault> {
        self.count += 1;
        if !self.count.is_multiple_of(ROWS_PER_LOOK) {
            return Ok(());
        }
        check_budget(self.count, self.columns, self.budget)?;
        self.orders.poll(self.job.host);
        if let Some(ending) = self.orders.ending() {
            return Err(ending.fault.clone());
        }
        // Not yet steps, but a sign that the job gets on.
        self.job.host.progress(Progress { records: Some(self.count), ..Progress::default() });
        Ok(())
    }
}

fn generate(seed: u64, rows: u64, (features, targets): (u32, u32), shape: Shape) -> Result<Unscaled, Fault> {
    if shape.loss == Loss::CrossEntropy {
        return Err(Fault::spec(
            "randn makes values, not the class numbers that cross_entropy learns",
            "take loss = \"mse\"",
        ));
    }
    let (width, target_width) = (features as usize, targets as usize);
    check_budget(rows, width + target_width, memory::budget())?;
    let count = usize::try_from(rows).unwrap_or(usize::MAX);
    let values = randn::rows(seed, Letter::Targets, 0, count, target_width);
    let features = randn::rows(seed, Letter::Features, 0, count, width);
    Ok(Unscaled { features, answers: Answers::Values { values, width: target_width }, count: rows })
}

/// Four bytes a value, and a row's number in the order of its part.
fn check_budget(rows: u64, columns: usize, budget: u64) -> Result<(), Fault> {
    let needed = rows.saturating_mul(4).saturating_mul(columns as u64 + 1);
    if needed <= budget {
        return Ok(());
    }
    Err(Fault::spec(
        format!(
            "the data needs more memory than there is: {rows} rows of {columns} columns take {} MiB, and {} MiB, half of what is available, may be used",
            needed >> 20,
            budget >> 20
        ),
        "take fewer rows or columns, or a machine with more memory",
    ))
}

/// The digest of generated data: of its description, which says all about it.
#[must_use]
pub(crate) fn randn_digest(source: &DataSource) -> String {
    let DataSource::Randn { rows, features, targets, seed } = source else { return String::new() };
    let text = format!("mlctl randn 1\nrows {rows}\nfeatures {features}\ntargets {targets}\nseed {seed}\n");
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// See [`Identity::digest`]. Every name is preceded by its length, so that no two lists read the same.
pub(super) fn digest(content: &str, features: &[String], targets: &[String]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"mlctl dataset 1\n");
    hasher.update(content.as_bytes());
    for names in [features, targets] {
        hasher.update(&(names.len() as u64).to_le_bytes());
        for name in names {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_depends_on_content_and_columns_in_order() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let base = digest("c", &names(&["a", "b"]), &names(&["y"]));
        for (content, features, targets) in [
            ("d", vec!["a", "b"], vec!["y"]),
            ("c", vec!["b", "a"], vec!["y"]),
            ("c", vec!["a"], vec!["b", "y"]),
            ("c", vec!["ab"], vec!["y"]),
        ] {
            assert_ne!(digest(content, &names(&features), &names(&targets)), base);
        }
        assert_eq!(digest("c", &names(&["a", "b"]), &names(&["y"])), base);
    }

    #[test]
    fn more_than_the_budget_is_refused_in_numbers() {
        assert_eq!(check_budget(1000, 9, 40_000), Ok(()));
        let fault = check_budget(1 << 20, 9, 30 << 20).unwrap_err();
        assert!(fault.message.contains("1048576 rows of 9 columns take 40 MiB, and 30 MiB"), "{}", fault.message);
        assert!(check_budget(u64::MAX, usize::MAX - 1, u64::MAX - 1).is_err());
    }
}
