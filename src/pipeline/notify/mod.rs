//! Tells people of what has happened: a task for each hook of the settings, which reads the events after the last one that it has dealt with, sends what is news, and only then moves on, durably. What is news, what a
//! message says and when a try is repeated is `domain::notify`'s to say. Nothing is written where jobs end: the events that are there anyway are what is read, so that a hook that was down for a night has lost
//! nothing. A message is delivered at least once, under an id that stays the same.
//!
//! A hook waits for its own deliveries alone: neither another hook nor the daemon's end waits for them.

mod courier;
mod gather;
mod send;
#[cfg(test)]
mod tests;
mod webhook;

use std::{collections::BTreeMap, ffi::OsString, sync::Arc};

use jiff::Timestamp;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{courier::Courier, send::Sender};
use crate::{
    domain::{
        Clock, Uid, causes,
        notify::{Data, Hook, Message, Outcome, Standing},
    },
    store::{Store, StoreError},
};

/// The login name of a user, where there is one.
pub type Login = Arc<dyn Fn(Uid) -> Option<String> + Send + Sync>;

/// What it works with.
#[derive(Clone)]
pub struct Parts {
    /// The database.
    pub store: Store,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// The hooks, as the settings have them at this moment.
    pub hooks: watch::Receiver<Arc<Vec<Hook>>>,
    /// Who is who.
    pub login: Login,
    /// The daemon's environment, of which programs see a part.
    pub environment: Vec<(OsString, OsString)>,
    /// Fills bytes at random.
    pub entropy: fn(&mut [u8]),
}

/// Who tells. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    parts: Parts,
    started_at: Timestamp,
}

/// A hook, and how it stands; nothing is known of one that has not begun.
#[derive(Debug, Clone, PartialEq)]
pub struct HookStatus {
    /// The hook.
    pub hook: Hook,
    /// How it stands.
    pub standing: Option<Standing>,
    /// Why nothing can be sent as it is set up: its key cannot be read.
    pub fault: Option<String>,
}

impl Notifier {
    /// One that tells nobody yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let started_at = parts.clock.now();
        Self { parts, started_at }
    }

    /// All hooks of the settings, in their order.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn hooks(&self) -> Result<Vec<HookStatus>, StoreError> {
        let hooks = self.parts.hooks.borrow().clone();
        let mut known: BTreeMap<String, Standing> = self.parts.store.hooks().await?;
        let status = |hook: &Hook| HookStatus {
            standing: known.remove(&hook.name),
            fault: webhook::fault(&hook.channel),
            hook: hook.clone(),
        };
        Ok(hooks.iter().map(status).collect())
    }

    /// Sends a message that says that it is a test, once. What came of it; nothing where there is no such hook.
    pub async fn test(&self, name: &str) -> Option<Outcome> {
        let hook = self.parts.hooks.borrow().iter().find(|hook| hook.name == name).cloned()?;
        let now = self.parts.clock.now();
        let instance = &self.parts.store.instance().id;
        let message = Message {
            id: format!("msg_{instance}_{name}_t{}", now.as_microsecond()),
            kind: "test".into(),
            timestamp: now,
            text: format!("this is a test of hook {name}: whoever reads it is told"),
            data: Data::default(),
        };
        Some(Sender::new(&self.parts, hook).send(&message).await)
    }
}

/// Tells until `stop`. When the settings change, all begin anew where they are.
pub async fn run(notifier: Notifier, stop: CancellationToken) {
    let mut hooks = notifier.parts.hooks.clone();
    while !stop.is_cancelled() {
        let wanted = hooks.borrow_and_update().clone();
        let round = stop.child_token();
        let mut couriers = JoinSet::new();
        forget_others(&notifier.parts.store, &wanted).await;
        for hook in wanted.iter() {
            let courier = Courier::new(&notifier, hook.clone());
            couriers.spawn(courier.run(round.clone()));
        }
        let waited = stop.run_until_cancelled(hooks.changed()).await;
        round.cancel();
        // What is under way is dropped, and comes again.
        while couriers.join_next().await.is_some() {}
        if matches!(waited, Some(Err(_))) {
            // Nobody can change the settings any more.
            stop.cancelled().await;
        }
    }
}

/// A hook that comes back later has no claim to what happened meanwhile.
async fn forget_others(store: &Store, wanted: &[Hook]) {
    let forgotten = async {
        for name in store.hooks().await?.into_keys() {
            if !wanted.iter().any(|hook| hook.name == name) {
                store.forget_hook(&name).await?;
            }
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = forgotten.await {
        warn!(error = causes(&error), "hooks that are there no more cannot be forgotten yet");
    }
}
