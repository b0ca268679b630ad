//! What a command job does: a program of the user's own, run as it is written.

use std::{collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Run a program of one's own. It has a folder of the attempt (`ML_RUN_DIR`), is sent SIGTERM when it is to stop, and what it started is ended with it. Exit code 0 is success.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// The program and its arguments. No shell comes between: `["sh", "-c", "…"]` asks for one. `{name}` in an argument stands for the parameter of that name, if there is one.
    #[schemars(length(min = 1, max = 1000), inner(length(max = 65_536)))]
    pub argv: Vec<String>,
    /// The folder in which it runs. Relative to the spec's folder, which is also the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4095))]
    pub cwd: Option<String>,
    /// Variables of its environment, over those that it has from mld: PATH, HOME, USER, LANG and the like. They are kept with the job and shown to everybody who may use mld: no
    /// place for secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What `{name}` in the arguments stands for: `params.lr = 0.001` for `["./train.sh", "--lr", "{lr}"]`. Arrays vary them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Param>,
    /// The folder in which it leaves its checkpoints (`ML_CHECKPOINT_DIR`), absolute or relative to the attempt's own: files or folders whose names end in a number, the step, such as `step-500.pt`.
    /// Each is stored once nothing in it was written for two seconds; a name that begins with a dot or `tmp`, or has `.tmp` in it, is not done. The next attempt finds the newest under
    /// `ML_RESUME_FROM`. Without it, an attempt begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4095))]
    pub checkpoint_dir: Option<String>,
}

impl CommandSpec {
    /// The kind of such jobs.
    pub const KIND: &'static str = "command";

    /// The arguments with every parameter in its place. Braces around anything else stay as they are.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        self.argv.iter().map(|argument| self.filled(argument)).collect()
    }

    fn filled(&self, argument: &str) -> String {
        let mut filled = String::with_capacity(argument.len());
        let mut rest = argument;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            let named = after.split_once('}').and_then(|(name, after)| Some((self.params.get(name)?, after)));
            rest = if let Some((value, after)) = named {
                filled.push_str(&value.to_string());
                after
            } else {
                filled.push('{');
                after
            };
        }
        filled + rest
    }
}

/// A parameter of a command: a string, a number, or true or false.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Param {
    /// True or false.
    Flag(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Number(f64),
    /// A string.
    Text(String),
}

impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => flag.fmt(f),
            Self::Integer(number) => number.fmt(f),
            // The shortest that reads back as the same number, very small and large ones with an exponent.
            Self::Number(number) => fmt::Debug::fmt(number, f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl JsonSchema for Param {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Param".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "A string, a number, or true or false."})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_stand_in_their_places_and_other_braces_stay() {
        let spec = |argv: &[&str]| CommandSpec {
            argv: argv.iter().map(|argument| (*argument).to_owned()).collect(),
            cwd: None,
            env: BTreeMap::new(),
            params: [
                ("lr".to_owned(), Param::Number(1e-3)),
                ("n".to_owned(), Param::Integer(3)),
                ("opt".to_owned(), Param::Text("{n}".into())),
                ("on".to_owned(), Param::Flag(true)),
            ]
            .into(),
            checkpoint_dir: None,
        };
        for (written, filled) in [
            ("--lr={lr}", "--lr=0.001"),
            ("{n}{on}", "3true"),
            ("{opt}", "{n}"),
            ("${HOME} {a,b} {", "${HOME} {a,b} {"),
            ("{{n}}", "{3}"),
            ("{\"x\": {n}}", "{\"x\": 3}"),
            ("", ""),
        ] {
            assert_eq!(spec(&[written]).arguments(), [filled], "{written}");
        }
    }

    #[test]
    fn parameters_are_what_toml_and_json_have() {
        let read = |json: &str| serde_json::from_str::<Param>(json);
        for (json, text) in [("3", "3"), ("1e-5", "1e-5"), ("0.5", "0.5"), ("\"a b\"", "a b"), ("false", "false")] {
            assert_eq!(read(json).unwrap().to_string(), text);
        }
        assert!(read("[1]").is_err() && read("{}").is_err() && read("null").is_err());
    }
}
