//! How an attempt ended, from all that is known of it: what its process did, what the worker said, what the daemon did to it. Facts in, verdict out: no I/O
//! here. Called by `core` once nothing of the worker is left alive.

use jiff::Timestamp;
use mlctl_protocol::{
    ExitClass,
    message::{ReportBody, Storage},
    result::{ModelRef, OutputRef, WorkerResult},
    spec::CommandSpec,
};

use super::{executor::Ended, kill::Reason};
use crate::domain::{Exit, Fence};

/// The longest text of a worker that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 8 * 1024;

/// What the worker left behind.
#[derive(Debug, Clone, PartialEq)]
pub enum Testimony {
    /// Nothing.
    None,
    /// Its result, from the file or from its last report.
    Result(Box<WorkerResult>),
    /// A result that cannot be true, and why.
    Lie(String),
}

/// Everything that decides.
#[derive(Debug)]
pub struct Facts<'a> {
    /// How the process ended.
    pub ended: Ended,
    /// What the worker said.
    pub testimony: Testimony,
    /// Why the daemon ended the attempt, if it did.
    pub reason: Option<&'a Reason>,
    /// Whether the attempt was seen to make progress.
    pub progressed: bool,
}

/// How the attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// How.
    pub exit: Exit,
    /// The final model.
    pub model: Option<ModelRef>,
    /// The results.
    pub output: Option<OutputRef>,
}

/// Checks what can be checked without looking into storage: that the result is this attempt's, and that what it claims to have published lies where this job
/// publishes.
#[must_use]
pub fn examine(result: WorkerResult, fence: Fence, kind: &str, storage: &Storage) -> Testimony {
    if (result.job, result.attempt, result.token) != (fence.job, fence.attempt, fence.token) {
        return Testimony::Lie(format!(
            "its result is of job {}, attempt {}, token {}, not its own",
            result.job, result.attempt, result.token
        ));
    }
    if result.class != ExitClass::Ok {
        return Testimony::Result(Box::new(result));
    }
    let lie = match kind {
        // What a command makes is its own business.
        CommandSpec::KIND => (result.model.is_some() || result.output.is_some())
            .then(|| "a command reported a model or predictions".to_owned()),
        "train" => match &result.model {
            None => Some("it reported success without a model".to_owned()),
            Some(model) if model.uri != storage.model_uri => Some(format!("its model is not at {}", storage.model_uri)),
            Some(model) if !is_digest(&model.digest) => Some("its model's digest is no digest".to_owned()),
            Some(_) => None,
        },
        _ => match &result.output {
            None => Some("it reported success without results".to_owned()),
            Some(output) if !is_inside(&output.uri, &storage.output_uri) => {
                Some(format!("its results are not in {}", storage.output_uri))
            }
            Some(_) => None,
        },
    };
    lie.map_or_else(|| Testimony::Result(Box::new(result)), Testimony::Lie)
}

/// What is wrong with a report, whatever the attempt's state.
#[must_use]
pub fn violation(body: &ReportBody, fence: Fence, kind: &str, storage: &Storage) -> Option<String> {
    match body {
        ReportBody::Checkpoint { checkpoint } if !is_inside(&checkpoint.uri, &storage.attempt_uri) => {
            Some(format!("it reported a checkpoint outside its own folder: {}", shorten(&checkpoint.uri)))
        }
        ReportBody::Checkpoint { checkpoint } if !is_digest(&checkpoint.manifest_digest) => {
            Some("it reported a checkpoint without its manifest's digest".into())
        }
        ReportBody::Finished { result } => match examine(result.as_ref().clone(), fence, kind, storage) {
            Testimony::Lie(lie) => Some(lie),
            _ => None,
        },
        _ => None,
    }
}

/// Judges.
#[must_use]
pub fn judge(facts: Facts<'_>) -> Verdict {
    let Facts { ended, testimony, reason, progressed } = facts;
    let (exit, model, output) = match testimony {
        Testimony::Lie(lie) => (liar(&lie), None, None),
        Testimony::Result(result) if result.class == ExitClass::Ok => {
            (Exit { class: ExitClass::Ok, message: None, hint: None }, result.model, result.output)
        }
        Testimony::Result(result) => (said(&result, reason, progressed), None, None),
        Testimony::None => (silent(ended, reason), None, None),
    };
    Verdict { exit, model, output }
}

/// The worker had no last word. One that was asked to make way and died of a signal that was not ours did not make way: it died while it saved, and that is not free.
fn silent(ended: Ended, reason: Option<&Reason>) -> Exit {
    let fell =
        matches!(ended, Ended::Signal { number, out_of_memory } if out_of_memory || !matches!(number, KILL | TERM));
    let reason =
        reason.filter(|reason| !fell || !matches!(reason, Reason::Paused | Reason::Preempted { .. } | Reason::Drained));
    reason.and_then(done_to_it).unwrap_or_else(|| died(ended))
}

/// The worker had a last word other than success. What the daemon did outweighs what the worker could not know.
fn said(result: &WorkerResult, reason: Option<&Reason>, progressed: bool) -> Exit {
    let gave_up =
        matches!(result.class, ExitClass::Preempted | ExitClass::Lost | ExitClass::Cancelled | ExitClass::Timeout);
    match (result.class, reason) {
        (_, Some(Reason::Restored | Reason::Stale | Reason::Lied(_) | Reason::Memory { .. })) => {
            reason.and_then(done_to_it).unwrap_or_else(|| died(Ended::Unknown))
        }
        (class, Some(reason @ (Reason::TimeLimit { .. } | Reason::Deadline { .. }))) if gave_up => {
            // Whether its last checkpoint was durable is in its own words. It does not know which of the two it was.
            let said = result.message.as_deref().filter(|_| class == ExitClass::Timeout).unwrap_or(AT_ITS_LIMIT);
            let message = match reason {
                Reason::Deadline { at } => {
                    let said = said.replacen(AT_ITS_LIMIT, "stopped at its deadline", 1);
                    format!("{}; the deadline is {}", shorten(&said), utc(*at))
                }
                Reason::TimeLimit { seconds } => format!("{}; the limit is {seconds} seconds", shorten(said)),
                _ => shorten(said),
            };
            Exit { class: ExitClass::Timeout, message: Some(message), hint: None }
        }
        (_, Some(Reason::Hang { .. } | Reason::LeaseLost { .. } | Reason::Cancelled | Reason::Stopped)) if gave_up => {
            reason.and_then(done_to_it).unwrap_or_else(|| died(Ended::Unknown))
        }
        // Being preempted uses up no retry: a worker that stops on its own, again and again, at its first step would never be done.
        (_, Some(Reason::Paused | Reason::Preempted { .. } | Reason::Drained)) if gave_up => {
            reason.and_then(done_to_it).unwrap_or_else(|| died(Ended::Unknown))
        }
        (ExitClass::Preempted, _) if !progressed => Exit {
            class: ExitClass::Crash,
            message: Some("the worker stopped before its first step though nobody had asked it to".into()),
            hint: Some("something on this machine sends SIGTERM to it, or it is broken: see `mlctl logs`".into()),
        },
        (ExitClass::Cancelled, _) => liar("it reported `cancelled` though nobody had cancelled it"),
        (class, _) => Exit {
            class,
            message: result.message.as_deref().map(shorten).or_else(|| Some(format!("the worker ended as {class}"))),
            hint: result.hint.as_deref().map(shorten),
        },
    }
}

/// The worker had no last word, and the daemon had ended it.
fn done_to_it(reason: &Reason) -> Option<Exit> {
    let (class, message, hint) = match reason {
        Reason::Finished => return None,
        Reason::TimeLimit { seconds } => (
            ExitClass::Timeout,
            format!("ended at its time limit of {seconds} seconds: it had not stopped by itself when asked to"),
            None,
        ),
        Reason::Deadline { at } => {
            let at = utc(*at);
            let message = format!("ended at its deadline, {at}: it had not stopped by itself when asked to");
            (ExitClass::Timeout, message, None)
        }
        Reason::Cancelled | Reason::Stopped => (ExitClass::Cancelled, "ended on request".to_owned(), None),
        Reason::Paused => (ExitClass::Preempted, "paused on request".to_owned(), None),
        Reason::Drained => (ExitClass::Preempted, "made way for the daemon's stop".to_owned(), None),
        Reason::Preempted { to } => (ExitClass::Preempted, format!("made way for job {to}"), None),
        Reason::Hang { seconds, step } => {
            let at = step.map_or_else(|| "before its first step".to_owned(), |step| format!("after step {step}"));
            (
                ExitClass::Hang,
                format!("no progress for {seconds} seconds {at}; ended"),
                Some("if a step may take that long, raise workers.hang_seconds in mld.toml"),
            )
        }
        Reason::Memory { used_mib, asked_mib } => (
            ExitClass::OomHost,
            format!("it had {used_mib} MiB of memory, more than the {asked_mib} MiB that it had asked for; ended"),
            Some("ask for more with --mem (resources.memory_mib), or have it use less"),
        ),
        Reason::LeaseLost { seconds } => {
            (ExitClass::Lost, format!("no heartbeat for {seconds} seconds, as long as its lease; ended"), None)
        }
        Reason::Restored => {
            let message = "the database was restored from a backup that was made while this attempt ran";
            (ExitClass::Preempted, message.to_owned(), None)
        }
        Reason::Stale => (ExitClass::Lost, "the attempt no longer held the job; ended".to_owned(), None),
        Reason::Lied(lie) => return Some(liar(lie)),
    };
    Some(Exit { class, message: Some(message), hint: hint.map(str::to_owned) })
}

/// The worker had no last word, and nobody had touched it.
fn died(ended: Ended) -> Exit {
    const SEE: &str = "see its last words with `mlctl logs --stream stderr`";
    let (class, message, hint) = match ended {
        Ended::Code(code) => {
            (ExitClass::Crash, format!("the worker exited with code {code} and left no result"), Some(SEE))
        }
        Ended::Signal { number, out_of_memory: true } if number == KILL => (
            ExitClass::OomHost,
            "killed by the kernel, which had run out of memory".to_owned(),
            Some("run fewer jobs at once, or make the batch or the model smaller"),
        ),
        Ended::Signal { number: ABORT, out_of_memory: true } => (
            ExitClass::OomHost,
            "the kernel refused it memory: it wanted far more than it had asked for".to_owned(),
            Some("ask for more with --mem (resources.memory_mib), or make the batch or the model smaller"),
        ),
        Ended::Signal { number, .. } => {
            let name = signal_name(number).map(|name| format!(" ({name})")).unwrap_or_default();
            (ExitClass::Crash, format!("killed by signal {number}{name}"), Some(SEE))
        }
        Ended::Unknown => {
            (ExitClass::Lost, "the worker ended while no daemon watched, and left no result".to_owned(), Some(SEE))
        }
    };
    Exit { class, message: Some(message), hint: hint.map(str::to_owned) }
}

fn liar(lie: &str) -> Exit {
    Exit {
        class: ExitClass::Crash,
        message: Some(format!("the worker's word cannot be true: {}", shorten(lie))),
        hint: Some("the worker's program is broken or of another version: see `mlctl doctor`".into()),
    }
}

/// What a worker says of itself that was asked to stop for its time.
const AT_ITS_LIMIT: &str = "stopped at its time limit";

fn utc(at: Timestamp) -> impl std::fmt::Display {
    at.strftime("%Y-%m-%d %H:%M:%S UTC")
}

const ABORT: i32 = 6;
const KILL: i32 = 9;
const TERM: i32 = 15;

fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        KILL => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        TERM => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether a URI lies under a folder. Storage refuses `..` itself; here it is refused once more.
fn is_inside(uri: &str, folder: &str) -> bool {
    uri.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).is_some_and(|rest| {
        !rest.is_empty() && rest.split('/').all(|name| !matches!(name, "" | "." | "..") && !name.contains(['%', '\\']))
    })
}

/// A worker's text, at most [`MAX_TEXT_BYTES`] of it.
#[must_use]
pub fn shorten(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let cut = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_TEXT_BYTES).last().unwrap_or(0);
    format!("{}…", &text[..cut])
}

#[cfg(test)]
mod tests {
    use mlctl_protocol::{AttemptNumber, FencingToken, JobId, result::CheckpointRef};

    use super::*;

    const FENCE: Fence = Fence { job: JobId(7), attempt: AttemptNumber(2), token: FencingToken(40) };

    fn storage() -> Storage {
        Storage {
            attempt_uri: "file:///o/jobs/7-x/2".into(),
            model_uri: "file:///o/jobs/7-x/model".into(),
            output_uri: "file:///o/jobs/7-x/output".into(),
            durable_uri: None,
            spool: None,
        }
    }

    fn result(class: ExitClass) -> WorkerResult {
        WorkerResult {
            v: 1,
            job: FENCE.job,
            attempt: FENCE.attempt,
            token: FENCE.token,
            class,
            message: Some("its words".into()),
            hint: None,
            metrics: Default::default(),
            model: Some(ModelRef { uri: storage().model_uri, digest: "a".repeat(64) }),
            output: None,
        }
    }

    fn predicted(uri: &str) -> WorkerResult {
        let output = Some(OutputRef { uri: uri.into(), records: 1, errors: 0 });
        WorkerResult { model: None, output, ..result(ExitClass::Ok) }
    }

    fn checkpoint(uri: &str) -> ReportBody {
        let checkpoint = CheckpointRef {
            step: 1,
            epoch: 0,
            uri: uri.into(),
            size_bytes: 1,
            manifest_digest: "0".repeat(64),
            metrics: Default::default(),
        };
        ReportBody::Checkpoint { checkpoint }
    }

    #[test]
    fn a_result_is_believed_only_when_it_can_be_true() {
        let model = |uri: &str, digest: &str| WorkerResult {
            model: Some(ModelRef { uri: uri.into(), digest: digest.into() }),
            ..result(ExitClass::Ok)
        };
        let own = storage().model_uri;
        let digest = "0".repeat(64);
        let cases = [
            (result(ExitClass::Ok), "train", true),
            (WorkerResult { job: JobId(8), ..result(ExitClass::Ok) }, "train", false),
            (WorkerResult { attempt: AttemptNumber(1), ..result(ExitClass::Ok) }, "train", false),
            (WorkerResult { token: FencingToken(39), ..result(ExitClass::Spec) }, "train", false),
            (WorkerResult { model: None, ..result(ExitClass::Ok) }, "train", false),
            (WorkerResult { model: None, ..result(ExitClass::Spec) }, "train", true),
            (model("file:///o/jobs/6-x/model", &digest), "train", false),
            (model(&own, "xyz"), "train", false),
            (model(&own, &digest), "infer", false),
            (predicted("file:///o/jobs/7-x/output/part.jsonl"), "infer", true),
            (predicted("file:///o/jobs/7-x/output"), "infer", false),
            (predicted("file:///o/jobs/7-x/output/../../6-x/output/p"), "infer", false),
            (predicted("file:///o/jobs/7-x/output/%2e%2e/p"), "infer", false),
            (predicted("file:///o/jobs/7-x/outputs/p"), "infer", false),
        ];
        for (result, kind, believed) in cases {
            let label = format!("{kind} {result:?}");
            let testimony = examine(result, FENCE, kind, &storage());
            assert_eq!(matches!(testimony, Testimony::Result(_)), believed, "{label}: {testimony:?}");
        }
    }

    #[test]
    fn a_checkpoint_must_be_the_attempts_own() {
        let reported = |uri: &str| violation(&checkpoint(uri), FENCE, "train", &storage()).is_none();
        assert!(reported("file:///o/jobs/7-x/2/checkpoints/000000000001"));
        for uri in [
            "file:///o/jobs/7-x/1/checkpoints/000000000001",
            "file:///o/jobs/7-x/2",
            "file:///o/jobs/7-x/2/",
            "file:///o/jobs/7-x/21/checkpoints/000000000001",
            "file:///o/jobs/7-x/2/../1/checkpoints/000000000001",
        ] {
            assert!(!reported(uri), "{uri}");
        }
        let stale =
            ReportBody::Finished { result: Box::new(WorkerResult { token: FencingToken(1), ..result(ExitClass::Ok) }) };
        assert!(violation(&stale, FENCE, "train", &storage()).is_some());
    }

    type Case<'a> = (Ended, Testimony, Option<&'a Reason>, ExitClass, &'a str);

    fn said(class: ExitClass) -> Testimony {
        Testimony::Result(Box::new(result(class)))
    }

    fn judged(cases: Vec<Case<'_>>) {
        for (ended, testimony, reason, class, words) in cases {
            let label = format!("{ended:?} {testimony:?} {reason:?}");
            let verdict = judge(Facts { ended, testimony, reason, progressed: true });
            assert_eq!(verdict.exit.class, class, "{label}");
            assert!(verdict.exit.message.unwrap_or_default().contains(words), "{label}");
            assert_eq!(verdict.model.is_some(), class == ExitClass::Ok, "{label}");
        }
    }

    #[test]
    fn who_makes_way_or_has_a_deadline_ends_so_and_no_other_death_is_excused_by_it() {
        use ExitClass as C;
        let killed = Ended::Signal { number: 9, out_of_memory: false };
        let oom = Ended::Signal { number: 9, out_of_memory: true };
        let segv_oom = Ended::Signal { number: 11, out_of_memory: true };
        let deadline = Reason::Deadline { at: Timestamp::UNIX_EPOCH };
        let yields = Reason::Preempted { to: JobId(9) };
        let none = || Testimony::None;
        judged(vec![
            (Ended::Code(0), said(C::Preempted), Some(&Reason::Paused), C::Preempted, "paused on request"),
            (killed, none(), Some(&Reason::Paused), C::Preempted, "paused on request"),
            (Ended::Code(1), said(C::Storage), Some(&Reason::Paused), C::Storage, "its words"),
            (Ended::Code(0), said(C::Preempted), Some(&yields), C::Preempted, "made way for job 9"),
            (Ended::Code(3), none(), Some(&yields), C::Preempted, "made way for job 9"),
            (killed, none(), Some(&yields), C::Preempted, "made way for job 9"),
            (oom, none(), Some(&yields), C::OomHost, "run out of memory"),
            (segv_oom, none(), Some(&yields), C::Crash, "killed by signal 11"),
            (Ended::Code(0), said(C::Preempted), Some(&Reason::Drained), C::Preempted, "the daemon's stop"),
            (killed, none(), Some(&Reason::Drained), C::Preempted, "the daemon's stop"),
            (segv_oom, none(), Some(&Reason::Drained), C::Crash, "killed by signal 11"),
            (Ended::Code(0), said(C::Ok), Some(&yields), C::Ok, ""),
            (
                Ended::Code(1),
                said(C::Preempted),
                Some(&deadline),
                C::Timeout,
                "stopped at its deadline; the deadline is 1970-01-01 00:00:00 UTC",
            ),
            (killed, none(), Some(&deadline), C::Timeout, "ended at its deadline, 1970-01-01 00:00:00 UTC: it had not"),
        ]);
    }

    #[test]
    fn every_end_has_its_class() {
        use ExitClass as C;
        let hang = Reason::Hang { seconds: 600, step: Some(12) };
        let lease = Reason::LeaseLost { seconds: 600 };
        let lied = Reason::Lied("black is white".into());
        let killed = Ended::Signal { number: 9, out_of_memory: false };
        let oom = Ended::Signal { number: 9, out_of_memory: true };
        let segv_oom = Ended::Signal { number: 11, out_of_memory: true };
        let limit = Reason::TimeLimit { seconds: 3600 };
        let none = || Testimony::None;
        let cases: Vec<Case<'_>> = vec![
            (Ended::Code(0), said(C::Ok), None, C::Ok, ""),
            (killed, said(C::Ok), Some(&hang), C::Ok, ""),
            (killed, said(C::Ok), Some(&Reason::Cancelled), C::Ok, ""),
            (killed, said(C::Ok), Some(&Reason::Finished), C::Ok, ""),
            (Ended::Code(1), said(C::Spec), None, C::Spec, "its words"),
            (Ended::Code(1), said(C::OomDevice), Some(&Reason::Cancelled), C::OomDevice, "its words"),
            (Ended::Code(0), said(C::Cancelled), Some(&Reason::Cancelled), C::Cancelled, "ended on request"),
            (Ended::Code(0), said(C::Preempted), Some(&Reason::Cancelled), C::Cancelled, "ended on request"),
            (Ended::Code(0), said(C::Cancelled), Some(&Reason::Stopped), C::Cancelled, "ended on request"),
            (Ended::Code(0), said(C::Preempted), Some(&Reason::Stopped), C::Cancelled, "ended on request"),
            (Ended::Code(0), said(C::Preempted), Some(&hang), C::Hang, "no progress for 600 seconds after step 12"),
            (Ended::Code(0), said(C::Preempted), None, C::Preempted, "its words"),
            (Ended::Code(1), said(C::Spec), Some(&lease), C::Spec, "its words"),
            (Ended::Code(1), said(C::Lost), Some(&lease), C::Lost, "no heartbeat"),
            (Ended::Code(1), said(C::Timeout), Some(&limit), C::Timeout, "its words; the limit is 3600 seconds"),
            (
                Ended::Code(1),
                said(C::Preempted),
                Some(&limit),
                C::Timeout,
                "stopped at its time limit; the limit is 3600",
            ),
            (Ended::Code(1), said(C::Storage), Some(&limit), C::Storage, "its words"),
            (Ended::Code(0), said(C::Ok), Some(&limit), C::Ok, ""),
            (Ended::Code(1), said(C::Timeout), Some(&Reason::Cancelled), C::Cancelled, "ended on request"),
            (Ended::Code(1), said(C::Timeout), None, C::Timeout, "its words"),
            (killed, none(), Some(&limit), C::Timeout, "3600 seconds: it had not stopped"),
            (Ended::Code(0), said(C::Cancelled), None, C::Crash, "nobody had cancelled"),
            (Ended::Code(0), said(C::Spec), Some(&Reason::Stale), C::Lost, "no longer held"),
            (Ended::Code(0), Testimony::Lie("2+2=5".into()), None, C::Crash, "2+2=5"),
            (killed, none(), Some(&Reason::Cancelled), C::Cancelled, "ended on request"),
            (oom, none(), Some(&hang), C::Hang, "no progress"),
            (killed, none(), Some(&lease), C::Lost, "no heartbeat for 600 seconds"),
            (killed, none(), Some(&lied), C::Crash, "black is white"),
            (killed, none(), None, C::Crash, "killed by signal 9 (SIGKILL)"),
            (oom, none(), None, C::OomHost, "run out of memory"),
            (segv_oom, none(), None, C::Crash, "killed by signal 11 (SIGSEGV)"),
            (Ended::Signal { number: 6, out_of_memory: true }, none(), None, C::OomHost, "refused it memory"),
            (Ended::Signal { number: 6, out_of_memory: false }, none(), None, C::Crash, "killed by signal 6 (SIGABRT)"),
            (Ended::Signal { number: 40, out_of_memory: false }, none(), None, C::Crash, "killed by signal 40"),
            (Ended::Code(0), none(), None, C::Crash, "exited with code 0 and left no result"),
            (Ended::Code(101), none(), None, C::Crash, "exited with code 101"),
            (Ended::Unknown, none(), None, C::Lost, "while no daemon watched"),
        ];
        judged(cases);
    }

    #[test]
    fn stopping_unasked_before_the_first_step_is_no_free_retry() {
        let testimony = Testimony::Result(Box::new(result(ExitClass::Preempted)));
        let verdict = judge(Facts { ended: Ended::Code(0), testimony, reason: None, progressed: false });
        assert_eq!(verdict.exit.class, ExitClass::Crash);
        // Asked, it is: who makes way before its first step has made way.
        for reason in [Reason::Paused, Reason::Preempted { to: JobId(9) }] {
            let testimony = Testimony::Result(Box::new(result(ExitClass::Preempted)));
            let facts = Facts { ended: Ended::Code(0), testimony, reason: Some(&reason), progressed: false };
            assert_eq!(judge(facts).exit.class, ExitClass::Preempted);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shorten("short"), "short");
        let long = "é".repeat(MAX_TEXT_BYTES);
        let cut = shorten(&long);
        assert!(cut.len() <= MAX_TEXT_BYTES + '…'.len_utf8() && cut.ends_with('…'));
    }
}
