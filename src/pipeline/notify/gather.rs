//! Makes messages of events and notices: reads what there is to say of a job, an array or a schedule, and leaves out what the hook does not want to know.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mlctl_protocol::JobId;

use super::Parts;
use crate::{
    domain::{
        Event, Job, Uid,
        filter::Seen,
        notify::{
            self, Array, Data, Digest, Hook, JobFacts, Line, MAX_LINES, Message, Notice, ScheduleFacts, Told, Topic,
        },
    },
    store::{Store, StoreError, StoredEvent},
};

/// Something to be told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct News {
    /// The event or the notice.
    pub(super) seq: i64,
    pub(super) topic: Topic,
    pub(super) message: Message,
}

/// What was found in a page of events.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) news: Vec<News>,
    /// Events of jobs that are gone.
    pub(super) missed: u64,
}

/// Who makes them for a hook.
pub(super) struct Gatherer {
    pub(super) parts: Parts,
    pub(super) hook: Hook,
    pub(super) told: Told,
}

impl Gatherer {
    fn store(&self) -> &Store {
        &self.parts.store
    }

    fn user(&self, uid: Uid) -> String {
        (self.parts.login)(uid).unwrap_or_else(|| uid.0.to_string())
    }

    /// The id of a message about an event, a notice or what else this names: it is made of what is on record alone.
    pub(super) fn id(&self, of: &str) -> String {
        format!("msg_{}_{}_{of}", self.store().instance().id, self.hook.name)
    }

    fn fits(&self, job: &Job) -> bool {
        let Some(filter) = &self.hook.filter else { return true };
        let user = (self.parts.login)(job.user);
        filter.fits(Seen { job, user: user.as_deref(), now: self.parts.clock.now() })
    }

    /// What is news in a page.
    pub(super) async fn of_events(&mut self, page: &[StoredEvent]) -> Result<Found, StoreError> {
        let mut found = Found::default();
        // Of each array the last event of the page that may be its end.
        let mut ends: BTreeMap<JobId, (i64, Timestamp, Job)> = BTreeMap::new();
        for StoredEvent { id, at, job, event } in page {
            if !may_be_news(event) {
                continue;
            }
            let detail = match self.store().job(*job).await {
                Ok(detail) => detail,
                Err(StoreError::NotFound(_)) => {
                    found.missed += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(topic) = notify::topic(event, *at, &detail.job) else { continue };
            let job = notify::as_of(&detail.job, event, *at);
            match &job.array {
                Some(member) if topic != Topic::Held => drop(ends.insert(member.id, (*id, *at, job))),
                Some(member) if self.wants(topic, &job) && self.told.is_new_hold(member.id, *at) => {
                    found.news.push(self.of_job((*id, *at), topic, &job, Some(member.id)).await?);
                }
                None if self.wants(topic, &job) => found.news.push(self.of_job((*id, *at), topic, &job, None).await?),
                _ => {}
            }
        }
        for (array, (seq, at, last)) in ends {
            found.news.extend(self.of_array((array, seq, at), last).await?);
        }
        found.news.sort_by_key(|news| news.seq);
        Ok(found)
    }

    fn wants(&self, topic: Topic, job: &Job) -> bool {
        self.hook.on.contains(&topic) && self.fits(job)
    }

    async fn of_job(
        &self,
        (seq, at): (i64, Timestamp),
        topic: Topic,
        job: &Job,
        array: Option<JobId>,
    ) -> Result<News, StoreError> {
        let facts = notify::facts(job, &self.user(job.user));
        let array = match array {
            Some(array) => Some(self.array(array).await?),
            None => None,
        };
        let text = facts.headline();
        let data = Data { job: Some(facts), array, ..Data::default() };
        let message = Message {
            id: self.id(&format!("e{seq}")),
            kind: format!("job.{}", topic.name()),
            timestamp: at,
            text,
            data,
        };
        Ok(News { seq, topic, message })
    }

    async fn array(&self, id: JobId) -> Result<Array, StoreError> {
        let found = self.store().array(id).await?;
        Ok(Array { id: id.to_string(), name: found.name, size: found.size, counts: found.counts })
    }

    /// The end of an array, if an event was it.
    async fn of_array(
        &mut self,
        (id, seq, at): (JobId, i64, Timestamp),
        last: Job,
    ) -> Result<Option<News>, StoreError> {
        // One that a person has started anew since, or of which another member ended later, will be told of then.
        if self.store().array_ended_at(id).await? != Some(at) {
            return Ok(None);
        }
        let array = match self.array(id).await {
            Ok(array) => array,
            Err(StoreError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let topic = notify::of_array(&array.counts).filter(|topic| self.wants(*topic, &last));
        let Some(topic) = topic.filter(|_| self.told.is_new_end(id, at)) else { return Ok(None) };
        let counts: Vec<String> = array.counts.iter().map(|(tally, members)| format!("{members} {tally}")).collect();
        let text = format!("array {} {}: {}", notify::line(&array.name, 60), topic.name(), counts.join(", "));
        let message = Message {
            // Of several members that ended in the same moment each could be the last.
            id: self.id(&format!("a{id}-{}", at.as_microsecond())),
            kind: format!("array.{}", topic.name()),
            timestamp: at,
            text,
            data: Data {
                job: Some(notify::facts(&last, &self.user(last.user))),
                array: Some(array),
                ..Data::default()
            },
        };
        Ok(Some(News { seq, topic, message }))
    }

    /// What a notice says to this hook.
    pub(super) async fn of_notice(
        &self,
        (seq, at, notice): (i64, Timestamp, Notice),
    ) -> Result<Option<News>, StoreError> {
        let Notice::SchedulePaused { schedule, user, why } = notice;
        let topic = Topic::SchedulePaused;
        if !self.hook.on.contains(&topic) {
            return Ok(None);
        }
        let last = self.last_failure(&schedule).await?;
        if last.as_ref().is_some_and(|job| !self.fits(job)) {
            return Ok(None);
        }
        let job: Option<JobFacts> = last.map(|job| notify::facts(&job, &self.user(job.user)));
        let text = format!("schedule {} is paused: {why}", notify::line(&schedule, 60));
        let schedule = Some(ScheduleFacts { name: schedule, user: self.user(user), why });
        let data = Data { job, schedule, ..Data::default() };
        let id = self.id(&format!("n{seq}"));
        let message = Message { id, kind: "schedule.paused".into(), timestamp: at, text, data };
        Ok(Some(News { seq, topic, message }))
    }

    /// The last job of a schedule that failed, if both are there still.
    async fn last_failure(&self, schedule: &str) -> Result<Option<Job>, StoreError> {
        let found = async {
            let schedule = self.store().schedule(schedule).await?;
            let outcomes = self.store().outcomes(&schedule, 1).await?;
            match outcomes.first() {
                Some((job, true)) => Ok(Some(self.store().job(*job).await?.job)),
                _ => Ok(None),
            }
        };
        match found.await {
            Err(StoreError::NoSchedule(_) | StoreError::NotFound(_)) => Ok(None),
            found => found,
        }
    }

    /// One message about several things, the last of which this event was.
    pub(super) fn digest(&self, until: i64, news: &[News]) -> Option<Message> {
        let last = news.last()?;
        let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
        news.iter().for_each(|news| *counts.entry(news.topic.name()).or_default() += 1);
        let subject = |news: &News| {
            let Data { job, array, .. } = &news.message.data;
            array.as_ref().map(|array| array.id.clone()).or_else(|| job.as_ref().map(|job| job.id.clone()))
        };
        let line = |news: &News| Line {
            message_id: news.message.id.clone(),
            id: subject(news),
            topic: news.topic,
            text: news.message.text.clone(),
        };
        let more = news.len().saturating_sub(MAX_LINES);
        let names: BTreeSet<String> = counts.iter().map(|(topic, number)| format!("{number} {topic}")).collect();
        let text = format!("{} things at once: {}", news.len(), names.into_iter().collect::<Vec<_>>().join(", "));
        let lines = news.iter().take(MAX_LINES).map(line).collect();
        let digest = Digest { counts, lines, more: u64::try_from(more).unwrap_or(u64::MAX) };
        let data = Data { digest: Some(digest), ..Data::default() };
        let (id, timestamp) = (self.id(&format!("d{until}")), last.message.timestamp);
        Some(Message { id, kind: "digest".into(), timestamp, text, data })
    }
}

/// Whether it is worth to look at the job.
const fn may_be_news(event: &Event) -> bool {
    matches!(
        event,
        Event::Failed { .. }
            | Event::Expired { .. }
            | Event::Quarantined { .. }
            | Event::Succeeded { .. }
            | Event::Cancelled { .. }
            | Event::Concluded { .. }
            | Event::Replaced { .. }
            | Event::Unmet(_)
    )
}
