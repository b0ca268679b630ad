//! GPUs that not everybody may have, and those that jobs have: kept over a restart.

use mlctl::domain::{Uid, machine::Standing};
use mlctl_protocol::spec::Resources;

use crate::rig::{Rig, USER, new_job};

/// Some that are drained or reserved.
pub async fn furnish(rig: &Rig) {
    let drained = rig.store.assign_device("GPU-1", Standing::Drained, Some("a new fan".into()), USER);
    drained.await.unwrap();
    rig.store.assign_device("GPU-2", Standing::Queue("night".into()), None, USER).await.unwrap();
}

#[tokio::test]
async fn who_may_have_a_gpu_is_kept() {
    let mut rig = Rig::new().await;
    assert!(rig.store.devices().await.unwrap().is_empty());
    let mut changes = rig.store.queue_changes();
    furnish(&rig).await;
    assert!(changes.has_changed().unwrap(), "whoever plans is told");
    changes.mark_unchanged();
    // The last word counts, also of two in one group.
    let (one, two) = tokio::join!(
        rig.store.assign_device("GPU-2", Standing::User(Uid(7)), None, USER),
        rig.store.assign_device("GPU-2", Standing::User(Uid(8)), Some("hers".into()), Uid(9)),
    );
    one.and(two).unwrap();
    rig.reopen().await;
    let devices = rig.store.devices().await.unwrap();
    assert_eq!(devices.len(), 2);
    let (first, second) = (&devices["GPU-1"], &devices["GPU-2"]);
    assert_eq!((&first.standing, first.reason.as_deref()), (&Standing::Drained, Some("a new fan")));
    assert_eq!((&second.standing, second.reason.as_deref()), (&Standing::User(Uid(8)), Some("hers")));
    assert_eq!((first.changed_by, second.changed_by), (USER, Uid(9)));
    rig.check().await;
}

#[tokio::test]
async fn what_a_job_needs_and_has_is_kept() {
    let mut rig = Rig::new().await;
    let mut new = new_job("one", "k");
    new.spec.resources = Resources { cpus: 2, gpus: 2, memory_mib: 1000, vram_mib: 600 };
    let id = rig.store.submit(new.clone()).await.unwrap().id;
    let ready = rig.store.ready(rig.now(), 1).await.unwrap();
    assert_eq!(ready[0].needs, new.spec.resources);
    let gpus = vec!["GPU-1".to_owned(), "GPU-2".to_owned()];
    let fence = rig.store.claim(id, gpus.clone(), [7; 32], rig.now()).await.unwrap().fence;
    rig.reopen().await;
    let occupants = rig.store.occupants().await.unwrap();
    assert_eq!((&occupants[0].has, &occupants[0].gpus), (&new.spec.resources, &gpus));
    rig.check().await;
    rig.end(fence, mlctl_protocol::ExitClass::Preempted).await;
    assert_eq!(rig.store.job(id).await.unwrap().job.gpus, gpus, "they are those of the last attempt");
    rig.store.claim(id, Vec::new(), [7; 32], rig.now()).await.unwrap();
    assert_eq!(rig.store.job(id).await.unwrap().job.gpus, Vec::<String>::new());
    rig.check().await;
}
