//! The example jobs through the program, and what it does when it is stopped, killed, broken, or started by hand.

use std::process::Stdio;

use mlctl_protocol::{
    ExitClass, JobSpec,
    message::{ReportBody, StopClass, ToWorker},
};
use mlworker::rng::{Rng, Stream};
use serde_json::{Value, json};

use super::daemon::{Daemon, checkpoints, example, mlworker, within};

fn spec(value: Value) -> JobSpec {
    serde_json::from_value(value).unwrap()
}

/// The digits for a few epochs, with a checkpoint every few steps.
fn short() -> Value {
    shortened("digits.toml")
}

fn shortened(file: &str) -> Value {
    let mut value = example(file);
    value["train"]["max_epochs"] = json!(4);
    value["checkpoint"] = json!({"every_steps": 7});
    value
}

#[tokio::test]
async fn the_example_jobs_do_what_they_promise() {
    for (file, accuracy) in [("digits.toml", 0.97), ("digits-tuned.toml", 0.97), ("digits-cnn.toml", 0.98)] {
        train_and_predict(file, accuracy).await;
    }
}

async fn train_and_predict(file: &str, accuracy: f64) {
    let daemon = Daemon::new();
    let trained = daemon.run(&spec(example(file)), 1, 1).await;
    let result = trained.result.unwrap();
    assert_eq!((result.class, trained.code), (ExitClass::Ok, Some(0)), "{result:?}");
    assert!(result.metrics["test_accuracy"] >= accuracy, "{:?}", result.metrics);
    assert_eq!(daemon.result_file(1, 1), result);
    assert!(trained.reports.iter().any(|body| matches!(body, ReportBody::Metrics { .. })));
    let mut infer = example("digits-infer.toml");
    assert_eq!(infer["infer"]["model"]["from"], "job:digits");
    let model = json!(result.model.unwrap().uri);
    infer["infer"]["model"]["from"] = model.clone();
    let predicted = daemon.run(&spec(infer), 2, 1).await.result.unwrap();
    assert_eq!(predicted.metrics["accuracy"], result.metrics["test_accuracy"]);
    let output = predicted.output.unwrap();
    assert_eq!((output.records, output.errors), (270, 0));
    let text = std::fs::read_to_string(output.uri.strip_prefix("file://").unwrap()).unwrap();
    assert_eq!(text.lines().count(), 270);
    let mut evaluate = example("digits-evaluate.toml");
    assert_eq!(evaluate["evaluate"]["models"], json!([{"from": "job:digits"}, {"from": "job:digits-cnn"}]));
    evaluate["evaluate"]["models"] = json!([{"from": model}, {"from": model}]);
    let compared = daemon.run(&spec(evaluate), 3, 1).await.result.unwrap();
    assert_eq!(compared.output.unwrap().records, 270);
    assert_eq!(compared.metrics["accuracy"], result.metrics["test_accuracy"]);
    assert_eq!(compared.metrics["1.accuracy_difference"], 0.0);
}

#[expect(clippy::disallowed_methods, reason = "a failed random test is repeated with SEED")]
fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_125);
    println!("SEED={seed}");
    seed
}

#[tokio::test]
async fn killed_at_random_moments_it_ends_with_the_same_digest() {
    for (file, seed) in [("digits.toml", seed()), ("digits-tuned.toml", seed() + 1)] {
        killed_at_random_moments(&spec(shortened(file)), seed).await;
    }
}

async fn killed_at_random_moments(spec: &JobSpec, seed: u64) {
    let daemon = Daemon::new();
    let whole = daemon.run(spec, 1, 1).await.result.unwrap().model.unwrap();
    let mut rng = Rng::new(seed, Stream::Data { table: 9, block: 0 });
    for job in 2..6 {
        let (mut known, mut attempt, mut killed) = (Vec::new(), 0, 0);
        let result = loop {
            attempt += 1;
            let mut running = daemon.start(spec, (job, attempt), &known).await;
            let last = attempt > 6 || !running.checkpoints(1 + rng.below(2) as usize).await;
            if last {
                break running.end().await.result.unwrap();
            }
            // Somewhere in the steps, or the checkpoint, that follow.
            tokio::time::sleep(std::time::Duration::from_micros(u64::from(rng.below(30_000)))).await;
            let reports = running.kill().await;
            killed += 1;
            known = checkpoints(&reports).into_iter().chain(known).collect();
        };
        assert_eq!(result.class, ExitClass::Ok, "{result:?}");
        assert_eq!(result.model.unwrap().digest, whole.digest, "job {job}, killed {killed} times");
        assert!(killed > 0);
    }
}

#[tokio::test]
async fn ordered_to_stop_it_saves_and_says_so() {
    let (daemon, spec) = (Daemon::new(), spec(short()));
    for (job, (class, ends)) in (1..).zip([
        (StopClass::Preempted, ExitClass::Preempted),
        (StopClass::Cancelled, ExitClass::Cancelled),
        (StopClass::Timeout, ExitClass::Timeout),
    ]) {
        let mut attempt = daemon.start(&spec, (job, 1), &[]).await;
        assert!(attempt.checkpoints(1).await);
        attempt.order(ToWorker::Stop { class }).await;
        let ended = attempt.end().await;
        let result = ended.result.unwrap();
        assert_eq!((result.class, ended.code), (ends, Some(1)));
        assert_eq!(daemon.result_file(job, 1), result);
        let known = checkpoints(&ended.reports);
        let resumed = daemon.start(&spec, (job, 2), &known).await.end().await;
        assert_eq!(resumed.result.unwrap().class, ExitClass::Ok);
        let Some(ReportBody::Resumed { from, .. }) = resumed.reports.first() else { panic!("{:?}", resumed.reports) };
        assert_eq!(from.step, known[0].step);
    }
}

#[tokio::test]
async fn a_checkpoint_is_taken_on_demand() {
    let daemon = Daemon::new();
    let mut value = short();
    value["checkpoint"] = json!({"every_seconds": 1000});
    value["train"]["max_epochs"] = json!(100_000);
    value["train"].as_object_mut().unwrap().remove("convergence");
    let mut attempt = daemon.start(&spec(value), (1, 1), &[]).await;
    // At step 0 there is nothing to save yet.
    attempt.next_report().await.unwrap();
    attempt.order(ToWorker::Checkpoint).await;
    assert!(attempt.checkpoints(1).await);
    assert!(checkpoints(&attempt.kill().await)[0].step > 0);
}

#[tokio::test]
async fn the_users_mistake_ends_as_such() {
    let daemon = Daemon::new();
    let mut value = short();
    value["train"]["data"]["targets"] = json!(["lable"]);
    let ended = daemon.run(&spec(value), 1, 1).await;
    let result = ended.result.unwrap();
    assert_eq!((result.class, ended.code), (ExitClass::Spec, Some(1)));
    assert!(result.message.unwrap().contains("has no column \"lable\""));
    assert_eq!(result.hint.unwrap(), "did you mean \"label\"?");
}

#[tokio::test]
async fn started_by_hand_it_says_what_it_is() {
    let run = async |arguments: &[&str]| {
        let output = within(mlworker().args(arguments).stdin(Stdio::null()).output()).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = run(&["--version"]).await;
    assert!(code == 0 && out.starts_with(concat!("mlworker ", env!("CARGO_PKG_VERSION"), " (cpu")), "{out}");
    let (code, out, _) = run(&["--help"]).await;
    assert!(code == 0 && out.contains("mlctl submit"), "{out}");
    let (code, _, err) = run(&["train.toml"]).await;
    assert!(code == 2 && err.contains("takes no arguments") && err.contains("mlctl submit"), "{err}");
    let (code, _, err) = run(&[]).await;
    assert!(code == 70 && err.contains("started by mld, not by hand"), "{err}");
}
