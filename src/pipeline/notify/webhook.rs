//! A POST of JSON that the receiver can prove to be ours: the Standard Webhooks specification (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>), symmetric signatures.
//! The key is read at each try, so that a new one holds at once, and goes nowhere else.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use ring::hmac;

use crate::domain::{
    causes,
    notify::{Channel, Outcome, line, of_status, retry_after},
};

/// What a key begins with.
const PREFIX: &str = "whsec_";

/// Bytes of a key, as the specification has them.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The largest file with a key, in bytes.
const MAX_FILE_BYTES: u64 = 4096;

/// Bytes of an answer that are looked at, and characters that are repeated.
const MAX_ANSWER_BYTES: usize = 4096;
const MAX_ANSWER_SHOWN: usize = 200;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A message that is ready to be signed.
pub(super) struct Post<'a> {
    pub(super) id: &'a str,
    pub(super) body: Vec<u8>,
    pub(super) now: Timestamp,
    pub(super) limit: Duration,
}

/// A client for a receiver: no redirects, no proxy but the one that is named.
///
/// # Errors
/// When there is no TLS to be had, or the proxy's address is none.
pub(super) fn client(proxy: Option<&str>) -> reqwest::Result<reqwest::Client> {
    mlctl_artifacts::install_tls();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("mlctl/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    match proxy {
        Some(url) => builder.proxy(reqwest::Proxy::all(url)?),
        None => builder,
    }
    .build()
}

/// Signs and sends.
pub(super) async fn post(client: &reqwest::Client, (url, secret_file): (&str, &Path), post: Post<'_>) -> Outcome {
    let Post { id, body, now, limit } = post;
    let key = match key(secret_file) {
        Ok(key) => key,
        Err(why) => return Outcome::Refused { why },
    };
    let seconds = now.as_second().to_string();
    let signature = sign(&key, id, &seconds, &body);
    let request = client
        .post(url)
        .timeout(limit)
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", &seconds)
        .header("webhook-signature", signature)
        .body(body);
    match request.send().await {
        Ok(answer) => {
            let after = answer.headers().get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
            let status = answer.status().as_u16();
            of_status(status, &beginning(answer).await, after)
        }
        // A URL may bear a secret in its path.
        Err(error) => Outcome::Later { why: line(&causes(&error.without_url()), MAX_ANSWER_SHOWN), after: None },
    }
}

/// The signature of a message: HMAC-SHA256 over its id, the time and the body.
pub(super) fn sign(key: &[u8], id: &str, seconds: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
        context.update(part);
    }
    format!("v1,{}", STANDARD.encode(context.sign()))
}

/// The first line of what a receiver says, bounded.
async fn beginning(mut answer: reqwest::Response) -> String {
    let mut read = Vec::new();
    while read.len() < MAX_ANSWER_BYTES
        && let Ok(Some(piece)) = answer.chunk().await
    {
        read.extend_from_slice(&piece);
    }
    read.truncate(MAX_ANSWER_BYTES);
    let text = String::from_utf8_lossy(&read);
    line(text.lines().next().unwrap_or_default(), MAX_ANSWER_SHOWN)
}

/// Why a channel cannot be used as it is: its key.
pub(super) fn fault(channel: &Channel) -> Option<String> {
    match channel {
        Channel::Webhook { secret_file, .. } => key(secret_file).err(),
        Channel::Command(_) | Channel::Mail { .. } => None,
    }
}

/// The key in a file.
///
/// # Errors
/// Why there is none, in words that repeat nothing of it.
fn key(file: &Path) -> Result<Vec<u8>, String> {
    if file.as_os_str().is_empty() {
        return Err("there is no key to sign with: name its file in secret_file".into());
    }
    let wrong = |why: String| format!("the key in {}: {why}", file.display());
    let text = read(file).map_err(|error| wrong(error.to_string()))?;
    let expected = "expected whsec_ and base64 of 24 to 64 bytes";
    let encoded = text.trim().strip_prefix(PREFIX).ok_or_else(|| wrong(expected.into()))?;
    let key = STANDARD.decode(encoded).map_err(|_| wrong(expected.into()))?;
    if KEY_BYTES.contains(&key.len()) { Ok(key) } else { Err(wrong(expected.into())) }
}

fn read(file: &Path) -> io::Result<String> {
    // Opening a pipe would wait for its writer, for ever.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let opened = File::options().read(true).custom_flags(flags).open(file)?;
    let found = opened.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if found.mode() & 0o004 != 0 {
        return Err(io::Error::other("everybody may read it: `chmod o-r` it, and take a new key"));
    }
    let mut text = String::new();
    opened.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
