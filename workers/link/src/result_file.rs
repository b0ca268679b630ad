//! The result file: what a daemon reads when it could not wait for the process itself. Written by every worker before it exits.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use mlctl_protocol::result::{MAX_RESULT_BYTES, RESULT_FILE, WorkerResult};

use crate::LinkError;

/// The longest message or hint kept, in characters.
const MAX_TEXT_CHARS: usize = 16 * 1024;

/// Writes the result so that a reader has all of it or nothing: temporary file, rename. It outlives this process and the daemon; what it takes to outlive the
/// machine is [`sync_result`].
///
/// # Errors
/// [`LinkError::ResultFile`].
pub(crate) fn write_result(attempt_dir: &Path, result: &WorkerResult) -> Result<PathBuf, LinkError> {
    let path = attempt_dir.join(RESULT_FILE);
    match write(&path, result) {
        Ok(()) => Ok(path),
        Err(source) => Err(LinkError::ResultFile { path, source }),
    }
}

/// Has what [`write_result`] wrote survive a power cut. Blocks.
///
/// # Errors
/// [`LinkError::ResultFile`].
pub(crate) fn sync_result(path: PathBuf) -> Result<(), LinkError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let synced = File::open(&path).and_then(|file| file.sync_all()).and_then(|()| File::open(folder)?.sync_all());
    synced.map_err(|source| LinkError::ResultFile { path, source })
}

fn write(path: &Path, result: &WorkerResult) -> io::Result<()> {
    let json = serde_json::to_vec_pretty(result)?;
    if json.len() as u64 > MAX_RESULT_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the result is larger than a daemon reads"));
    }
    let temporary = path.with_extension("json.tmp");
    fs::write(&temporary, &json)?;
    fs::rename(&temporary, path)
}

/// Makes a result fit: long texts are cut, values that JSON cannot express are left out.
pub(crate) fn fit(mut result: WorkerResult) -> WorkerResult {
    for text in [&mut result.message, &mut result.hint].into_iter().flatten() {
        if let Some((end, _)) = text.char_indices().nth(MAX_TEXT_CHARS) {
            text.truncate(end);
            text.push('…');
        }
    }
    result.metrics.retain(|_, value| value.is_finite());
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlctl_protocol::{AttemptNumber, ExitClass, FencingToken, JobId};

    fn result(message: &str) -> WorkerResult {
        WorkerResult {
            v: 1,
            job: JobId(1),
            attempt: AttemptNumber(1),
            token: FencingToken(1),
            class: ExitClass::Crash,
            message: Some(message.into()),
            hint: None,
            metrics: [("loss".to_owned(), f64::INFINITY), ("accuracy".to_owned(), 1.0)].into(),
            model: None,
            output: None,
        }
    }

    #[test]
    fn the_file_holds_the_result_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("result.json.tmp"),
            "left by a killed writer, and longer than what follows".repeat(100),
        )
        .unwrap();
        let written = fit(result("boom"));
        let path = write_result(dir.path(), &written).unwrap();
        sync_result(path.clone()).unwrap();
        let read: WorkerResult = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, written);
        assert_eq!(read.metrics.len(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = fit(result(&"ü".repeat(1_000_000))).message.unwrap();
        assert!(message.chars().count() == MAX_TEXT_CHARS + 1 && message.ends_with("ü…"));
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_that_names_the_file() {
        for error in [
            write_result(Path::new("/nowhere/at/all"), &result("x")).unwrap_err(),
            sync_result("/nowhere/at/all/result.json".into()).unwrap_err(),
        ] {
            assert!(error.to_string().contains("/nowhere/at/all/result.json"), "{error}");
        }
    }
}
