//! The handler that has schedules be what they are said to be: added, changed where they stand, left alone, or removed. Called by the router. Everything is checked first, and what is to be done is done in
//! one transaction.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};
use tracing::info;

use super::{
    Context, Shared,
    error::Failure,
    extract::Sent,
    permit::Peer,
    schedules::{self, MAX_SCHEDULES},
    types::{AddScheduleRequest, Applied, AppliedView, ApplyRequest, ApplyView, ChangeView, ErrorCode, SCHEMA},
};
use crate::{
    domain::{
        difference::differences,
        rules::Problem,
        schedule::{Policy, Timetable},
    },
    store::{NewSchedule, Schedule, ScheduleChange},
};

/// How often it is tried where schedules have their turns meanwhile.
const MOST_TRIES: u32 = 5;

/// `POST /v1/apply`.
pub(super) async fn apply(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Sent(request): Sent<ApplyRequest>,
) -> Result<Json<ApplyView>, Failure> {
    let ApplyRequest { schedules, prune, dry_run } = request;
    if schedules.len() > MAX_SCHEDULES {
        return Err(Failure::bad_request(format!("more than {MAX_SCHEDULES} schedules"), "no more may be"));
    }
    let new = checked(&api, peer, schedules).await?;
    for _ in 0..MOST_TRIES {
        let _turn = api.store.between_turns().await;
        let found = api.store.schedules().await?.into_iter().map(|(schedule, _)| (schedule.name.clone(), schedule));
        let (seen, changes) = planned(&api, &new, found.collect(), prune)?;
        let count = changes.len();
        if dry_run || count == 0 || api.store.apply_schedules(changes).await? {
            if !dry_run && count > 0 {
                info!(uid = peer.uid.0, count, "{count} schedules were added, changed or removed, as was applied");
            }
            return Ok(Json(ApplyView { schema: SCHEMA, dry_run, schedules: seen }));
        }
    }
    let hint = "try again; nothing was changed";
    Err(Failure::new(ErrorCode::Busy, "the schedules were changed by others again and again", hint))
}

/// The schedules that are asked for, or all that is wrong with them.
async fn checked(api: &Shared, peer: Peer, schedules: Vec<AddScheduleRequest>) -> Result<Vec<NewSchedule>, Failure> {
    let (mut new, mut problems, mut names) = (Vec::<NewSchedule>::new(), Vec::new(), BTreeSet::new());
    for (index, request) in schedules.into_iter().enumerate() {
        let at = format!("schedules[{index}]");
        match schedules::checked(api, peer, request, true).await {
            Ok(one) if !names.insert(one.name.clone()) => {
                let (message, hint) = (format!("{} comes twice", one.name), "give one of them another name".to_owned());
                problems.push(Problem { path: format!("{at}.name"), message, hint: Some(hint) });
            }
            Ok(one) => new.push(one),
            Err(refused) if !refused.problems().is_empty() => {
                let placed = |problem: &Problem| Problem { path: format!("{at}.{}", problem.path), ..problem.clone() };
                problems.extend(refused.problems().iter().map(placed));
            }
            Err(refused) => return Err(refused),
        }
    }
    if problems.is_empty() { Ok(new) } else { Err(Failure::mistakes("set of schedules", problems)) }
}

/// What is to be told and done about each schedule.
fn planned(
    api: &Shared,
    new: &[NewSchedule],
    mut found: BTreeMap<String, Schedule>,
    prune: bool,
) -> Result<(Vec<AppliedView>, Vec<ScheduleChange>), Failure> {
    let (mut seen, mut changes) = (Vec::new(), Vec::new());
    let mut tell = |name: &str, outcome, changes| seen.push(AppliedView { name: name.to_owned(), outcome, changes });
    let mut count = found.len();
    for one in new {
        let Some(old) = found.remove(&one.name) else {
            count += 1;
            tell(&one.name, Applied::Added, Vec::new());
            changes.push(ScheduleChange::Add(one.clone()));
            continue;
        };
        let differing = differences(
            &said((&old.cron, &old.zone), &old.policy, &old.spec)?,
            &said((&one.cron, &one.zone), &one.policy, &one.spec)?,
        );
        if differing.is_empty() {
            tell(&one.name, Applied::Unchanged, Vec::new());
            continue;
        }
        let views = differing.into_iter().map(|one| ChangeView { key: one.key, before: one.a, after: one.b });
        tell(&one.name, Applied::Changed, views.collect());
        changes.push(become_other(api, old, one)?);
    }
    if prune {
        for (name, old) in found {
            count -= 1;
            tell(&name, Applied::Removed, Vec::new());
            changes.push(ScheduleChange::Remove(Box::new(old)));
        }
    }
    if count > MAX_SCHEDULES {
        let message = format!("there would be {count} schedules, and no more than {MAX_SCHEDULES} may be");
        return Err(Failure::new(ErrorCode::Busy, message, "remove some with `mlctl schedule rm`"));
    }
    Ok((seen, changes))
}

/// What a schedule says, as it is compared.
fn said((cron, zone): (&str, &str), policy: &Policy, spec: &mlctl_protocol::JobSpec) -> Result<Value, Failure> {
    let json = |error| Failure::internal("a schedule cannot be written as JSON", &error);
    let (policy, job) = (serde_json::to_value(policy).map_err(json)?, serde_json::to_value(spec).map_err(json)?);
    Ok(json!({"cron": cron, "zone": zone, "policy": policy, "job": job}))
}

fn become_other(api: &Shared, old: Schedule, new: &NewSchedule) -> Result<ScheduleChange, Failure> {
    let now = api.clock.now();
    let next: Timetable = schedules::timetable_of(&Schedule {
        cron: new.cron.clone(),
        zone: new.zone.clone(),
        policy: new.policy,
        ..old.clone()
    })?;
    // A zone that is gone from this machine was why it submitted nothing: it begins anew.
    let settled = schedules::timetable_of(&old).map_or(now, |before| before.handed_over(&next, old.settled, now));
    let due = next.after(settled).next().map(|tick| tick.due);
    Ok(ScheduleChange::Become { of: Box::new(old), new: NewSchedule { next: due, ..new.clone() }, settled })
}
