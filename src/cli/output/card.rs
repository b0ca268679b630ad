//! The card of a version of a model (Mitchell et al. 2019, arXiv:1810.03993, as far as it is facts): what it is, how well it did, and where it comes from, in Markdown.

use std::fmt::Write as _;

use serde_json::Value;

use super::text;
use crate::api::types::VersionView;

/// The card of a version, with the spec of its job where that is on record still.
pub fn of(version: &VersionView, spec: Option<&Value>) -> String {
    let VersionView { model, version: number, aliases, job, attempt, step, created_by, created_at, .. } = version;
    let mut card = format!("# {model}/{number}\n\n");
    let mut fact = |name: &str, value: &str| {
        // Writing to a text does not fail.
        let _ = writeln!(card, "- {name}: {value}");
    };
    if !aliases.is_empty() {
        fact("aliases when it was exported", &aliases.join(", "));
    }
    fact("registered", &format!("{} by {}", created_at.strftime("%F %T UTC"), text::visible_line(created_by)));
    let of_step = step.map_or_else(String::new, |step| format!(", its checkpoint of step {step}"));
    let of_attempt = attempt.map_or_else(String::new, |attempt| format!(" in attempt {attempt}"));
    fact("trained by", &format!("job {job}{of_step}{of_attempt}"));
    let digests = [
        ("tensors, BLAKE3", &version.digest),
        ("training data, BLAKE3", &version.dataset_digest),
        ("spec, BLAKE3", &Some(version.spec_digest.clone())),
    ];
    for (name, digest) in digests {
        fact(name, digest.as_deref().map_or("not on record".to_owned(), |digest| format!("`{digest}`")).as_str());
    }
    if !version.metrics.is_empty() {
        card.push_str("\n## Metrics\n\n| metric | last value |\n| --- | ---: |\n");
        for (name, value) in &version.metrics {
            let _ = writeln!(card, "| {name} | {value} |");
        }
    }
    card.push_str("\n## Files\n\n| file | bytes | BLAKE3 |\n| --- | ---: | --- |\n");
    for object in &version.objects {
        let _ = writeln!(card, "| {} | {} | `{}` |", object.name, object.size_bytes, object.blake3);
    }
    card.push_str("\n## Spec\n\n");
    match spec.map(serde_json::to_string_pretty) {
        Some(Ok(spec)) => {
            let _ = writeln!(card, "```json\n{spec}\n```");
        }
        _ => card.push_str("The job was removed, and its spec with it.\n"),
    }
    card
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_card_holds_what_is_on_record_and_says_what_is_not() {
        let version: VersionView = serde_json::from_value(json!({
            "schema": 1, "model": "digits", "version": 3, "aliases": ["champion", "eu"], "job": "17", "attempt": null, "step": null,
            "uri": "s3://ml/jobs/17/model/1", "size_bytes": 12, "digest": "ab12", "spec_digest": "cd34", "dataset_digest": null,
            "metrics": {"val_accuracy": 0.9852, "val_loss": 0.0599},
            "objects": [{"name": "model.safetensors", "role": "", "size_bytes": 12, "blake3": "ef56"}],
            "created_by": "ada", "created_at": "2026-11-20T02:31:00Z"
        }))
        .unwrap();
        let card = of(&version, Some(&json!({"train": {"seed": 1}})));
        let expected = "# digits/3

- aliases when it was exported: champion, eu
- registered: 2026-11-20 02:31:00 UTC by ada
- trained by: job 17
- tensors, BLAKE3: `ab12`
- training data, BLAKE3: not on record
- spec, BLAKE3: `cd34`

## Metrics

| metric | last value |
| --- | ---: |
| val_accuracy | 0.9852 |
| val_loss | 0.0599 |

## Files

| file | bytes | BLAKE3 |
| --- | ---: | --- |
| model.safetensors | 12 | `ef56` |

## Spec

```json
{
  \"train\": {
    \"seed\": 1
  }
}
```
";
        assert_eq!(card, expected);
        let of_checkpoint = VersionView { aliases: Vec::new(), attempt: Some(2), step: Some(500), ..version };
        let card = of(&of_checkpoint, None);
        assert!(
            card.contains("job 17, its checkpoint of step 500 in attempt 2") && card.ends_with("its spec with it.\n")
        );
    }
}
