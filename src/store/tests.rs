//! How SQLite carries out the statements: pinned, so that a change of one, of the schema or of SQLite that makes a path slow on a large table is seen without a large table.

use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    aliases, arrays, datasets, deadlines, dependencies, flush, gates, halving, held, hooks, kept, list, load, members,
    models, open, queues, read, removal, retrain, roots, schedules, timers, unit, usage,
};

async fn empty() -> SqliteConnection {
    let mut conn = SqliteConnectOptions::new().in_memory(true).connect().await.unwrap();
    for migration in open::MIGRATIONS {
        sqlx::raw_sql(*migration).execute(&mut conn).await.unwrap();
    }
    conn
}

async fn plan(conn: &mut SqliteConnection, sql: &str) -> Vec<String> {
    let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = sqlx::query(explain).fetch_all(conn).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>("detail")).collect()
}

/// From the first job of a class to the first of the next, and never over those between.
#[tokio::test]
async fn classes_are_sought_and_not_walked() {
    let expected = [
        "CO-ROUTINE classes",
        "SETUP",
        "SCAN CONSTANT ROW",
        "SCALAR SUBQUERY 1",
        "SCAN jobs USING INDEX jobs_ready",
        "RECURSIVE STEP",
        "SCAN classes",
        "SEARCH this USING INTEGER PRIMARY KEY (rowid=?)",
        "CORRELATED SCALAR SUBQUERY 3",
        "SEARCH next USING INDEX jobs_ready ((queue,user_id,cpus,gpus,memory_mib,vram_mib,brevity,rank_us)>(?,?,?,?,?,?,?,?))",
        "SCAN classes",
        "SEARCH class USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH job USING INTEGER PRIMARY KEY (rowid=?)",
        "CORRELATED LIST SUBQUERY 5",
        "SEARCH jobs USING INDEX jobs_ready (queue=? AND user_id=? AND cpus=? AND gpus=? AND memory_mib=? AND vram_mib=? AND brevity=?)",
        // Of the few jobs that were found.
        "USE TEMP B-TREE FOR ORDER BY",
    ];
    assert_eq!(plan(&mut empty().await, read::READY).await, expected);
}

#[tokio::test]
async fn the_fast_paths_are_walks_of_one_index() {
    let mut conn = empty().await;
    let attempt = "SEARCH attempts USING INDEX sqlite_autoindex_attempts_1 (job_id=? AND attempt=?) LEFT-JOIN";
    let cases: [(&str, &str, &[&str]); 17] = [
        (
            "next ready",
            read::NEXT_READY,
            &[
                "CO-ROUTINE (subquery-2)",
                "COMPOUND QUERY",
                "LEFT-MOST SUBQUERY",
                "SEARCH jobs USING COVERING INDEX jobs_later (due=? AND not_before_us>?)",
                "UNION ALL",
                "SEARCH jobs USING COVERING INDEX jobs_later (due=? AND not_before_us>?)",
                "SEARCH (subquery-2)",
            ],
        ),
        (
            "overdue",
            read::IS_OVERDUE,
            &[
                "SCAN CONSTANT ROW",
                "SCALAR SUBQUERY 1",
                "SEARCH jobs USING COVERING INDEX jobs_later (due=? AND not_before_us<?)",
            ],
        ),
        ("by state", list::BY_STATE, &["SEARCH jobs USING INDEX jobs_state (state=? AND <expr>=? AND id>?)", attempt]),
        (
            "too many of a state",
            list::BOUND_BY_STATE,
            &["SEARCH jobs USING COVERING INDEX jobs_state (state=? AND <expr>=? AND id>?)"],
        ),
        (
            "too many finished",
            list::BOUND_FINISHED,
            &["SEARCH jobs USING COVERING INDEX jobs_finished (finished_us>?)"],
        ),
        ("finished", list::LAST_FINISHED, &["SEARCH jobs USING INDEX jobs_finished (finished_us>?)", attempt]),
        ("a key", read::KEYED, &["SEARCH idempotency USING PRIMARY KEY (user_id=? AND key=?)"]),
        ("one job", read::JOB, &["SEARCH jobs USING INTEGER PRIMARY KEY (rowid=?)", attempt]),
        ("the last", read::LAST, &["SEARCH jobs"]),
        (
            "finished without members",
            list::LAST_FINISHED_ALONE,
            &["SEARCH jobs USING INDEX jobs_finished_alone (finished_us>?)", attempt],
        ),
        (
            "too many finished without members",
            list::BOUND_FINISHED_ALONE,
            &["SEARCH jobs USING INDEX jobs_finished_alone (finished_us>?)"],
        ),
        ("a curve", read::METRICS, &["SEARCH metrics USING INDEX metrics_job (job_id=? AND id>?)"]),
        ("the log", read::EVENTS, &["SEARCH events USING INTEGER PRIMARY KEY (rowid>?)"]),
        (
            "the nearest tick",
            schedules::NEXT,
            &["SEARCH schedules USING COVERING INDEX schedules_next (next_tick_us>?)"],
        ),
        ("due schedules", schedules::DUE, &["SEARCH schedules USING INDEX schedules_next (next_tick_us<?)"]),
        ("a schedule's ticks", schedules::TICKS, &["SEARCH ticks USING PRIMARY KEY (schedule_id=?)"]),
        ("a job's log", read::EVENTS_OF_ONE, &["SEARCH events USING INDEX events_job (job_id=? AND id>?)"]),
    ];
    for (name, sql, expected) in cases {
        let plan = plan(&mut conn, sql).await;
        assert_eq!(plan, expected, "{name}");
    }
}

#[tokio::test]
async fn the_jobs_of_a_schedule_are_found_without_a_look_at_others() {
    let mut conn = empty().await;
    let cases: [(&str, &str, &[&str]); 2] = [
        ("schedules that failures pause", schedules::WATCHED, &["SCAN schedules USING INDEX schedules_watched"]),
        (
            "a schedule's open jobs",
            schedules::OPEN,
            &[
                "CO-ROUTINE last",
                "SEARCH ticks USING COVERING INDEX ticks_jobs (schedule_id=?)",
                "SCAN last",
                "SEARCH jobs USING INTEGER PRIMARY KEY (rowid=?)",
                "USE TEMP B-TREE FOR ORDER BY",
            ],
        ),
    ];
    for (name, sql, expected) in cases {
        let plan = plan(&mut conn, sql).await;
        assert_eq!(plan, expected, "{name}");
    }
    must_not_walk(&mut conn, &[("make schedules others", timers::OTHER)]).await;
}

#[tokio::test]
async fn retrainings_and_their_stages_are_found_without_a_look_at_others() {
    let mut conn = empty().await;
    let expected = [
        "SCAN run USING INDEX jobs_retrain",
        "CORRELATED SCALAR SUBQUERY 1",
        "SEARCH keyed USING PRIMARY KEY (user_id=? AND key>? AND key<?)",
        "SEARCH stage USING INTEGER PRIMARY KEY (rowid=?)",
    ];
    assert_eq!(plan(&mut conn, retrain::OPEN).await, expected);
    must_not_walk(&mut conn, &[("stages of runs", retrain::OPEN_STAGES)]).await;
}

#[tokio::test]
async fn arrays_are_found_without_a_look_at_others() {
    let mut conn = empty().await;
    let cases: [(&str, &str, &[&str]); 3] = [
        ("an array", arrays::ONE, &["SEARCH arrays USING INTEGER PRIMARY KEY (rowid=?)"]),
        ("an array's counts", arrays::COUNTS, &["SEARCH array_counts USING PRIMARY KEY (array_id=?)"]),
        (
            "arrays with members there",
            arrays::WITH_TALLY,
            &["SEARCH array_counts USING INDEX array_counts_tally (tally=?)"],
        ),
    ];
    for (name, sql, expected) in cases {
        let plan = plan(&mut conn, sql).await;
        assert_eq!(plan, expected, "{name}");
    }
}

/// Of the jobs that were ever submitted, those alone are looked at whose spec names a model.
#[tokio::test]
async fn who_is_to_be_registered_is_found_by_an_index() {
    let found = plan(&mut empty().await, models::UNREGISTERED).await;
    assert!(found[0].starts_with("SEARCH begun USING INDEX job_specs_registers (registers>?)"), "{found:?}");
}

/// Fails with the statement that walks a whole table of jobs or of what belongs to them.
async fn must_not_walk(conn: &mut SqliteConnection, statements: &[(&str, &str)]) {
    for (name, sql) in statements {
        // SQLite prepares a statement anew each time that a LIMIT's parameter is bound which stands there alone.
        let alone = sql
            .split("LIMIT ?")
            .skip(1)
            .any(|rest| !rest.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(" + 0"));
        assert!(!alone, "{name}: {sql}");
        let plan = plan(conn, sql).await;
        let tables = [
            "jobs",
            "attempts",
            "events",
            "metrics",
            "checkpoints",
            "idempotency",
            "job_specs",
            "old",
            "own",
            "i",
            "schedules",
            "timed",
            "begins",
            "this",
            "version",
            "ticks",
            "missed_ticks",
            "missed",
            "kept",
            "arrays",
            "array_counts",
            "rungs",
            "waits",
            "other",
            "dependencies",
            "queue_counters",
            "usage",
            "hooks",
            "notices",
        ];
        for step in &plan {
            let walked = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
            assert!(!walked.is_some_and(|table| tables.contains(&table)), "{name}: {plan:#?}");
        }
    }
}

#[tokio::test]
async fn a_removal_looks_at_nothing_but_what_goes() {
    let mut conn = empty().await;
    let statements = [
        ("the last token of removed jobs", removal::LAST_TOKEN),
        ("erase events", removal::ERASE),
        ("remove dependencies", removal::ROWS[0]),
        ("remove specs", removal::ROWS[1]),
        ("remove keys", removal::ROWS[2]),
        ("remove attempts", removal::ROWS[3]),
        ("remove checkpoints", removal::ROWS[4]),
        ("remove metrics", removal::ROWS[5]),
        ("the oldest finished", removal::OLDEST),
        ("the oldest arrays", removal::OLDEST_ARRAYS),
        ("remove jobs", removal::JOBS),
        ("arrays without members", removal::EMPTY),
        ("remove rungs", removal::ARRAYS[0]),
        ("remove counts", removal::ARRAYS[1]),
        ("remove arrays", removal::ARRAYS[2]),
        ("the beginning of the log", removal::BEGINNING),
        ("whether it can be cut off", removal::IS_PRUNABLE),
        ("cut it off", removal::CUT),
        ("ids of all members", removal::MEMBERS),
    ];
    must_not_walk(&mut conn, &statements).await;
}

#[tokio::test]
async fn what_is_needed_is_found_without_a_walk() {
    let mut conn = empty().await;
    let statements = [
        ("checkpoints and who needs them", kept::KEPT),
        ("what is begun from", kept::BEGUN_FROM),
        ("what versions hold", kept::VERSIONS_OF),
        ("checkpoints that are needed", kept::NEEDED),
        ("checkpoints on record", kept::RECORDED),
        ("versions of a model", models::VERSIONS),
        ("a version of a model", models::VERSION),
        ("what an alias means", models::NAMED),
        ("aliases of a model", aliases::ALIASES),
        ("moves of aliases", aliases::MOVES),
        ("load aliases", aliases::LOAD),
        ("clear aliases", aliases::CLEARED),
        ("load models", models::LOAD),
        ("load versions", models::LOAD_VERSIONS),
        ("count versions", models::COUNTED),
        ("remove versions", models::REMOVED),
        ("a job's roots", roots::JOB),
        ("epochs of a job", roots::EPOCHS),
        ("checkpoints as roots", roots::CHECKPOINTS),
        ("weights as roots", roots::WEIGHTS),
        ("what schedules begin with as roots", roots::SCHEDULED),
        ("versions as roots", roots::VERSIONS),
        ("all checkpoints", roots::ALL_CHECKPOINTS),
        ("manifests as roots", roots::MANIFESTS),
        ("data of datasets as roots", roots::FOLDERS),
        ("versions of a dataset", datasets::VERSIONS),
        ("a version of a dataset", datasets::VERSION),
        ("load datasets", datasets::LOAD),
        ("load versions of datasets", datasets::LOAD_VERSIONS),
        ("count versions of datasets", datasets::COUNTED),
        ("remove versions of datasets", datasets::REMOVED),
    ];
    must_not_walk(&mut conn, &statements).await;
    // However many versions a model has: those of one job, and the one of a number.
    let versions = plan(&mut conn, models::LOAD_VERSIONS).await;
    let sought: Vec<_> = versions.iter().filter_map(|step| step.strip_prefix("SEARCH ")).collect();
    for index in ["model_versions_job (job_id=?)", "sqlite_autoindex_model_versions_1 (model=? AND version=?)"] {
        assert!(sought.iter().any(|step| step.ends_with(index)), "{versions:#?}");
    }
    assert!(!sought.iter().any(|step| step.ends_with("(model=?)")), "{versions:#?}");
}

#[tokio::test]
async fn what_hooks_are_told_of_is_found_without_a_walk() {
    let statements = [
        ("notices", hooks::AFTER),
        ("the newest notice", hooks::NEWEST),
        ("when an array ended", hooks::ENDED),
        ("forget hooks", hooks::FORGET),
        ("forget notices", hooks::PRUNE),
    ];
    must_not_walk(&mut empty().await, &statements).await;
}

#[tokio::test]
async fn no_statement_walks_a_whole_table_or_sorts_one() {
    let mut conn = empty().await;
    let statements = [
        ("running", read::RUNNING),
        ("occupants", read::OCCUPANTS),
        ("jobs of a queue", queues::UNFINISHED),
        ("use", usage::SINCE),
        ("attempts", read::ATTEMPTS),
        ("checkpoints", read::CHECKPOINTS),
        ("load jobs", load::JOBS),
        ("load keys", load::KEYS),
        ("load specs", load::SPECS),
        ("load checkpoints", load::CHECKPOINTS),
        ("load attempts", held::LOAD),
        ("what jobs wait for", dependencies::AWAITED),
        ("what blocked jobs wait for", dependencies::OF),
        ("who waits", dependencies::WAITERS),
        ("how many wait", dependencies::COUNT),
        ("where others stand", dependencies::STANDINGS),
        ("where arrays stand", dependencies::COUNTS),
        ("which are there", dependencies::KNOWN),
        ("which have waiters", dependencies::WITH_WAITERS),
        ("which are needed", dependencies::NEEDED),
        ("who is blocked by one", dependencies::BLOCKED_BY),
        ("dependencies of some jobs", dependencies::ROWS),
        ("waive dependencies", unit::settle::WAIVED),
        ("load last metrics", held::LAST_METRICS),
        ("change attempts", held::CHANGED),
        ("change jobs", flush::CHANGED_JOBS),
        ("forget checkpoints", flush::FORGOTTEN),
        ("supersede points", flush::SUPERSEDED),
        ("change counts of arrays", members::LOSSES),
        ("read arrays that are edited", members::EDITED),
        ("change arrays", members::CHANGED),
        ("note the ends of arrays", members::ENDS),
        ("best members", arrays::LEAST),
        ("who was let through a gate", gates::TAKEN),
        ("who has a place at a gate", gates::THROUGH),
        ("who waits behind a gate", gates::BEHIND),
        ("let through a gate", gates::OPEN),
        ("gates whose jobs become due", gates::DUE),
        ("who makes way at a gate", unit::replace::NEWEST),
        ("who makes no way at a gate", unit::replace::OTHERS),
        ("whose start time comes and who replaces others", unit::replace::DUE),
        ("arrays with halving", halving::ARRAYS),
        ("who came to a rung", halving::CAME),
        ("what they had there", halving::VALUES),
        ("members", arrays::MEMBERS),
        ("ids of members", arrays::IDS),
        ("quarantined members", arrays::QUARANTINED),
        ("a name", read::OPEN_NAMED),
        ("the newest of a name", read::NEWEST_NAMED),
        ("promote", flush::PROMOTE),
        ("the nearest deadline", deadlines::NEXT),
        ("what is late", deadlines::LATE),
        ("a schedule", schedules::ONE),
        ("load schedules", timers::LOAD),
        ("load ticks", timers::FIRED),
        ("change schedules", timers::CHANGED),
        ("remove ticks", timers::REMOVE_TICKS),
        ("remove missed ticks", timers::REMOVE_MISSED),
        ("forget missed ticks", timers::FORGOTTEN),
        ("a missed tick fires", timers::FIRED_AFTER_ALL),
        ("missed ticks", schedules::MISSED),
        ("outcomes of a schedule", schedules::OUTCOMES),
        ("jobs of ticks", schedules::OF_TICKS),
        ("remove schedules", timers::REMOVE),
    ];
    must_not_walk(&mut conn, &statements).await;
    // The control.
    let walk = plan(&mut conn, "SELECT id FROM jobs WHERE user_id = 1").await;
    assert!(walk[0].starts_with("SCAN jobs"), "{walk:?}");
}
