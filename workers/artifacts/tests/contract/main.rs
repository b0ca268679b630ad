//! What every store must do, said once and tried on each: memory, a local disk, and a real S3 server over HTTP with signed requests. Then what only a server can do wrong:
//! refuse, hang up, be somebody else's.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod denied;
#[cfg(test)]
mod faults;
#[cfg(test)]
#[path = "../../../../tests/support/header.rs"]
mod header;
#[cfg(test)]
mod moves;
#[cfg(test)]
#[path = "../../../../tests/support/puppet.rs"]
mod puppet;
#[cfg(test)]
#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../../../../tests/support/s3.rs"]
mod s3;

#[cfg(test)]
mod stores {
    use mlctl_artifacts::{Stores, Upload, uploads};

    use super::{cases, moves, s3};

    #[tokio::test]
    async fn memory_keeps_the_contract() {
        let stores = Stores::with_memory();
        cases::all(&stores, "memory:///contract").await;
        moves::all(&stores, "memory:///moves").await;
    }

    #[tokio::test]
    async fn a_local_disk_keeps_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        cases::all(&Stores::new(), &format!("file://{}", dir.path().display())).await;
        moves::all(&Stores::new(), &format!("file://{}/moves", dir.path().display())).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_s3_server_keeps_the_contract() {
        let Some(server) = s3::Server::start() else { return };
        let record = tempfile::tempdir().unwrap();
        let file = record.path().join(uploads::UPLOADS_FILE);
        let stores = Stores::with_s3(Some(server.access())).on_record(file.clone());
        cases::all(&stores, &format!("s3://{}/contract", s3::BUCKET)).await;
        moves::all(&stores, &format!("s3://{}/contract/moves", s3::BUCKET)).await;
        moves::left_open(&stores, &format!("s3://{}/left-open", s3::BUCKET)).await;
        let (date, _) = stores.s3_time().expect("a server says what time it has");
        assert!(date.ends_with("GMT"), "{date}");
        // Every upload was struck out; one that a killed process left open is cleared away.
        let home = format!("s3://{}/contract", s3::BUCKET);
        assert_eq!(uploads::clear(&stores, &file, &home).await.unwrap(), 0);
        let mut killed = Upload::new(stores.open(&format!("{home}/killed")).unwrap());
        killed.write(&vec![1; 20 << 20]).await.unwrap();
        let others = Stores::with_s3(Some(server.access()));
        assert_eq!(uploads::clear(&others, &file, &home).await.unwrap(), 1);
        assert!(killed.finish().await.is_err(), "its parts are gone");
    }
}
