//! The loop of one hook: reads what has happened since, has it made into messages, delivers them one after the other, and keeps how far it has come.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Notifier, Parts,
    gather::{Found, Gatherer, News},
    send::Sender,
};
use crate::{
    domain::{
        causes,
        notify::{Course, Hook, MOST_APART, Message, Standing, Told},
    },
    store::{Store, StoreError, StoredEvent},
};

/// Events that are read at a time.
const PAGE: u32 = 500;

/// The shortest time between two looks: many jobs may end at once.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// How long nothing is read after the database has failed.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(10);

/// Who is told within this time has not fallen behind.
const PROMPT: SignedDuration = SignedDuration::from_secs(2);

/// How often it is put on record that nothing of what has happened was news: a restart reads so much again.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// One hook's.
pub(super) struct Courier {
    parts: Parts,
    name: String,
    gatherer: Gatherer,
    sender: Sender,
    /// A message is given its time from then on at the earliest.
    started_at: Timestamp,
    standing: Standing,
    /// As it is on record, and since when.
    kept: Option<(Standing, Instant)>,
}

impl Courier {
    pub(super) fn new(notifier: &Notifier, hook: Hook) -> Self {
        let parts = notifier.parts.clone();
        Self {
            name: hook.name.clone(),
            gatherer: Gatherer { parts: parts.clone(), hook: hook.clone(), told: Told::default() },
            sender: Sender::new(&parts, hook),
            started_at: notifier.started_at,
            standing: Standing::default(),
            kept: None,
            parts,
        }
    }

    fn store(&self) -> &Store {
        &self.parts.store
    }

    /// Tells until `stop`. A delivery that is under way then is dropped, and comes again.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.work()).await;
        // What was passed over since is not read again.
        if self.kept.as_ref().is_some_and(|(kept, _)| *kept != self.standing) {
            self.keep().await;
        }
    }

    async fn work(&mut self) {
        let (mut events, mut schedules) = (self.store().changes(), self.store().schedule_changes());
        while let Err(error) = self.begin().await {
            warn!(hook = self.name, error = causes(&error), "a hook cannot begin yet");
            sleep(PAUSE_AFTER_ERROR).await;
        }
        loop {
            // Before reading: what changes from here on wakes the wait below.
            events.mark_unchanged();
            schedules.mark_unchanged();
            if let Err(error) = self.round().await {
                warn!(hook = self.name, error = causes(&error), "nobody can be told of anything for the moment");
                sleep(PAUSE_AFTER_ERROR).await;
                continue;
            }
            let unkept = self.kept.as_ref().filter(|(kept, _)| *kept != self.standing);
            let keep_at = unkept.map(|(_, at)| *at + KEEP_EVERY);
            tokio::select! {
                // The senders live in the store, which this loop holds.
                _ = events.changed() => sleep(SHORTEST_PAUSE).await,
                _ = schedules.changed() => {}
                () = sleep_until(keep_at.unwrap_or_else(Instant::now)), if keep_at.is_some() => self.keep().await,
            }
        }
    }

    /// Finds out how far it has come. A new one begins with what happens from now on.
    async fn begin(&mut self) -> Result<(), StoreError> {
        if let Some(standing) = self.store().hooks().await?.remove(&self.name) {
            self.standing = standing;
            self.kept = Some((self.standing.clone(), Instant::now()));
            return Ok(());
        }
        let event = *self.store().changes().borrow();
        let notice = self.store().newest_notice().await?;
        let standing = Standing { event, notice, ..Standing::default() };
        self.store().keep_hook(&self.name, &standing).await?;
        info!(hook = self.name, "hook {} is told of what happens from now on", self.name);
        self.kept = Some((standing.clone(), Instant::now()));
        self.standing = standing;
        Ok(())
    }

    /// Tells of all that has happened by now.
    async fn round(&mut self) -> Result<(), StoreError> {
        loop {
            let mut page = self.store().events(None, self.standing.event, PAGE).await?;
            if let Some(until) = self.standing.until {
                page.retain(|event| event.id <= until);
            }
            let Some(last) = page.last().map(|event| event.id) else {
                // What a message was begun about is gone.
                if let Some(until) = self.standing.until.take() {
                    self.standing.event = self.standing.event.max(until);
                    continue;
                }
                break;
            };
            self.events(&page, last).await?;
        }
        loop {
            let notices = self.store().notices(self.standing.notice, PAGE).await?;
            if notices.is_empty() {
                return Ok(());
            }
            for (seq, at, notice) in notices {
                let between = seq - self.standing.notice - 1;
                self.note_missed(u64::try_from(between).unwrap_or(0), Some(at));
                let news = self.gatherer.of_notice((seq, at, notice)).await?;
                if let Some(news) = news {
                    self.deliver(&news.message).await;
                }
                self.standing.notice = seq;
                self.keep_if_told().await;
            }
        }
    }

    /// Tells of a page of events, and moves behind it.
    async fn events(&mut self, page: &[StoredEvent], last: i64) -> Result<(), StoreError> {
        let told = self.gatherer.told.clone();
        let found = self.gatherer.of_events(page).await;
        // Of what could not be read, nobody was told.
        let Found { news, missed } = found.inspect_err(|_| self.gatherer.told = told)?;
        // What a message was begun about is its end, whether it is still there or not.
        let last = self.standing.until.unwrap_or(last);
        // Events count without gaps: what is not there any more was of jobs that were removed.
        let there = i64::try_from(page.len()).unwrap_or(i64::MAX);
        let gone = last - self.standing.event - there;
        self.note_missed(missed + u64::try_from(gone).unwrap_or(0), page.first().map(|first| first.at));
        if self.standing.until.is_none() && news.len() <= MOST_APART {
            for News { seq, message, .. } in news {
                self.deliver(&message).await;
                self.standing.event = seq;
                self.keep_if_told().await;
            }
        } else if let Some(message) = self.gatherer.digest(last, &news) {
            // First it is put on record of what it tells: what happens from now on has no part in it, whatever becomes of us.
            self.standing.until = Some(last);
            self.keep().await;
            self.deliver(&message).await;
        }
        self.standing.event = last;
        self.standing.until = None;
        self.keep_if_told().await;
        Ok(())
    }

    /// Says that events are not there any more, the next of which that is there was at this moment. Who removes a job at once after its end has seen that for himself: of that a doctor has nothing to say.
    fn note_missed(&mut self, events: u64, next: Option<Timestamp>) {
        if events == 0 {
            return;
        }
        self.standing.missed += events;
        let now = self.parts.clock.now();
        if next.is_none_or(|at| now.duration_since(at) > PROMPT) {
            warn!(hook = self.name, events, "events of jobs that were removed were not there to be told of any more");
            self.standing.lost_at = Some(now);
        } else {
            info!(hook = self.name, events, "jobs were removed at once after their end, and nobody was told of them");
        }
    }

    /// Tries until the message has arrived, or is given up.
    async fn deliver(&mut self, message: &Message) {
        let since = message.timestamp.max(self.started_at);
        loop {
            let outcome = self.sender.send(message).await;
            let (now, standing) = (self.parts.clock.now(), &mut self.standing);
            let tries = standing.tries.saturating_add(1);
            let course = Course::after(&outcome, (since, now), tries, chance(self.parts.entropy));
            standing.error = outcome.why().map(str::to_owned);
            standing.next_try = None;
            match course {
                Course::Done => {
                    if let Some(failing) = standing.failing_since.take() {
                        info!(hook = self.name, since = %failing, "hook {} delivers again", self.name);
                    }
                    (standing.tries, standing.delivered_at) = (0, Some(now));
                    standing.delivered += 1;
                    return;
                }
                Course::Again(pause) => {
                    if standing.failing_since.is_none() {
                        let why = outcome.why().unwrap_or_default();
                        warn!(
                            hook = self.name,
                            message = message.id,
                            why,
                            "hook {} does not deliver; it is tried again",
                            self.name
                        );
                    }
                    standing.failing_since.get_or_insert(now);
                    (standing.tries, standing.next_try) = (tries, now.checked_add(pause).ok());
                    self.keep().await;
                    sleep(pause).await;
                }
                Course::GiveUp => {
                    let why = outcome.why().unwrap_or_default();
                    error!(
                        hook = self.name,
                        message = message.id,
                        why,
                        text = message.text,
                        "hook {} gives a message up",
                        self.name
                    );
                    standing.failing_since.get_or_insert(now);
                    (standing.tries, standing.lost_at) = (0, Some(now));
                    standing.given_up += 1;
                    return;
                }
            }
        }
    }

    /// After a delivery: it is on record before the next.
    async fn keep_if_told(&mut self) {
        let counts = |standing: &Standing| {
            (standing.delivered, standing.given_up, standing.missed, standing.until, standing.notice)
        };
        if self.kept.as_ref().is_some_and(|(kept, _)| counts(kept) != counts(&self.standing)) {
            self.keep().await;
        }
    }

    /// Puts on record how it stands. Where that fails, a restart tells again what was told.
    async fn keep(&mut self) {
        match self.store().keep_hook(&self.name, &self.standing).await {
            Ok(()) => self.kept = Some((self.standing.clone(), Instant::now())),
            Err(error) => {
                warn!(
                    hook = self.name,
                    error = causes(&error),
                    "how far a hook has come cannot be kept for the moment"
                );
                self.kept = self.kept.take().map(|(kept, _)| (kept, Instant::now()));
            }
        }
    }
}

/// A number in 0..1.
fn chance(entropy: fn(&mut [u8])) -> f64 {
    let mut bytes = [0; 4];
    entropy(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
