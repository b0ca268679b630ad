//! Documents and what is said of them, to the letter.

use mlctl_protocol::{JobSpec, spec};

use super::*;

const GOOD: &str = r#"version = 1
name = "digits"

[train]
batch_size = 32
loss = "mse"
max_epochs = 3
model = { type = "mlp", layers = [4, 2] }
optimizer = { type = "adam" }

[train.data]
format = "randn"
rows = 100
features = 4
targets = 2
"#;

fn said(text: &str, sets: &[&str]) -> String {
    let mut document = match Document::parse("job.toml", text) {
        Ok(document) => document,
        Err(report) => return report.to_string(),
    };
    let mut wrong = Vec::new();
    for set in sets {
        wrong.extend(document.set("--set", set).err());
    }
    if !wrong.is_empty() {
        return document.report(wrong).to_string();
    }
    match document.read::<JobSpec>(&spec::schema()) {
        Ok(_) => "fine".into(),
        Err(report) => report.to_string(),
    }
}

#[test]
fn a_good_spec_is_fine_for_serde_and_for_the_schema() {
    assert_eq!(said(GOOD, &[]), "fine");
    let document = Document::parse("job.toml", GOOD).unwrap();
    assert_eq!(document.problems(&spec::schema()), []);
}

#[test]
fn every_mistake_is_shown_at_once_where_it_is() {
    let text = GOOD
        .replace("batch_size = 32", "batchsize = 32")
        .replace("\"mse\"", "\"msee\"")
        .replace("max_epochs = 3", "max_epochs = \"3\"")
        .replace("[4, 2]", "[4, 0]")
        .replace("name = \"digits\"\n", "name = 7\npriority = 101\n");
    let expected = r#"job.toml:2:8: expected a string, found the integer 7
 2 | name = 7
   |        ^
   = hint: put it in quotes

job.toml:3:12: `priority` must be from 0 to 100, found 101
 3 | priority = 101
   |            ^^^

job.toml:5:1: missing key `batch_size` in [train]
 5 | [train]
   | ^^^^^^^
   = hint: `batch_size`: Rows per batch

job.toml:6:1: unknown key `batchsize`
 6 | batchsize = 32
   | ^^^^^^^^^
   = hint: did you mean `batch_size`? allowed: `accumulate`, `batch_size`, `convergence`, `data`, `detect`, `ema`, `freeze`, `groups`, `init`, `loss`, `max_epochs`, `max_grad_norm`, `max_grad_value`, `max_steps`, `model`, `optimizer`, `register`, `scaling`, `schedule`, `seed`, `select`, `split`, `stream`

job.toml:7:8: "msee" is no value of `loss`
 7 | loss = "msee"
   |        ^^^^^^
   = hint: did you mean "mse"? allowed: "mse", "cross_entropy"

job.toml:8:14: expected an integer, found the string "3"
 8 | max_epochs = "3"
   |              ^^^
   = hint: take away the quotes: max_epochs = 3

job.toml:9:38: `layers[1]` must be from 1 to 1000000, found 0
 9 | model = { type = "mlp", layers = [4, 0] }
   |                                      ^"#;
    assert_eq!(said(&text, &[]), expected);
}

#[test]
fn one_mistake_each() {
    let cases: &[(&str, &str, &str)] = &[
        ("version = 1", "version = 2", "job.toml:1:11: `version` must be 1, found 2"),
        ("\"randn\"", "\"rand\"", "job.toml:12:10: \"rand\" is no value of `format`"),
        ("format = \"randn\"\n", "", "job.toml:11:1: missing key `format` in [train.data]"),
        ("{ type = \"adam\" }", "\"adam\"", "job.toml:9:13: expected a table, found the string \"adam\""),
        ("{ type = \"adam\" }", "{ type = \"adam\", momentum = 1 }", "job.toml:9:30: unknown key `momentum`"),
        ("[4, 2]", "[4]", "job.toml:8:34: expected 2 to 1000 items, found 1"),
        ("[4, 2]", "4", "job.toml:8:34: expected an array, found the integer 4"),
        ("[4, 2]", "[4, 2.5]", "job.toml:8:38: expected an integer, found the number 2.5"),
        ("32", "-1", "job.toml:5:14: `batch_size` must be from 1 to 10000000, found -1"),
        ("32", "99999999999999999999", "job.toml:5:14: `batch_size` must be from 1 to 10000000"),
        ("[4, 2]", "[4, 2], dropout = nan", "job.toml:8:52: `dropout` must be a finite number"),
        ("\"digits\"", "\"\"", "job.toml:2:8: `name` must not be empty"),
        ("\"digits\"", "1979-05-27", "job.toml:2:8: expected a string, found a date"),
        ("\"digits\"", "\"digits\"\nlabels = { team = 7 }", "job.toml:3:19: expected a string, found the integer 7"),
        ("\"digits\"", "\"digits", "job.toml:2:"),
        ("name = ", "name = \"a\"\nname = ", "job.toml:3:1: duplicate key"),
    ];
    for (from, to, expected) in cases {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{from:?} is not in the document");
        let said = said(&text, &[]);
        assert!(said.starts_with(expected), "{to:?} should give {expected:?}, but gave\n{said}");
        assert_eq!(said.matches("job.toml:").count(), 1, "{to:?} gives one problem:\n{said}");
    }
}

#[test]
fn a_mistake_in_a_flag_is_shown_in_the_flag() {
    assert_eq!(said(GOOD, &["train.batch_size=64", "train.loss=mse", "name=\"x\""]), "fine");
    let expected =
        "--set: expected an integer, found the string \"big\"\n  | train.batch_size=big\n  |                  ^^^";
    assert_eq!(said(GOOD, &["train.batch_size=big"]), expected);
    let said_of = |set: &str| said(GOOD, &[set]).lines().next().unwrap_or_default().to_owned();
    assert_eq!(said_of("train.batchsize=1"), "--set: unknown key `batchsize`");
    assert!(said_of("train").starts_with("--set: this is no `key=value` in TOML"), "{}", said_of("train"));
    assert!(said_of("=3").starts_with("--set: this is no `key=value` in TOML"), "{}", said_of("=3"));
    assert_eq!(said_of(""), "--set: this sets nothing");
}

#[test]
fn a_dotted_flag_joins_tables_and_braces_replace_them() {
    let set = |flag: &str| {
        let mut document = Document::parse("a", "a = { b = 1, c = 2 }").unwrap();
        document.set("--set", flag).unwrap();
        document.json().to_string()
    };
    assert_eq!(set("a.b=3"), r#"{"a":{"b":3,"c":2}}"#);
    assert_eq!(set("a={ b = 3 }"), r#"{"a":{"b":3}}"#);
    assert_eq!(set("a.d.e=true"), r#"{"a":{"b":1,"c":2,"d":{"e":true}}}"#);
    assert_eq!(set("a.b=./x y.csv"), r#"{"a":{"b":"./x y.csv","c":2}}"#);
    assert_eq!(set("a=word"), r#"{"a":"word"}"#);
}

#[test]
fn a_dotted_path_leads_to_its_place_or_to_the_nearest_around_it() {
    let document = Document::parse("job.toml", GOOD).unwrap();
    let at = |path: &str| {
        let located = document.report(vec![document.problem(path, "x")]).located();
        (located[0].line, located[0].column)
    };
    assert_eq!(at("train.model.layers"), (8, 34));
    assert_eq!(at("train.model.layers.1"), (8, 38));
    assert_eq!(at("train.model.layers[1]"), (8, 38));
    assert_eq!(at("train.model.dropout"), (8, 9));
    assert_eq!(at("train.data.uri"), (11, 1));
    assert_eq!(at("retry.limit"), (1, 1));
}

#[test]
fn a_long_line_is_cut_and_control_characters_do_not_reach_the_terminal() {
    let text = format!("name = \"{}\u{1b}]52;c\u{7}\" ]", "é".repeat(300));
    let said = said(&text, &[]);
    assert!(!said.contains('\u{1b}') && !said.contains('\u{7}'), "{said:?}");
    assert!(said.lines().all(|line| line.chars().count() < 140), "{said}");
}

#[test]
fn nothing_a_user_writes_ends_the_program() {
    for text in
        ["", "\u{feff}", "=", "a.=1", "[", "[[a]]\n[a]", "a=\"\\u{110000}\"", "\r\n\r", "é = é", "\"\"=1", "a=[[[["]
    {
        let _ = said(text, &[text]);
    }
    let deep = format!("a = {}1{}", "[".repeat(5000), "]".repeat(5000));
    assert!(!said(&deep, &[]).is_empty());
}

#[test]
fn no_more_than_the_limit_is_read() {
    assert_eq!(read_text(&b"12345"[..], 5).unwrap(), "12345");
    assert_eq!(read_text(&b"123456"[..], 5).unwrap_err().to_string(), "it is larger than 5 bytes");
    assert_eq!(read_text(&b"ab\xff"[..], 5).unwrap_err().to_string(), "it is not UTF-8 text (byte 2)");
}
