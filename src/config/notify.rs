//! `[[notify]]` of `mld.toml`: whom to tell of what, as it is written, and what of it no schema can say. Called by `file` and `load`. Secrets are named here by the files that hold them, and are
//! read by who signs with them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    document::{Document, Problem},
    load::is_endpoint,
};
use crate::domain::{
    Filter,
    notify::{Channel, Hook, MAX_HOOKS, MAX_NAME, Topic, is_address, is_name},
};

/// The credential that systemd is asked for where a webhook names no file: `LoadCredential=mld.notify.NAME:/etc/mld/webhook-secret`.
const SYSTEMD_CREDENTIAL: &str = "mld.notify.";

/// Somebody who is told of what happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifySection {
    /// Its name.
    #[schemars(length(min = 1, max = 50))]
    pub name: String,
    /// Of what.
    #[serde(default)]
    pub on: Option<BTreeSet<Topic>>,
    /// Of which jobs, as `mlctl ls --filter` takes it; of all when absent.
    #[serde(default)]
    pub filter: Option<String>,
    /// By a signed POST: this, `command` or `mail`.
    #[serde(default)]
    pub webhook: Option<WebhookSection>,
    /// By a program with its arguments.
    #[serde(default)]
    #[schemars(length(min = 1, max = 100), inner(length(max = 4096)))]
    pub command: Option<Vec<String>>,
    /// By mail.
    #[serde(default)]
    pub mail: Option<MailSection>,
    /// Seconds that a delivery may take.
    #[serde(default = "half_a_minute")]
    #[schemars(range(min = 1, max = 600))]
    pub timeout_seconds: u32,
}

const fn half_a_minute() -> u32 {
    30
}

/// A receiver of webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookSection {
    /// Where to.
    #[schemars(length(min = 1, max = 2000))]
    pub url: String,
    /// The file with the key that signs: `whsec_` and base64.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// The proxy, `http://host:port`; none when absent.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub proxy: Option<String>,
}

/// A mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MailSection {
    /// Whom to.
    #[schemars(length(min = 1, max = 50))]
    pub to: Vec<String>,
    /// From whom.
    pub from: String,
    /// The program that takes it.
    #[serde(default = "sendmail")]
    pub sendmail: PathBuf,
}

fn sendmail() -> PathBuf {
    "/usr/sbin/sendmail".into()
}

/// The hooks of settings that are sound. `credentials`: the folder of what systemd hands over.
pub(super) fn settled(sections: &[NotifySection], credentials: Option<&Path>) -> Vec<Hook> {
    let hook = |section: &NotifySection| {
        let NotifySection { name, on, filter, webhook, command, mail, timeout_seconds } = section.clone();
        let channel = match (webhook, command, mail) {
            (Some(WebhookSection { url, secret_file, proxy }), ..) => {
                let secret_file = secret_file.or_else(|| credential(&name, credentials)).unwrap_or_default();
                Channel::Webhook { url, secret_file, proxy: proxy.map(|url| url.trim_end_matches('/').to_owned()) }
            }
            (_, Some(argv), _) => Channel::Command(argv),
            (.., Some(MailSection { to, from, sendmail })) => Channel::Mail { to, from, sendmail },
            (None, None, None) => return None,
        };
        let on = on.unwrap_or_else(|| Topic::DEFAULT.into());
        let filter = filter.and_then(|filter| Filter::parse(&filter).ok());
        Some(Hook { name, on, filter, channel, timeout_seconds })
    };
    sections.iter().filter_map(hook).collect()
}

fn credential(name: &str, credentials: Option<&Path>) -> Option<PathBuf> {
    credentials.map(|dir| dir.join(format!("{SYSTEMD_CREDENTIAL}{name}")))
}

/// What no schema can say.
pub(super) fn unsound(document: &Document, sections: &[NotifySection], credentials: Option<&Path>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if sections.len() > MAX_HOOKS {
        let message = format!("there are {} hooks, and {MAX_HOOKS} at most may be", sections.len());
        problems.push(document.problem("notify", message));
    }
    for (index, section) in sections.iter().enumerate() {
        let key = |key: &str| format!("notify[{index}].{key}");
        let mut wrong = |at: &str, message: String, hint: &str| {
            problems.push(document.problem(&key(at), message).hint(hint));
        };
        if !is_name(&section.name) {
            let message = format!(
                "a hook's name is 1 to {MAX_NAME} lower-case letters, digits, `-` and `_`, a letter or a digit first"
            );
            wrong("name", message, "for example \"team-chat\"");
        }
        if sections.iter().take(index).any(|earlier| earlier.name == section.name) {
            wrong("name", format!("hook {} is there twice", section.name), "give it a name of its own");
        }
        if section.on.as_ref().is_some_and(BTreeSet::is_empty) {
            wrong(
                "on",
                "a hook that is told of nothing".into(),
                "take it out, or name what it is told of: [\"failed\"]",
            );
        }
        for error in section.filter.as_deref().map(Filter::parse).and_then(Result::err).unwrap_or_default() {
            wrong("filter", error.to_string(), &error.hint);
        }
        let NotifySection { webhook, command, mail, .. } = section;
        let ways = [webhook.is_some(), command.is_some(), mail.is_some()];
        if ways.into_iter().filter(|there| *there).count() != 1 {
            let hint = "for example webhook = { url = \"https://example.com/hook\", secret_file = \"/etc/mld/webhook-secret\" }";
            wrong("name", "a hook has exactly one of `webhook`, `command` and `mail`".into(), hint);
        }
        if let Some(webhook) = webhook {
            unsound_webhook(webhook, credential(&section.name, credentials), &mut wrong);
        }
        if let Some(program) = command.as_ref().and_then(|argv| argv.first())
            && !program.starts_with('/')
        {
            let hint =
                "a list of a program and its arguments, which no shell reads: [\"/usr/local/bin/tell\", \"--loud\"]";
            wrong("command", "expected the absolute path of a program first".into(), hint);
        }
        if command.iter().flatten().any(|word| word.contains('\0')) {
            wrong("command", "an argument holds a zero byte".into(), "leave it out");
        }
        if let Some(mail) = mail {
            unsound_mail(mail, &mut wrong);
        }
    }
    problems
}

fn unsound_webhook(webhook: &WebhookSection, credential: Option<PathBuf>, wrong: &mut impl FnMut(&str, String, &str)) {
    let WebhookSection { url, secret_file, proxy } = webhook;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let is_plain = url.chars().all(|c| c.is_ascii_graphic());
    if !is_plain || host.is_none_or(|host| host.is_empty() || host.contains('@')) || url.contains('#') {
        let message = "expected an address without a user or a password: https://host/path".into();
        wrong("webhook.url", message, "receivers know us by the signature, whose key stands in secret_file");
    }
    match secret_file {
        Some(file) if !file.is_absolute() => {
            let hint = "a daemon has no working directory that a relative path could mean";
            wrong("webhook.secret_file", "expected an absolute path: one that starts with `/`".into(), hint);
        }
        // Who is no service of systemd learns at the first delivery, as does `mlctl doctor`: other programs read these settings, too.
        None if credential.is_some_and(|file| !file.exists()) => {
            let hint = "name its file: secret_file = \"/etc/mld/webhook-secret\", or have systemd load the credential mld.notify.NAME; \
                        `printf 'whsec_%s\\n' \"$(head -c 32 /dev/urandom | base64)\"` makes one";
            wrong("webhook", "there is no key to sign with".into(), hint);
        }
        _ => {}
    }
    if proxy.as_deref().is_some_and(|url| !is_endpoint(url.trim_end_matches('/'))) {
        let message = "expected a proxy's URL without a path or a user: http://host:port".into();
        wrong("webhook.proxy", message, "a proxy that asks for a password cannot be used");
    }
}

fn unsound_mail(mail: &MailSection, wrong: &mut impl FnMut(&str, String, &str)) {
    let MailSection { to, from, sendmail } = mail;
    let hint = "a bare address in ASCII, such as ml@example.com, without a name or angle brackets";
    for (index, address) in to.iter().enumerate().filter(|(_, address)| !is_address(address)) {
        wrong(&format!("mail.to[{index}]"), format!("{address:?} is no mail address"), hint);
    }
    if !is_address(from) {
        wrong("mail.from", format!("{from:?} is no mail address"), hint);
    }
    if !sendmail.is_absolute() {
        let hint = "the program that takes a mail on its standard input: /usr/sbin/sendmail";
        wrong("mail.sendmail", "expected an absolute path: one that starts with `/`".into(), hint);
    }
}
