//! `GET /v1/doctor`: what a daemon needs, looked at one by one, with what to do where something is wrong. Called by the router. It changes nothing but a probe object that
//! it deletes again; a look that takes too long is a finding too.

use std::{
    collections::BTreeSet,
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use axum::{Json, extract::State};
use jiff::{Timestamp, fmt::rfc2822};
use mlctl_artifacts::{Stores, keys, probe};
use tokio::{fs, process::Command, task::spawn_blocking, time::timeout};

use super::{
    Context, Shared, notify,
    types::{CheckStatus, CheckView, DoctorView, HookState, HookView, SCHEMA},
    view::{dispatch::closed, reason},
};
use crate::{domain::causes, store};

/// How long the database may take to be read through, and object storage to answer.
const DATABASE_LIMIT: Duration = Duration::from_secs(60);
const STORAGE_LIMIT: Duration = Duration::from_secs(15);

/// How long the worker may take to say its version.
const WORKER_LIMIT: Duration = Duration::from_secs(10);

/// Free space below which nothing works for long, and below which to look, in bytes.
const SPACE_NEEDED: u64 = 64 * 1024 * 1024;
const SPACE_WANTED: u64 = 1024 * 1024 * 1024;

/// For how long it is said that a message was given up.
const LOSS_NOTED: jiff::SignedDuration = jiff::SignedDuration::from_hours(7 * 24);

/// Findings shown of a check that has many.
const MOST_SHOWN: usize = 5;

/// Seconds by which the store's clock may differ before it is said, and from which on stores refuse requests.
const SKEW_NOTED: u64 = 60;
const SKEW_REFUSED: u64 = 15 * 60;

/// The first moment of 2026 in seconds: no clock that is right is before it.
const WRITTEN_SECONDS: i64 = 1_767_225_600;

/// `GET /v1/doctor`.
pub(super) async fn examine(State(api): State<Context>) -> Json<DoctorView> {
    // Without patience: a store that does not answer is a finding, and what it said is worth more than another try.
    let stores = api.artifacts.impatient();
    let storage = storage(&api, &stores).await;
    let storage_time = storage_time(stores.s3_time(), api.clock.now());
    let checks = vec![
        sqlite(),
        database(&api).await,
        dispatch(&api),
        backup(&api).await,
        space(&api.config.state_dir).await,
        storage,
        storage_time,
        roots(&api.policy().data_roots).await,
        worker(&api.config.programs.worker).await,
        commands(&api).await,
        gpus(&api).await,
        socket("socket", &api, &api.config.socket).await,
        socket("workers' socket", &api, &api.config.workers_socket).await,
        clock(&api).await,
        hooks(&api).await,
    ];
    let ok = checks.iter().all(|check| check.status != CheckStatus::Fail);
    Json(DoctorView { schema: SCHEMA, ok, checks })
}

fn ok(name: &str, detail: impl Into<String>) -> CheckView {
    CheckView { name: name.into(), status: CheckStatus::Ok, detail: detail.into(), hint: None }
}

fn warn(name: &str, detail: impl Into<String>, hint: impl Into<String>) -> CheckView {
    CheckView { name: name.into(), status: CheckStatus::Warn, detail: detail.into(), hint: Some(hint.into()) }
}

fn fail(name: &str, detail: impl Into<String>, hint: impl Into<String>) -> CheckView {
    CheckView { status: CheckStatus::Fail, ..warn(name, detail, hint) }
}

/// One that is too old is refused at the start: which one it is, is what support asks first.
fn sqlite() -> CheckView {
    ok("sqlite", format!("version {}", store::sqlite_version()))
}

async fn database(api: &Shared) -> CheckView {
    const NAME: &str = "database";
    let looked = timeout(DATABASE_LIMIT, api.store.check()).await;
    if let Ok(found) = &looked {
        api.dispatch.examined(found).await;
    }
    match looked {
        Err(_) => {
            let detail = format!("it was not read through within {}", reason::span(DATABASE_LIMIT.as_secs()));
            warn(NAME, detail, "look again when the machine has less to do")
        }
        Ok(Err(error)) => {
            fail(NAME, causes(&error), "keep a copy of the file before anything else, then restore a backup")
        }
        Ok(Ok(found)) if found.is_empty() => ok(NAME, "events, rows and pages agree"),
        Ok(Ok(found)) => {
            let shown: Vec<&str> = found.iter().take(MOST_SHOWN).map(String::as_str).collect();
            let more = found.len().saturating_sub(shown.len());
            let rest = if more == 0 { String::new() } else { format!("; and {more} more") };
            let hint = "stop the daemon, keep a copy of the file, and restore a backup";
            fail(NAME, format!("{}{rest}", shown.join("; ")), hint)
        }
    }
}

/// Whether jobs are started. After the database was looked at.
fn dispatch(api: &Shared) -> CheckView {
    const NAME: &str = "dispatch";
    let standing = api.dispatch.standing();
    match closed(&standing) {
        Some((detail, hint)) if standing.frozen.is_some() => fail(NAME, detail, hint),
        Some((detail, hint)) => warn(NAME, detail, hint),
        None => match standing.checked_at {
            Some(at) => ok(NAME, format!("jobs are started; the whole database was last looked through {at}")),
            None => ok(NAME, "jobs are started; the whole database is being looked through"),
        },
    }
}

/// Whether the newest backup is as young as the settings want it.
async fn backup(api: &Shared) -> CheckView {
    const NAME: &str = "backup";
    let plan = api.vault.plan();
    let newest = match timeout(STORAGE_LIMIT, api.vault.newest_of(&api.store.instance().id)).await {
        Ok(Ok(newest)) => newest,
        Ok(Err(error)) => return warn(NAME, causes(&error), error.hint()),
        Err(_) => {
            let detail =
                format!("{} did not answer within {}", api.vault.backups_url(), reason::span(STORAGE_LIMIT.as_secs()));
            return warn(NAME, detail, "check `url` in [backup] of mld.toml, and the store");
        }
    };
    let now = api.clock.now();
    // One that was just started has not had the time to make any.
    let (made, since) = match &newest {
        Some(backup) => (backup.manifest.made_at, format!("the newest was made {}", backup.manifest.made_at)),
        None => (api.started_at, "there is none yet".to_owned()),
    };
    if plan.is_overdue(Some(made), now) {
        let hint = "the daemon's log says why; `mlctl db backup` tries it now";
        return warn(NAME, format!("{since}, and one is to be made every {} hours", plan.every_hours), hint);
    }
    match plan.every_hours {
        0 => ok(NAME, format!("{since}; none are made by themselves")),
        hours => ok(NAME, format!("{since}; one is made every {hours} hours")),
    }
}

async fn space(state_dir: &Path) -> CheckView {
    const NAME: &str = "disk space";
    let dir = state_dir.to_owned();
    let looked = spawn_blocking(move || rustix::fs::statvfs(&dir).map_err(io::Error::from)).await;
    match looked.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(found) => free(state_dir, found.f_bavail.saturating_mul(found.f_frsize)),
        Err(error) => {
            fail(NAME, format!("{}: {error}", state_dir.display()), "check that the state directory is still there")
        }
    }
}

fn free(state_dir: &Path, bytes: u64) -> CheckView {
    const NAME: &str = "disk space";
    let detail = format!("{} MiB free in {}", bytes / (1024 * 1024), state_dir.display());
    match bytes {
        0..SPACE_NEEDED => fail(NAME, detail, "free some: new jobs are refused when it is used up"),
        SPACE_NEEDED..SPACE_WANTED => warn(NAME, detail, "checkpoints and logs fill it soon: free some"),
        _ => ok(NAME, detail),
    }
}

async fn storage(api: &Shared, stores: &Stores) -> CheckView {
    const NAME: &str = "object storage";
    let url = &api.config.storage_url;
    let usual = match url.starts_with("s3://") {
        true => "check storage.url and storage.s3 of mld, and whether the server runs",
        false => "check storage.url of mld, and that the daemon's user may write there",
    };
    let probe = async { probe::examine(&stores.open(&keys::probes_uri(url))?).await };
    match timeout(STORAGE_LIMIT, probe).await {
        Ok(Ok(Ok(can))) => {
            let detail = format!(
                "{url}: an object was written, read back and deleted, and could not be created twice; it {can}"
            );
            match (can.ranges && can.parts, can.is_complete()) {
                (true, true) => ok(NAME, detail),
                (true, false) => {
                    let hint = "jobs run; an object that is damaged on its way or an upload that is left open is not found by the store, an update of its server may help";
                    warn(NAME, detail, hint)
                }
                (false, _) => {
                    fail(NAME, detail, "use another store, or update its server: nothing large can be kept here")
                }
            }
        }
        Ok(Ok(Err(unfit))) => {
            let hint = "use another store, or update its server: a checkpoint could be overwritten here";
            fail(NAME, format!("{url}: {unfit}"), hint)
        }
        Ok(Err(error)) => fail(NAME, causes(&error), error.hint().unwrap_or(usual)),
        Err(_) => fail(NAME, format!("{url} did not answer within {}", reason::span(STORAGE_LIMIT.as_secs())), usual),
    }
}

/// Signed requests are refused by a store whose clock is a quarter of an hour away.
fn storage_time(seen: Option<(String, Duration)>, now: Timestamp) -> CheckView {
    const NAME: &str = "object storage's clock";
    const HINT: &str = "set this machine's clock: `timedatectl set-ntp true`";
    let Some((date, ago)) = seen else { return ok(NAME, "no S3 store was asked") };
    let Ok(theirs) = rfc2822::parse(&date) else { return ok(NAME, "the store does not say what time it has") };
    let theirs = theirs.timestamp().saturating_add(ago).unwrap_or(Timestamp::MAX);
    let apart = theirs.duration_since(now).as_secs().unsigned_abs();
    let detail = format!("{} apart from this machine's", reason::span(apart));
    match apart {
        0..SKEW_NOTED => ok(NAME, detail),
        SKEW_NOTED..SKEW_REFUSED => warn(NAME, detail, HINT),
        _ => fail(NAME, detail, HINT),
    }
}

async fn roots(roots: &[PathBuf]) -> CheckView {
    const NAME: &str = "data roots";
    if roots.is_empty() {
        return ok(NAME, "jobs may read from wherever the daemon's user may");
    }
    let mut missing = Vec::new();
    for root in roots {
        if !fs::metadata(root).await.is_ok_and(|found| found.is_dir()) {
            missing.push(root.display().to_string());
        }
    }
    if missing.is_empty() {
        return ok(NAME, format!("{} folders", roots.len()));
    }
    warn(NAME, format!("no folder: {}", missing.join(", ")), "make them, or take them out of storage.data_roots")
}

async fn worker(path: &Path) -> CheckView {
    program("worker", path, "name the worker's program in workers.command of mld, or with --worker").await
}

/// A machine without command jobs works as well.
async fn commands(api: &Shared) -> CheckView {
    const NAME: &str = "command worker";
    if !api.policy().commands.enabled {
        return ok(NAME, "command jobs are switched off");
    }
    let hint = "name the program in commands.executable of mld, or set commands.enabled = false";
    let found = program(NAME, &api.config.programs.command, hint).await;
    match found.status {
        CheckStatus::Fail => CheckView { status: CheckStatus::Warn, ..found },
        _ => found,
    }
}

/// Whether the GPUs that jobs are given can be seen, and the programs for them run.
async fn gpus(api: &Shared) -> CheckView {
    const NAME: &str = "GPUs";
    let machine = api.supervisor.look_at_machine().await;
    if machine.gpus.is_empty() {
        return ok(NAME, "jobs are given none");
    }
    let programs: BTreeSet<&PathBuf> = api.config.programs.by_gpu.values().collect();
    for path in programs {
        let found = program(NAME, path, "name the worker's program in devices.worker of mld").await;
        if found.status == CheckStatus::Fail {
            return found;
        }
    }
    let busy: Vec<String> =
        machine.gpus.iter().filter(|gpu| gpu.foreign.is_busy).map(|gpu| gpu.index.to_string()).collect();
    let count = reason::counted(machine.totals().gpus, "GPU");
    if busy.is_empty() {
        return ok(NAME, format!("jobs are given {count}"));
    }
    let detail = format!("jobs are given {count}, of which others use GPU {}", busy.join(", "));
    warn(NAME, detail, "`mlctl device ls` says how much; nvidia-smi says who")
}

/// Whether a file is a program that says its version.
async fn program(name: &str, program: &Path, hint: &str) -> CheckView {
    let shown = program.display();
    match fs::metadata(program).await {
        Err(error) => return fail(name, format!("{shown}: {error}"), hint),
        Ok(found) if !found.is_file() || found.permissions().mode() & 0o111 == 0 => {
            return fail(name, format!("{shown} is no program"), hint);
        }
        Ok(_) => {}
    }
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).env_clear().kill_on_drop(true);
    match timeout(WORKER_LIMIT, command.output()).await {
        Ok(Ok(output)) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            let said: String = said.lines().next().unwrap_or_default().chars().take(200).collect();
            ok(name, format!("{shown}: {said}"))
        }
        Ok(Ok(output)) => fail(name, format!("{shown} --version ended with {}", output.status), hint),
        Ok(Err(error)) => fail(name, format!("{shown} cannot be run: {error}"), hint),
        Err(_) => {
            fail(name, format!("{shown} --version took more than {}", reason::span(WORKER_LIMIT.as_secs())), hint)
        }
    }
}

async fn socket(name: &str, api: &Shared, path: &Path) -> CheckView {
    let shown = path.display();
    let found = match fs::symlink_metadata(path).await {
        Ok(found) if found.file_type().is_socket() => found,
        Ok(_) => return fail(name, format!("{shown} is no socket any more"), "start the daemon anew"),
        Err(error) => {
            return fail(name, format!("{shown}: {error}"), "start the daemon anew: it makes its sockets again");
        }
    };
    let mode = found.mode() & 0o777;
    if found.uid() != api.owner.0 {
        return fail(name, format!("{shown} belongs to user {}", found.uid()), "start the daemon anew");
    }
    if mode & 0o077 != 0 {
        let detail = format!("{shown} is open to others (mode {mode:o})");
        return warn(name, detail, format!("`chmod 700 {shown}`; others are refused all the same"));
    }
    ok(name, format!("{shown}, for user {} alone", api.owner.0))
}

/// Whether those who want to be told are.
async fn hooks(api: &Shared) -> CheckView {
    match notify::views(api).await {
        Ok(hooks) => heard(&hooks, api.clock.now()),
        Err(error) => fail("notifications", causes(&error), "the database is what to look at first"),
    }
}

fn heard(hooks: &[HookView], now: Timestamp) -> CheckView {
    const NAME: &str = "notifications";
    const HINT: &str = "`mlctl notify ls` says more, and `mlctl notify test NAME` tries one";
    let said = |hook: &HookView| {
        let (name, why) = (&hook.name, hook.error.as_deref().unwrap_or("nothing arrives"));
        let is_recent = hook.lost_at.is_some_and(|at| now.duration_since(at) < LOSS_NOTED);
        match (hook.state, hook.failing_since) {
            (HookState::Broken, _) => Some(format!("{name} cannot be used: {why}")),
            (HookState::Failing, Some(since)) => Some(format!("{name} delivers nothing since {since}: {why}")),
            _ if is_recent => {
                Some(format!("{name} has given up {} messages and missed {} events", hook.given_up, hook.missed))
            }
            _ => None,
        }
    };
    let found: Vec<String> = hooks.iter().filter_map(said).take(MOST_SHOWN).collect();
    match (found.is_empty(), hooks.len()) {
        (false, _) => warn(NAME, found.join("; "), HINT),
        (true, 0) => ok(NAME, "nobody wants to be told of anything"),
        (true, hooks) => ok(NAME, reason::counted(u32::try_from(hooks).unwrap_or(u32::MAX), "hook")),
    }
}

async fn clock(api: &Shared) -> CheckView {
    let newest = (*api.store.changes().borrow()).max(1);
    let newest = api.store.events(None, newest - 1, 1).await.ok().and_then(|mut found| found.pop());
    told(api.clock.now(), newest.map(|event| event.at))
}

/// What time it is, against the newest event.
fn told(now: Timestamp, newest: Option<Timestamp>) -> CheckView {
    const NAME: &str = "clock";
    let hint = "set the machine's clock, and have it kept by NTP";
    if now.as_second() < WRITTEN_SECONDS {
        return fail(NAME, format!("{now} is before this program was written"), hint);
    }
    match newest {
        Some(newest) if newest > now => {
            let ahead = reason::span(newest.duration_since(now).as_secs().unsigned_abs());
            warn(NAME, format!("the newest event is {ahead} ahead of the clock: it was set back"), hint)
        }
        _ => ok(NAME, format!("{now}, not before the newest event")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_judged_by_what_is_left() {
        let cases = [(0, CheckStatus::Fail), (SPACE_NEEDED, CheckStatus::Warn), (SPACE_WANTED, CheckStatus::Ok)];
        for (bytes, status) in cases {
            let check = free(Path::new("/s"), bytes);
            assert_eq!((check.status, check.hint.is_some()), (status, status != CheckStatus::Ok));
        }
    }

    #[test]
    fn a_store_whose_clock_is_far_away_is_seen() {
        let now: Timestamp = "2026-11-25T10:00:00Z".parse().unwrap();
        for (date, ago, status) in [
            ("Wed, 25 Nov 2026 10:00:00 GMT", 0, CheckStatus::Ok),
            ("Wed, 25 Nov 2026 09:00:00 GMT", 3600, CheckStatus::Ok),
            ("Wed, 25 Nov 2026 09:58:00 GMT", 0, CheckStatus::Warn),
            ("Wed, 25 Nov 2026 10:02:00 GMT", 0, CheckStatus::Warn),
            ("Wed, 25 Nov 2026 10:20:00 GMT", 0, CheckStatus::Fail),
            ("Wed, 25 Nov 2026 09:40:00 GMT", 0, CheckStatus::Fail),
            ("yesterday", 0, CheckStatus::Ok),
        ] {
            let check = storage_time(Some((date.into(), Duration::from_secs(ago))), now);
            assert_eq!((check.status, check.hint.is_some()), (status, status != CheckStatus::Ok), "{date}");
        }
        assert_eq!(storage_time(None, now).status, CheckStatus::Ok);
    }

    #[test]
    fn a_clock_that_was_set_back_is_seen() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let cases = [
            ("2026-11-25T10:00:00Z", Some("2026-11-25T09:59:59Z"), CheckStatus::Ok),
            ("2026-11-25T10:00:00Z", None, CheckStatus::Ok),
            ("2026-11-25T10:00:00Z", Some("2026-11-25T12:30:00Z"), CheckStatus::Warn),
            ("1970-01-01T00:00:09Z", None, CheckStatus::Fail),
        ];
        for (now, newest, status) in cases {
            assert_eq!(told(at(now), newest.map(at)).status, status, "{now}");
        }
    }

    #[tokio::test]
    async fn a_worker_is_a_program_that_says_its_version() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(worker(Path::new("/bin/false")).await.status, CheckStatus::Fail);
        assert_eq!(worker(dir.path()).await.status, CheckStatus::Fail);
        assert_eq!(worker(&dir.path().join("none")).await.status, CheckStatus::Fail);
        let found = worker(Path::new("/bin/echo")).await;
        assert_eq!(found.status, CheckStatus::Ok, "{}", found.detail);
    }
}
