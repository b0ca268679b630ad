//! Transfers to and from object storage in print, and what lies there.

use std::time::Duration;

use mlctl_artifacts::streams::Moved;
use serde::Serialize;

use super::{
    Output,
    table::{Cell, Column, Table},
    text,
};
use crate::{api::types::SCHEMA, cli::Failure, config::OutputForm};

/// A transfer that has ended.
#[derive(Debug, Serialize)]
pub struct Transferred {
    schema: u32,
    /// Where the bytes came from.
    pub from: String,
    /// Where they are.
    pub to: String,
    /// Files.
    pub files: u64,
    /// Their size.
    pub size_bytes: u64,
    /// Bytes of it that an earlier, killed upload had sent already.
    pub reused_bytes: u64,
    /// What was passed over in a folder.
    pub skipped: u64,
    /// Files that came and were compared with the checksum that the store keeps of the whole; nothing where none comes from a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_files: Option<u64>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Transferred {
    pub fn new(from: String, to: String, moved: Moved, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        let Moved { files, bytes, reused, skipped, verified: _ } = moved;
        let verified_files = None;
        Self {
            schema: SCHEMA,
            from,
            to,
            files,
            size_bytes: bytes,
            reused_bytes: reused,
            skipped,
            verified_files,
            seconds,
        }
    }

    /// The same of what came from a store.
    pub fn received(from: String, to: String, moved: Moved, took: Duration) -> Self {
        Self { verified_files: Some(moved.verified), ..Self::new(from, to, moved, took) }
    }
}

/// What lies under a URI.
#[derive(Debug, Serialize)]
pub struct Listing {
    schema: u32,
    uri: String,
    entries: Vec<Listed>,
}

/// An object, or a folder where only the first names are listed.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// Below the URI; a folder ends in a slash.
    pub name: String,
    /// `object` or `folder`.
    pub kind: &'static str,
    /// Nothing for a folder.
    pub size_bytes: Option<u64>,
}

impl Listing {
    pub fn new(uri: String, entries: Vec<Listed>) -> Self {
        Self { schema: SCHEMA, uri, entries }
    }
}

/// Uploads that were left open.
#[derive(Debug, Serialize)]
pub struct Aborted {
    schema: u32,
    /// Whether they were only looked for.
    dry_run: bool,
    uploads: Vec<AbortedUpload>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub struct AbortedUpload {
    /// The object that it would have made.
    pub uri: String,
    /// What the store calls it.
    pub upload_id: String,
    /// Since when it was open.
    pub begun_at: String,
}

impl Aborted {
    pub fn new(dry_run: bool, uploads: Vec<AbortedUpload>) -> Self {
        Self { schema: SCHEMA, dry_run, uploads }
    }
}

/// Prints what was moved.
pub fn transferred(out: &mut Output, done: &Transferred) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(done),
        OutputForm::Name => out.line(&done.to),
        OutputForm::Table | OutputForm::Wide => {
            let what = match done.files {
                1 => text::bytes(done.size_bytes),
                files => format!("{} files, {}", text::count(files), text::bytes(done.size_bytes)),
            };
            let moved = done.size_bytes - done.reused_bytes.min(done.size_bytes);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a rate to look at"
            )]
            let rate = (moved as f64 / done.seconds.max(0.001)) as u64;
            let mut line =
                format!("{}: {what} in {:.1} s, {}/s", text::visible_line(&done.to), done.seconds, text::bytes(rate));
            if done.reused_bytes > 0 {
                line +=
                    &format!("; {} of it were there from an upload that was cut off", text::bytes(done.reused_bytes));
            }
            if done.skipped > 0 {
                line += &format!("; {} passed over: links to folders, and what is no file", text::count(done.skipped));
            }
            if let Some(unverified @ 1..) = done.verified_files.map(|verified| done.files - verified.min(done.files)) {
                let unverified = text::count(unverified);
                line += &format!("; not compared: the store keeps no checksum of {unverified} of {}", done.files);
            }
            out.line(line)
        }
    }
}

/// Prints what lies under a URI.
pub fn listing(out: &mut Output, listing: &Listing) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json_list(listing, &listing.entries),
        OutputForm::Name => listing.entries.iter().try_for_each(|entry| out.line(&entry.name)),
        OutputForm::Table | OutputForm::Wide => {
            let mut table = Table::new(&[("SIZE", Column::Right), ("NAME", Column::Left)]);
            for entry in &listing.entries {
                let size = entry.size_bytes.map_or_else(String::new, text::bytes);
                table.row([size, entry.name.clone()].map(Cell::from));
            }
            out.table(&table)
        }
    }
}

/// Prints which uploads were given up, or would be.
pub fn aborted(out: &mut Output, aborted: &Aborted) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json_list(aborted, &aborted.uploads),
        OutputForm::Name => aborted.uploads.iter().try_for_each(|upload| out.line(&upload.uri)),
        OutputForm::Table | OutputForm::Wide => {
            let mut table = Table::new(&[("BEGUN", Column::Left), ("OBJECT", Column::Left)]);
            for upload in &aborted.uploads {
                table.row([&upload.begun_at, &upload.uri].map(Cell::from));
            }
            out.table(&table)?;
            let what = if aborted.dry_run { "would be given up; nothing was changed" } else { "given up" };
            out.say(format!("{} uploads {what}", aborted.uploads.len()));
            Ok(())
        }
    }
}
