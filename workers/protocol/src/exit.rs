//! Why an attempt ended: the vocabulary on which retries, messages and scripts decide.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The class of an attempt's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExitClass {
    /// The work is done and its result is published.
    Ok,
    /// The user's error: the spec, the data or the model cannot work. A retry would end the same way.
    Spec,
    /// The host ran out of memory.
    OomHost,
    /// The accelerator ran out of memory.
    OomDevice,
    /// A local disk was full or failed.
    Disk,
    /// Object storage failed or refused.
    Storage,
    /// The accelerator failed.
    Device,
    /// The job's own time limit ended it.
    Timeout,
    /// The worker made no progress.
    Hang,
    /// The worker died of a signal, a panic or an unexpected exit code.
    Crash,
    /// The worker is gone and left no word.
    Lost,
    /// The scheduler or a daemon shutdown took the machine away; uses up no retry.
    Preempted,
    /// A person ended it.
    Cancelled,
}

impl ExitClass {
    /// Every class, in the order of the documentation.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Spec,
        Self::OomHost,
        Self::OomDevice,
        Self::Disk,
        Self::Storage,
        Self::Device,
        Self::Timeout,
        Self::Hang,
        Self::Crash,
        Self::Lost,
        Self::Preempted,
        Self::Cancelled,
    ];

    /// Whether it is a fault of what the job runs on and not of the job: its worker is gone without a word, or storage, the accelerator or a local disk failed.
    #[must_use]
    pub const fn is_infrastructure(self) -> bool {
        matches!(self, Self::Lost | Self::Storage | Self::Device | Self::Disk)
    }

    /// Whether a job that ended so can be tried again at all.
    #[must_use]
    pub const fn is_retriable(self) -> bool {
        !matches!(self, Self::Ok | Self::Spec | Self::Preempted | Self::Cancelled)
    }

    /// The name used in rows, JSON, logs and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Spec => "spec",
            Self::OomHost => "oom_host",
            Self::OomDevice => "oom_device",
            Self::Disk => "disk",
            Self::Storage => "storage",
            Self::Device => "device",
            Self::Timeout => "timeout",
            Self::Hang => "hang",
            Self::Crash => "crash",
            Self::Lost => "lost",
            Self::Preempted => "preempted",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for ExitClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no exit class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownExitClass(pub String);

impl fmt::Display for UnknownExitClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown exit class {:?}", self.0)
    }
}

impl std::error::Error for UnknownExitClass {}

impl FromStr for ExitClass {
    type Err = UnknownExitClass;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or_else(|| UnknownExitClass(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_agree_with_json() {
        for class in ExitClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{class}\""));
        }
        assert!("oom".parse::<ExitClass>().is_err());
    }
}
