//! Handlers about arrays as a whole: show, follow, and what a person does to all members at once. Called by the router; how an array comes into being is in `array_submit`.

use std::time::Duration;

use axum::{Extension, Json, extract::State, response::Response};
use mlctl_protocol::{JobId, spec::Resources};

use super::{
    Context, Shared, after, control,
    error::Failure,
    extract::{Asked, NamedArray, Sent},
    follow::{Cut, Looks, close},
    permit::Peer,
    query::{ArrayQuery, DEFAULT_BEST, MAX_BEST},
    stream::{self, Messages},
    types::{ArrayChangeView, ArrayDetail, ArrayView, EditRequest, ErrorCode, HoldRequest, SCHEMA, follow},
    view,
};
use crate::{
    domain::{
        Change, Command, JobState,
        array::{Goal, Metric, parts},
    },
    store::{MemberFilter, StoreError},
};

/// How often an array is looked at when nothing is heard of it.
const LOOK: Duration = Duration::from_secs(60);

/// What is looked for in this order when nobody says by what members are compared.
const USUAL: [&str; 2] = ["val_loss", "train_loss"];

/// `GET /v1/arrays/{array}`.
pub(super) async fn show(
    State(api): State<Context>,
    NamedArray(id): NamedArray,
    Asked(ArrayQuery { metric, goal, best }): Asked<ArrayQuery>,
) -> Result<Json<ArrayDetail>, Failure> {
    let array = api.array_view(id).await?;
    let asked = match (metric, array.metric.as_ref().or(array.halving.as_ref().map(|halving| &halving.metric))) {
        (Some(name), known) => {
            let known = known.filter(|known| known.name == name).map(|known| known.goal);
            let goal = goal.or(known).unwrap_or_else(|| Goal::of(&name));
            vec![Metric { name, goal }]
        }
        (None, Some(known)) => vec![Metric { goal: goal.unwrap_or(known.goal), ..known.clone() }],
        (None, None) => USUAL.map(|name| Metric { name: name.to_owned(), goal: goal.unwrap_or(Goal::Min) }).to_vec(),
    };
    if let Some(mistake) = asked.iter().find_map(Metric::mistake) {
        return Err(Failure::bad_request(mistake, "`mlctl show` of a member lists its metrics"));
    }
    let most = best.unwrap_or(DEFAULT_BEST).min(MAX_BEST);
    let (mut compared_by, mut best) = (None, Vec::new());
    for metric in asked {
        let found = api.store.best_members(id, &metric.name, metric.goal, most).await?;
        if !found.is_empty() {
            best = found.into_iter().filter_map(view::array::member).collect();
            compared_by = Some(metric);
            break;
        }
    }
    let first = JobId(id.0.saturating_add(1));
    let after = api.store.awaited(&[first], true).await?.remove(&first).unwrap_or_default();
    let (dependents, dependents_count) = api.waiters(id).await?;
    let after = after.into_iter().map(after::view).collect();
    Ok(Json(ArrayDetail { array, compared_by, best, after, dependents, dependents_count }))
}

/// `GET /v1/arrays/{array}/follow`.
pub(super) async fn follow(State(api): State<Context>, NamedArray(id): NamedArray) -> Result<Response, Failure> {
    let shared = api.clone();
    stream::open(&api, move |messages| async move { close(id, to_the_end(&shared, id, &messages).await) })
}

async fn to_the_end(api: &Shared, id: JobId, messages: &Messages) -> Result<(), Cut> {
    let mut looks = Looks::new(api);
    let mut seen: Option<ArrayView> = None;
    loop {
        looks.begin();
        let view = api.array_view(id).await?;
        if seen.as_ref() != Some(&view) {
            messages.send(follow::ARRAY, None, &view).await?;
        }
        if view.is_terminal() {
            messages.send(follow::END, None, &view).await?;
            return Ok(());
        }
        seen = Some(view);
        looks.next(LOOK).await;
    }
}

/// `POST /v1/arrays/{array}/cancel`.
pub(super) async fn cancel(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedArray(id): NamedArray,
) -> Result<Json<ArrayChangeView>, Failure> {
    api.change(id, &JobState::UNFINISHED, Command::Cancel { by: peer.uid }, "cancelled").await
}

/// `POST /v1/arrays/{array}/stop`.
pub(super) async fn stop(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedArray(id): NamedArray,
) -> Result<Json<ArrayChangeView>, Failure> {
    api.change(id, &JobState::UNFINISHED, Command::Stop { by: peer.uid }, "stopped").await
}

/// `POST /v1/arrays/{array}/hold`: those that run go on.
pub(super) async fn hold(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedArray(id): NamedArray,
    Sent(HoldRequest { reason }): Sent<HoldRequest>,
) -> Result<Json<ArrayChangeView>, Failure> {
    let hold = control::held_by(peer.uid, reason)?;
    api.change(id, &["queued", "blocked", "held"], Command::Hold { hold }, "held").await
}

/// `POST /v1/arrays/{array}/pause`.
pub(super) async fn pause(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedArray(id): NamedArray,
    Sent(HoldRequest { reason }): Sent<HoldRequest>,
) -> Result<Json<ArrayChangeView>, Failure> {
    let hold = control::held_by(peer.uid, reason)?;
    api.change(id, &JobState::UNFINISHED, Command::Pause { hold }, "paused").await
}

/// `POST /v1/arrays/{array}/release`.
pub(super) async fn release(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedArray(id): NamedArray,
) -> Result<Json<ArrayChangeView>, Failure> {
    api.change(id, &["held"], Command::Release { by: peer.uid }, "released").await
}

/// `POST /v1/arrays/{array}/retry`: those that failed, were cancelled or harmed the machine; not those that were stopped early.
pub(super) async fn retry(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedArray(id): NamedArray,
) -> Result<Json<ArrayChangeView>, Failure> {
    api.change(id, &["failed", "cancelled", "held"], Command::Retry { by: peer.uid }, "retried").await
}

/// `POST /v1/arrays/{array}/edit`: each member takes of it what it can where it stands.
pub(super) async fn edit(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedArray(id): NamedArray,
    Sent(request): Sent<EditRequest>,
) -> Result<Json<ArrayChangeView>, Failure> {
    let edit = control::asked(request);
    let array = api.store.array(id).await?;
    let moved = if edit.queue.is_some() { api.needs_of_waiting(id).await? } else { Vec::new() };
    control::check(&api, &edit, &array.labels, &moved)?;
    if let Some(Change::Set(deadline)) = edit.terms.deadline
        && deadline <= api.clock.now()
    {
        return Err(Failure::bad_request("deadline: it has passed", "choose one that is to come"));
    }
    let (mut taken, mut changed) = (0, 0);
    for (states, edit) in parts(&edit) {
        let (some, different) = api.supervisor.edit_members(id, states, peer.uid, edit).await?;
        (taken, changed) = (taken + some, changed + different);
    }
    api.changed(id, (taken, changed), "edited so").await
}

impl Shared {
    /// What members that wait need, each once.
    async fn needs_of_waiting(&self, id: JobId) -> Result<Vec<Resources>, StoreError> {
        let states = ["queued", "blocked", "held"].map(str::to_owned).to_vec();
        let waiting = self.store.members(id, &MemberFilter { states, limit: u32::MAX }).await?;
        let mut needs: Vec<Resources> = Vec::new();
        for member in waiting {
            if !needs.contains(&member.job.resources) {
                needs.push(member.job.resources);
            }
        }
        Ok(needs)
    }

    /// An array as it is now.
    pub(super) async fn array_view(&self, id: JobId) -> Result<ArrayView, StoreError> {
        Ok(view::array::view(self.store.array(id).await?, &self.scene()))
    }

    /// Does something to all members in these states.
    async fn change(
        &self,
        id: JobId,
        states: &[&str],
        command: Command,
        verb: &str,
    ) -> Result<Json<ArrayChangeView>, Failure> {
        let done = self.supervisor.command_members(id, states, &command).await?;
        self.changed(id, done, verb).await
    }

    /// What was done to members: how many took it, and of how many it changed something.
    async fn changed(
        &self,
        id: JobId,
        (taken, changed): (usize, u64),
        verb: &str,
    ) -> Result<Json<ArrayChangeView>, Failure> {
        let array = self.array_view(id).await?;
        if taken == 0 {
            let counts: Vec<_> = array.counts.iter().map(|(state, jobs)| format!("{jobs} {state}")).collect();
            let message = format!("no member of array {id} can be {verb}: {}", counts.join(", "));
            return Err(Failure::new(
                ErrorCode::WrongState,
                message,
                format!("`mlctl show {id}` shows where they stand"),
            ));
        }
        Ok(Json(ArrayChangeView { schema: SCHEMA, changed, array }))
    }
}
