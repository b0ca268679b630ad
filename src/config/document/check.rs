//! A document against a JSON Schema, as schemars writes it: every misfit, each at its place. It knows the part of the standard that schemars uses
//! for our types, and takes a keyword it does not know for no constraint; serde has the last word afterwards.

use serde_json::{Map, Value as Json};

use super::{
    Problem,
    nearest::suggest,
    place::Place,
    tree::{Entry, Node, Table, Value},
};

/// How many references may follow each other: schemas are ours, and still a circle must end.
const MAX_REFERENCES: usize = 16;

/// Every way in which `node` does not fit `schema`.
pub(super) fn problems(schema: &Json, node: &Node) -> Vec<Problem> {
    let mut checker = Checker { root: schema, problems: Vec::new() };
    checker.check("", node, schema);
    checker.problems
}

struct Checker<'a> {
    root: &'a Json,
    problems: Vec<Problem>,
}

impl<'a> Checker<'a> {
    fn check(&mut self, path: &str, node: &Node, schema: &'a Json) {
        let schema = self.resolve(schema);
        if let Some(branches) = list(schema, "oneOf") {
            return self.check_choice(path, node, branches);
        }
        let allowed: Vec<_> = match schema.get("const") {
            Some(only) => only.as_str().into_iter().collect(),
            None => list(schema, "enum").into_iter().flatten().filter_map(Json::as_str).collect(),
        };
        if !allowed.is_empty() {
            return self.check_word(path, node, &allowed);
        }
        match (kind(schema), &node.value) {
            (Some("object"), Value::Table(table)) => self.check_table(path, node.place, table, schema),
            (Some("array"), Value::Array(items)) => self.check_array(path, node.place, items, schema),
            (Some("string"), Value::Text(text)) => self.check_text(path, node.place, text, schema),
            (Some("integer"), Value::Integer(_)) => self.check_number(path, node, schema),
            (Some("number"), Value::Integer(_) | Value::Float(_)) => self.check_number(path, node, schema),
            (Some("boolean"), Value::Bool(_)) | (None, _) => {}
            (Some(kind), _) => self.wrong_type(path, node, kind, schema),
        }
    }

    /// Follows references and takes the null out of what is optional: TOML has none.
    fn resolve(&self, mut schema: &'a Json) -> &'a Json {
        for _ in 0..MAX_REFERENCES {
            let next = match (schema.get("$ref").and_then(Json::as_str), list(schema, "anyOf")) {
                (Some(reference), _) => reference.strip_prefix('#').and_then(|path| self.root.pointer(path)),
                (None, Some(branches)) => branches.iter().find(|branch| kind(branch) != Some("null")),
                (None, None) => None,
            };
            match next {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema
    }

    fn check_choice(&mut self, path: &str, node: &Node, branches: &'a [Json]) {
        let branches: Vec<_> = branches.iter().map(|branch| self.resolve(branch)).collect();
        let words: Vec<_> = branches.iter().filter_map(|branch| branch.get("const")?.as_str()).collect();
        if words.len() == branches.len() {
            return self.check_word(path, node, &words);
        }
        let Some(tag) = tag(&branches) else { return };
        let words: Vec<_> = branches.iter().filter_map(|branch| tag_of(branch, tag)).collect();
        let Value::Table(table) = &node.value else {
            let hint = format!("for example {{ {tag} = {:?}, … }}", words.first().copied().unwrap_or_default());
            let problem = Problem::at(node.place, path, format!("expected a table, found {}", node.value.shown()));
            return self.problems.push(problem.hint(hint));
        };
        let Some(Entry { node: written, .. }) = table.get(tag) else {
            let problem = Problem::at(node.place, path, format!("missing key `{tag}`{}", within(path)));
            return self.problems.push(problem.hint(suggest("", &words, '"')));
        };
        let chosen = branches.iter().find(|branch| tag_of(branch, tag) == written.value.text());
        match chosen {
            Some(branch) => self.check(path, node, branch),
            None => self.check_word(&join(path, tag), written, &words),
        }
    }

    fn check_word(&mut self, path: &str, node: &Node, allowed: &[&str]) {
        let problem = match &node.value {
            Value::Text(text) if allowed.contains(&text.as_str()) => return,
            Value::Text(text) => Problem::at(node.place, path, format!("{text:?} is no value of `{}`", last(path)))
                .hint(suggest(text, allowed, '"')),
            other => Problem::at(node.place, path, format!("expected a string, found {}", other.shown()))
                .hint(suggest("", allowed, '"')),
        };
        self.problems.push(problem);
    }

    fn check_table(&mut self, path: &str, place: Place, table: &Table, schema: &'a Json) {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&none);
        let required = list(schema, "required").into_iter().flatten().filter_map(Json::as_str);
        for key in required.filter(|key| !table.contains_key(*key)) {
            let described = properties.get(key).and_then(|property| property.get("description")?.as_str());
            let problem = Problem::at(place, path, format!("missing key `{key}`{}", within(path)));
            self.problems.push(match described {
                Some(text) => problem.hint(format!("`{key}`: {}", first_sentence(text))),
                None => problem,
            });
        }
        let others = schema.get("additionalProperties");
        for (key, Entry { key: key_place, node }) in table {
            let path = join(path, key);
            match (schema.get("properties").and_then(|all| all.get(key)), others) {
                (Some(property), _) => self.check(&path, node, property),
                (None, Some(Json::Bool(false))) => {
                    let allowed: Vec<_> = properties.keys().map(String::as_str).collect();
                    let problem = Problem::at(*key_place, path, format!("unknown key `{key}`"));
                    self.problems.push(problem.hint(suggest(key, &allowed, '`')));
                }
                (None, Some(other)) => self.check(&path, node, other),
                (None, None) => {}
            }
        }
    }

    fn check_array(&mut self, path: &str, place: Place, items: &[Node], schema: &'a Json) {
        let least = bound(schema, "minItems");
        let most = bound(schema, "maxItems");
        let count = items.len();
        if outside(count, least, most) {
            let message = format!("expected {} items, found {count}", amount(least, most));
            self.problems.push(Problem::at(place, path, message));
        }
        let first = list(schema, "prefixItems").unwrap_or_default();
        let rest = std::iter::repeat(schema.get("items"));
        let schemas = first.iter().map(Some).chain(rest);
        for (index, (item, schema)) in items.iter().zip(schemas).enumerate() {
            if let Some(schema) = schema {
                self.check(&format!("{path}[{index}]"), item, schema);
            }
        }
    }

    fn check_text(&mut self, path: &str, place: Place, text: &str, schema: &Json) {
        let least = bound(schema, "minLength");
        let most = bound(schema, "maxLength");
        let count = text.chars().count();
        if count == 0 && least.is_some_and(|least| least > 0) {
            self.problems.push(Problem::at(place, path, format!("`{}` must not be empty", last(path))));
        } else if outside(count, least, most) {
            let message = format!("expected {} characters, found {count}", amount(least, most));
            self.problems.push(Problem::at(place, path, message));
        }
    }

    fn check_number(&mut self, path: &str, node: &Node, schema: &Json) {
        let format = schema.get("format").and_then(Json::as_str).and_then(widest);
        let least = schema.get("minimum").and_then(Json::as_f64).or(format.map(|(least, _)| least));
        let most = schema.get("maximum").and_then(Json::as_f64).or(format.map(|(_, most)| most));
        let number = match node.value {
            #[expect(
                clippy::cast_precision_loss,
                reason = "bounds are small; what is near 2^64 is compared well enough"
            )]
            Value::Integer(number) => number as f64,
            Value::Float(number) => number,
            _ => return,
        };
        let message = if !number.is_finite() {
            format!("`{}` must be a finite number", last(path))
        } else if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
            format!("`{}` must be {}, found {}", last(path), range(least, most), node.value.digits())
        } else {
            return;
        };
        self.problems.push(Problem::at(node.place, path, message));
    }

    fn wrong_type(&mut self, path: &str, node: &Node, kind: &str, schema: &Json) {
        let expected = match kind {
            "object" => "a table",
            "array" => "an array",
            "string" => "a string",
            "integer" => "an integer",
            "number" => "a number",
            "boolean" => "true or false",
            other => other,
        };
        let problem = Problem::at(node.place, path, format!("expected {expected}, found {}", node.value.shown()));
        let name = last(path);
        self.problems.push(match (kind, &node.value) {
            ("string", Value::Integer(_) | Value::Float(_) | Value::Bool(_) | Value::Date(_)) => {
                problem.hint("put it in quotes")
            }
            ("integer" | "number", Value::Text(text)) if text.parse::<f64>().is_ok() => {
                problem.hint(format!("take away the quotes: {name} = {text}"))
            }
            ("array", _) => problem.hint(format!("put it in brackets: {name} = [ … ]")),
            ("object", _) => match schema.get("properties").and_then(Json::as_object) {
                Some(keys) => problem.hint(format!("its keys: {}", quoted(keys))),
                None => problem,
            },
            _ => problem,
        });
    }
}

/// The type a schema names, null apart.
fn kind(schema: &Json) -> Option<&str> {
    match schema.get("type")? {
        Json::String(kind) => Some(kind),
        Json::Array(kinds) => kinds.iter().filter_map(Json::as_str).find(|kind| *kind != "null"),
        _ => None,
    }
}

fn list<'a>(schema: &'a Json, keyword: &str) -> Option<&'a [Json]> {
    schema.get(keyword)?.as_array().map(Vec::as_slice)
}

fn bound(schema: &Json, keyword: &str) -> Option<usize> {
    usize::try_from(schema.get(keyword)?.as_u64()?).ok()
}

/// The key that tells the branches of a tagged enum apart.
fn tag<'a>(branches: &[&'a Json]) -> Option<&'a str> {
    let first = branches.first()?.get("properties")?.as_object()?;
    let is_tag = |key: &&String| branches.iter().all(|branch| tag_of(branch, key).is_some());
    first.keys().find(is_tag).map(String::as_str)
}

fn tag_of<'a>(branch: &'a Json, tag: &str) -> Option<&'a str> {
    branch.get("properties")?.get(tag)?.get("const")?.as_str()
}

/// The least and greatest value of an integer format.
fn widest(format: &str) -> Option<(f64, f64)> {
    Some(match format {
        "uint8" => (0.0, f64::from(u8::MAX)),
        "uint16" => (0.0, f64::from(u16::MAX)),
        "uint32" => (0.0, f64::from(u32::MAX)),
        "uint64" | "uint" => (0.0, 18_446_744_073_709_551_615.0),
        "int32" => (f64::from(i32::MIN), f64::from(i32::MAX)),
        "int64" | "int" => (-9_223_372_036_854_775_808.0, 9_223_372_036_854_775_807.0),
        _ => return None,
    })
}

fn outside(count: usize, least: Option<usize>, most: Option<usize>) -> bool {
    least.is_some_and(|least| count < least) || most.is_some_and(|most| count > most)
}

fn amount(least: Option<usize>, most: Option<usize>) -> String {
    match (least, most) {
        (Some(least), Some(most)) if least == most => least.to_string(),
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => "any number of".into(),
    }
}

fn range(least: Option<f64>, most: Option<f64>) -> String {
    match (least, most) {
        (Some(least), Some(most)) if least == most => least.to_string(),
        (Some(least), Some(most)) => format!("from {least} to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => "a number".into(),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The last key of a path, with its index if it has one.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// ` in [table]`, where there is a table to name.
fn within(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" in [{path}]") }
}

fn quoted(keys: &Map<String, Json>) -> String {
    keys.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

fn first_sentence(text: &str) -> String {
    let text = text.replace('\n', " ");
    let end = text.find(". ").unwrap_or(text.len());
    text[..end].trim_end_matches('.').to_owned()
}
