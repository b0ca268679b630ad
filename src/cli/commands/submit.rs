//! `mlctl submit`: from a spec to an acknowledged job.

use clap::Args;
use mlctl_protocol::{
    ExitClass,
    spec::{After, AfterFailed, Wins},
};
use serde_json::value::to_raw_value;

use super::{array, follow, label};
use crate::{
    api::types::{ArrayDryRunView, ArrayView, DryRunView, JobView, SubmitArrayRequest, SubmitRequest},
    cli::{
        Context, Done, Failure,
        client::{ANSWER_LIMIT, LONG_LIMIT},
        exit::Exit,
        output::{arrays, jobs, text},
        sizes,
        spec::{self, Source},
        sweep,
        times::{self, Moment},
    },
    config::OutputForm,
};

const EXAMPLES: &str = "\
With --array there are many jobs, one array: a row in `ls`, compared by `show`, and cancelled, held or tried again as one. 
Ranges to draw from: A..B of numbers with a point or an exponent has every order of magnitude as likely, A..B of whole numbers every number; log:A..B and uniform:A..B say it for either. Values are TOML as for --set, with tables and lists.
Paths in a spec are relative to its folder; those in flags, and in a spec from standard input, to the working directory.
What follows -- is a program and its arguments, run without a shell in this directory; exit code 0 is success. One that fails is not tried again unless --retries says so.
It has PATH, HOME, USER, LANG and the like from mld, what --env sets, and ML_JOB_ID, ML_ATTEMPT, ML_ARRAY_INDEX, ML_RUN_DIR (a folder of its own), ML_DEADLINE, ML_SCHEDULED_AT, CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS.
With --checkpoint-dir, what it leaves under ML_CHECKPOINT_DIR by a name that ends in a number, the step, such as step-500.pt or checkpoint-500/, goes to storage once nothing in it was written for two seconds, or at once when the
program ends in order. Give it such a name when it is done (.tmp in the name, or tmp before it, says that it is not). A later attempt has the newest under ML_RESUME_FROM.
To stop, pause or cancel it, all that it started is sent SIGTERM, and killed when it does not end. What it leaves running is killed when it ends.

Examples:
  mlctl submit job.toml                       prints the job's id
  mlctl submit job.toml -f                    and follows it to its end
  mlctl submit job.toml --set train.max_epochs=5 --set train.optimizer.learning_rate=0.01
  mlctl submit job.toml -n night --label team=vision --priority 80
  mlctl submit job.toml --queue night         as much at once as the queue allows
  mlctl submit job.toml --deadline 08:00      by the morning or not at all; a job that fails so ends with 22
  mlctl submit job.toml --retries 5 --retry-on oom,hang
  mlctl submit job.toml -t 2h -w              ends with 22 when two hours were not enough
  mlctl submit job.toml --begin 02:00         waits for the night; `mlctl why` says so
  id=$(mlctl submit job.toml -q)              the id alone, for scripts
  mlctl submit job.toml --hold                starts after `mlctl release`
  mlctl submit job.toml --key 2026-11-25      the same key again is the same job
  mlctl submit job.toml --concurrency-key prod    one of those with the key at a time
  mlctl submit job.toml --concurrency-key prod --concurrency newest    instead of the one that runs
  mlctl submit job.toml --after ok:12,any:13      starts when 12 has succeeded and 13 has ended; cancelled when 12 fails
  mlctl submit report.toml --after @last --after-failed keep
  mlctl submit job.toml --array lr=1e-4,1e-3,1e-2 --array batch_size=32,64 --parallel 2
  mlctl submit job.toml --array lr=1e-4..1e-1 --array dropout=0,0.1,0.2 --sample 20 --seed 1
  mlctl submit job.toml --array lr=1e-5..1e-1 --sample 81 --halving metric=val_loss,min-steps=500
  sed s/32/64/ job.toml | mlctl submit - --dry-run
  mlctl submit -f -- ./train.sh --lr 0.1      a program of your own
  mlctl submit --gpus 1 -t 8h --env WANDB_MODE=offline --cwd /srv/gpt -- python3 train.py
  mlctl submit --checkpoint-dir ckpt --retries 3 -- python3 train.py   goes on from ML_RESUME_FROM, where that is set
  mlctl submit --array lr=1e-3,3e-4 --array seed=1,2,3 -- ./train.sh --lr {lr} --seed {seed}";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The job's spec, a TOML file; - for standard input
    #[arg(value_name = "FILE", required_unless_present = "argv", conflicts_with = "argv")]
    file: Option<String>,
    /// A program and its arguments instead of a spec
    #[arg(last = true, value_name = "ARGV")]
    argv: Vec<String>,
    /// Lay a value over the spec: a dotted key and TOML; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The job's name instead of the spec's
    #[arg(short, long)]
    name: Option<String>,
    /// The queue; `mlctl queue ls` lists them
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// 0 to 100, higher first
    #[arg(short, long, value_name = "N")]
    priority: Option<u32>,
    /// CPU cores
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// GPUs
    #[arg(long, value_name = "N")]
    gpus: Option<u32>,
    /// Memory of the machine that is set aside for it, for example 8GiB: with more it is ended. Without it, none is counted for it
    #[arg(long, value_name = "SIZE", value_parser = sizes::mib)]
    mem: Option<u32>,
    /// Memory that it needs of each GPU, for example 6GiB: it shares the GPU with others while there is enough. Of one GPU, where nothing says how many
    #[arg(long, value_name = "SIZE", value_parser = sizes::mib)]
    vram: Option<u32>,
    /// How long an attempt may run, for example 90s, 10m or 2h: it is asked to save its work and stop a tenth before that, and killed if it does not
    #[arg(short, long, value_name = "DURATION", value_parser = times::whole_seconds)]
    time: Option<u32>,
    /// Not before this moment, such as 02:00, 2026-11-26T02:00 or 2026-11-26T02:00:00Z, or this long from now, such as 90m; local time where no offset is given
    #[arg(long, value_name = "TIME|DURATION", value_parser = times::moment)]
    begin: Option<Moment>,
    /// It must have ended by this moment, or this long from now: one that waits then fails, one that runs saves its work and stops in time
    #[arg(long, value_name = "TIME|DURATION", value_parser = times::moment)]
    deadline: Option<Moment>,
    /// How often it is tried again when it dies [default: what the spec says, else 3]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Try it again after these ends only: exit classes, or groups of them: oom (oom_host, oom_device), hang, crash, timeout, infra (lost, storage, device, disk)
    #[arg(long, value_name = "CLASSES", value_delimiter = ',', value_parser = classes)]
    retry_on: Vec<Classes>,
    /// It may be asked to make way for a more urgent job: it then saves its work and goes on later
    #[arg(long)]
    preemptible: bool,
    /// Of your jobs with the same key, so many at once at most: the next starts when one ends
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// How many at once [default: what the spec says, else 1]
    #[arg(long, value_name = "N")]
    concurrency_limit: Option<u32>,
    /// Who has the places when there are too few: oldest, and the others wait; or newest: the oldest of those that say so too are cancelled for it [default: what the spec says, else oldest]
    #[arg(long, value_name = "WHO", value_parser = wins)]
    concurrency: Option<Wins>,
    /// Start it when other jobs or arrays have ended: ok:JOB when it has succeeded, any:JOB when it has ended in any way, notok:JOB when it has failed or was cancelled; JOB alone is ok:JOB; may be
    /// repeated
    #[arg(long, value_name = "CONDITIONS", value_delimiter = ',')]
    after: Vec<After>,
    /// When one of those can no longer come about: cancel ends it, keep holds it until `mlctl release` [default: what the spec says, else cancel]
    #[arg(long, value_name = "THEN", value_parser = after_failed)]
    after_failed: Option<AfterFailed>,
    /// A label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// The folder in which a command runs [default: this one; of a spec, what it says, else its own]
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Where a command leaves its checkpoints, absolute or in the attempt's own folder; each file or folder there whose name ends in a number is stored when it is complete, and a retry finds the newest
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<String>,
    /// A variable of a command's environment; may be repeated. It is kept with the job, where others can see it: no place for secrets
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    env: Vec<(String, String)>,
    /// The idempotency key: a second submit with it is the same job [default: a random one]
    #[arg(long)]
    key: Option<String>,
    /// Hold it from the beginning: it starts when `mlctl release` says so
    #[arg(long, conflicts_with_all = ["follow", "wait"])]
    hold: bool,
    /// Check everything, here and in the daemon, and submit nothing
    #[arg(long, conflicts_with_all = ["follow", "wait"])]
    dry_run: bool,
    /// Follow the job to its end; the exit code is its own: 0, 20 failed, 21 cancelled, 22 its time limit
    #[arg(short, long)]
    follow: bool,
    /// Wait for the job's end without following; the exit code as with --follow
    #[arg(short, long, conflicts_with = "follow")]
    wait: bool,
    /// Print the id alone
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    sweep: sweep::Flags,
}

impl Arguments {
    pub fn goal(&self) -> String {
        match self.file.as_deref() {
            Some(spec::STANDARD_INPUT) => "submit the spec from standard input".into(),
            _ => format!("submit {}", self.shown()),
        }
    }

    /// What is submitted, for messages.
    fn shown(&self) -> &str {
        self.file.as_deref().or(self.argv.first().map(String::as_str)).unwrap_or_default()
    }

    fn source(&self) -> Source<'_> {
        self.file.as_deref().map_or(Source::Command(&self.argv), Source::File)
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let now = context.clock.now();
        let begin = times::resolved_here("--begin", self.begin, now)?.map(|begin| begin.to_string());
        let deadline = times::resolved_here("--deadline", self.deadline, now)?.map(|deadline| deadline.to_string());
        let mut retry_on: Vec<&str> =
            self.retry_on.iter().flat_map(|classes| &classes.0).map(|class| class.as_str()).collect();
        retry_on.dedup();
        let after: Vec<String> = self.after.iter().map(ToString::to_string).collect();
        let after: Vec<&str> = after.iter().map(String::as_str).collect();
        let overlay = spec::Overlay {
            after: (!after.is_empty()).then_some(after.as_slice()),
            after_failed: self.after_failed.map(AfterFailed::name),
            begin: begin.as_deref(),
            retry_on: (!retry_on.is_empty()).then_some(retry_on.as_slice()),
            deadline: deadline.as_deref(),
            concurrency_key: self.concurrency_key.as_deref(),
            concurrency: self.concurrency.map(Wins::name),
            preemptible: self.preemptible,
            cwd: self.cwd.as_deref(),
            checkpoint_dir: self.checkpoint_dir.as_deref(),
            env: &self.env,
            set: &self.set,
            name: self.name.as_deref(),
            queue: self.queue.as_deref(),
            labels: &self.label,
            numbers: &[
                ("--priority", &["priority"], self.priority),
                ("--cpus", &["resources", "cpus"], self.cpus),
                ("--gpus", &["resources", "gpus"], self.gpus),
                ("--mem", &["resources", "memory_mib"], self.mem),
                ("--vram", &["resources", "vram_mib"], self.vram),
                ("--time", &["time", "limit_seconds"], self.time),
                ("--retries", &["retry", "limit"], self.retries),
                ("--concurrency-limit", &["concurrency", "limit"], self.concurrency_limit),
            ],
        };
        if self.sweep.is_given() {
            let draft = spec::draft(self.source(), &overlay, context.environment)?;
            return self.array(context, draft).await;
        }
        let written = spec::open(self.source(), &overlay, context.environment)?;
        let spec = to_raw_value(&written.spec).map_err(|error| Failure::caused("write the spec as JSON", &error))?;
        let key = self.key.clone().unwrap_or_else(|| context.new_key());
        let request = SubmitRequest { spec, key, dry_run: self.dry_run, hold: self.hold };
        if self.dry_run {
            let checked: DryRunView = context
                .client
                .post_body("/v1/jobs", &request, ANSWER_LIMIT)
                .await
                .map_err(|refusal| written.located(refusal))?;
            return self.checked(context, &checked);
        }
        let (status, job): (_, JobView) =
            context.client.post_safely("/v1/jobs", &request).await.map_err(|refusal| written.located(refusal))?;
        let is_new = status == hyper::StatusCode::CREATED;
        let is_last = !self.follow && !self.wait;
        self.submitted(context, &job, is_new, is_last)?;
        if is_last {
            return Ok(Exit::Ok);
        }
        self.watch(context, &job.id.to_string()).await
    }

    /// Follows a job to its end, or waits for it.
    async fn watch(&self, context: &mut Context<'_>, id: &str) -> Done {
        context.out.flush()?;
        let watched =
            if self.follow { follow::follow(context, id).await } else { follow::silently(context, id, None).await };
        let (ended, exit) = watched?;
        if let Some(job) = ended {
            if context.out.is_json() {
                context.out.json(&job)?;
            } else if !self.quiet {
                jobs::ended(&mut context.out, &job)?;
            }
        }
        Ok(exit)
    }

    /// Submits many jobs that differ in some values.
    async fn array(&self, context: &mut Context<'_>, draft: spec::Draft) -> Done {
        if self.follow {
            let why = "--follow follows one job, and --array makes many";
            return Err(Failure::new(Exit::Usage, why)
                .hint("--wait waits for all of them; `mlctl follow ARRAY.1` follows the first"));
        }
        let chance = context.chance;
        let draw = || {
            let mut bytes = [0; 4];
            chance(&mut bytes);
            u32::from_le_bytes(bytes).into()
        };
        let (written, sweep) = self.sweep.read(draft, context.environment, draw)?;
        let spec = to_raw_value(&written.spec).map_err(|error| Failure::caused("write the spec as JSON", &error))?;
        let key = self.key.clone().unwrap_or_else(|| context.new_key());
        let seed = sweep.sample.map(|sample| sample.seed);
        let metric = self.sweep.metric();
        let (halving, parallel) = (self.sweep.halving.clone(), self.sweep.parallel);
        let request =
            SubmitArrayRequest { spec, key, sweep, metric, halving, parallel, dry_run: self.dry_run, hold: self.hold };
        let path = "/v1/arrays";
        if self.dry_run {
            let checked = context.client.post_body(path, &request, LONG_LIMIT).await;
            let checked: ArrayDryRunView = checked.map_err(|refusal| written.located(refusal))?;
            if context.out.is_json() {
                context.out.json(&checked)?;
            } else if !self.quiet {
                arrays::checked(&mut context.out, self.shown(), &checked, &written.spec.name)?;
            }
            return Ok(Exit::Ok);
        }
        let (status, array): (_, ArrayView) =
            context.client.post_safely(path, &request).await.map_err(|refusal| written.located(refusal))?;
        self.array_submitted(context, &array, (status == hyper::StatusCode::CREATED).then_some(seed))?;
        if !self.wait {
            return Ok(Exit::Ok);
        }
        context.out.flush()?;
        let (ended, exit) = array::wait(context, &array, None).await?;
        if let Some(array) = ended {
            if context.out.is_json() {
                context.out.json(&array)?;
            } else if !self.quiet {
                arrays::ended(&mut context.out, &array)?;
            }
        }
        Ok(exit)
    }

    /// Prints which array was submitted, where it is `new` with the seed that its members were drawn with.
    fn array_submitted(
        &self,
        context: &mut Context<'_>,
        array: &ArrayView,
        new: Option<Option<u64>>,
    ) -> Result<(), Failure> {
        let out = &mut context.out;
        if self.quiet || out.form == OutputForm::Name {
            return out.line(array.id.to_string());
        }
        if out.is_json() {
            return if self.wait { Ok(()) } else { out.json(array) };
        }
        let (id, name) = (array.id, &array.name);
        let Some(seed) = new else {
            return out.line(format!("array {id} ({name}) was submitted before under this key: it is {}", array.state));
        };
        let seed = seed.map_or_else(String::new, |seed| format!(", drawn with seed {seed}"));
        let held = if self.hold { ", which are held" } else { "" };
        let size = text::count(array.size.into());
        out.line(format!("submitted array {id} ({name}) of {size} jobs, {id}.1 to {id}.{}{seed}{held}", array.size))
    }

    fn checked(&self, context: &mut Context<'_>, checked: &DryRunView) -> Done {
        if context.out.is_json() {
            context.out.json(checked)?;
        } else if !self.quiet {
            let spec = &checked.spec;
            context.out.line(format!(
                "{} is a valid {} job: {} would be submitted",
                text::visible_line(self.shown()),
                spec.work.kind(),
                spec.name
            ))?;
            arrays::awaited(&mut context.out, &checked.after)?;
            if let Some(placement) = &checked.placement {
                jobs::placed(&mut context.out, placement, context.clock.now())?;
            }
        }
        Ok(Exit::Ok)
    }

    /// Prints what was submitted. With JSON, of a job that is followed the end alone is printed.
    fn submitted(&self, context: &mut Context<'_>, job: &JobView, is_new: bool, is_last: bool) -> Result<(), Failure> {
        let (out, now) = (&mut context.out, context.clock.now());
        if self.quiet {
            return out.line(job.id.to_string());
        }
        if out.is_json() && !is_last {
            return Ok(());
        }
        jobs::submitted(out, job, is_new, now)
    }
}

/// What `--concurrency` takes.
fn wins(word: &str) -> Result<Wins, String> {
    let known = Wins::ALL.into_iter().find(|(name, _)| *name == word);
    known.map(|(_, wins)| wins).ok_or_else(|| "expected oldest or newest".into())
}

/// What `--after-failed` takes.
fn after_failed(word: &str) -> Result<AfterFailed, String> {
    let known = AfterFailed::ALL.into_iter().find(|(name, _)| *name == word);
    known.map(|(_, then)| then).ok_or_else(|| "expected cancel or keep".into())
}

/// Exit classes that one word on the command line stands for.
#[derive(Debug, Clone)]
struct Classes(Vec<ExitClass>);

/// An exit class, or a group of them.
fn classes(word: &str) -> Result<Classes, String> {
    let group = match word {
        "oom" => vec![ExitClass::OomHost, ExitClass::OomDevice],
        "infra" => ExitClass::ALL.into_iter().filter(|class| class.is_infrastructure()).collect(),
        class => vec![class.parse().map_err(|_| {
            let known = ExitClass::ALL.into_iter().filter(|class| class.is_retriable()).map(ExitClass::as_str);
            format!("expected some of oom, infra, {}", known.collect::<Vec<_>>().join(", "))
        })?],
    };
    Ok(Classes(group))
}
