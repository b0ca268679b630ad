//! What a handler takes from a request: the job its path names, its query, its JSON body. Everything is bounded, and what does not fit is answered as an error in
//! words. Called by axum for the handlers.

use axum::{
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{StatusCode, header, request::Parts},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use mlctl_protocol::{JobId, dataset::MAX_MANIFEST_BYTES};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    Context,
    download::is_plain,
    error::Failure,
    types::{ErrorCode, MAX_BODY_BYTES, MAX_REFERENCE_BYTES},
};

/// The job that `{job}` in the path means: an id, a unique name or `@last`. Decoded once, and never a part of a path of any kind.
pub(super) struct Named(pub(super) JobId);

impl FromRequestParts<Context> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        let reference = reference(parts, api, "job", "name a job by its id, by its name or by @last").await?;
        Ok(Self(api.store.find(&reference).await?))
    }
}

/// The array that `{array}` in the path means: an id, a unique name or `@last`.
pub(super) struct NamedArray(pub(super) JobId);

impl FromRequestParts<Context> for NamedArray {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        let reference = reference(parts, api, "array", "name an array by its id, by its name or by @last").await?;
        Ok(Self(api.store.find_array(&reference).await?))
    }
}

/// The name that `{schedule}` in the path stands for; whether there is such a schedule is not looked at.
pub(super) struct NamedSchedule(pub(super) String);

impl FromRequestParts<Context> for NamedSchedule {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        reference(parts, api, "schedule", "name a schedule by its name").await.map(Self)
    }
}

/// The name that `{queue}` in the path stands for; whether there is such a queue is not looked at.
pub(super) struct NamedQueue(pub(super) String);

impl FromRequestParts<Context> for NamedQueue {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        reference(parts, api, "queue", "name a queue by its name").await.map(Self)
    }
}

/// The text that `{device}` in the path stands for; whether there is such a GPU is not looked at.
pub(super) struct NamedDevice(pub(super) String);

impl FromRequestParts<Context> for NamedDevice {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        reference(parts, api, "device", "name a GPU by its index or its UUID").await.map(Self)
    }
}

/// The name that `{hook}` in the path stands for; whether there is such a hook is not looked at.
pub(super) struct NamedHook(pub(super) String);

impl FromRequestParts<Context> for NamedHook {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        reference(parts, api, "hook", "name a hook by its name").await.map(Self)
    }
}

/// The name that `{model}` in the path stands for; whether there is such a model is not looked at.
pub(super) struct NamedModel(pub(super) String);

impl FromRequestParts<Context> for NamedModel {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        reference(parts, api, "model", "name a model by its name").await.map(Self)
    }
}

/// The version that `{model}` and `{version}` in the path stand for.
pub(super) struct NamedVersion {
    pub(super) model: String,
    pub(super) version: u32,
}

impl FromRequestParts<Context> for NamedVersion {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        let NamedModel(model) = NamedModel::from_request_parts(parts, api).await?;
        Ok(Self { model, version: version(parts, api).await? })
    }
}

/// The alias that `{model}` and `{alias}` in the path stand for; whether there is such a one is not looked at.
pub(super) struct NamedAlias {
    pub(super) model: String,
    pub(super) alias: String,
}

impl FromRequestParts<Context> for NamedAlias {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        let NamedModel(model) = NamedModel::from_request_parts(parts, api).await?;
        Ok(Self { model, alias: reference(parts, api, "alias", "name an alias by its name").await? })
    }
}

/// The name that `{dataset}` in the path stands for; whether there is such a dataset is not looked at.
pub(super) struct NamedDataset(pub(super) String);

impl FromRequestParts<Context> for NamedDataset {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        reference(parts, api, "dataset", "name a dataset by its name").await.map(Self)
    }
}

/// The version that `{dataset}` and `{version}` in the path stand for.
pub(super) struct NamedDatasetVersion {
    pub(super) dataset: String,
    pub(super) version: u32,
}

impl FromRequestParts<Context> for NamedDatasetVersion {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        let NamedDataset(dataset) = NamedDataset::from_request_parts(parts, api).await?;
        Ok(Self { dataset, version: version(parts, api).await? })
    }
}

/// The number that `{version}` in the path stands for.
async fn version(parts: &mut Parts, api: &Context) -> Result<u32, Failure> {
    let text = parameter(parts, api, "version").await?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let version = if digits { text.parse().ok() } else { None };
    version.ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        Failure::bad_request(format!("{shown:?} is no version"), "name one by its number, from 1 on")
    })
}

/// A bounded text of the path.
async fn reference(parts: &mut Parts, api: &Context, what: &str, hint: &str) -> Result<String, Failure> {
    let reference = parameter(parts, api, what).await?;
    if reference.len() > MAX_REFERENCE_BYTES {
        return Err(Failure::bad_request(format!("no {what} is named by more than {MAX_REFERENCE_BYTES} bytes"), hint));
    }
    if reference.chars().any(char::is_control) {
        return Err(Failure::bad_request(format!("no {what} is named by control characters"), hint));
    }
    Ok(reference)
}

/// The step that `{step}` in the path means.
pub(super) struct Step(pub(super) u64);

impl FromRequestParts<Context> for Step {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        let text = parameter(parts, api, "step").await?;
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let step = if digits { text.parse().ok() } else { None };
        step.map(Self).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Failure::bad_request(format!("{shown:?} is not a step"), "name a checkpoint by its step, in digits")
        })
    }
}

/// The object that `{object}` in the path means: a plain name, never a path.
pub(super) struct Object(pub(super) String);

impl FromRequestParts<Context> for Object {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Context) -> Result<Self, Failure> {
        let name = parameter(parts, api, "object").await?;
        if is_plain(&name) {
            return Ok(Self(name));
        }
        let shown: String = name.chars().take(40).collect();
        Err(Failure::bad_request(format!("{shown:?} is no name of an object"), "name one that is listed"))
    }
}

async fn parameter(parts: &mut Parts, api: &Context, name: &str) -> Result<String, Failure> {
    let params = RawPathParams::from_request_parts(parts, api)
        .await
        .map_err(|_| Failure::bad_request("the path is not UTF-8", "percent-encode the bytes of UTF-8 text"))?;
    let value = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    // The routes that take it have it: an empty one is as good as none.
    Ok(value.unwrap_or_default())
}

/// The query, without a word that its type does not know.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Context> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Context) -> Result<Self, Failure> {
        let query = parts.uri.query().unwrap_or_default();
        serde_urlencoded::from_str(query).map(Self).map_err(|error| {
            let shown: String = error.to_string().chars().take(300).collect();
            Failure::bad_request(format!("the query cannot be read: {shown}"), "correct what stands after the `?`")
        })
    }
}

/// The JSON body; an empty one is an empty object.
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Context> for Sent<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Context) -> Result<Self, Failure> {
        let body = body(request, api, MAX_BODY_BYTES).await?;
        let json: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(json).map(Self).map_err(|error| {
            Failure::bad_request(format!("the body is not the JSON that belongs here: {error}"), "correct the body")
        })
    }
}

/// The body as it came: a manifest, which is larger than other bodies may be.
pub(super) struct Whole(pub(super) Bytes);

impl FromRequest<Context> for Whole {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Context) -> Result<Self, Failure> {
        body(request, api, MAX_MANIFEST_BYTES).await.map(Self)
    }
}

async fn body(request: Request, api: &Context, most: usize) -> Result<Bytes, Failure> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > most as u64) {
        return Err(too_large(most));
    }
    let read = Limited::new(request.into_body(), most).collect();
    match timeout(api.config.patience.body, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(most)),
        Ok(Err(_)) => Err(Failure::bad_request("the body ends before it should", "send it whole")),
        Err(_) => {
            let seconds = api.config.patience.body.as_secs();
            let message = format!("the body did not come within {seconds} seconds");
            let failure = Failure::new(ErrorCode::Timeout, message, "send it at once");
            Err(failure.with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

fn too_large(most: usize) -> Failure {
    let message = format!("the body is larger than {most} bytes");
    Failure::new(ErrorCode::TooLarge, message, "a job spec names data by URI and carries none")
}
