//! Which objects elsewhere a checkpoint rests on, by its manifest: what several checkpoints share is stored once. Called by the daemon before anything is deleted, and so written for manifests of any
//! later format too: of an object's entry, each text that is an absolute URI, or a key below the prefix of all objects, names another object.

use serde_json::Value;

use crate::{ArtifactError, Location, keys, manifest::MAX_MANIFEST_BYTES};

/// The URIs of what a checkpoint rests on outside its own folder. `prefix` is that of all objects. A folder without a manifest rests on nothing.
///
/// # Errors
/// [`ArtifactError::Corrupt`] when the manifest is no JSON: nobody knows then what it rests on. Else as [`Location::get`].
pub async fn of(folder: &Location, prefix: &str) -> Result<Vec<String>, ArtifactError> {
    let at = folder.join(keys::MANIFEST)?;
    let Some(json) = at.get_optional(MAX_MANIFEST_BYTES).await? else { return Ok(Vec::new()) };
    let manifest: Value = serde_json::from_slice(&json)
        .map_err(|error| ArtifactError::corrupt(at.uri(), format!("not JSON: {error}")))?;
    let own = format!("{}/", folder.uri());
    let mut found = Vec::new();
    collect(&manifest["objects"], prefix.trim_end_matches('/'), &mut found);
    found.retain(|uri| !uri.starts_with(&own));
    Ok(found)
}

fn collect(value: &Value, prefix: &str, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains("://") => found.push(text.clone()),
        Value::String(text) if text.contains('/') => found.push(format!("{prefix}/{}", text.trim_start_matches('/'))),
        Value::Array(items) => items.iter().for_each(|item| collect(item, prefix, found)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, prefix, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stores;

    #[tokio::test]
    async fn what_lies_elsewhere_is_found_whatever_its_key_is_called() {
        let stores = Stores::with_memory();
        let folder = stores.open("memory:///o/jobs/2-x/1/checkpoints/7").unwrap();
        assert_eq!(of(&folder, "memory:///o").await.unwrap(), Vec::<String>::new(), "there is none");
        let manifest = serde_json::json!({"parent": "memory:///elsewhere", "objects": [
            {"name": "own", "blake3": "00", "role": "model", "size_bytes": 1},
            {"name": "a", "uri": "memory:///o/jobs/1-x/1/checkpoints/5/a"},
            {"name": "b", "parts": [{"key": "jobs/1-x/1/checkpoints/5/b"}]},
            {"name": "c", "at": format!("{}/c", folder.uri())},
        ]});
        folder.join(keys::MANIFEST).unwrap().put(manifest.to_string().into()).await.unwrap();
        let expected = ["memory:///o/jobs/1-x/1/checkpoints/5/a", "memory:///o/jobs/1-x/1/checkpoints/5/b"];
        assert_eq!(of(&folder, "memory:///o/").await.unwrap(), expected);
        folder.join(keys::MANIFEST).unwrap().put("{".into()).await.unwrap();
        assert!(matches!(of(&folder, "memory:///o").await, Err(ArtifactError::Corrupt { .. })));
    }
}
