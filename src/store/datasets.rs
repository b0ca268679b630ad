//! Datasets and their versions: the store's surface for them, and their rows in the writer's hands. What a version is of is made elsewhere; here it gets its number, once.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mlctl_protocol::spec::DataSource;
use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    Store, StoreError,
    ask::Ask,
    batch::Batch,
    error::Fault,
    rows::{Cell, Fields, RowError, Rows, seal},
};
use crate::domain::{Uid, registry::Dataset};

/// A version to be added.
#[derive(Debug, Clone)]
pub struct NewDataset {
    /// The dataset, which is made where there is none.
    pub dataset: String,
    /// What it is of.
    pub content: Dataset,
    /// Who adds it.
    pub by: Uid,
}

/// A version on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetVersion {
    /// The dataset.
    pub dataset: String,
    /// Its number.
    pub version: u32,
    /// What it is of.
    pub content: Dataset,
    /// Who added it.
    pub created_by: Uid,
    /// When.
    pub created_at: Timestamp,
    /// Who removed it, and when.
    pub removed: Option<(Uid, Timestamp)>,
}

impl DatasetVersion {
    /// Has data that names the dataset be of this version.
    pub fn pin(self, data: &mut DataSource) {
        if let DataSource::Dataset { dataset, pinned, .. } = data {
            *dataset = format!("{}/{}", self.dataset, self.version);
            *pinned = Some(self.content.pinned());
        }
    }
}

/// A dataset, and its newest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetRow {
    /// Its name.
    pub name: String,
    /// When its first version was added.
    pub created_at: Timestamp,
    /// Versions that were not removed.
    pub versions: u64,
    /// The newest of them.
    pub newest: Option<DatasetVersion>,
}

impl Store {
    /// Adds a version. Returns it, and whether it was there before: what the newest is of already is not counted again.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Failed`].
    pub async fn add_dataset(&self, new: NewDataset) -> Result<(DatasetVersion, bool), StoreError> {
        let new = Box::new(new);
        Ok(*self.ask(|reply| Ask::AddDataset { new, reply }).await?)
    }

    /// Removes a version: its row says so from then on, and its number is not used again. Returns what it was.
    ///
    /// # Errors
    /// [`StoreError::NoDataset`], [`StoreError::NoDatasetVersion`], [`StoreError::DatasetInUse`], [`StoreError::Failed`].
    pub async fn remove_dataset(&self, dataset: &str, version: u32, by: Uid) -> Result<DatasetVersion, StoreError> {
        let dataset = dataset.to_owned();
        Ok(*self.ask(|reply| Ask::RemoveDataset { dataset, version, by, reply }).await?)
    }

    /// All datasets by name.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn datasets(&self) -> Result<Vec<DatasetRow>, StoreError> {
        let found = sqlx::query(DATASETS).fetch_all(&self.inner.readers).await?;
        let rows = found.iter().map(|row| {
            let fields = Fields { row, table: "datasets", id: 0 };
            let newest = fields.get::<Option<i64>>("id")?.is_some().then(|| version(row)).transpose()?;
            let (name, versions) = (fields.get("name")?, fields.number("versions")?);
            Ok(DatasetRow { name, created_at: fields.time("made_us")?, versions, newest })
        });
        Ok(rows.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }

    /// The versions of a dataset that were not removed, newest first.
    ///
    /// # Errors
    /// [`StoreError::NoDataset`], [`StoreError::Failed`].
    pub async fn dataset_versions(&self, dataset: &str) -> Result<Vec<DatasetVersion>, StoreError> {
        // One snapshot: a dataset is made with its first version, and must not be seen without it.
        let mut snapshot = self.inner.readers.begin().await?;
        let found = sqlx::query(VERSIONS).bind(dataset).fetch_all(&mut *snapshot).await?;
        let versions: Vec<_> = found.iter().map(version).collect::<Result<_, _>>().map_err(Fault::from)?;
        if versions.is_empty() {
            let known: Option<i64> = sqlx::query_scalar(KNOWN).bind(dataset).fetch_optional(&mut *snapshot).await?;
            known.ok_or_else(|| StoreError::NoDataset(dataset.to_owned()))?;
        }
        Ok(versions)
    }

    /// A version of a dataset that was not removed; the newest where no number is given.
    ///
    /// # Errors
    /// [`StoreError::NoDataset`], [`StoreError::NoDatasetVersion`], [`StoreError::Failed`].
    pub async fn dataset_version(&self, dataset: &str, number: Option<u32>) -> Result<DatasetVersion, StoreError> {
        let found = sqlx::query(VERSION).bind(dataset).bind(number).fetch_optional(&self.inner.readers).await?;
        if let Some(row) = found {
            return Ok(version(&row).map_err(Fault::from)?);
        }
        self.dataset_versions(dataset).await?;
        Err(StoreError::NoDatasetVersion { dataset: dataset.to_owned(), version: number })
    }
}

fn version(row: &SqliteRow) -> Result<DatasetVersion, RowError> {
    let fields = Fields::new(row, "dataset_versions", "id")?;
    let removed_by: Option<u32> = fields.maybe_number("removed_by")?;
    let removed = removed_by.map(Uid).zip(fields.maybe_time("removed_us")?);
    Ok(DatasetVersion {
        dataset: fields.get("dataset")?,
        version: fields.number("version")?,
        content: fields.json("content")?,
        created_by: Uid(fields.number("created_by")?),
        created_at: fields.time("created_us")?,
        removed,
    })
}

/// A dataset in the writer's hands.
#[derive(Debug, Clone)]
struct Held {
    created: Timestamp,
    last_version: u32,
    /// As it was read; none of a new one.
    last_version_before: Option<u32>,
    /// Those that are asked for.
    versions: Vec<HeldVersion>,
}

#[derive(Debug, Clone)]
struct HeldVersion {
    /// Given by the database to a new one.
    id: Option<i64>,
    row: DatasetVersion,
    /// As stored.
    content: String,
    is_changed: bool,
    /// A job that has not ended reads it, or one of a schedule.
    is_used: bool,
}

/// The datasets that a group of commands is about, and what it makes of them.
#[derive(Default)]
pub(super) struct HeldDatasets(BTreeMap<String, Held>);

/// Which versions a group of commands is about: of each dataset the newest, and those of a number.
#[derive(Default)]
pub(super) struct Wanted<'a> {
    datasets: BTreeSet<&'a str>,
    numbered: Rows,
}

impl<'a> Wanted<'a> {
    /// The newest of a dataset.
    pub(super) fn newest(&mut self, dataset: &'a str) {
        self.datasets.insert(dataset);
    }

    /// The one of this number.
    pub(super) fn numbered(&mut self, dataset: &'a str, version: u32) {
        self.datasets.insert(dataset);
        self.numbered.push(&[dataset.into(), version.into()]);
    }
}

impl HeldDatasets {
    /// Reads the datasets that are asked for, each with those of its versions that are.
    pub(super) async fn load(conn: &mut SqliteConnection, wanted: Wanted<'_>) -> Result<Self, Fault> {
        let mut datasets = Self::default();
        if wanted.datasets.is_empty() {
            return Ok(datasets);
        }
        let mut names = Rows::default();
        wanted.datasets.iter().for_each(|name| names.push(&[(*name).into()]));
        let names = names.finish();
        for row in &sqlx::query(LOAD).bind(names.clone()).fetch_all(&mut *conn).await? {
            let fields = Fields { row, table: "datasets", id: 0 };
            let last_version = fields.number("last_version")?;
            let held = Held {
                created: fields.time("created_us")?,
                last_version,
                last_version_before: Some(last_version),
                versions: Vec::new(),
            };
            datasets.0.insert(fields.get("name")?, held);
        }
        let versions = sqlx::query(LOAD_VERSIONS).bind(names).bind(wanted.numbered.finish());
        for row in &versions.fetch_all(conn).await? {
            let fields = Fields::new(row, "dataset_versions", "id")?;
            let (content, is_used) = (fields.get("content")?, fields.get("is_used")?);
            let (id, row) = (Some(fields.id), version(row)?);
            if let Some(held) = datasets.0.get_mut(&row.dataset) {
                held.versions.push(HeldVersion { id, row, content, is_changed: false, is_used });
            }
        }
        Ok(datasets)
    }

    /// Adds a version, unless the newest is of the same.
    pub(super) fn add(&mut self, new: &NewDataset, now: Timestamp) -> Result<(DatasetVersion, bool), Fault> {
        let NewDataset { dataset, content, by } = new;
        let fresh = || Held { created: now, last_version: 0, last_version_before: None, versions: Vec::new() };
        let held = self.0.entry(dataset.clone()).or_insert_with(fresh);
        let there = held.versions.iter().filter(|held| held.row.removed.is_none());
        let newest = there.max_by_key(|held| held.row.version);
        if let Some(same) = newest.filter(|newest| newest.row.content.digest == content.digest) {
            return Ok((same.row.clone(), true));
        }
        held.last_version += 1;
        let row = DatasetVersion {
            dataset: dataset.clone(),
            version: held.last_version,
            content: content.clone(),
            created_by: *by,
            created_at: now,
            removed: None,
        };
        let content = serde_json::to_string(content)?;
        held.versions.push(HeldVersion { id: None, row: row.clone(), content, is_changed: false, is_used: false });
        Ok((row, false))
    }

    /// Removes a version.
    pub(super) fn remove(
        &mut self,
        dataset: &str,
        version: u32,
        by: Uid,
        now: Timestamp,
    ) -> Result<DatasetVersion, StoreError> {
        let held = self.0.get_mut(dataset).ok_or_else(|| StoreError::NoDataset(dataset.to_owned()))?;
        let found = held.versions.iter_mut().find(|held| held.row.version == version && held.row.removed.is_none());
        let missing = || StoreError::NoDatasetVersion { dataset: dataset.to_owned(), version: Some(version) };
        let found = found.ok_or_else(missing)?;
        if found.is_used {
            return Err(StoreError::DatasetInUse { dataset: dataset.to_owned(), version });
        }
        found.row.removed = Some((by, now));
        found.is_changed = true;
        Ok(found.row.clone())
    }

    /// Writes what changed.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        let (mut new, mut counted) = (Rows::default(), Rows::default());
        let (mut versions, mut changed) = (Rows::default(), Rows::default());
        for (name, held) in &self.0 {
            let cells: [Cell<'_>; 3] = [name.into(), held.last_version.into(), held.created.into()];
            match held.last_version_before {
                None if held.last_version > 0 => new.push_sealed("datasets", &cells),
                Some(before) if before != held.last_version => {
                    let seal = seal("datasets", &cells).into();
                    counted.push(&[name.into(), before.into(), held.last_version.into(), seal]);
                }
                _ => {}
            }
            for version in &held.versions {
                let cells = version.cells();
                match version.id {
                    None => versions.push_sealed("dataset_versions", &cells),
                    Some(id) if version.is_changed => {
                        let [.., by, at] = cells;
                        changed.push(&[id.into(), by, at, seal("dataset_versions", &cells).into()]);
                    }
                    Some(_) => {}
                }
            }
        }
        batch.write(conn, "new datasets", NEW, new).await?;
        batch.write(conn, "datasets", COUNTED, counted).await?;
        batch.write(conn, "dataset versions", NEW_VERSIONS, versions).await?;
        batch.write(conn, "removed dataset versions", REMOVED, changed).await
    }
}

impl HeldVersion {
    /// What its seal is over.
    fn cells(&self) -> [Cell<'_>; 7] {
        let row = &self.row;
        let (removed_by, removed_at) = row.removed.unzip();
        [
            (&row.dataset).into(),
            row.version.into(),
            (&self.content).into(),
            row.created_by.0.into(),
            row.created_at.into(),
            removed_by.map(|by| by.0).into(),
            removed_at.into(),
        ]
    }
}

macro_rules! version_columns {
    () => {
        "version.id, version.dataset, version.version, version.content, version.created_by, version.created_us, version.removed_by, version.removed_us"
    };
}

pub(super) const DATASETS: &str = concat!(
    "SELECT datasets.name, datasets.created_us AS made_us, (SELECT count(*) FROM dataset_versions AS all_of \
     WHERE all_of.dataset = datasets.name AND all_of.removed_us IS NULL) AS versions, ",
    version_columns!(),
    " FROM datasets LEFT JOIN dataset_versions AS version ON version.dataset = datasets.name AND version.version = \
     (SELECT max(newest.version) FROM dataset_versions AS newest WHERE newest.dataset = datasets.name AND newest.removed_us IS NULL) \
     ORDER BY datasets.name"
);

pub(super) const VERSIONS: &str = concat!(
    "SELECT ",
    version_columns!(),
    " FROM dataset_versions AS version WHERE version.dataset = ?1 AND version.removed_us IS NULL ORDER BY version.version DESC"
);

pub(super) const VERSION: &str = concat!(
    "SELECT ",
    version_columns!(),
    " FROM dataset_versions AS version WHERE version.dataset = ?1 AND version.removed_us IS NULL \
     AND (?2 IS NULL OR version.version = ?2) ORDER BY version.version DESC LIMIT 1"
);

const KNOWN: &str = "SELECT id FROM datasets WHERE name = ?1";

pub(super) const LOAD: &str =
    "SELECT name, last_version, created_us FROM datasets WHERE name IN (SELECT value ->> 0 FROM jsonb_each(?1))";

pub(super) const LOAD_VERSIONS: &str = concat!(
    "SELECT ",
    version_columns!(),
    ", (EXISTS (SELECT 1 FROM job_specs AS reads CROSS JOIN jobs AS other ON other.id = reads.job_id AND other.finished_us IS NULL \
     WHERE reads.dataset = version.manifest) OR EXISTS (SELECT 1 FROM schedules AS timed WHERE timed.dataset = version.manifest)) AS is_used \
     FROM dataset_versions AS version WHERE version.id IN ( \
     SELECT (SELECT newest.id FROM dataset_versions AS newest WHERE newest.dataset = named.value ->> 0 AND newest.removed_us IS NULL \
     ORDER BY newest.version DESC LIMIT 1) FROM jsonb_each(?1) AS named \
     UNION SELECT old.id FROM jsonb_each(?2) AS gone CROSS JOIN dataset_versions AS old ON old.dataset = gone.value ->> 0 \
     AND old.version = gone.value ->> 1) ORDER BY version.id"
);

const NEW: &str = "
INSERT INTO datasets (name, last_version, created_us, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM jsonb_each(?)";

pub(super) const COUNTED: &str = "
UPDATE datasets SET last_version = new.value ->> 2, seal = new.value ->> 3 FROM jsonb_each(?) AS new
WHERE datasets.name = new.value ->> 0 AND datasets.last_version = new.value ->> 1";

const NEW_VERSIONS: &str = "
INSERT INTO dataset_versions (dataset, version, content, created_by, created_us, removed_by, removed_us, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7 FROM jsonb_each(?)";

pub(super) const REMOVED: &str = "
UPDATE dataset_versions SET removed_by = new.value ->> 1, removed_us = new.value ->> 2, seal = new.value ->> 3 FROM jsonb_each(?) AS new
WHERE dataset_versions.id = new.value ->> 0 AND dataset_versions.removed_us IS NULL";
