//! `mlctl schedule`: jobs that are submitted again and again. What a line means is said here without a daemon; the daemon checks it once more.

mod apply;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use jiff::{Timestamp, tz::TimeZone};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::to_raw_value;

use crate::{
    api::{
        query::{DEFAULT_PREVIEW_RUNS, PreviewQuery, address, segment},
        types::{
            AddScheduleRequest, BackfillRequest, BackfillView, PreviewView, RunScheduleRequest, RunView, SCHEMA,
            ScheduleDetail, ScheduleList, ScheduleView,
        },
    },
    cli::{
        Context, Done, Failure,
        client::Client,
        exit::Exit,
        output::{jobs, schedules},
        spec,
        times::{self, Moment},
    },
    config::document::{FlagMistake, Report},
    domain::{
        rules,
        schedule::{Crontab, MAX_FAILURES, Misfire, Overlap, Policy, Tick, Timetable, zone},
    },
};

/// The most runs that are previewed.
const MAX_RUNS: i64 = 10_000;

/// How long a client waits for a backfill: longer than the daemon, which has the better message.
const BACKFILL_LIMIT: Duration = Duration::from_secs(120);

const BACKFILL_EXAMPLES: &str = "\
The runs are those that `schedule preview` shows for that time. Their jobs bear the labels of any
run, mlctl/schedule and mlctl/scheduled-at, and are in the name of who added the schedule; a
model:NAME@ALIAS in the spec is what it means now. Runs to come find them as they find earlier runs:
with --overlap skip they are left out meanwhile, with cancel-other and terminate-other they wait for
them and do not end them. Failures among them do not pause the schedule.

Examples:
  mlctl schedule backfill workdays --from 2026-11-02 --to 2026-11-07 --dry-run
  mlctl schedule backfill workdays --from 2026-11-02 --to 2026-11-07
  mlctl schedule backfill hourly --from 2026-11-01 --to 2026-11-02 --overlap allow
  mlctl ls --all --label mlctl/schedule=workdays";

const APPLY_EXAMPLES: &str = "\
A file has the keys of the flags of `schedule add`, and `job`, the spec's file relative to it:
  cron = \"30 2 * * *\"
  zone = \"Europe/Berlin\"
  job = \"../jobs/digits.toml\"
  overlap = \"skip\"
  misfire = \"once\"
  catch_up = \"12h\"
  jitter = \"10m\"
  pause_on_failure = 3

Examples:
  mlctl schedule apply config/schedules --dry-run
  mlctl schedule apply config/schedules
  mlctl schedule apply nightly.toml weekly.toml
  mlctl schedule apply config/schedules --prune     and no others";

const EXAMPLES: &str = "\
A line has five fields: minute, hour, day of month, month, day of week. Or it is one of @hourly,
@daily, @weekly, @monthly and @yearly. A time of day runs once a day through every change of the
clock; a line whose minute or hour begins with * follows the clock. Of the runs that were missed
while no daemon ran, the latest alone is made up for, unless --misfire says otherwise. A run that
comes while an earlier one has not ended is left out, unless --overlap says otherwise;
`schedule show` tells which. The jobs bear the labels mlctl/schedule and mlctl/scheduled-at, which
is the time that the line says, whatever --jitter adds to it.

Examples:
  mlctl schedule add config/jobs/digits.toml --cron '30 2 * * *' --zone Europe/Berlin
  mlctl schedule add job.toml --cron '*/15 8-18 * * mon-fri' -n workdays --set priority=80
  mlctl schedule add job.toml --cron @hourly --misfire all --catch-up 6h
  mlctl schedule add job.toml --cron @hourly --overlap buffer-one --pause-on-failure=3
  mlctl schedule add job.toml --cron @daily --jitter 10m --until 2027-04-01
  mlctl schedule apply config/schedules        as the files there say
  mlctl schedule ls
  mlctl schedule show workdays                 its last runs and their jobs
  mlctl schedule preview workdays -n 10
  mlctl schedule preview --cron '30 2 * * *' --zone Europe/Berlin --from 2026-03-27T00:00:00Z
  mlctl schedule run workdays                  its job now, besides its runs
  mlctl schedule backfill workdays --from 2026-11-02 --to 2026-11-07
  mlctl schedule pause workdays                no runs until resume; those of that time are left out
  mlctl schedule resume workdays
  mlctl schedule rm workdays                   its jobs stay";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

/// What a schedule does besides its line.
#[derive(Debug, Args)]
struct PolicyArguments {
    /// What becomes of runs that were missed, while no daemon ran or the queue was full: skip leaves them out, once runs the latest of them, all runs each, oldest first
    #[arg(long, value_name = "POLICY", value_enum, default_value = "once")]
    misfire: MisfireName,
    /// Missed runs that are later than this are left out; with --misfire all there must be one
    #[arg(long, value_name = "DURATION", value_parser = times::whole_seconds, required_if_eq("misfire", "all"))]
    catch_up: Option<u32>,
    /// What becomes of a run while an earlier one has not ended: skip leaves it out, buffer-one has it wait unless one waits already, buffer-all has each wait, cancel-other has the earlier one save its work and end first, terminate-other cancels it, allow runs both [default: skip, or buffer-all with --misfire all]
    #[arg(long, value_name = "POLICY", value_enum)]
    overlap: Option<OverlapName>,
    /// Pause the schedule after so many failed jobs in a row, 1 when no number is given
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FAILURES)))]
    pause_on_failure: Option<u32>,
    /// No runs before this moment; a time without an offset is one of the zone, and a date is its beginning
    #[arg(long, value_name = "MOMENT", value_parser = times::day_or_moment)]
    from: Option<Moment>,
    /// No runs after this moment
    #[arg(long, value_name = "MOMENT", value_parser = times::day_or_moment)]
    until: Option<Moment>,
    /// Submit each job up to so long after its time, by the same chance for ever, so that schedules of one time do not start together
    #[arg(long, value_name = "DURATION", value_parser = times::whole_seconds)]
    jitter: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum MisfireName {
    Skip,
    #[default]
    Once,
    All,
}

#[derive(Debug, Clone, Copy, ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum OverlapName {
    Skip,
    BufferOne,
    BufferAll,
    CancelOther,
    TerminateOther,
    Allow,
}

/// What of [`OverlapName`] runs that are made up for can do.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum BackfillOverlapName {
    BufferAll,
    Allow,
}

impl BackfillOverlapName {
    const fn meant(self) -> Overlap {
        match self {
            Self::BufferAll => Overlap::BufferAll,
            Self::Allow => Overlap::Allow,
        }
    }
}

impl PolicyArguments {
    /// One run at a time, unless all runs are asked for.
    const fn overlap(&self) -> Overlap {
        match (self.overlap, self.misfire) {
            (Some(OverlapName::Skip), _) | (None, MisfireName::Skip | MisfireName::Once) => Overlap::Skip,
            (Some(OverlapName::BufferOne), _) => Overlap::BufferOne,
            (Some(OverlapName::BufferAll), _) | (None, MisfireName::All) => Overlap::BufferAll,
            (Some(OverlapName::CancelOther), _) => Overlap::CancelOther,
            (Some(OverlapName::TerminateOther), _) => Overlap::TerminateOther,
            (Some(OverlapName::Allow), _) => Overlap::Allow,
        }
    }

    fn resolve(&self, now: Timestamp, zone: &TimeZone) -> Result<Policy, Failure> {
        Ok(Policy {
            misfire: match self.misfire {
                MisfireName::Skip => Misfire::Skip,
                MisfireName::Once => Misfire::Once,
                MisfireName::All => Misfire::All,
            },
            catch_up_seconds: self.catch_up,
            from: times::resolved("--from", self.from, now, zone)?,
            until: times::resolved("--until", self.until, now, zone)?,
            jitter_seconds: self.jitter.unwrap_or_default(),
            overlap: self.overlap(),
            pause_on_failure: self.pause_on_failure,
        })
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Submit a job whenever a crontab line says so
    #[command(after_help = EXAMPLES)]
    Add {
        /// The job's spec, a TOML file; - for standard input. It is kept as it is now, and so is the model that a `job:NAME` in it means
        #[arg(value_name = "FILE")]
        file: String,
        /// When: five crontab fields, or @daily and the like
        #[arg(long, value_name = "LINE", allow_hyphen_values = true)]
        cron: String,
        /// The time zone that the line is read in
        #[arg(long, value_name = "ZONE", default_value = "UTC")]
        zone: String,
        /// The schedule's name [default: the job's]
        #[arg(short, long)]
        name: Option<String>,
        /// Lay a value over the spec, as for submit; may be repeated
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        #[command(flatten)]
        policy: PolicyArguments,
    },
    /// Have schedules be what files say: added, changed where they stand, or left alone
    ///
    /// All files are checked before anything is changed, which is done in one transaction. A schedule that is changed keeps its runs, and whether it is paused. What the files' specs name is looked up again, as it was when the schedule was added.
    #[command(after_help = APPLY_EXAMPLES)]
    Apply {
        /// Files, or folders whose .toml files are meant
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
        /// Remove all schedules that no file names; their jobs stay
        #[arg(long)]
        prune: bool,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// List schedules with their next and last runs
    #[command(after_help = EXAMPLES)]
    Ls,
    /// Show a schedule and its last runs
    #[command(after_help = EXAMPLES)]
    Show {
        /// The schedule's name
        #[arg(value_parser = schedule_name)]
        name: String,
    },
    /// Show when a schedule runs next, or when a line would: no daemon is needed for that
    #[command(after_help = EXAMPLES)]
    Preview {
        /// The schedule's name
        #[arg(value_parser = schedule_name, required_unless_present = "cron", conflicts_with_all = ["cron", "zone"])]
        name: Option<String>,
        /// The crontab line instead of a schedule
        #[arg(long, value_name = "LINE", allow_hyphen_values = true)]
        cron: Option<String>,
        /// The time zone that the line is read in [default: UTC]
        #[arg(long, value_name = "ZONE", requires = "cron")]
        zone: Option<String>,
        /// Only runs after this moment, such as 2026-03-27T00:00:00Z [default: now]
        #[arg(long, value_name = "MOMENT")]
        from: Option<Timestamp>,
        /// How many runs
        #[arg(short, value_name = "N", default_value_t = DEFAULT_PREVIEW_RUNS, value_parser = clap::value_parser!(u32).range(1..=MAX_RUNS))]
        n: u32,
    },
    /// Submit a schedule's job now, besides its runs
    #[command(after_help = EXAMPLES)]
    Run {
        /// The schedule's name
        #[arg(value_parser = schedule_name)]
        name: String,
        /// The idempotency key: a second run with it is the same job [default: a random one]
        #[arg(long)]
        key: Option<String>,
    },
    /// Submit the jobs of runs of a past time that have none, at most a thousand at once
    ///
    /// Runs that have a job are left alone, whatever became of it. One job waits for the other, unless the schedule's runs may overlap, and no later run ends one. Whatever cuts this short, the same command goes on with it.
    #[command(after_help = BACKFILL_EXAMPLES)]
    Backfill {
        /// The schedule's name
        #[arg(value_parser = schedule_name)]
        name: String,
        /// No runs before this moment; a time without an offset is one of the schedule's zone, and a date is its beginning
        #[arg(long, value_name = "MOMENT", value_parser = times::day_or_moment)]
        from: Moment,
        /// No runs after this moment, which has passed
        #[arg(long, value_name = "MOMENT", value_parser = times::day_or_moment)]
        to: Moment,
        /// Whether each job waits until those before it have ended: buffer-all has it wait, allow does not [default: allow where the schedule allows it, else buffer-all]
        #[arg(long, value_name = "POLICY", value_enum)]
        overlap: Option<BackfillOverlapName>,
        /// Only show what would be submitted
        #[arg(long)]
        dry_run: bool,
    },
    /// Have schedules submit nothing until `resume`; jobs that are there go on
    #[command(after_help = EXAMPLES)]
    Pause {
        /// The schedules' names
        #[arg(value_parser = schedule_name, required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Have paused schedules go on with their next run; those that were left out are not made up for
    #[command(after_help = EXAMPLES)]
    Resume {
        /// The schedules' names
        #[arg(value_parser = schedule_name, required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove schedules; the jobs that they submitted stay
    #[command(after_help = EXAMPLES)]
    Rm {
        /// The schedules' names
        #[arg(value_parser = schedule_name, required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// Refuses what would lead to another path.
fn schedule_name(text: &str) -> Result<String, String> {
    match text {
        "" | "." | ".." => Err("this is no name of a schedule".into()),
        text => Ok(text.to_owned()),
    }
}

/// What is wrong with a name that was given beside the spec.
fn check_name(name: Option<&str>) -> Result<(), Failure> {
    let Some((text, problem)) = name.and_then(|text| Some((text, rules::schedule_name(text)?))) else { return Ok(()) };
    let (span, hint) = (0..text.chars().count().max(1), problem.hint.unwrap_or_default());
    let mistake = FlagMistake { flag: "--name", text, span, path: "name", message: problem.message, hint };
    Err(Failure::report(Exit::Invalid, Report::of_flags(vec![mistake])))
}

/// A refusal by the daemon with its mistakes where they were written, if all of them are the spec's.
fn located(written: &spec::Written, refusal: Failure) -> Failure {
    let is_own = |path: &str| matches!(path, "name" | "cron" | "zone") || path.starts_with("policy.");
    if refusal.problems.iter().any(|problem| is_own(&problem.path)) { refusal } else { written.located(refusal) }
}

fn path(name: &str) -> String {
    format!("/v1/schedules/{}", segment(name))
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Add { file, .. } if file == spec::STANDARD_INPUT => "schedule the spec from standard input".into(),
            Verb::Add { file, .. } => format!("schedule {file}"),
            Verb::Apply { .. } => "apply schedules".into(),
            Verb::Ls => "list schedules".into(),
            Verb::Show { name } => format!("show schedule {name}"),
            Verb::Preview { name: Some(name), .. } => format!("preview schedule {name}"),
            Verb::Preview { name: None, .. } => "preview a schedule".into(),
            Verb::Run { name, .. } => format!("run schedule {name}"),
            Verb::Backfill { name, .. } => format!("backfill schedule {name}"),
            Verb::Pause { names } => format!("pause {}", names.join(", ")),
            Verb::Resume { names } => format!("resume {}", names.join(", ")),
            Verb::Rm { names } => format!("remove {}", names.join(", ")),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let now = context.clock.now();
        match self.verb {
            Verb::Add { file, cron, zone, name, set, policy } => {
                let policy = policy.resolve(now, timetable(&cron, &zone)?.zone())?;
                check_name(name.as_deref())?;
                let overlay = spec::Overlay { set: &set, ..spec::Overlay::default() };
                let written = spec::open(spec::Source::File(&file), &overlay, context.environment)?;
                let spec =
                    to_raw_value(&written.spec).map_err(|error| Failure::caused("write the spec as JSON", &error))?;
                let request = AddScheduleRequest { name, cron, zone: Some(zone), policy, spec };
                let sent = context.client.post_safely("/v1/schedules", &request).await;
                let (status, view): (_, ScheduleView) = sent.map_err(|refusal| located(&written, refusal))?;
                schedules::added(&mut context.out, &view, status == hyper::StatusCode::CREATED, now)?;
            }
            Verb::Apply { paths, prune, dry_run } => apply::run(context, &paths, (prune, dry_run)).await?,
            Verb::Ls => {
                let list: ScheduleList = context.client.get("/v1/schedules").await?;
                schedules::list(&mut context.out, &list, now)?;
                if list.schedules.is_empty() {
                    context.out.say("no schedules; `mlctl schedule add --help` has examples");
                }
            }
            Verb::Show { name } => {
                let detail: ScheduleDetail = context.client.get(&path(&name)).await?;
                schedules::show(&mut context.out, &detail, now)?;
            }
            Verb::Preview { name: Some(name), from, n, .. } => {
                // The daemon's present, where no moment is named.
                let query = PreviewQuery { from, n: Some(n) };
                let preview: PreviewView =
                    context.client.get(&address(&format!("{}/preview", path(&name)), &query)).await?;
                schedules::preview(&mut context.out, &preview)?;
            }
            Verb::Preview { name: None, cron, zone, from, n } => {
                let timetable = timetable(&cron.unwrap_or_default(), zone.as_deref().unwrap_or("UTC"))?;
                for remark in timetable.line().remarks() {
                    context.out.say(format!("note: {remark}"));
                }
                let ticks = timetable.after(from.unwrap_or(now)).take(usize::try_from(n).unwrap_or(usize::MAX));
                let runs = ticks.map(|tick| run(&tick, &timetable)).collect();
                schedules::preview(&mut context.out, &PreviewView { schema: SCHEMA, runs })?;
            }
            Verb::Run { name, key } => {
                let request = RunScheduleRequest { key: key.unwrap_or_else(|| context.new_key()) };
                let (status, job) = context.client.post_safely(&format!("{}/run", path(&name)), &request).await?;
                jobs::submitted(&mut context.out, &job, status == hyper::StatusCode::CREATED, now)?;
            }
            Verb::Backfill { name, from, to, overlap, dry_run } => {
                let zone = zone_of(context, &name).await?;
                let moment = |flag: &str, moment: Moment| {
                    let resolved = moment.resolve(now, &zone);
                    resolved.map_err(|error| Failure::new(Exit::Usage, format!("{flag}: {error}")))
                };
                let (from, to) = (moment("--from", from)?, moment("--to", to)?);
                let request = BackfillRequest { from, to, overlap: overlap.map(BackfillOverlapName::meant), dry_run };
                let path = format!("{}/backfill", path(&name));
                let view: BackfillView = context.client.post_body(&path, &request, BACKFILL_LIMIT).await?;
                schedules::backfilled(&mut context.out, &name, &view)?;
            }
            Verb::Pause { names } => return change(context, names, "pause").await,
            Verb::Resume { names } => return change(context, names, "resume").await,
            Verb::Rm { names } => {
                let remove = async |client: &Client, name: &str| client.delete::<ScheduleView>(&path(name)).await;
                return super::each(context, names, remove, schedules::removed).await;
            }
        }
        Ok(Exit::Ok)
    }
}

/// The time zone of a schedule.
async fn zone_of(context: &Context<'_>, name: &str) -> Result<TimeZone, Failure> {
    let detail: ScheduleDetail = context.client.get(&path(name)).await?;
    zone(jiff::tz::db(), &detail.schedule.zone)
        .map_err(|error| Failure::new(Exit::Invalid, format!("{error}; {}", error.hint)))
}

/// Pauses schedules, or has them go on.
async fn change(context: &mut Context<'_>, names: Vec<String>, verb: &str) -> Done {
    let now = context.clock.now();
    let ask = async |client: &Client, name: &str| -> Result<ScheduleView, Failure> {
        client.post(&format!("{}/{verb}", path(name))).await
    };
    super::each(context, names, ask, |out, view| schedules::changed(out, view, now)).await
}

fn run(tick: &Tick, timetable: &Timetable) -> RunView {
    let note = tick.effect.map(|effect| effect.to_string());
    RunView { utc: tick.at, local: tick.local(timetable), note, due: None }
}

/// The timetable of a line in a zone, or all that is wrong with the two.
fn timetable(cron: &str, zone_name: &str) -> Result<Timetable, Failure> {
    let (line, found) = (Crontab::parse(cron), zone(jiff::tz::db(), zone_name));
    let mut mistakes = Vec::new();
    if let Err(error) = &line {
        let at = error.column - 1;
        let (message, hint) = (error.to_string(), error.hint.clone());
        mistakes.push(FlagMistake { flag: "--cron", text: cron, span: at..at + 1, path: "cron", message, hint });
    }
    if let Err(error) = &found {
        let (message, hint) = (error.message.clone(), error.hint.clone());
        let span = 0..zone_name.chars().count();
        mistakes.push(FlagMistake { flag: "--zone", text: zone_name, span, path: "zone", message, hint });
    }
    match (line, found) {
        (Ok(line), Ok(zone)) => Ok(Timetable::new(line, zone)),
        _ => Err(Failure::report(Exit::Invalid, Report::of_flags(mistakes))),
    }
}
