//! From `--array`, `--sample` and `--seed` to what varies over an array, with every mistake at its place. Called by `submit`. Each value is checked on the spec as `--set` would set it;
//! that the values fit each other is the daemon's to find.

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use mlctl_protocol::JobSpec;
use serde_json::Value;

use super::{
    Failure,
    exit::Exit,
    spec::{self, Draft, Written},
};
use crate::{
    config::{
        Environment,
        document::{Document, FlagMistake, Problem, Report, nearest},
    },
    domain::{
        array::{Axis, Goal, Halving, Metric, Range, Sample, Scale, Sweep},
        rules,
    },
};

/// Values that are checked here one by one, over all keys; the daemon checks every member anyway.
const MAX_CHECKED: usize = 400;

/// Short names of keys that are written often.
const ALIASES: [(&str, &str); 1] = [("lr", "learning_rate")];

const FLAG: &str = "--array";

/// The flags of arrays.
#[derive(Debug, Args)]
pub struct Flags {
    /// Submit a job for each value: values separated by commas, or with --sample a range such as 1e-4..1e-1; repeated, for each combination. KEY is dotted, or its last part where that names one key alone; lr is learning_rate
    #[arg(long, value_name = "KEY=V1,V2,…")]
    pub array: Vec<String>,
    /// Submit so many jobs with drawn values instead of every combination
    #[arg(long, value_name = "N", requires = "array")]
    sample: Option<u32>,
    /// What --sample draws from: the same seed draws the same values, everywhere [default: a random one, which is told]
    #[arg(long, value_name = "S", requires = "sample")]
    seed: Option<u64>,
    /// Run so many of the array's jobs at once at most [default: as many as there is room for]
    #[arg(long, value_name = "N", requires = "array", value_parser = clap::value_parser!(u32).range(1..))]
    pub parallel: Option<u32>,
    /// What `show` compares the array's jobs by [default: val_loss, else train_loss]
    #[arg(long, value_name = "NAME", requires = "array")]
    metric: Option<String>,
    /// Which end of the metric is the best [default: max for names that end in accuracy, min for others]
    #[arg(long, requires = "metric", value_parser = goal_parser())]
    goal: Option<Goal>,
    /// Stop members early that others do better than, by RULE: metric=NAME,goal=min|max,eta=3,min-steps=N. At N steps, and at each eta times as many, one of every eta goes on, by what its checkpoint has of the metric; goal and eta may be left out
    #[arg(long, value_name = "RULE", requires = "array", value_parser = halving)]
    pub halving: Option<Halving>,
}

/// `min` or `max`.
pub fn goal_parser() -> impl TypedValueParser<Value = Goal> {
    PossibleValuesParser::new(Goal::ALL.map(|(name, _)| name)).map(|name| {
        let found = Goal::ALL.into_iter().find(|(goal, _)| *goal == name);
        found.map_or(Goal::Min, |(_, goal)| goal)
    })
}

/// `metric=val_loss,goal=min,eta=3,min-steps=100`.
fn halving(text: &str) -> Result<Halving, String> {
    let (mut name, mut goal, mut eta, mut min_steps) = (None, None, 3, None);
    for part in text.split(',').map(str::trim) {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is no KEY=VALUE"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{key} is a whole number, found {value:?}"));
        match key {
            "metric" => name = Some(value),
            "goal" => {
                let known = Goal::ALL.into_iter().find(|(goal, _)| *goal == value);
                goal = Some(known.ok_or_else(|| format!("the goal is min or max, found {value:?}"))?.1);
            }
            "eta" => eta = u32::try_from(number()?).map_err(|_| "eta is from 2 to 100".to_owned())?,
            "min-steps" => min_steps = Some(number()?),
            other => return Err(format!("{other:?} is none of metric, goal, eta, min-steps")),
        }
    }
    let metric = Metric::named(name.ok_or("metric=NAME is missing")?);
    let metric = Metric { goal: goal.unwrap_or(metric.goal), ..metric };
    let min_steps = min_steps.ok_or("min-steps=N is missing")?;
    let halving = Halving { metric, eta, min_steps };
    halving.mistake().map_or(Ok(halving), Err)
}

impl Flags {
    /// Whether an array is wanted.
    pub const fn is_given(&self) -> bool {
        !self.array.is_empty()
    }

    /// What members are compared by, where it is said.
    pub fn metric(&self) -> Option<Metric> {
        let metric = Metric::named(self.metric.as_deref()?);
        Some(Metric { goal: self.goal.unwrap_or(metric.goal), ..metric })
    }

    /// The spec that all members have in common, and what varies. `draw` is where a seed comes from that nobody names.
    ///
    /// # Errors
    /// Everything that is wrong with either.
    pub fn read(
        &self,
        draft: Draft,
        environment: &Environment,
        draw: impl FnOnce() -> u64,
    ) -> Result<(Written, Sweep), Failure> {
        let Draft { document, folder } = draft;
        let written = written(&self.array, &document)?;
        // What all have in common has the first value of each key: a key that must be there may stand in the flag alone.
        let mut base = document;
        let mut wrong = Vec::new();
        for axis in &written {
            wrong.extend(base.set(FLAG, &axis.assignment(axis.first())).err());
        }
        if !wrong.is_empty() {
            return Err(Failure::report(Exit::Usage, base.report(wrong)));
        }
        let invalid = |document: &Document, problems| Failure::report(Exit::Invalid, document.report(problems));
        let common = spec::examine(&base, &folder, environment).map_err(|problems| invalid(&base, problems))?;
        let (mut trials, mut problems, mut left) = (base.clone(), Vec::new(), MAX_CHECKED);
        let mut axes = Vec::with_capacity(written.len());
        for axis in &written {
            let mut values = vec![value_of(&common, &base, &axis.key)];
            for text in axis.others() {
                let mut trial = base.after(&trials);
                let set = trial.set(FLAG, &axis.assignment(text));
                let is_checked = left > 0;
                left = left.saturating_sub(1);
                match set.map_err(|problem| vec![problem]) {
                    Ok(()) if !is_checked => values.push(trial.value(&axis.key).unwrap_or(Value::Null)),
                    Ok(()) => match spec::examine(&trial, &folder, environment) {
                        Ok(spec) => values.push(value_of(&spec, &trial, &axis.key)),
                        Err(found) => problems.extend(found),
                    },
                    Err(found) => problems.extend(found),
                }
                if is_checked {
                    trials = trial;
                }
            }
            axes.push(axis.finish(values));
        }
        if !problems.is_empty() {
            return Err(invalid(&trials, problems));
        }
        let sample = self.sample.map(|count| Sample { count, seed: self.seed.unwrap_or_else(draw) });
        let sweep = Sweep { axes, sample };
        let wrong: Vec<Problem> = sweep.problems().into_iter().map(|problem| spec::placed(&base, problem)).collect();
        if !wrong.is_empty() {
            return Err(Failure::report(Exit::Usage, base.report(wrong)));
        }
        Ok((Written::new(common, base), sweep))
    }
}

/// A key's value in a checked spec, defaults and absolute paths in it; as written where the spec leaves out what is usual.
fn value_of(spec: &JobSpec, document: &Document, key: &str) -> Value {
    let pointer = format!("/{}", key.replace('.', "/"));
    let checked = serde_json::to_value(spec).ok().and_then(|spec| spec.pointer(&pointer).cloned());
    checked.or_else(|| document.value(key)).unwrap_or(Value::Null)
}

/// An `--array` as it is written.
#[derive(Debug, PartialEq)]
struct Varied<'a> {
    /// The dotted path.
    key: String,
    values: Values<'a>,
}

#[derive(Debug, PartialEq)]
enum Values<'a> {
    List(Vec<&'a str>),
    Range { low: &'a str, high: &'a str, range: Range },
}

impl Varied<'_> {
    fn assignment(&self, value: &str) -> String {
        format!("{}={value}", self.key)
    }

    fn first(&self) -> &str {
        match &self.values {
            Values::List(values) => values.first().copied().unwrap_or_default(),
            Values::Range { low, .. } => low,
        }
    }

    /// What is to be checked besides the first.
    fn others(&self) -> &[&str] {
        match &self.values {
            Values::List(values) => values.get(1..).unwrap_or_default(),
            Values::Range { high, .. } => std::slice::from_ref(high),
        }
    }

    fn finish(&self, values: Vec<Value>) -> Axis {
        match &self.values {
            Values::List(_) => Axis { key: self.key.clone(), values, range: None },
            Values::Range { range, .. } => {
                Axis { key: self.key.clone(), values: Vec::new(), range: Some(range.clone()) }
            }
        }
    }
}

/// Reads the flags' texts, their keys as full paths of the spec.
fn written<'a>(flags: &'a [String], document: &Document) -> Result<Vec<Varied<'a>>, Failure> {
    let known = Known::of(document);
    let mut mistakes = Vec::new();
    let mut found = Vec::new();
    for text in flags {
        match varied(text, &known) {
            Ok(axis) => found.push(axis),
            Err((span, message, hint)) => {
                mistakes.push(FlagMistake { flag: FLAG, text, span, path: "", message, hint });
            }
        }
    }
    if mistakes.is_empty() { Ok(found) } else { Err(Failure::report(Exit::Usage, Report::of_flags(mistakes))) }
}

type Mistake = (std::ops::Range<usize>, String, String);

/// What a key may mean.
struct Known {
    /// The dotted paths of the spec's keys.
    keys: Vec<String>,
    /// A command's arguments: a name that stands there in braces is a parameter.
    arguments: Vec<String>,
}

impl Known {
    fn of(document: &Document) -> Self {
        let arguments = document.value("command.argv");
        let arguments = arguments.iter().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
        Self { keys: rules::keys(&document.json()), arguments: arguments.map(str::to_owned).collect() }
    }
}

fn varied<'a>(text: &'a str, known: &Known) -> Result<Varied<'a>, Mistake> {
    let characters = text.chars().count();
    let Some((key, values)) = text.split_once('=').filter(|(key, _)| !key.trim().is_empty()) else {
        let hint = "for example --array lr=1e-4,1e-3,1e-2";
        return Err((0..characters, "this is no KEY=V1,V2,…".into(), hint.into()));
    };
    let from = key.chars().count();
    let key = full(key.trim(), known).map_err(|(message, hint)| (0..from, message, hint))?;
    let values = read_values(values).map_err(|(message, hint)| (from + 1..characters, message, hint))?;
    Ok(Varied { key, values })
}

/// The dotted path that a key means.
fn full(key: &str, Known { keys, arguments }: &Known) -> Result<String, (String, String)> {
    let placeholder = format!("{{{key}}}");
    if arguments.iter().any(|argument| argument.contains(&placeholder)) {
        return Ok(format!("command.params.{key}"));
    }
    if key.contains('.') || keys.iter().any(|known| known == key) {
        // What is wrong with it, the schema says.
        return Ok(key.to_owned());
    }
    let wanted = ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, name)| name);
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let fitting: Vec<&String> = keys.iter().filter(|path| last(path) == wanted).collect();
    match fitting.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let names: Vec<String> = keys.iter().map(|path| last(path)).collect();
            let hint = nearest(key, names.iter().map(String::as_str)).map(|near| format!("did you mean {near}?"));
            let hint = match hint {
                _ if !arguments.is_empty() => Some(format!("write {placeholder} in the argument that it changes")),
                hint => hint,
            };
            let hint = hint
                .unwrap_or_else(|| "write its dotted path, as for --set; `mlctl spec schema` shows every key".into());
            Err((format!("the spec has no key {key:?}"), hint))
        }
        many => {
            let many: Vec<&str> = many.iter().map(|path| path.as_str()).collect();
            Err((format!("{key:?} fits {}", many.join(", ")), "write the one that is meant in full".into()))
        }
    }
}

/// `1e-4..1e-1`, `log:1..100`, `uniform:0..1`, or values separated by commas.
fn read_values(text: &str) -> Result<Values<'_>, (String, String)> {
    let prefixes = [("log:", Scale::Log), ("uniform:", Scale::Uniform)];
    let asked = prefixes.iter().find_map(|(prefix, scale)| Some((text.trim().strip_prefix(prefix)?, *scale)));
    let (range, scale) = asked.map_or((text, None), |(range, scale)| (range, Some(scale)));
    let ends = range.split_once("..").map(|(low, high)| (low.trim(), high.trim()));
    let numbers = ends.and_then(|(low, high)| Some((low, high, low.parse::<f64>().ok()?, high.parse::<f64>().ok()?)));
    if let Some((low, high, least, greatest)) = numbers {
        let whole = low.parse::<i64>().is_ok() && high.parse::<i64>().is_ok();
        let scale = scale.unwrap_or(if whole { Scale::Uniform } else { Scale::Log });
        return Ok(Values::Range { low, high, range: Range { low: least, high: greatest, scale, whole } });
    }
    if asked.is_some() {
        let hint = "for example log:1e-4..1e-1, uniform:0..1 or uniform:16..128";
        return Err(("this is no range of numbers".into(), hint.into()));
    }
    let values = split(text);
    if values.iter().any(|value| value.is_empty()) {
        return Err(("a value is missing".into(), "separate values by one comma".into()));
    }
    Ok(Values::List(values))
}

/// The parts between commas that stand in no quotes and no brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut from, mut depth, mut quote) = (Vec::new(), 0, 0_u32, None);
    let mut is_escaped = false;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some('"'), '\\') if !is_escaped => {
                is_escaped = true;
                continue;
            }
            (Some(open), _) if character == open && !is_escaped => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
        is_escaped = false;
    }
    parts.push(text[from..].trim());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_split_outside_of_quotes_and_brackets() {
        for (text, parts) in [
            ("1,2, 3", vec!["1", "2", "3"]),
            ("1", vec!["1"]),
            ("[1,2],[3]", vec!["[1,2]", "[3]"]),
            (r#"{type="sgd",momentum=0.9},{type="adam"}"#, vec![r#"{type="sgd",momentum=0.9}"#, r#"{type="adam"}"#]),
            (r#""a,b",'c,d',"e\",f""#, vec![r#""a,b""#, "'c,d'", r#""e\",f""#]),
            ("1,,2", vec!["1", "", "2"]),
            ("", vec![""]),
        ] {
            assert_eq!(split(text), parts, "{text}");
        }
    }

    #[test]
    fn ranges_are_of_floats_or_whole_numbers() {
        let range = |text| match read_values(text) {
            Ok(Values::Range { range: Range { low, high, scale, whole }, .. }) => Some((low, high, scale, whole)),
            _ => None,
        };
        assert_eq!(range("1e-4..1e-1"), Some((1e-4, 1e-1, Scale::Log, false)));
        assert_eq!(range("16..128"), Some((16.0, 128.0, Scale::Uniform, true)));
        assert_eq!(range("log:16..128"), Some((16.0, 128.0, Scale::Log, true)));
        assert_eq!(range("uniform:0.0..1.0"), Some((0.0, 1.0, Scale::Uniform, false)));
        assert_eq!(range("../a.csv,../b.csv"), None);
        for text in ["log:a..b", "uniform:1", "1,,2", "", "1,"] {
            assert!(read_values(text).is_err(), "{text}");
        }
        assert_eq!(read_values("../a.csv,../b.csv"), Ok(Values::List(vec!["../a.csv", "../b.csv"])));
    }

    #[test]
    fn halving_is_said_in_a_line() {
        let read =
            |text: &str| halving(text).map(|found| (found.metric.name, found.metric.goal, found.eta, found.min_steps));
        assert_eq!(read("metric=val_loss,min-steps=100"), Ok(("val_loss".into(), Goal::Min, 3, 100)));
        assert_eq!(read("min-steps=5, metric=val_accuracy, eta=2"), Ok(("val_accuracy".into(), Goal::Max, 2, 5)));
        assert_eq!(read("metric=x,goal=max,min-steps=1"), Ok(("x".into(), Goal::Max, 3, 1)));
        for text in [
            "",
            "metric=x",
            "min-steps=3",
            "metric=x,min-steps=0",
            "metric=x,min-steps=1,eta=1",
            "metric=x,min-steps=a",
            "metric=$,min-steps=1",
            "goal=least,metric=x,min-steps=1",
            "speed=1",
        ] {
            assert!(halving(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_is_a_path_or_its_last_part_where_that_is_one() {
        let keys = ["priority", "train.seed", "train.data.seed", "train.optimizer.learning_rate"].map(str::to_owned);
        let known = Known { keys: keys.to_vec(), arguments: Vec::new() };
        let full = |key: &str| full(key, &known).map_err(|(message, hint)| format!("{message}; {hint}"));
        assert_eq!(full("priority").unwrap(), "priority");
        assert_eq!(full("learning_rate").unwrap(), "train.optimizer.learning_rate");
        assert_eq!(full("lr").unwrap(), "train.optimizer.learning_rate");
        assert_eq!(full("train.anything").unwrap(), "train.anything");
        assert_eq!(
            full("seed").unwrap_err(),
            r#""seed" fits train.seed, train.data.seed; write the one that is meant in full"#
        );
        assert!(full("learnin_rate").unwrap_err().contains("did you mean learning_rate?"));
    }

    #[test]
    fn a_key_in_braces_in_the_arguments_of_a_command_is_its_parameter() {
        let known = Known { keys: vec!["priority".into()], arguments: vec!["./t.sh".into(), "--lr={lr}".into()] };
        assert_eq!(full("lr", &known).unwrap(), "command.params.lr");
        assert_eq!(full("priority", &known).unwrap(), "priority");
        assert!(full("seed", &known).unwrap_err().1.contains("write {seed} in the argument"));
    }
}
