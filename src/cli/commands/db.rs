//! `mlctl db`: the database as a whole. A daemon that answers is asked; where none does, the program `mld` beside this one does the work.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use clap::{Args, Subcommand};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    api::types::{BackupList, BackupRequest, BackupView, DaemonView, DbCheckView, RestoreView},
    cli::{Context, Done, Failure, client::READ_LIMIT, context::Origin, exit::Exit, output::db},
};

/// How long a database may take to be looked through or copied.
const LIMIT: Duration = READ_LIMIT;

const EXAMPLES: &str = "\
A backup is a folder with the database and a manifest, made beside the work that goes on, and checked. Backups stand under the object storage of mld, or where [backup] in mld.toml says, which also has
them made by themselves. Without a daemon, `mld` beside mlctl does the work; name its folder with --state-dir where it is not the usual one.

Examples:
  mlctl db check                       looks through all of the database; exit code 1 when something is wrong
  mlctl db check --file old/mld.db     the same of another file
  mlctl db backup                      to the usual place
  mlctl db backup --to /mnt/usb/mld    to a folder; s3://bucket/prefix too
  mlctl db ls
  mlctl daemon stop && mlctl db restore latest
  mlctl db restore /mnt/usb/mld/3f0c9a1b2d4e5f60/20261126T020000.000Z";

const RESTORE: &str = "\
The daemon must be stopped. The backup is verified before anything is touched; the old database stays beside the new one under another name. Jobs that ran when the backup was made go on
from their last checkpoint and use up no retry. Of ticks that schedules missed since, the latest alone is made up for, as after any pause.

A SOURCE is `latest`, the folder of a backup (`mlctl db ls` lists them), or a database file.

Examples:
  mlctl db restore latest
  mlctl db restore latest --from /mnt/usb/mld
  mlctl db restore s3://bucket/ml/backups/3f0c9a1b2d4e5f60/20261126T020000.000Z";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Look through the database, and change nothing
    #[command(after_help = EXAMPLES)]
    Check {
        /// Look through this file instead, such as the database of a backup
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Make a backup beside the work that goes on
    #[command(after_help = EXAMPLES)]
    Backup {
        /// The folder for it: a path, or a URI of object storage
        #[arg(long, value_name = "FOLDER")]
        to: Option<String>,
    },
    /// List the backups
    #[command(after_help = EXAMPLES)]
    Ls {
        /// Look in this folder: a path, or a URI of object storage
        #[arg(long, value_name = "FOLDER")]
        from: Option<String>,
    },
    /// Put a backup in the database's place, while no daemon runs
    #[command(after_help = RESTORE)]
    Restore {
        /// Which: `latest`, the folder of a backup, or a database file
        source: String,
        /// Where `latest` is looked for: a path, or a URI of object storage
        #[arg(long, value_name = "FOLDER")]
        from: Option<String>,
    },
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Check { .. } => "check the database".into(),
            Verb::Backup { .. } => "back the database up".into(),
            Verb::Ls { .. } => "list backups".into(),
            Verb::Restore { .. } => "restore the database".into(),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        match self.verb {
            Verb::Check { file } => check(context, file).await,
            Verb::Backup { to } => backup(context, to).await,
            Verb::Ls { from } => list(context, from).await,
            Verb::Restore { source, from } => restore(context, &source, from.as_deref()).await,
        }
    }
}

async fn check(context: &mut Context<'_>, file: Option<PathBuf>) -> Done {
    let view: DbCheckView = match file {
        Some(file) => {
            let file = context.environment.absolute(&file).display().to_string();
            offline(context, &["check", "--file", &file])?
        }
        None => match context.client.post_body("/v1/db/check", &(), LIMIT).await {
            Err(failure) if is_alone(&failure) => offline(context, &["check"])?,
            answer => answer?,
        },
    };
    db::check(&mut context.out, &view)?;
    Ok(if view.ok { Exit::Ok } else { Exit::Failed })
}

async fn backup(context: &mut Context<'_>, to: Option<String>) -> Done {
    let to = to.map(|to| absolute(context, &to));
    let request = BackupRequest { to: to.clone() };
    let view: BackupView = match context.client.post_body("/v1/db/backup", &request, LIMIT).await {
        Err(failure) if is_alone(&failure) => match &to {
            Some(to) => offline(context, &["backup", "--to", to])?,
            None => offline(context, &["backup"])?,
        },
        answer => answer?,
    };
    db::backup(&mut context.out, &view)?;
    Ok(Exit::Ok)
}

async fn list(context: &mut Context<'_>, from: Option<String>) -> Done {
    let view: BackupList = match from {
        Some(from) => offline(context, &["ls", "--from", &absolute(context, &from)])?,
        None => match context.client.get_within("/v1/db/backups", LIMIT).await {
            Err(failure) if is_alone(&failure) => offline(context, &["ls"])?,
            answer => answer?,
        },
    };
    db::list(&mut context.out, &view, context.clock.now())?;
    Ok(Exit::Ok)
}

async fn restore(context: &mut Context<'_>, source: &str, from: Option<&str>) -> Done {
    match context.client.get::<DaemonView>("/v1/daemon").await {
        Ok(daemon) => {
            let why = format!("the daemon runs on {} (process {})", daemon.state_dir, daemon.pid);
            return Err(Failure::new(Exit::Conflict, why).hint("stop it first: `mlctl daemon stop`; workers go on"));
        }
        Err(failure) if is_alone(&failure) => {}
        Err(failure) => return Err(failure),
    }
    let source = if source == "latest" { source.to_owned() } else { absolute(context, source) };
    let view: RestoreView = match from {
        Some(from) => offline(context, &["restore", &source, "--from", &absolute(context, from)])?,
        None => offline(context, &["restore", &source])?,
    };
    db::restored(&mut context.out, &view)?;
    Ok(Exit::Ok)
}

/// Whether nobody was there to ask.
fn is_alone(failure: &Failure) -> bool {
    failure.exit == Exit::Unreachable && failure.code.is_none()
}

fn absolute(context: &Context<'_>, named: &str) -> String {
    if named.contains("://") {
        named.to_owned()
    } else {
        context.environment.absolute(named.as_ref()).display().to_string()
    }
}

/// What `mld` says when it cannot.
#[derive(Deserialize)]
struct Complaint {
    why: Vec<String>,
    hint: String,
}

/// Has the program `mld` do it.
fn offline<T: DeserializeOwned>(context: &Context<'_>, task: &[&str]) -> Result<T, Failure> {
    let program = context.environment.program_dir.as_ref().map_or_else(|| "mld".into(), |folder| folder.join("mld"));
    let mut command = Command::new(&program);
    if let Some(folder) = state_dir(context) {
        command.arg("--state-dir").arg(folder);
    }
    command.args(["db", "-o", "json"]).args(task).stdin(Stdio::null());
    let output = command.output().map_err(|error| {
        Failure::caused(format!("no daemon answers, and {} cannot be run", program.display()), &error)
            .hint("it belongs beside mlctl")
    })?;
    let code = output.status.code();
    if let Ok(answer) = serde_json::from_slice(&output.stdout) {
        return Ok(answer);
    }
    let exit = match code {
        Some(2) => Exit::Usage,
        Some(4) => Exit::NotFound,
        Some(5) => Exit::Conflict,
        _ => Exit::Failed,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    match said.lines().rev().find_map(|line| serde_json::from_str::<Complaint>(line).ok()) {
        Some(Complaint { why, hint }) => Err(Failure { why, ..Failure::new(exit, "").hint(hint) }),
        None => Err(Failure::new(exit, format!("mld ended with {}: {}", output.status, said.trim()))),
    }
}

/// The state directory that was named, or that the socket lies in.
fn state_dir(context: &Context<'_>) -> Option<PathBuf> {
    let socket = context.client.sockets().first()?;
    let folder = socket.parent().filter(|_| socket.ends_with("mld.sock"))?;
    let is_meant = match context.origin {
        Origin::StateDir => true,
        Origin::Usual => false,
        _ => ["mld.db", "mld.lock", "mld.db.instance"].iter().any(|name| folder.join(name).exists()),
    };
    is_meant.then(|| folder.to_owned())
}
