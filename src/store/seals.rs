//! The rows that no event repeats, each against its seal. Called by the check.

use sqlx::{Column as _, Row, Sqlite, SqliteConnection, Type, ValueRef as _, sqlite::SqliteRow};

use super::{
    check::{MOST, PAGE, Problems},
    error::Fault,
    held::sealed_attempt_columns,
    rows::{Cell, seal},
};

/// A table whose rows are sealed.
pub(super) struct Sealed {
    pub(super) table: &'static str,
    /// Rows after ?1 in the order of the first column, at most ?2: a key, the seal, and what it is over.
    rows: &'static str,
    /// The last columns, so many, that rows of earlier versions do not have: null counts for nothing there.
    later: usize,
}

pub(super) const TABLES: [Sealed; 19] = [
    Sealed {
        table: "idempotency",
        rows: "SELECT job_id, seal, user_id, key, job_id, asked FROM idempotency WHERE job_id > ?1 ORDER BY job_id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "attempts",
        rows: concat!(
            "SELECT token, seal, ",
            sealed_attempt_columns!(),
            " FROM attempts WHERE token > ?1 ORDER BY token LIMIT ?2 + 0"
        ),
        later: 1,
    },
    Sealed {
        table: "checkpoints",
        rows: "SELECT id, seal, job_id, attempt, uri, checkpoint, created_us FROM checkpoints WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 1,
    },
    Sealed {
        table: "metrics",
        rows: "SELECT id, seal, job_id, attempt, step, point FROM metrics WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "schedules",
        rows: "SELECT id, seal, name, cron, zone, spec, user_id, enabled, next_tick_us, settled_us, created_us, policy, paused, \
               resumed_us FROM schedules WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 3,
    },
    Sealed {
        table: "ticks",
        rows: "SELECT job_id, seal, schedule_id, tick_us, nominal, pass, job_id, submitted_us, asked_by FROM ticks \
               WHERE job_id > ?1 ORDER BY job_id LIMIT ?2 + 0",
        later: 1,
    },
    Sealed {
        table: "missed_ticks",
        rows: "SELECT id, seal, schedule_id, tick_us, nominal, pass, reason, missed_us FROM missed_ticks WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "arrays",
        rows: "SELECT id, seal, id, name, kind, user_id, queue, priority, labels, size, design, submitted_us FROM arrays \
               WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "queues",
        rows: "SELECT id, seal, name, max_running, max_cpus, max_gpus, max_per_user, ordering, flow, changed_by, changed_us FROM queues \
               WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "devices",
        rows: "SELECT id, seal, uuid, standing, reason, changed_by, changed_us FROM devices WHERE id > ?1 ORDER BY id LIMIT ?2",
        later: 0,
    },
    Sealed {
        table: "models",
        rows: "SELECT id, seal, name, last_version, created_us FROM models WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "model_versions",
        rows: "SELECT id, seal, model, version, job_id, content, created_by, created_us, removed_by, removed_us FROM model_versions \
               WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "model_aliases",
        rows: "SELECT id, seal, model, alias, version FROM model_aliases WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "alias_moves",
        rows: "SELECT id, seal, model, alias, before, version, reason, job_id, moved_by, moved_us FROM alias_moves \
               WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "datasets",
        rows: "SELECT id, seal, name, last_version, created_us FROM datasets WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "dataset_versions",
        rows: "SELECT id, seal, dataset, version, content, created_by, created_us, removed_by, removed_us FROM dataset_versions \
               WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "hooks",
        rows: "SELECT id, seal, name, standing FROM hooks WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "notices",
        rows: "SELECT id, seal, at_us, body FROM notices WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
    Sealed {
        table: "rungs",
        rows: "SELECT id, seal, array_id, rung, job_id, steps, value FROM rungs WHERE id > ?1 ORDER BY id LIMIT ?2 + 0",
        later: 0,
    },
];

impl Sealed {
    pub(super) async fn check(&self, conn: &mut SqliteConnection, problems: &mut Problems) -> Result<(), Fault> {
        let mut last = 0_i64;
        loop {
            let page = sqlx::query(self.rows).bind(last).bind(PAGE).fetch_all(&mut *conn).await?;
            let Some(newest) = page.last() else { return Ok(()) };
            let before = std::mem::replace(&mut last, newest.try_get(0)?);
            if last <= before {
                problems.push(out_of_order(self.table, last));
                return Ok(());
            }
            for row in &page {
                let is_later = |index: usize| index + self.later >= row.len();
                let cells = (2..row.len()).map(|index| match cell(row, index)? {
                    Cell::Null if is_later(index) => Ok(Cell::Absent),
                    cell => Ok::<_, sqlx::Error>(cell),
                });
                let cells = cells.collect::<Result<Vec<_>, _>>()?;
                if seal(self.table, &cells) != row.try_get::<i64, _>(1)? {
                    let (name, key) = (row.column(0).name(), row.try_get::<i64, _>(0)?);
                    problems.push(format!("table {}, {name} {key}: the row does not fit its seal", self.table));
                }
            }
            if problems.len() > MOST {
                return Ok(());
            }
        }
    }
}

/// A page of rows ends before it begins: where a page of the file is damaged, SQLite does not look at the order again, and a walk by it would have no end.
pub(super) fn out_of_order(table: &str, key: i64) -> String {
    format!("table {table}: row {key} is not where its key belongs")
}

/// A value as it was sealed.
fn cell(row: &SqliteRow, index: usize) -> Result<Cell<'_>, sqlx::Error> {
    let value = row.try_get_raw(index)?;
    if value.is_null() {
        return Ok(Cell::Null);
    }
    if <i64 as Type<Sqlite>>::compatible(&value.type_info()) {
        return row.try_get(index).map(Cell::Int);
    }
    row.try_get(index).map(Cell::Text)
}
