//! A real server that will not let us: said at once, in words, and not tried again and again.

use std::time::{Duration, Instant};

use mlctl_artifacts::{ArtifactError, Stores};
use mlctl_protocol::{
    ExitClass,
    s3::{S3Access, S3Credentials},
};

use super::s3::{BUCKET, Server};

/// What every operation on an object says: one of these.
async fn denied(access: S3Access, bucket: &str, words: &[&str]) {
    let stores = Stores::with_s3(Some(access));
    let at = stores.open(&format!("s3://{bucket}/folder/x")).unwrap();
    let begun = Instant::now();
    let errors = [
        ("get", at.get(9).await.unwrap_err()),
        ("size", at.size().await.unwrap_err()),
        ("pieces", at.pieces(9).await.unwrap_err()),
        ("put", at.put("x".into()).await.unwrap_err()),
        ("create", at.create("x".into()).await.unwrap_err()),
        ("put in parts", at.put(vec![0; 17 << 20].into()).await.unwrap_err()),
        ("list", at.list().await.unwrap_err()),
        ("folders", at.folders().await.unwrap_err()),
        ("delete", at.delete().await.unwrap_err()),
    ];
    for (operation, error) in errors {
        let text = error.to_string();
        assert!(matches!(&error, ArtifactError::Denied { hint, .. } if !hint.is_empty()), "{operation}: {error:?}");
        assert!(words.iter().any(|words| text.contains(words)), "{operation}: {text}");
        assert!(text.contains(at.uri()), "{operation}: {text}");
        assert_eq!((error.exit_class(), error.storage_class()), (ExitClass::Spec, ExitClass::Storage), "{operation}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "nothing is tried again: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_secret_or_bucket_is_named() {
    let Some(server) = Server::start() else { return };
    let wrong = |id: &str, secret: &str| {
        server.access_as(&S3Credentials {
            access_key_id: id.into(),
            secret_access_key: secret.into(),
            session_token: None,
        })
    };
    denied(wrong("nobody", "nothing"), BUCKET, &["does not know the access key"]).await;
    denied(wrong(&server.writer.access_key_id, "nothing"), BUCKET, &["secret key does not fit"]).await;
    // One who may not make buckets is not told by every server whether there is one.
    denied(server.access(), "no-such-bucket", &["no such bucket", "access is denied"]).await;
    let at = Stores::with_s3(Some(server.access())).open("s3://no-such-bucket/x").unwrap();
    assert!(at.get(9).await.unwrap_err().to_string().contains("no such bucket"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_may_only_read_is_told_so_when_writing() {
    let Some(server) = Server::start() else { return };
    let writer = Stores::with_s3(Some(server.access()));
    let uri = format!("s3://{BUCKET}/x");
    writer.open(&uri).unwrap().put("kept".into()).await.unwrap();
    let at = Stores::with_s3(Some(server.access_as(&server.reader))).open(&uri).unwrap();
    assert_eq!(at.get(9).await.unwrap(), "kept");
    for error in [at.put("y".into()).await.unwrap_err(), at.delete().await.unwrap_err()] {
        assert!(error.to_string().contains("access is denied"), "{error}");
    }
    assert_eq!(at.get(9).await.unwrap(), "kept");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again_and_then_not_available() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let credentials = S3Credentials { access_key_id: "k".into(), secret_access_key: "s".into(), session_token: None };
    let access = |endpoint: String, retry_seconds| S3Access {
        endpoint: Some(endpoint),
        region: "us-east-1".into(),
        path_style: true,
        checksum: Default::default(),
        retry_seconds,
        ca_pem: None,
        proxy: None,
        credentials: credentials.clone(),
    };
    for endpoint in [format!("http://127.0.0.1:{port}"), "http://no-such-host.invalid".to_owned()] {
        let begun = Instant::now();
        let stores = Stores::with_s3(Some(access(endpoint, 2)));
        let error = stores.open("s3://bucket/x").unwrap().get(9).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Unavailable { .. }), "{error:?}");
        assert_eq!(error.exit_class(), ExitClass::Storage);
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(2) && took < Duration::from_secs(15), "{took:?}");
    }
    let begun = Instant::now();
    let stores = Stores::with_s3(Some(access(format!("http://127.0.0.1:{port}"), 60))).impatient();
    assert!(stores.open("s3://bucket/x").unwrap().get(9).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(2), "one who does not wait is told at once");
}
