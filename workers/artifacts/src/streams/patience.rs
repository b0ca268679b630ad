//! Trying again what may pass, beside what the storage library tries again itself: a connection that broke in the middle of an answer, a part that arrived otherwise than it was sent.

use std::time::{Duration, Instant};

use crate::{ArtifactError, digest};

/// Pauses between tries: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Asks, and asks again while the answer is that the store is not available; begins no try later than `patience` after the first.
pub(super) async fn patiently<T, F>(patience: Duration, mut ask: impl FnMut() -> F) -> Result<T, ArtifactError>
where
    F: Future<Output = Result<T, ArtifactError>>,
{
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match ask().await {
            Err(error @ ArtifactError::Unavailable { .. }) if began.elapsed() + pause < patience => {
                tracing::debug!(%error, ?pause, "tried again");
            }
            ended => return ended,
        }
        tokio::time::sleep(digest::jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_may_pass_is_tried_again_for_a_while() {
        let away = || ArtifactError::Unavailable { uri: "s3://b/x".into(), source: "away".into() };
        let mut tries = 0;
        let ended = patiently(Duration::from_secs(5), || {
            tries += 1;
            let ended = if tries < 3 { Err(away()) } else { Ok(tries) };
            async { ended }
        });
        assert_eq!(ended.await.unwrap(), 3);
        let began = Instant::now();
        assert!(patiently(Duration::from_millis(300), || async { Err::<(), _>(away()) }).await.is_err());
        assert!(began.elapsed() < Duration::from_secs(2));
        let mut tries = 0;
        let gone = patiently(Duration::from_secs(5), || {
            tries += 1;
            async { Err::<(), _>(ArtifactError::NotFound { uri: "s3://b/x".into() }) }
        });
        assert!(gone.await.is_err());
        assert_eq!(tries, 1);
    }
}
