//! The daemon about itself.

use mlctl::api::types::{CheckStatus, DaemonView, DoctorView, StopView};

use crate::rig::Rig;

#[tokio::test]
async fn the_daemon_says_what_it_is_and_stops_when_asked() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    rig.submit("two").await;
    rig.claim(id).await;
    let daemon: DaemonView = rig.get("/v1/daemon").await;
    assert_eq!((daemon.pid, daemon.version.as_str()), (std::process::id(), env!("CARGO_PKG_VERSION")));
    assert_eq!((daemon.jobs["queued"], daemon.jobs["running"]), (1, 1));
    assert_eq!((daemon.machine.cpus, daemon.used.cpus), (2, 0));
    assert_eq!((daemon.socket, daemon.instance), (rig.socket().display().to_string(), rig.store.instance().id.clone()));
    assert!(!rig.stop_daemon.is_cancelled());
    let stop: StopView = rig.post("/v1/daemon/stop", "").await;
    assert_eq!((stop.stopping, stop.pid, stop.running), (true, std::process::id(), 1));
    assert!(rig.stop_daemon.is_cancelled());
    rig.end_server().await;
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong() {
    let rig = Rig::new().await;
    rig.submit("one").await;
    let status = |view: &DoctorView, name: &str| {
        let check = view.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{name}: {view:?}"));
        assert_eq!(check.hint.is_some(), check.status != CheckStatus::Ok, "{check:?}");
        check.status
    };
    let view: DoctorView = rig.get("/v1/doctor").await;
    assert!(!view.ok, "there is no worker and no workers' socket");
    for name in ["sqlite", "database", "object storage", "object storage's clock", "data roots", "clock"] {
        assert_eq!(status(&view, name), CheckStatus::Ok, "{view:?}");
    }
    for name in ["worker", "workers' socket"] {
        assert_eq!(status(&view, name), CheckStatus::Fail, "{name}");
    }
    let left = std::fs::read_dir(rig.dir.path().join("objects/doctor")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "the probe is deleted");
    rig.forward(-3600);
    std::fs::remove_dir_all(rig.dir.path().join("objects")).unwrap();
    std::fs::write(rig.dir.path().join("objects"), "in the way").unwrap();
    let view: DoctorView = rig.get("/v1/doctor").await;
    assert_eq!(status(&view, "clock"), CheckStatus::Warn);
    assert_eq!(status(&view, "object storage"), CheckStatus::Fail);
    rig.end_server().await;
}
