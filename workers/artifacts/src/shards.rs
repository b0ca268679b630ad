//! Data that lies in several objects: which ones a folder or a pattern means, in the order of their names. Called by workers before they read, and by the
//! daemon to see whether there is anything; nothing is opened.

use glob::{MatchOptions, Pattern};

use crate::{ArtifactError, Location, Stores, uri::bad_uri};

/// A file of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its path under the folder that all are in.
    pub name: String,
    /// Where it is.
    pub uri: String,
    /// Its size in bytes.
    pub size: u64,
}

/// `*` stays within a name, and what is hidden must be named.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Why a pattern is none; `None` for one that can be matched.
#[must_use]
pub fn problem(pattern: &str) -> Option<String> {
    Pattern::new(pattern).err().map(|error| format!("{} at its byte {}", error.msg, error.pos))
}

/// The files under a folder that match a pattern, sorted by the bytes of their paths; with an empty pattern, all of which no name on the way begins with `.` or
/// `_` (as `_SUCCESS` does). A local file outside the folder, behind a link, is refused: who may name the folder may not name that.
///
/// # Errors
/// [`ArtifactError::BadUri`] for a pattern that is none or a file that a link leads out to; [`ArtifactError::Corrupt`] for a folder of more than 100,000
/// objects; [`ArtifactError::Refused`], [`ArtifactError::Unavailable`].
pub async fn find(stores: &Stores, folder: &str, pattern: &str) -> Result<Vec<Shard>, ArtifactError> {
    let at = stores.open(folder)?;
    if let Some(why) = problem(pattern) {
        return Err(bad_uri(&format!("{folder}/{pattern}"), &why));
    }
    let matcher = Pattern::new(pattern).unwrap_or_default();
    let wanted = |name: &str| match pattern {
        "" => !name.split('/').any(|name| name.starts_with(['.', '_'])),
        _ => matcher.matches_with(name, MATCHING),
    };
    let mut shards = Vec::new();
    for entry in at.list().await?.into_iter().filter(|entry| wanted(&entry.name)) {
        let uri = at.join(&entry.name)?.uri().to_owned();
        shards.push(Shard { name: entry.name, uri, size: entry.size });
    }
    stay_inside(&at, &shards).await?;
    Ok(shards)
}

async fn stay_inside(folder: &Location, shards: &[Shard]) -> Result<(), ArtifactError> {
    let Some(path) = crate::uri::to_path(folder.uri())? else { return Ok(()) };
    if shards.is_empty() {
        return Ok(());
    }
    let unreadable = |uri: &str, error| ArtifactError::from_io(uri, error);
    let inside = tokio::fs::canonicalize(&path).await.map_err(|error| unreadable(folder.uri(), error))?;
    for shard in shards {
        let real = tokio::fs::canonicalize(path.join(&shard.name)).await;
        if !real.map_err(|error| unreadable(&shard.uri, error))?.starts_with(&inside) {
            return Err(bad_uri(&shard.uri, "it is a link that leads out of the folder that the pattern is about"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn names(stores: &Stores, folder: &str, pattern: &str) -> Vec<String> {
        find(stores, folder, pattern).await.unwrap().into_iter().map(|shard| shard.name).collect()
    }

    #[tokio::test]
    async fn a_pattern_means_what_it_does_in_a_shell() {
        let dir = tempfile::tempdir().unwrap();
        let stores = Stores::with_memory();
        for base in [format!("file://{}/d", dir.path().display()), "memory:///d".into()] {
            let all = ["a-1.csv", "a-10.csv", "a-2.csv", "b.csv", "deep/a-3.csv", ".a-4.csv", "_SUCCESS", "_x/a.csv"];
            for name in all {
                stores.open(&format!("{base}/{name}")).unwrap().put(name.into()).await.unwrap();
            }
            for (pattern, expected) in [
                ("", vec!["a-1.csv", "a-10.csv", "a-2.csv", "b.csv", "deep/a-3.csv"]),
                ("a-*.csv", vec!["a-1.csv", "a-10.csv", "a-2.csv"]),
                ("a-?.csv", vec!["a-1.csv", "a-2.csv"]),
                ("a-[2-9].csv", vec!["a-2.csv"]),
                ("*/a-*.csv", vec!["deep/a-3.csv"]),
                ("**/a-[13].csv", vec!["a-1.csv", "deep/a-3.csv"]),
                ("c*", vec![]),
            ] {
                assert_eq!(names(&stores, &base, pattern).await, expected, "{base} {pattern}");
            }
            let found = find(&stores, &base, "b*").await.unwrap();
            assert_eq!((found[0].uri.clone(), found[0].size), (format!("{base}/b.csv"), 5));
            assert!(names(&stores, &format!("{base}/none"), "").await.is_empty());
            let error = find(&stores, &base, "a[").await.unwrap_err();
            assert!(matches!(error, ArtifactError::BadUri { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_link_out_of_the_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("d");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::fs::write(folder.join("a.csv"), "x").unwrap();
        std::os::unix::fs::symlink(folder.join("a.csv"), folder.join("b.csv")).unwrap();
        let uri = format!("file://{}", folder.display());
        assert_eq!(names(&Stores::new(), &uri, "").await, ["a.csv", "b.csv"]);
        std::os::unix::fs::symlink(dir.path().join("secret"), folder.join("c.csv")).unwrap();
        let error = find(&Stores::new(), &uri, "").await.unwrap_err();
        assert!(error.to_string().contains("leads out"), "{error}");
    }
}
