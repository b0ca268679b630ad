//! The bounds of the published schema, checked on values that serde has read already: numbers, lengths and counts. Types, keys and words are serde's business.

use std::sync::LazyLock;

use mlctl_protocol::JobSpec;
use serde_json::Value as Json;

use super::Problem;

/// How many references may follow each other: the schema is ours, and still a circle must end.
const MAX_REFERENCES: usize = 16;

static SCHEMA: LazyLock<Json> = LazyLock::new(|| mlctl_protocol::spec::schema().to_value());

/// Every value of the spec that is out of its bounds.
pub(super) fn problems(spec: &JobSpec) -> Vec<Problem> {
    let mut found = Vec::new();
    match serde_json::to_value(spec) {
        Ok(value) => check("", &value, &SCHEMA, &mut found),
        Err(error) => found.push(Problem { path: String::new(), message: error.to_string(), hint: None }),
    }
    found
}

fn check(path: &str, value: &Json, schema: &Json, found: &mut Vec<Problem>) {
    let schema = chosen(value, schema);
    match value {
        Json::Number(number) => {
            let bounds = Bounds::of(schema, "minimum", "maximum");
            found.extend(number.as_f64().and_then(|number| bounds.problem(path, number, "")));
        }
        Json::String(text) => {
            let bounds = Bounds::of(schema, "minLength", "maxLength");
            found.extend(bounds.problem(path, count(text.chars()), " characters"));
        }
        Json::Array(items) => {
            let bounds = Bounds::of(schema, "minItems", "maxItems");
            found.extend(bounds.problem(path, count(items.iter()), " items"));
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    check(&format!("{path}[{index}]"), item, schema, found);
                }
            }
        }
        Json::Object(fields) => {
            for (key, value) in fields {
                if let Some(schema) = schema.get("properties").and_then(|all| all.get(key)) {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    check(&path, value, schema, found);
                }
            }
        }
        Json::Null | Json::Bool(_) => {}
    }
}

/// The dotted path of every key that is no table, by the schema: where it has branches, by the one that fits what is written.
pub(super) fn keys(spec: &Json) -> Vec<String> {
    let mut found = Vec::new();
    collect("", spec, &SCHEMA, MAX_REFERENCES, &mut found);
    found
}

fn collect(path: &str, value: &Json, schema: &Json, depth: usize, found: &mut Vec<String>) {
    // What the job does not do at all: a spec trains or infers.
    let is_optional = schema.get("anyOf").is_some();
    if value.is_null() && is_optional && !path.is_empty() && !path.contains('.') {
        return;
    }
    let schema = chosen(value, schema);
    let properties = schema.get("properties").and_then(Json::as_object).filter(|_| depth > 0);
    let Some(properties) = properties else {
        found.push(path.to_owned());
        return;
    };
    for (key, inner) in properties {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        collect(&path, value.get(key).unwrap_or(&Json::Null), inner, depth - 1, found);
    }
}

/// The schema that holds for a value: behind references, without null, the branch of its tag.
fn chosen<'a>(value: &Json, mut schema: &'a Json) -> &'a Json
where
    'static: 'a,
{
    for _ in 0..MAX_REFERENCES {
        let branches = |keyword| schema.get(keyword).and_then(Json::as_array).into_iter().flatten();
        let next = match schema.get("$ref").and_then(Json::as_str) {
            Some(reference) => referenced(reference),
            None => branches("anyOf").chain(branches("oneOf")).find(|branch| fits(value, branch)),
        };
        match next {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

/// What a reference in the schema points to.
fn referenced(reference: &str) -> Option<&'static Json> {
    match reference.strip_prefix("#/$defs/") {
        // All that the schema has; a pointer's words would be unescaped one by one.
        Some(name) if !name.contains(['/', '~']) => SCHEMA.get("$defs")?.get(name),
        _ => reference.strip_prefix('#').and_then(|path| SCHEMA.pointer(path)),
    }
}

/// Whether a branch is the one of the value: it says more than null, and its constants are the value's.
fn fits(value: &Json, branch: &Json) -> bool {
    let constants = branch.get("properties").and_then(Json::as_object).into_iter().flatten();
    let mut constants = constants.filter_map(|(key, property)| Some((key, property.get("const")?)));
    branch.get("type").is_none_or(|kind| kind != "null") && constants.all(|(key, word)| value.get(key) == Some(word))
}

/// The least and the greatest that something may be.
struct Bounds {
    least: Option<f64>,
    most: Option<f64>,
}

impl Bounds {
    fn of(schema: &Json, least: &str, most: &str) -> Self {
        let bound = |keyword| schema.get(keyword).and_then(Json::as_f64);
        Self { least: bound(least), most: bound(most) }
    }

    fn problem(&self, path: &str, found: f64, unit: &str) -> Option<Problem> {
        let too_small = self.least.is_some_and(|least| found < least);
        let too_large = self.most.is_some_and(|most| found > most);
        // Nearly every value: nothing is written about it.
        if !too_small && !too_large {
            return None;
        }
        let allowed = match (self.least, self.most) {
            (Some(least), Some(most)) => format!("from {least} to {most}"),
            (Some(least), None) => format!("at least {least}"),
            (None, Some(most)) => format!("at most {most}"),
            (None, None) => return None,
        };
        let message = format!("expected {allowed}{unit}, found {found}");
        Some(Problem { path: path.to_owned(), message, hint: None })
    }
}

#[expect(clippy::cast_precision_loss, reason = "lengths of what is in memory are far below 2^52")]
fn count(items: impl Iterator) -> f64 {
    items.count() as f64
}
