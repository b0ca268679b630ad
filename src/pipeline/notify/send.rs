//! One try to deliver a message by a hook's channel, within its time.

use std::{ffi::OsString, path::Path, sync::Arc, time::Duration};

use super::{
    Parts,
    webhook::{self, Post},
};
use crate::{
    domain::{
        Clock,
        notify::{Channel, Hook, Message, Outcome, compose, line, of_exit},
    },
    supervisor::process::{self, Errand},
};

/// What a program sees of the daemon's environment.
const PASSED_ON: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

/// Characters that are repeated of what a program says.
const MAX_SAID: usize = 200;

/// Who delivers what a hook is told.
pub(super) struct Sender {
    hook: Hook,
    clock: Arc<dyn Clock>,
    environment: Vec<(OsString, OsString)>,
    /// For webhooks, once there was one to send.
    client: tokio::sync::OnceCell<reqwest::Client>,
}

impl Sender {
    pub(super) fn new(parts: &Parts, hook: Hook) -> Self {
        let is_passed_on = |name: &OsString| PASSED_ON.iter().any(|passed| name == passed);
        let environment = parts.environment.iter().filter(|(name, _)| is_passed_on(name)).cloned().collect();
        Self { hook, clock: parts.clock.clone(), environment, client: tokio::sync::OnceCell::new() }
    }

    /// Tries once.
    pub(super) async fn send(&self, message: &Message) -> Outcome {
        let limit = Duration::from_secs(self.hook.timeout_seconds.into());
        let json = match serde_json::to_vec(message) {
            Ok(json) => json,
            Err(error) => return Outcome::Gone { why: format!("it cannot be written as JSON: {error}") },
        };
        match &self.hook.channel {
            Channel::Webhook { url, secret_file, proxy } => {
                let client = self.client.get_or_try_init(|| async { webhook::client(proxy.as_deref()) }).await;
                let client = match client {
                    Ok(client) => client,
                    Err(error) => return Outcome::Refused { why: format!("no connection can be made: {error}") },
                };
                let post = Post { id: &message.id, body: json, now: self.clock.now(), limit };
                webhook::post(client, (url, secret_file), post).await
            }
            Channel::Command(argv) => self.run(argv.iter().map(OsString::from).collect(), json, message).await,
            Channel::Mail { to, from, sendmail } => {
                let mail = compose(message, from, to, self.clock.now());
                self.run(sendmail_argv(sendmail), mail, message).await
            }
        }
    }

    async fn run(&self, argv: Vec<OsString>, input: Vec<u8>, message: &Message) -> Outcome {
        let limit = Duration::from_secs(self.hook.timeout_seconds.into());
        let program = argv.first().cloned().unwrap_or_default();
        let mut environment = self.environment.clone();
        environment.extend(variables(message));
        match process::run(Errand { argv, environment, input, limit }).await {
            Ok(ran) if ran.was_too_long => {
                let why = format!("it took more than {} seconds and was killed", limit.as_secs());
                Outcome::Later { why, after: None }
            }
            Ok(ran) => of_exit(ran.code, &line(&ran.said, MAX_SAID)),
            Err(error) => Outcome::Refused { why: format!("{}: {error}", program.display()) },
        }
    }
}

/// Recipients are in the header, and a line with a dot alone is no end.
fn sendmail_argv(sendmail: &Path) -> Vec<OsString> {
    vec![sendmail.into(), "-t".into(), "-i".into()]
}

/// What a small script wants to know without reading JSON.
fn variables(message: &Message) -> Vec<(OsString, OsString)> {
    let job = message.data.job.as_ref();
    let of_job = |text: Option<&String>| text.cloned().unwrap_or_default();
    let all = [
        ("MLCTL_MESSAGE_ID", message.id.clone()),
        ("MLCTL_TYPE", message.kind.clone()),
        ("MLCTL_TEXT", message.text.clone()),
        ("MLCTL_JOB_ID", of_job(job.map(|job| &job.id))),
        ("MLCTL_JOB_NAME", of_job(job.map(|job| &job.name))),
        ("MLCTL_JOB_STATE", of_job(job.map(|job| &job.state))),
        ("MLCTL_EXIT_CLASS", of_job(job.and_then(|job| job.exit_class.as_ref()))),
    ];
    all.into_iter().map(|(name, value)| (name.into(), line(&value, 1000).into())).collect()
}
