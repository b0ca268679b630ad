//! What a job waits for: other jobs, and how each of them must have ended. Written as one word, `ok:12`, on command lines and in specs alike.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The longest reference to a job in it, in bytes.
const MAX_REFERENCE: usize = 200;

/// How a job that another waits for must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// It succeeded.
    Ok,
    /// It ended in any way.
    Any,
    /// It failed or was cancelled.
    NotOk,
}

impl Need {
    /// All of them with their names.
    pub const ALL: [(&str, Self); 3] = [("ok", Self::Ok), ("any", Self::Any), ("notok", Self::NotOk)];

    /// The name used in rows, JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Any => "any",
            Self::NotOk => "notok",
        }
    }
}

/// What becomes of a job when one that it waits for can no longer come to what is needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum AfterFailed {
    /// It is cancelled.
    #[default]
    Cancel,
    /// It is held until a person releases it.
    Keep,
}

impl AfterFailed {
    /// Both with their names.
    pub const ALL: [(&str, Self); 2] = [("cancel", Self::Cancel), ("keep", Self::Keep)];

    /// The name used in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Keep => "keep",
        }
    }

    /// Whether it is what holds where nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A job that another waits for, and how it must have ended: `ok:12`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct After {
    /// How it must have ended.
    pub need: Need,
    /// Which: an id, a member of an array such as `17.3`, a name or `@last`. In a kept spec always an id.
    pub job: String,
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.need.name(), self.job)
    }
}

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown = || text.chars().take(40).collect::<String>();
        let (need, job) = match text.split_once(':') {
            None => (Need::Ok, text),
            Some((word, job)) => {
                let known = Need::ALL.into_iter().find(|(name, _)| *name == word);
                let need = known.map(|(_, need)| need);
                (need.ok_or_else(|| format!("{:?} does not begin with ok:, any: or notok:", shown()))?, job)
            }
        };
        if job.is_empty() || job.len() > MAX_REFERENCE || job.chars().any(char::is_whitespace) {
            return Err(format!("{:?} names no job: write an id, a name or @last, as in ok:12", shown()));
        }
        Ok(Self { need, job: job.to_owned() })
    }
}

impl TryFrom<String> for After {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<After> for String {
    fn from(after: After) -> Self {
        after.to_string()
    }
}

impl JsonSchema for After {
    fn schema_name() -> Cow<'static, str> {
        "After".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX_REFERENCE + 6 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_which_job_and_how_it_must_have_ended() {
        for (text, need, job) in [
            ("12", Need::Ok, "12"),
            ("ok:12", Need::Ok, "12"),
            ("any:17.3", Need::Any, "17.3"),
            ("notok:@last", Need::NotOk, "@last"),
            ("prepare", Need::Ok, "prepare"),
        ] {
            let after: After = text.parse().unwrap();
            assert_eq!((after.need, after.job.as_str()), (need, job));
            assert_eq!(after.to_string().parse(), Ok(after));
        }
        for wrong in ["", "ok:", ":12", "okk:12", "OK:12", "any: 12", "any:\n", &"x".repeat(201)] {
            assert!(wrong.parse::<After>().is_err(), "{wrong:?}");
        }
        let json = serde_json::to_string(&["notok:3".parse::<After>().unwrap()]).unwrap();
        assert_eq!(json, r#"["notok:3"]"#);
        assert!(serde_json::from_str::<Vec<After>>(&json).is_ok() && serde_json::from_str::<After>("\"x:1\"").is_err());
    }

    #[test]
    fn names_are_what_serde_writes() {
        for (name, need) in Need::ALL {
            assert_eq!((need.name(), serde_json::to_value(need).unwrap()), (name, name.into()));
        }
        for (name, then) in AfterFailed::ALL {
            assert_eq!((then.name(), serde_json::to_value(then).unwrap()), (name, name.into()));
        }
    }
}
