//! A database with something in every table and a job in every state.

use mlctl::{
    domain::{Command, event::ProcessIdentity},
    store::{Beat, NewJob, Used},
};
use mlctl_protocol::{
    ExitClass, JobId,
    message::ReportBody,
    progress::{MetricPoint, Progress},
    result::WorkerResult,
};

use crate::rig::{self, Rig, USER, new_job};

pub const JOBS: u64 = 18;

/// The submit that made a job.
pub fn submitted(number: u64) -> NewJob {
    let mut new = new_job(&format!("job-{number}"), &format!("key {number} of a client"));
    new.spec.priority = u8::try_from(number * 5).unwrap();
    new.spec.labels = [("team".to_owned(), format!("vision {number}"))].into();
    new
}

/// Fills a new database: of six jobs each third has two attempts; states go round.
pub async fn furnish(rig: &Rig) {
    for number in 1..=JOBS {
        assert_eq!(rig.store.submit(submitted(number)).await.unwrap().id, JobId(number));
    }
    for number in 1..=JOBS {
        let id = JobId(number);
        if number % 6 == 0 {
            continue;
        }
        if number % 3 == 0 {
            attempt(rig, id, Some(ExitClass::Preempted)).await;
        }
        match number % 6 {
            1 => attempt(rig, id, Some(ExitClass::Ok)).await,
            2 => attempt(rig, id, Some(ExitClass::Spec)).await,
            3 => {
                attempt(rig, id, Some(ExitClass::Crash)).await;
                attempt(rig, id, Some(ExitClass::Lost)).await;
            }
            4 => attempt(rig, id, None).await,
            _ => drop(rig.store.command(id, None, Command::Cancel { by: USER }).await.unwrap()),
        }
    }
}

async fn attempt(rig: &Rig, id: JobId, class: Option<ExitClass>) {
    let fence = rig.claim(id).await;
    let boot_id = "5d4f1c0e-boot".to_owned();
    let process = ProcessIdentity { pid: 4_242, start_ticks: 99, boot_id, host: "box".into(), ahead: None };
    rig.store.command(id, Some(fence), Command::Launched { process }).await.unwrap();
    let values = |step: u64| [("train_loss".to_owned(), 1.0 / step as f64), ("rate".to_owned(), 0.1 + 0.2)].into();
    let points = (1..=8).map(|step| MetricPoint { step, epoch: 1, values: values(step) }).collect();
    rig.store.report(fence, 1, ReportBody::Metrics { points }).await.unwrap();
    let checkpoint = rig::checkpoint(&format!("file:///objects/{id}/{}", fence.attempt), 8);
    rig.store.report(fence, 2, ReportBody::Checkpoint { checkpoint }).await.unwrap();
    let progress = Progress { step: Some(8), steps: Some(80), loss: Some(0.125), ..Progress::default() };
    let beat = Beat {
        fence,
        lease_until: rig.now(),
        progress,
        peak_rss_bytes: 123_456_789,
        used: Used { cpu_ms: 1_234, peak_vram_bytes: Some(5 << 30) },
        device: "cpu".into(),
        is_last: false,
    };
    rig.store.heartbeat(beat).await.unwrap();
    let Some(class) = class else { return };
    let metrics = [("test_accuracy".to_owned(), 0.97)].into();
    let (job, attempt, token) = (id, fence.attempt, fence.token);
    let result = WorkerResult {
        v: 1,
        job,
        attempt,
        token,
        class,
        message: None,
        hint: None,
        metrics,
        model: None,
        output: None,
    };
    rig.store.report(fence, 3, ReportBody::Finished { result: Box::new(result) }).await.unwrap();
    rig.end(fence, class).await;
}
