//! Statements that are carried out in one go: each way to the connection's thread and back costs as much as some of them. Filled by what is to be written, run by `flush`.

use futures_util::TryStreamExt as _;
use sqlx::{Arguments as _, AssertSqlSafe, Either, Executor as _, SqliteConnection, sqlite::SqliteArguments};

use super::{error::Fault, rows::Rows};

/// Bytes of rows from which on they are not kept waiting: they take memory three times.
const LARGE: usize = 1 << 20;

/// Statements in order, each with one parameter: rows.
#[derive(Default)]
pub(super) struct Batch {
    sql: String,
    values: SqliteArguments,
    bytes: usize,
    expected: Vec<Expected>,
    changed: u64,
}

/// How many rows a statement changes.
enum Expected {
    Exactly(&'static str, u64),
    Any,
}

impl Batch {
    /// A statement that must change one row for each it is given.
    pub(super) async fn write(
        &mut self,
        conn: &mut SqliteConnection,
        statement: &'static str,
        sql: &'static str,
        rows: Rows,
    ) -> Result<(), Fault> {
        let expected = Expected::Exactly(statement, rows.len());
        self.add(conn, sql, rows, expected).await
    }

    /// A statement that changes what it finds.
    pub(super) async fn sweep(
        &mut self,
        conn: &mut SqliteConnection,
        sql: &'static str,
        rows: Rows,
    ) -> Result<(), Fault> {
        self.add(conn, sql, rows, Expected::Any).await
    }

    /// Whether it changes something, whatever it finds.
    pub(super) fn must_change(&self) -> bool {
        self.changed > 0 || self.expected.iter().any(|expected| matches!(expected, Expected::Exactly(..)))
    }

    async fn add(
        &mut self,
        conn: &mut SqliteConnection,
        sql: &'static str,
        rows: Rows,
        expected: Expected,
    ) -> Result<(), Fault> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows = rows.finish();
        self.bytes += rows.len();
        self.sql.push_str(sql);
        self.sql.push_str(";\n");
        self.values.add(rows).map_err(sqlx::Error::Encode)?;
        self.expected.push(expected);
        if self.bytes > LARGE {
            self.run(conn).await?;
        }
        Ok(())
    }

    /// Carries out what is not yet. Returns how many rows all of it changed.
    pub(super) async fn run(&mut self, conn: &mut SqliteConnection) -> Result<u64, Fault> {
        if self.expected.is_empty() {
            return Ok(self.changed);
        }
        let (sql, values) = (std::mem::take(&mut self.sql), std::mem::take(&mut self.values));
        self.bytes = 0;
        let mut done = conn.fetch_many(sqlx::query_with(AssertSqlSafe(sql), values));
        let mut expected = self.expected.drain(..);
        while let Some(step) = done.try_next().await? {
            let Either::Left(result) = step else { continue };
            let changed = result.rows_affected();
            self.changed += changed;
            match expected.next() {
                Some(Expected::Exactly(statement, expected)) if changed != expected => {
                    return Err(Fault::Guard { statement, expected, changed });
                }
                _ => {}
            }
        }
        Ok(self.changed)
    }
}
