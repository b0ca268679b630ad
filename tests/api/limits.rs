//! Clients that send too much, too slowly or nonsense.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use mlctl::api::{
    Patience,
    types::{ErrorCode, MAX_BODY_BYTES},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Rig, in_time};

fn hasty(config: &mut mlctl::api::Config, _: &mut mlctl::api::Policy) {
    let short = Duration::from_millis(150);
    config.patience = Patience { head: short, body: short, drain: short };
}

/// Sends bytes and returns all that is answered until the server hangs up.
async fn raw(rig: &Rig, bytes: &[u8]) -> String {
    let mut stream = rig.connect().await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A server that hangs up on unread bytes resets the connection: what came before counts.
    let _ = in_time(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_is_bounded_whether_its_size_is_announced_or_not() {
    let rig = Rig::new().await;
    let (status, code, _) = rig.post_error("/v1/jobs", vec![b' '; MAX_BODY_BYTES + 1]).await;
    assert_eq!((status, code), (413, ErrorCode::TooLarge));
    let announced = "POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n";
    let mut stream = rig.connect().await;
    stream.write_all(announced.as_bytes()).await.unwrap();
    let mut begin = [0; 12];
    in_time(stream.read_exact(&mut begin)).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 413", "before a byte of the body is read");
    // Chunked, without an end.
    let mut stream = rig.connect().await;
    stream.write_all(b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    for _ in 0..=(MAX_BODY_BYTES / 0x10000) {
        // The server may have hung up by then.
        let _ = stream.write_all(&chunk).await;
    }
    in_time(stream.read_exact(&mut begin)).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 413");
    rig.end_server().await;
}

#[tokio::test]
async fn a_body_that_is_no_request_is_refused() {
    let rig = Rig::new().await;
    let deep = "[".repeat(100_000);
    let bodies = [
        "",
        "{",
        "null",
        "[]",
        "\"x\"",
        "{}",
        r#"{"spec": {}, "key": 5}"#,
        r#"{"spec": {}, "key": "k", "extra": 1}"#,
        r#"{"key": "k"}"#,
        r#"{"spec": {}}"#,
        "\u{feff}{}",
        &deep,
    ];
    for body in bodies {
        let (status, code, message) = rig.post_error("/v1/jobs", body.to_owned()).await;
        assert_eq!((status, code), (400, ErrorCode::BadRequest), "{body:.40}: {message}");
    }
    let (status, ..) = rig.post_error("/v1/jobs", Bytes::from_static(b"\xff\xfe")).await;
    assert_eq!(status, 400);
    let (status, ..) = rig.post_error("/v1/jobs/@last/checkpoints/verify", "{").await;
    assert_eq!(status, 404, "there is no job");
    rig.submit("one").await;
    assert_eq!(rig.post_error("/v1/jobs/one/checkpoints/verify", "{").await.0, 400);
    assert_eq!(rig.post_error("/v1/jobs/one/checkpoints/verify", r#"{"step": -1}"#).await.0, 400);
    rig.end_server().await;
}

#[tokio::test]
async fn a_slow_client_is_hung_up_on() {
    let rig = Rig::with(hasty).await;
    assert_eq!(raw(&rig, b"").await, "", "says nothing");
    assert!(!raw(&rig, b"GET /v1/daemon HTTP/1.1\r\nhost: x\r\n").await.contains("200 OK"), "half a head");
    let half = b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    let answer = raw(&rig, half).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"timeout\""), "{answer}");
    let whole = b"GET /v1/daemon HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = raw(&rig, whole).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    rig.end_server().await;
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let rig = Rig::with(hasty).await;
    let big_head = format!("GET /v1/daemon HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let many = format!("GET /v1/daemon HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(500));
    for bytes in
        [b"\0\0\0\x05hello".as_slice(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", big_head.as_bytes(), many.as_bytes()]
    {
        let answer = raw(&rig, bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer:.100}");
    }
    let _: mlctl::api::types::DaemonView = rig.get("/v1/daemon").await;
    rig.end_server().await;
}

#[tokio::test]
async fn more_clients_than_there_is_room_for_are_served_one_after_the_other() {
    let rig = Rig::new().await;
    let asked = join_all((0..400).map(|_| rig.ask(Method::GET, "/v1/daemon", ""))).await;
    assert!(asked.iter().all(|(status, _)| *status == 200));
    rig.end_server().await;
}

#[tokio::test]
async fn streams_are_bounded_and_leave_room_for_requests() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let path = format!("/v1/jobs/{id}/follow");
    let mut streams = Vec::new();
    for _ in 0..128 {
        let mut stream = rig.follow(&path, None).await;
        assert_eq!(stream.next().await.unwrap().name, "job");
        streams.push(stream);
    }
    let (status, code, _) = rig.get_error(&path).await;
    assert_eq!((status, code), (503, ErrorCode::Busy));
    let _: mlctl::api::types::DaemonView = rig.get("/v1/daemon").await;
    drop(streams);
    in_time(async {
        loop {
            let request = Request::builder().uri(&path).header("host", "mld").body(Full::default()).unwrap();
            let answer = rig.send(request).await;
            if answer.status() == 200 {
                drop(answer);
                return;
            }
            answer.into_body().collect().await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    rig.end_server().await;
}
