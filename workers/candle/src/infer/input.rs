//! The rows of an inference job in batches, scaled as the model wants them: from a file or a generator, all of them or the part that
//! the model's training did not see. A row that cannot be read is handed on as such.

use mlctl_protocol::{
    ExitClass,
    spec::{DataSource, InferSpec, SplitPart},
};

use super::task::Task;
use crate::{
    bundle::{ModelConfig, config::shape, read::Model},
    data::{
        blocks::Divider,
        columns::{BadRow, Column, Wanted},
        load::{randn_digest, wanted},
        randn::{self, Table as Letter},
        row,
        scaling::Scaler,
        split::divide,
        stream::Access,
        table::Table,
    },
    fault::Fault,
    job::Job,
};

/// What is known of a row besides its features.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Its number from 0.
    pub(crate) number: u64,
    /// What its id column says.
    pub(crate) id: Option<String>,
    /// What the model should predict.
    pub(crate) expected: Option<Expected>,
}

/// A row's label.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expected {
    /// A class.
    Class(u32),
    /// Values.
    Values(Vec<f32>),
}

/// Some rows.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Rows to predict.
    pub(crate) rows: Vec<Row>,
    /// Their features, scaled, row-major.
    pub(crate) features: Vec<f32>,
    /// Rows that cannot be predicted.
    pub(crate) bad: Vec<BadRow>,
}

/// Where rows come from.
enum Source<'a> {
    Table(Box<Table<'a>>),
    Generator { seed: u64, rows: u64, widths: (usize, usize) },
}

/// The rows that are wanted of all.
enum Part {
    /// In order, and how many of them are behind.
    Listed(Vec<u32>, usize),
    /// As each was divided by its number.
    Chance(Box<Divider>, SplitPart),
}

/// The rows of a job.
pub(crate) struct Input<'a> {
    source: Source<'a>,
    task: Task,
    scaler: Scaler,
    /// The names of the inputs, for messages.
    features: Vec<String>,
    /// The rows wanted, in order, and how many of them are behind; all when absent.
    part: Option<Part>,
    /// The data that the part is a part of.
    whole: Option<ModelConfig>,
    next: u64,
    unread_labels: u64,
}

impl<'a> Input<'a> {
    pub(crate) fn open(job: Job<'a>, spec: &InferSpec, model: &Model) -> Result<Self, Fault> {
        let config = model.config.as_ref();
        let (source, task, features) = match (Table::open(&Access::of(job), &spec.data)?, &spec.data) {
            (Some(table), source) => {
                let columns = Wanted { id: spec.id_column.as_deref(), ..wanted(source) };
                of_table(table, columns, model)?
            }
            (None, DataSource::Randn { rows, features, targets, seed }) => {
                let widths = (*features as usize, *targets as usize);
                let source = Source::Generator { seed: *seed, rows: *rows, widths };
                (source, Task::of(model, &[])?, randn::names(Letter::Features, *features))
            }
            (None, _) => return Err(Fault::new(ExitClass::Crash, "the data has neither files nor a generator")),
        };
        let (inputs, _) = shape(&model.network);
        if features.len() != inputs {
            return Err(Fault::spec(
                format!("the data has {} feature columns and the model takes {inputs}", features.len()),
                "name the model's columns in infer.data.features, in the order of its training",
            ));
        }
        let part = spec.part.map(|part| part_rows(spec, config, part)).transpose()?;
        let whole = if part.is_some() { config.cloned() } else { None };
        let scaler = config.map_or_else(Scaler::none, |config| config.scaling.clone());
        Ok(Self { source, task, scaler, features, part, whole, next: 0, unread_labels: 0 })
    }

    pub(crate) const fn task(&self) -> &Task {
        &self.task
    }

    /// Rows in all, where that is known before the end.
    pub(crate) fn total(&self) -> Option<u64> {
        match (&self.part, &self.source) {
            (Some(Part::Listed(rows, _)), _) => Some(rows.len() as u64),
            (Some(Part::Chance(..)), _) => None,
            (None, Source::Generator { rows, .. }) => Some(*rows),
            (None, Source::Table(table)) => table.total(),
        }
    }

    /// Labels that were there and could not be read.
    pub(crate) const fn unread_labels(&self) -> u64 {
        self.unread_labels
    }

    /// The next rows, at most `rows` of them; `None` at the end.
    pub(crate) fn next_batch(&mut self, rows: usize) -> Result<Option<Batch>, Fault> {
        let mut batch = Batch::default();
        match self.source {
            Source::Table(_) => self.read(rows, &mut batch)?,
            Source::Generator { .. } => self.generate(rows, &mut batch),
        }
        Ok(if batch.rows.is_empty() && batch.bad.is_empty() { None } else { Some(batch) })
    }

    fn read(&mut self, rows: usize, batch: &mut Batch) -> Result<(), Fault> {
        let Self { source: Source::Table(table), .. } = self else { return Ok(()) };
        while batch.rows.len() + batch.bad.len() < rows {
            let Some(row) = table.next_row()? else { break };
            let number = row.number();
            self.next = number + 1;
            if !is_wanted(&mut self.part, number) {
                continue;
            }
            let start = batch.features.len();
            if let Err(bad) = row.features(&mut batch.features) {
                batch.bad.push(bad);
                continue;
            }
            if let Some(column) = self.scaler.apply(&mut batch.features[start..]) {
                batch.features.truncate(start);
                let what = "the value is too large once it is scaled".into();
                batch.bad.push(row.bad(self.features.get(column).cloned(), what));
                continue;
            }
            let expected = expected(&row, &self.task);
            self.unread_labels += u64::from(expected.is_none() && row.has_target());
            batch.rows.push(Row { number, id: row.id(), expected });
        }
        Ok(())
    }

    fn generate(&mut self, rows: usize, batch: &mut Batch) {
        let Source::Generator { seed, rows: all, widths } = self.source else { return };
        while batch.rows.len() < rows && self.next < all {
            let number = self.next;
            self.next += 1;
            if !is_wanted(&mut self.part, number) {
                continue;
            }
            let start = batch.features.len();
            batch.features.extend(randn::rows(seed, Letter::Features, number, 1, widths.0));
            // Normal numbers are small: no scaling makes one leave f32.
            self.scaler.apply(&mut batch.features[start..]);
            let targets = randn::rows(seed, Letter::Targets, number, 1, widths.1);
            let expected = matches!(&self.task, Task::Values(names) if names.len() == targets.len());
            batch.rows.push(Row { number, id: None, expected: expected.then_some(Expected::Values(targets)) });
        }
    }

    /// The data may have more rows than what its part was cut from, where each is divided by its number.
    pub(crate) fn let_grow(&mut self) {
        if matches!(self.part, Some(Part::Chance(..))) {
            self.whole = None;
        }
    }

    /// Whether the data was what its part was cut from, once all of it has been read.
    pub(crate) fn check_whole(&mut self) -> Result<(), Fault> {
        let Some(config) = &self.whole else { return Ok(()) };
        let (uri, digest) = match &self.source {
            Source::Table(table) => (table.uri(), table.content_digest()),
            Source::Generator { .. } => return Ok(()),
        };
        let same = self.next == config.dataset.rows && digest == config.dataset.content_digest;
        if same { Ok(()) } else { Err(other_data(uri)) }
    }
}

/// The rows of files: of the columns that the spec names, or else those of the model's training.
fn of_table<'a>(
    mut table: Table<'a>,
    wanted: Wanted<'_>,
    model: &Model,
) -> Result<(Source<'a>, Task, Vec<String>), Fault> {
    let config = model.config.as_ref();
    let known = config.filter(|config| config.targets.iter().all(|name| table.header().contains(name)));
    let targets = match (wanted.targets, known) {
        ([], Some(config)) => config.targets.as_slice(),
        (named, _) => named,
    };
    let features = match (wanted.features, config) {
        ([], Some(config)) => config.features.as_slice(),
        (named, _) => named,
    };
    let columns = table.select(Wanted { features, targets, ..wanted })?;
    let names = |columns: &[Column]| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    let (features, task) = (names(&columns.features), Task::of(model, &names(&columns.targets))?);
    Ok((Source::Table(Box::new(table)), task, features))
}

fn other_data(uri: &str) -> Fault {
    Fault::spec(
        format!("{uri} is not the data that the model was trained on, so its parts are not those of the training"),
        "leave infer.part out, or name the data of the training as it was",
    )
}

/// The rows of the part, as they were divided for the model's training.
fn part_rows(spec: &InferSpec, config: Option<&ModelConfig>, part: SplitPart) -> Result<Part, Fault> {
    let Some(config) = config else {
        return Err(Fault::spec(
            "infer.part needs to know how the data was divided, and the model has no config",
            "name a model's or a checkpoint's folder, or leave infer.part out",
        ));
    };
    if matches!(spec.data, DataSource::Randn { .. }) && randn_digest(&spec.data) != config.dataset.content_digest {
        return Err(other_data("the generated data"));
    }
    if config.dataset.streamed {
        return Ok(Part::Chance(Box::new(Divider::new(&config.split)), part));
    }
    let rows = u32::try_from(config.dataset.rows).unwrap_or(u32::MAX);
    let rows = divide(&config.split, rows)?.of(part).to_vec();
    if rows.is_empty() {
        return Err(Fault::spec(
            "the part that infer.part names was empty in the model's training",
            "leave infer.part out, or train with a split",
        ));
    }
    Ok(Part::Listed(rows, 0))
}

fn is_wanted(part: &mut Option<Part>, row: u64) -> bool {
    let (rows, behind) = match part {
        None => return true,
        Some(Part::Chance(divider, part)) => return divider.part(row) == *part,
        Some(Part::Listed(rows, behind)) => (rows, behind),
    };
    let wanted = rows.get(*behind).is_some_and(|next| u64::from(*next) == row);
    *behind += usize::from(wanted);
    wanted
}

fn expected(row: &row::Row<'_>, task: &Task) -> Option<Expected> {
    if !row.can_have_target() {
        return None;
    }
    match task {
        Task::Classes(classes) => row.class(*classes).ok().map(Expected::Class),
        Task::Values(_) => {
            let mut values = Vec::new();
            row.targets(&mut values).ok().map(|()| Expected::Values(values))
        }
    }
}
