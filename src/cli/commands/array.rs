//! What verbs do about arrays: a name that turns out to be an array's is asked for again as one. Called by the verbs that take jobs.

use std::pin::pin;

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    api::{
        query::segment,
        types::{ArrayChangeView, ArrayView, ErrorCode, follow as names},
    },
    cli::{
        Context, Failure,
        client::{ANSWER_LIMIT, Followed},
        exit::Exit,
        output::arrays,
    },
};

/// The verbs that arrays take, as the daemon has them, and what they have done to a member.
const CHANGES: [(&str, &str); 7] = [
    ("cancel", "cancelled or asked to stop"),
    ("stop", "stopped or asked to save their work and stop"),
    ("hold", "held"),
    ("pause", "held or asked to save their work and pause"),
    ("release", "released"),
    ("retry", "queued again"),
    ("edit", "changed"),
];

/// Whether the daemon says that what was named is an array.
pub fn is_meant(failure: &Failure) -> bool {
    failure.code == Some(ErrorCode::IsArray)
}

/// The path of an array, and of something of it.
pub fn path(array: &str, rest: &str) -> String {
    let slash = if rest.is_empty() { "" } else { "/" };
    format!("/v1/arrays/{}{slash}{rest}", segment(array))
}

/// Does something to all members of an array; `refusal` is what the daemon said when it was asked of a job.
pub async fn change(
    context: &mut Context<'_>,
    name: &str,
    what: &str,
    body: &impl Serialize,
    refusal: Failure,
) -> Result<(), Failure> {
    let Some((_, done)) = CHANGES.iter().find(|(verb, _)| *verb == what) else { return Err(refusal) };
    // A long array takes longer than a job.
    let changed: ArrayChangeView = context.client.post_body(&path(name, what), body, ANSWER_LIMIT).await?;
    arrays::changed(&mut context.out, &changed, done)
}

/// Waits until every member has ended, but not past `until`.
pub async fn wait(
    context: &Context<'_>,
    array: &ArrayView,
    until: Option<Instant>,
) -> Result<(Option<ArrayView>, Exit), Failure> {
    let id = array.id.to_string();
    let mut events = context.client.events(path(&id, "follow"));
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let limit = async {
        match until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    let mut limit = pin!(limit);
    loop {
        let followed = tokio::select! {
            followed = events.next() => followed?,
            _ = &mut interrupted => {
                context.out.say(format!("not waited for any more; the jobs run on: mlctl wait {id}"));
                return Ok((None, Exit::Interrupted));
            }
            () = &mut limit => return Ok((None, Exit::WaitedTooLong)),
        };
        match followed {
            Some(Followed::Message(message)) if matches!(message.event.as_str(), names::END | names::ARRAY) => {
                let array: ArrayView = super::follow::parse(&message.data)?;
                // What is quarantined goes on when a person has looked at it, which nobody should wait for without knowing.
                if message.event == names::END || array.is_stuck() {
                    let exit = Exit::of_array(&array);
                    return Ok((Some(array), exit));
                }
            }
            Some(_) => {}
            None => return Err(Failure::new(Exit::Failed, "the daemon ended the stream without the array's end")),
        }
    }
}
