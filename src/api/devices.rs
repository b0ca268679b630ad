//! Handlers about GPUs: list, and who may have which. Called by the router.

use axum::{Extension, Json, extract::State};

use super::{
    Context, Shared,
    error::Failure,
    extract::{NamedDevice, Sent},
    permit::Peer,
    types::{DeviceList, DeviceRequest, DeviceState, DeviceView, ErrorCode, MAX_DEVICE_REASON, SCHEMA},
    view,
};
use crate::{
    domain::{machine::Standing, queue::queue_name, rules::Problem},
    supervisor::executor::{Kit, Program},
};

/// `GET /v1/devices`.
pub(super) async fn list(State(api): State<Context>) -> Result<Json<DeviceList>, Failure> {
    Ok(Json(DeviceList { schema: SCHEMA, devices: views(&api).await? }))
}

/// `POST /v1/devices/{device}`.
pub(super) async fn assign(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedDevice(reference): NamedDevice,
    Sent(request): Sent<DeviceRequest>,
) -> Result<Json<DeviceView>, Failure> {
    let uuid = find(&api, &reference)?;
    let standing = standing(&api, &request)?;
    if let Some(reason) = &request.reason {
        let is_fine = !reason.is_empty() && reason.chars().count() <= MAX_DEVICE_REASON;
        if !is_fine || reason.chars().any(char::is_control) {
            let message = format!("a reason is a line of 1 to {MAX_DEVICE_REASON} characters");
            return Err(Failure::bad_request(message, "say it in fewer words, or leave it out"));
        }
    }
    api.store.assign_device(&uuid, standing, request.reason, peer.uid).await?;
    let found = views(&api).await?.into_iter().find(|view| view.uuid == uuid);
    found.map(Json).ok_or_else(|| none(&api, &reference))
}

/// The UUID of the GPU that is meant: by its index, its UUID, or the beginning of that where no other's begins so.
fn find(api: &Shared, reference: &str) -> Result<String, Failure> {
    let machine = api.supervisor.machine();
    let gpus = &machine.gpus;
    let exact = gpus.iter().find(|gpu| gpu.uuid == reference || gpu.index.to_string() == reference);
    if let Some(gpu) = exact {
        return Ok(gpu.uuid.clone());
    }
    let mut alike = gpus.iter().filter(|gpu| !reference.is_empty() && gpu.uuid.starts_with(reference));
    match (alike.next(), alike.next()) {
        (Some(gpu), None) => Ok(gpu.uuid.clone()),
        (Some(_), Some(_)) => Err(Failure::bad_request(
            format!("several GPUs have a UUID that begins with {reference:?}"),
            "name it by its index, or by more of its UUID",
        )),
        (None, _) => Err(none(api, reference)),
    }
}

fn none(api: &Shared, reference: &str) -> Failure {
    let message = format!("there is no GPU {reference:?}");
    if api.supervisor.machine().gpus.is_empty() {
        return Failure::new(ErrorCode::NotFound, message, "jobs are given no GPUs: see [devices] in mld.toml");
    }
    Failure::new(ErrorCode::NotFound, message, "`mlctl device ls` lists every GPU")
}

fn standing(api: &Shared, request: &DeviceRequest) -> Result<Standing, Failure> {
    let DeviceRequest { state, queue, user, .. } = request;
    match (state, queue, user) {
        (DeviceState::Open, None, None) => Ok(Standing::Open),
        (DeviceState::Drained, None, None) => Ok(Standing::Drained),
        (DeviceState::Reserved, Some(queue), None) => match queue_name(queue) {
            Some(Problem { message, hint, .. }) => Err(Failure::bad_request(message, hint.unwrap_or_default())),
            None => Ok(Standing::Queue(queue.clone())),
        },
        (DeviceState::Reserved, None, Some(user)) => api.users.named(user).map(Standing::User),
        (DeviceState::Reserved, ..) => Err(Failure::bad_request(
            "a GPU is reserved for a queue or for a user",
            "name one of the two: \"queue\" or \"user\"",
        )),
        _ => Err(Failure::bad_request(
            "a GPU that is not reserved is nobody's",
            "leave \"queue\" and \"user\" out, or say \"state\": \"reserved\"",
        )),
    }
}

async fn views(api: &Shared) -> Result<Vec<DeviceView>, Failure> {
    let (machine, assigned) = (api.supervisor.look_at_machine().await, api.store.devices().await?);
    let (free, scene) = (api.supervisor.free(), api.scene());
    let view = |(place, gpu): (usize, &crate::domain::machine::Gpu)| {
        let free_mib = free.vram_mib.get(place).copied().unwrap_or_default() - i64::from(gpu.foreign.memory_mib);
        let free_mib = u32::try_from(free_mib).unwrap_or(0);
        let jobs = api.supervisor.holders(&gpu.uuid);
        let kit = Kit { program: Program::Worker, threads: 1, gpus: Some(vec![gpu.uuid.clone()]) };
        let worker = api.config.programs.path(&kit);
        view::device::view(gpu, assigned.get(&gpu.uuid), (free_mib, jobs, worker), &scene)
    };
    Ok(machine.gpus.iter().enumerate().map(view).collect())
}
