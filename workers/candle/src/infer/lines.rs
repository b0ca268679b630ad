//! A prediction as a line of the results: JSON or CSV. Pure; every number is the shortest text that reads back to the same f32.

use mlctl_protocol::spec::OutputFormat;
use serde::Serialize;

use super::{
    input::{Expected, Row},
    task::Task,
};
use crate::loss::log_sum_exp;

/// The class of the greatest logit; the first of those that are the same.
pub(super) fn greatest(logits: &[f32]) -> u32 {
    let likeliest = (0_u32..)
        .zip(logits)
        .fold((0, f32::NEG_INFINITY), |best, (class, logit)| if *logit > best.1 { (class, *logit) } else { best });
    likeliest.0
}

/// What a model says of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Prediction {
    /// The likeliest class, and the probability of each.
    Class(u32, Vec<f32>),
    /// Values.
    Values(Vec<f32>),
}

impl Prediction {
    /// Reads a row of outputs; `None` when one of them is not finite.
    pub(super) fn of(outputs: &[f32], task: &Task) -> Option<Self> {
        if !outputs.iter().all(|value| value.is_finite()) {
            return None;
        }
        Some(match task {
            Task::Values(_) => Self::Values(outputs.to_vec()),
            Task::Classes(_) => {
                let log_sum = log_sum_exp(outputs);
                #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
                let probabilities = outputs.iter().map(|logit| (f64::from(*logit) - log_sum).exp() as f32).collect();
                Self::Class(greatest(outputs), probabilities)
            }
        })
    }

    /// The class, where it is one.
    pub(super) const fn class(&self) -> Option<u32> {
        match self {
            Self::Class(class, _) => Some(*class),
            Self::Values(_) => None,
        }
    }
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    id: Id<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Label<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probabilities: Option<&'a [f32]>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Id<'a> {
    Number(u64),
    Text(&'a str),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Label<'a> {
    Class(u32),
    Values(&'a [f32]),
}

/// The first line of CSV results; nothing for JSON.
pub(super) fn header(format: OutputFormat, task: &Task) -> Vec<u8> {
    if format == OutputFormat::Jsonl {
        return Vec::new();
    }
    let mut fields = vec!["id".to_owned()];
    match task {
        Task::Classes(classes) => {
            fields.extend(["class".to_owned(), "expected".to_owned()]);
            fields.extend((0..*classes).map(|class| format!("probability{class}")));
        }
        Task::Values(names) => {
            fields.extend(names.iter().cloned());
            fields.extend(names.iter().map(|name| format!("expected_{name}")));
        }
    }
    record(&fields)
}

/// A prediction's line, its end included.
pub(super) fn line(format: OutputFormat, row: &Row, prediction: &Prediction) -> Vec<u8> {
    match format {
        OutputFormat::Jsonl => json(row, prediction),
        OutputFormat::Csv => csv(row, prediction),
    }
}

fn json(row: &Row, prediction: &Prediction) -> Vec<u8> {
    let (values, probabilities) = match prediction {
        Prediction::Class(_, probabilities) => (None, Some(probabilities.as_slice())),
        Prediction::Values(values) => (Some(values.as_slice()), None),
    };
    let line = Line {
        id: row.id.as_deref().map_or(Id::Number(row.number), Id::Text),
        class: prediction.class(),
        values,
        expected: row.expected.as_ref().map(|expected| match expected {
            Expected::Class(class) => Label::Class(*class),
            Expected::Values(values) => Label::Values(values),
        }),
        probabilities,
    };
    // Plain fields of numbers and text: nothing in them can fail to be written.
    let mut json = serde_json::to_vec(&line).unwrap_or_default();
    json.push(b'\n');
    json
}

fn csv(row: &Row, prediction: &Prediction) -> Vec<u8> {
    let numbers = |values: &[f32]| values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>();
    let mut fields = vec![row.id.clone().unwrap_or_else(|| row.number.to_string())];
    match prediction {
        Prediction::Class(class, probabilities) => {
            let expected = match &row.expected {
                Some(Expected::Class(class)) => class.to_string(),
                _ => String::new(),
            };
            fields.extend([class.to_string(), expected]);
            fields.extend(numbers(probabilities));
        }
        Prediction::Values(values) => {
            fields.extend(numbers(values));
            match &row.expected {
                Some(Expected::Values(expected)) => fields.extend(numbers(expected)),
                _ => fields.extend(values.iter().map(|_| String::new())),
            }
        }
    }
    record(&fields)
}

fn record(fields: &[String]) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    // Writing to memory cannot fail.
    let _ = writer.write_record(fields);
    writer.into_inner().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: Option<&str>, expected: Option<Expected>) -> Row {
        Row { number: 7, id: id.map(str::to_owned), expected }
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_what_it_is_written_to_be() {
        let class = Prediction::Class(1, vec![0.25, 0.75]);
        let values = Prediction::Values(vec![1.5, -2e-30]);
        let cases = [
            (OutputFormat::Jsonl, row(None, None), &class, "{\"id\":7,\"class\":1,\"probabilities\":[0.25,0.75]}\n"),
            (
                OutputFormat::Jsonl,
                row(Some("a\"b"), Some(Expected::Class(0))),
                &class,
                "{\"id\":\"a\\\"b\",\"class\":1,\"expected\":0,\"probabilities\":[0.25,0.75]}\n",
            ),
            (
                OutputFormat::Jsonl,
                row(None, Some(Expected::Values(vec![1.0, 2.0]))),
                &values,
                "{\"id\":7,\"values\":[1.5,-2e-30],\"expected\":[1.0,2.0]}\n",
            ),
            (OutputFormat::Csv, row(Some("a,\"b"), None), &class, "\"a,\"\"b\",1,,0.25,0.75\n"),
            (OutputFormat::Csv, row(None, Some(Expected::Class(0))), &class, "7,1,0,0.25,0.75\n"),
            (OutputFormat::Csv, row(None, None), &values, "7,1.5,-2e-30,,\n"),
        ];
        for (format, row, prediction, expected) in cases {
            assert_eq!(text(line(format, &row, prediction)), expected);
        }
        assert_eq!(text(header(OutputFormat::Csv, &Task::Classes(2))), "id,class,expected,probability0,probability1\n");
        let names = Task::Values(vec!["p".into(), "q".into()]);
        assert_eq!(text(header(OutputFormat::Csv, &names)), "id,p,q,expected_p,expected_q\n");
        assert!(header(OutputFormat::Jsonl, &names).is_empty());
    }

    #[test]
    fn every_number_reads_back_to_the_same_bits() {
        let mut bits = 1_u32;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(bits);
            if !value.is_finite() {
                continue;
            }
            let prediction = Prediction::Values(vec![value]);
            let json: serde_json::Value =
                serde_json::from_slice(&line(OutputFormat::Jsonl, &row(None, None), &prediction)).unwrap();
            #[expect(clippy::cast_possible_truncation, reason = "as a reader of the file would")]
            let read = json["values"][0].as_f64().unwrap() as f32;
            assert_eq!(read.to_bits(), bits);
            let csv = text(line(OutputFormat::Csv, &row(None, None), &prediction));
            assert_eq!(csv.split(',').nth(1).unwrap().parse::<f32>().unwrap().to_bits(), bits);
        }
    }

    #[test]
    fn probabilities_are_those_of_the_logits() {
        let Some(Prediction::Class(class, probabilities)) =
            Prediction::of(&[1000.0, 1000.0, -1000.0], &Task::Classes(3))
        else {
            panic!()
        };
        assert_eq!((class, probabilities), (0, vec![0.5, 0.5, 0.0]));
        assert_eq!(Prediction::of(&[f32::NAN], &Task::Classes(1)), None);
        assert_eq!(Prediction::of(&[2.0], &Task::Values(vec!["a".into()])), Some(Prediction::Values(vec![2.0])));
    }
}
