//! The script language: a label's text to a list of steps. Pure; what a step does is in `act`.

use std::time::Duration;

use mlctl_protocol::ExitClass;

/// One step of a script.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Ten quick steps of work.
    Obey,
    /// So many steps of work of such a length.
    Work(u64, Duration),
    /// Wait.
    Sleep(Duration),
    /// Say nothing any more, on any channel, and keep the connection open.
    Hang,
    /// Send heartbeats, and do nothing else.
    HangAlive,
    /// End with this exit code and without a result.
    Exit(u8),
    /// Die of this signal.
    Signal(i32),
    /// Panic.
    Panic,
    /// Write so many bytes to standard output.
    Flood(u64),
    /// Follow no order to stop from here on, nor SIGTERM.
    IgnoreTerm,
    /// Say something untrue.
    Lie(Lie),
    /// End with this class and message.
    Fail(ExitClass, String),
    /// Leave a child behind that ignores SIGTERM.
    SpawnChild,
    /// From here on the loss is so many times as large.
    Loss(f64),
    /// Die of SIGKILL in the first so many attempts.
    FailAttempts(u32),
}

/// What the fake can be wrong about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Dials as another attempt.
    Attempt,
    /// Signs its result with a newer token than its own.
    Token,
    /// Reports progress and metrics of an earlier step than before.
    StepBackwards,
    /// Sends bytes that are no message.
    GarbageFrame,
    /// Announces a frame that is too large.
    HugeFrame,
    /// Dials as a worker of a later version of the protocol, which this daemon cannot know.
    OtherVersion,
    /// Says what a later worker of this version of the protocol might say too.
    News,
}

/// Reads a script: steps between semicolons, arguments after colons.
///
/// # Errors
/// Names the first step that is not understood.
pub fn parse(script: &str) -> Result<Vec<Step>, String> {
    let steps = script.split(';').map(str::trim).filter(|step| !step.is_empty());
    let steps: Vec<_> = steps
        .map(|text| step(text).ok_or_else(|| format!("fake: step {text:?} is not understood")))
        .collect::<Result<_, _>>()?;
    Ok(if steps.is_empty() { vec![Step::Obey] } else { steps })
}

fn step(text: &str) -> Option<Step> {
    let (name, argument) = text.split_once(':').unwrap_or((text, ""));
    let millis = |text: &str| text.parse().ok().map(Duration::from_millis);
    Some(match (name, argument) {
        ("obey", "") => Step::Obey,
        ("steps", argument) => {
            let (count, length) = argument.split_once(':')?;
            Step::Work(count.parse().ok()?, millis(length)?)
        }
        ("sleep", argument) => Step::Sleep(millis(argument)?),
        ("hang", "") => Step::Hang,
        ("hang-alive", "") => Step::HangAlive,
        ("exit", code) => Step::Exit(code.parse().ok()?),
        ("no-result", "") => Step::Exit(0),
        ("signal", number) => Step::Signal(number.parse().ok()?),
        ("panic", "") => Step::Panic,
        ("flood", bytes) => Step::Flood(bytes.parse().ok()?),
        ("ignore-term", "") => Step::IgnoreTerm,
        ("lie", "attempt") => Step::Lie(Lie::Attempt),
        ("lie", "token") => Step::Lie(Lie::Token),
        ("lie", "step-backwards") => Step::Lie(Lie::StepBackwards),
        ("lie", "garbage-frame") | ("garbage-frame", "") => Step::Lie(Lie::GarbageFrame),
        ("lie", "huge-frame") | ("huge-frame", "") => Step::Lie(Lie::HugeFrame),
        ("skew", "other-version") => Step::Lie(Lie::OtherVersion),
        ("skew", "news") => Step::Lie(Lie::News),
        ("fail", argument) => {
            let (class, message) = argument.split_once(':').unwrap_or((argument, "as the script says"));
            Step::Fail(class.parse().ok()?, message.to_owned())
        }
        ("spawn-child", "") => Step::SpawnChild,
        ("loss", factor) => Step::Loss(factor.parse().ok().filter(|factor: &f64| factor.is_finite())?),
        ("fail-attempts", count) => Step::FailAttempts(count.parse().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_understood() {
        let millis = Duration::from_millis;
        let cases = [
            ("", Step::Obey),
            ("obey", Step::Obey),
            ("steps:3:20", Step::Work(3, millis(20))),
            ("sleep:5", Step::Sleep(millis(5))),
            ("hang", Step::Hang),
            ("hang-alive", Step::HangAlive),
            ("exit:3", Step::Exit(3)),
            ("no-result", Step::Exit(0)),
            ("signal:9", Step::Signal(9)),
            ("panic", Step::Panic),
            ("flood:1000", Step::Flood(1000)),
            ("ignore-term", Step::IgnoreTerm),
            ("lie:attempt", Step::Lie(Lie::Attempt)),
            ("lie:token", Step::Lie(Lie::Token)),
            ("lie:step-backwards", Step::Lie(Lie::StepBackwards)),
            ("garbage-frame", Step::Lie(Lie::GarbageFrame)),
            ("lie:huge-frame", Step::Lie(Lie::HugeFrame)),
            ("fail:spec:no such column: y", Step::Fail(ExitClass::Spec, "no such column: y".into())),
            ("spawn-child", Step::SpawnChild),
            ("loss:0.5", Step::Loss(0.5)),
            ("fail-attempts:2", Step::FailAttempts(2)),
        ];
        for (text, step) in cases {
            assert_eq!(parse(text), Ok(vec![step]), "{text:?}");
        }
        assert_eq!(parse("ignore-term; sleep:5 ;;obey").unwrap().len(), 3);
    }

    #[test]
    fn a_misspelt_step_is_named() {
        for text in [
            "obay",
            "steps:3",
            "steps:x:1",
            "exit:300",
            "exit",
            "lie:weather",
            "fail:sadly",
            "hang:1",
            "flood:-1",
            "loss:x",
            "loss:inf",
        ] {
            assert!(parse(&format!("obey;{text}")).unwrap_err().contains(text), "{text}");
        }
    }
}
