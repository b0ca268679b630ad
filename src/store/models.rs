//! Models and their versions: the store's surface for them, and their rows in the writer's hands. What a version holds is made elsewhere; here it gets its number, once.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mlctl_protocol::JobId;
use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    Store, StoreError,
    aliases::{AliasMove, Changes, HeldAliases, NewMove},
    ask::Ask,
    batch::Batch,
    error::Fault,
    kept::is_begun_with,
    rows::{Cell, Fields, RowError, Rows, integer, seal},
};
use crate::domain::{
    Uid,
    alias::{AliasError, Aliases, Change, Pick},
    registry::Content,
};

/// A version to be registered.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// The model, which is made where there is none.
    pub model: String,
    /// What it holds.
    pub content: Content,
    /// Who registers it.
    pub by: Uid,
    /// Whether a version of the same that was removed is left at that: the job's spec asks for it, and not a person.
    pub once: bool,
}

/// A version on record.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelVersion {
    /// The model.
    pub model: String,
    /// Its number.
    pub version: u32,
    /// What it holds.
    pub content: Content,
    /// Who registered it.
    pub created_by: Uid,
    /// When.
    pub created_at: Timestamp,
    /// Who removed it, and when.
    pub removed: Option<(Uid, Timestamp)>,
}

/// A model, and its newest version.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRow {
    /// Its name.
    pub name: String,
    /// When its first version was registered.
    pub created_at: Timestamp,
    /// Versions that were not removed.
    pub versions: u64,
    /// The newest of them.
    pub newest: Option<ModelVersion>,
    /// Its aliases.
    pub aliases: Aliases,
}

impl Store {
    /// Registers a version. Returns it, and whether it was there before: what is the same of the same job is registered once.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the job is gone, [`StoreError::Full`], [`StoreError::Failed`].
    pub async fn register_version(&self, new: NewVersion) -> Result<(ModelVersion, bool), StoreError> {
        let new = Box::new(new);
        Ok(*self.ask(|reply| Ask::Register { new, reply }).await?)
    }

    /// Removes a version: its row says so from then on, and its number is not used again. Returns what it was.
    ///
    /// # Errors
    /// [`StoreError::NoVersion`], [`StoreError::VersionInUse`], [`StoreError::VersionNamed`], [`StoreError::Failed`].
    pub async fn remove_version(&self, model: &str, version: u32, by: Uid) -> Result<ModelVersion, StoreError> {
        let model = model.to_owned();
        Ok(*self.ask(|reply| Ask::Unregister { model, version, by, reply }).await?)
    }

    /// All models by name.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn models(&self) -> Result<Vec<ModelRow>, StoreError> {
        let found = sqlx::query(MODELS).fetch_all(&self.inner.readers).await?;
        let rows = found.iter().map(|row| {
            let fields = Fields { row, table: "models", id: 0 };
            let newest = fields.get::<Option<i64>>("id")?.is_some().then(|| version(row)).transpose()?;
            let (name, versions, aliases) = (fields.get("name")?, fields.number("versions")?, fields.json("aliases")?);
            Ok(ModelRow { name, created_at: fields.time("made_us")?, versions, newest, aliases })
        });
        Ok(rows.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }

    /// The versions of a model that were not removed, newest first.
    ///
    /// # Errors
    /// [`StoreError::NoModel`], [`StoreError::Failed`].
    pub async fn model_versions(&self, model: &str) -> Result<Vec<ModelVersion>, StoreError> {
        // One snapshot: a model is made with its first version, and must not be seen without it.
        let mut snapshot = self.inner.readers.begin().await?;
        let found = sqlx::query(VERSIONS).bind(model).fetch_all(&mut *snapshot).await?;
        let versions: Vec<_> = found.iter().map(version).collect::<Result<_, _>>().map_err(Fault::from)?;
        if versions.is_empty() {
            let known: Option<i64> = sqlx::query_scalar(KNOWN).bind(model).fetch_optional(&mut *snapshot).await?;
            known.ok_or_else(|| StoreError::NoModel(model.to_owned()))?;
        }
        Ok(versions)
    }

    /// A version of a model that was not removed.
    ///
    /// # Errors
    /// [`StoreError::NoModel`], [`StoreError::NoVersion`], [`StoreError::Alias`], [`StoreError::Failed`].
    pub async fn model_version(&self, model: &str, pick: &Pick) -> Result<ModelVersion, StoreError> {
        let (number, alias) = match pick {
            Pick::Newest => (None, None),
            Pick::Number(number) => (Some(*number), None),
            Pick::Alias(alias) => (None, Some(alias)),
        };
        let found = match alias {
            Some(alias) => sqlx::query(NAMED).bind(model).bind(alias),
            None => sqlx::query(VERSION).bind(model).bind(number),
        };
        if let Some(row) = found.fetch_optional(&self.inner.readers).await? {
            return Ok(version(&row).map_err(Fault::from)?);
        }
        self.model_versions(model).await?;
        let model = model.to_owned();
        Err(match alias {
            Some(alias) => StoreError::Alias { model, why: AliasError::Unknown(alias.clone()) },
            None => StoreError::NoVersion { model, version: number },
        })
    }

    /// Jobs above `after` that have succeeded and whose spec names a model of which they have no version yet, by id.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn unregistered(&self, after: JobId, limit: u32) -> Result<Vec<(JobId, String)>, StoreError> {
        let found = sqlx::query(UNREGISTERED).bind(integer(after.0)).bind(limit).fetch_all(&self.inner.readers).await?;
        let jobs = found.iter().map(|row| {
            let fields = Fields::new(row, "job_specs", "job_id")?;
            Ok((JobId(fields.number("job_id")?), fields.get("registers")?))
        });
        Ok(jobs.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }
}

fn version(row: &SqliteRow) -> Result<ModelVersion, RowError> {
    let fields = Fields::new(row, "model_versions", "id")?;
    let removed_by: Option<u32> = fields.maybe_number("removed_by")?;
    let removed = removed_by.map(Uid).zip(fields.maybe_time("removed_us")?);
    Ok(ModelVersion {
        model: fields.get("model")?,
        version: fields.number("version")?,
        content: fields.json("content")?,
        created_by: Uid(fields.number("created_by")?),
        created_at: fields.time("created_us")?,
        removed,
    })
}

/// A model in the writer's hands.
#[derive(Debug, Clone)]
struct Held {
    created: Timestamp,
    last_version: u32,
    /// As it was read; none of a new one.
    last_version_before: Option<u32>,
    /// Those that are asked for.
    versions: Vec<HeldVersion>,
    aliases: HeldAliases,
}

#[derive(Debug, Clone)]
struct HeldVersion {
    /// Given by the database to a new one.
    id: Option<i64>,
    row: ModelVersion,
    /// As stored: a number in it is not parsed and written again.
    content: String,
    is_changed: bool,
    /// A job that has not ended begins with it, or one of a schedule.
    is_used: bool,
}

/// The models that a group of commands is about, and what it makes of them.
#[derive(Default)]
pub(super) struct HeldModels(BTreeMap<String, Held>);

/// Which versions a group of commands is about.
#[derive(Default)]
pub(super) struct Wanted<'a> {
    models: BTreeSet<&'a str>,
    same: Rows,
    numbered: Rows,
}

impl<'a> Wanted<'a> {
    /// Those of the same as one that is to be registered.
    pub(super) fn same(&mut self, new: &'a NewVersion) {
        let NewVersion { model, content, .. } = new;
        self.models.insert(model);
        self.same.push(&[model.into(), content.job.into(), (&content.uri).into()]);
    }

    /// None, but the model with its aliases.
    pub(super) fn model(&mut self, model: &'a str) {
        self.models.insert(model);
    }

    /// The one of this number.
    pub(super) fn numbered(&mut self, model: &'a str, version: u32) {
        self.models.insert(model);
        self.numbered.push(&[model.into(), version.into()]);
    }
}

impl HeldModels {
    /// Reads the models that are asked for, each with those of its versions that are.
    pub(super) async fn load(conn: &mut SqliteConnection, wanted: Wanted<'_>) -> Result<Self, Fault> {
        let mut models = Self::default();
        if wanted.models.is_empty() {
            return Ok(models);
        }
        let mut names = Rows::default();
        wanted.models.iter().for_each(|name| names.push(&[(*name).into()]));
        let names = names.finish();
        let mut aliases = HeldAliases::load(conn, names.clone()).await?;
        for row in &sqlx::query(LOAD).bind(names).fetch_all(&mut *conn).await? {
            let fields = Fields { row, table: "models", id: 0 };
            let (name, last_version) = (fields.get("name")?, fields.number("last_version")?);
            let held = Held {
                created: fields.time("created_us")?,
                last_version,
                last_version_before: Some(last_version),
                versions: Vec::new(),
                aliases: aliases.remove(&name).unwrap_or_default(),
            };
            models.0.insert(name, held);
        }
        let versions = sqlx::query(LOAD_VERSIONS).bind(wanted.same.finish()).bind(wanted.numbered.finish());
        for row in &versions.fetch_all(conn).await? {
            let fields = Fields::new(row, "model_versions", "id")?;
            let (content, is_used) = (fields.get("content")?, fields.get("is_used")?);
            let (id, row) = (Some(fields.id), version(row)?);
            if let Some(held) = models.0.get_mut(&row.model) {
                held.versions.push(HeldVersion { id, row, content, is_changed: false, is_used });
            }
        }
        Ok(models)
    }

    /// Registers a version of what a job that is there has stored.
    pub(super) fn register(&mut self, new: &NewVersion, now: Timestamp) -> Result<(ModelVersion, bool), Fault> {
        let NewVersion { model, content, by, once } = new;
        let fresh = || Held {
            created: now,
            last_version: 0,
            last_version_before: None,
            versions: Vec::new(),
            aliases: HeldAliases::default(),
        };
        let held = self.0.entry(model.clone()).or_insert_with(fresh);
        let same = held.versions.iter().rev().find(|held| held.row.content.is_same(content));
        if let Some(same) = same.filter(|same| *once || same.row.removed.is_none()) {
            return Ok((same.row.clone(), true));
        }
        held.last_version += 1;
        let row = ModelVersion {
            model: model.clone(),
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
        model: &str,
        version: u32,
        by: Uid,
        now: Timestamp,
    ) -> Result<ModelVersion, StoreError> {
        let held = self.0.get_mut(model).ok_or_else(|| StoreError::NoModel(model.to_owned()))?;
        let found = held.versions.iter_mut().find(|held| held.row.version == version && held.row.removed.is_none());
        let found = found.ok_or_else(|| StoreError::NoVersion { model: model.to_owned(), version: Some(version) })?;
        if let Some(alias) = held.aliases.of(version) {
            let (model, alias) = (model.to_owned(), alias.to_owned());
            return Err(StoreError::VersionNamed { model, version, alias });
        }
        if found.is_used {
            return Err(StoreError::VersionInUse { model: model.to_owned(), version });
        }
        found.row.removed = Some((by, now));
        found.is_changed = true;
        Ok(found.row.clone())
    }

    /// Changes the aliases of a model.
    pub(super) fn move_alias(&mut self, new: &NewMove, now: Timestamp) -> Result<Vec<AliasMove>, StoreError> {
        let model = &new.model;
        let held = self.0.get_mut(model).ok_or_else(|| StoreError::NoModel(model.clone()))?;
        if let Change::Set { version, .. } = new.change {
            let is_there = |held: &HeldVersion| held.row.version == version && held.row.removed.is_none();
            if !held.versions.iter().any(is_there) {
                return Err(StoreError::NoVersion { model: model.clone(), version: Some(version) });
            }
        }
        held.aliases.change(new, now)
    }

    /// Writes what changed.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        let (mut new, mut counted) = (Rows::default(), Rows::default());
        let (mut versions, mut changed) = (Rows::default(), Rows::default());
        let mut aliases = Changes::default();
        for (name, held) in &self.0 {
            held.aliases.collect(name, &mut aliases);
            let cells: [Cell<'_>; 3] = [name.into(), held.last_version.into(), held.created.into()];
            match held.last_version_before {
                None if held.last_version > 0 => new.push_sealed("models", &cells),
                Some(before) if before != held.last_version => {
                    let seal = seal("models", &cells).into();
                    counted.push(&[name.into(), before.into(), held.last_version.into(), seal]);
                }
                _ => {}
            }
            for version in &held.versions {
                let cells = version.cells();
                match version.id {
                    None => versions.push_sealed("model_versions", &cells),
                    Some(id) if version.is_changed => {
                        let [.., by, at] = cells;
                        changed.push(&[id.into(), by, at, seal("model_versions", &cells).into()]);
                    }
                    Some(_) => {}
                }
            }
        }
        batch.write(conn, "new models", NEW, new).await?;
        batch.write(conn, "models", COUNTED, counted).await?;
        batch.write(conn, "model versions", NEW_VERSIONS, versions).await?;
        batch.write(conn, "removed model versions", REMOVED, changed).await?;
        aliases.flush(conn, batch).await
    }
}

impl HeldVersion {
    /// What its seal is over.
    fn cells(&self) -> [Cell<'_>; 8] {
        let row = &self.row;
        let (removed_by, removed_at) = row.removed.unzip();
        [
            (&row.model).into(),
            row.version.into(),
            row.content.job.into(),
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
        "version.id, version.model, version.version, version.content, version.created_by, version.created_us, version.removed_by, version.removed_us"
    };
}

pub(super) const MODELS: &str = concat!(
    "SELECT models.name, models.created_us AS made_us, (SELECT count(*) FROM model_versions AS all_of \
     WHERE all_of.model = models.name AND all_of.removed_us IS NULL) AS versions, \
     (SELECT json_group_object(named.alias, named.version) FROM model_aliases AS named WHERE named.model = models.name) AS aliases, ",
    version_columns!(),
    " FROM models LEFT JOIN model_versions AS version ON version.model = models.name AND version.version = \
     (SELECT max(newest.version) FROM model_versions AS newest WHERE newest.model = models.name AND newest.removed_us IS NULL) \
     ORDER BY models.name"
);

pub(super) const VERSIONS: &str = concat!(
    "SELECT ",
    version_columns!(),
    " FROM model_versions AS version WHERE version.model = ?1 AND version.removed_us IS NULL ORDER BY version.version DESC"
);

pub(super) const VERSION: &str = concat!(
    "SELECT ",
    version_columns!(),
    " FROM model_versions AS version WHERE version.model = ?1 AND version.removed_us IS NULL \
     AND (?2 IS NULL OR version.version = ?2) ORDER BY version.version DESC LIMIT 1"
);

pub(super) const NAMED: &str = concat!(
    "SELECT ",
    version_columns!(),
    " FROM model_aliases AS named CROSS JOIN model_versions AS version ON version.model = named.model AND version.version = named.version \
     WHERE named.model = ?1 AND named.alias = ?2"
);

const KNOWN: &str = "SELECT id FROM models WHERE name = ?1";

pub(super) const UNREGISTERED: &str = "SELECT begun.job_id, begun.registers FROM job_specs AS begun INDEXED BY job_specs_registers \
     CROSS JOIN jobs ON jobs.id = begun.job_id AND jobs.state = 'succeeded' AND jobs.model IS NOT NULL \
     WHERE begun.registers IS NOT NULL AND begun.job_id > ?1 \
     AND NOT EXISTS (SELECT 1 FROM model_versions AS version WHERE version.job_id = begun.job_id AND version.model = begun.registers \
     AND version.content ->> '$.step' IS NULL) \
     ORDER BY begun.job_id LIMIT ?2 + 0";

pub(super) const LOAD: &str =
    "SELECT name, last_version, created_us FROM models WHERE name IN (SELECT value ->> 0 FROM jsonb_each(?1))";

pub(super) const LOAD_VERSIONS: &str = concat!(
    "SELECT ",
    version_columns!(),
    ", ",
    is_begun_with!("version.uri"),
    " AS is_used FROM model_versions AS version WHERE version.id IN ( \
     SELECT same.id FROM jsonb_each(?1) AS new CROSS JOIN model_versions AS same ON same.job_id = new.value ->> 1 \
     AND same.model = new.value ->> 0 AND same.content ->> '$.uri' = new.value ->> 2 \
     UNION SELECT old.id FROM jsonb_each(?2) AS gone CROSS JOIN model_versions AS old ON old.model = gone.value ->> 0 \
     AND old.version = gone.value ->> 1) ORDER BY version.id"
);

const NEW: &str = "
INSERT INTO models (name, last_version, created_us, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM jsonb_each(?)";

pub(super) const COUNTED: &str = "
UPDATE models SET last_version = new.value ->> 2, seal = new.value ->> 3 FROM jsonb_each(?) AS new
WHERE models.name = new.value ->> 0 AND models.last_version = new.value ->> 1";

const NEW_VERSIONS: &str = "
INSERT INTO model_versions (model, version, job_id, content, created_by, created_us, removed_by, removed_us, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8 FROM jsonb_each(?)";

pub(super) const REMOVED: &str = "
UPDATE model_versions SET removed_by = new.value ->> 1, removed_us = new.value ->> 2, seal = new.value ->> 3 FROM jsonb_each(?) AS new
WHERE model_versions.id = new.value ->> 0 AND model_versions.removed_us IS NULL";
