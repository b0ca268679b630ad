//! Answers that a server gives on a bad day, played by a puppet: what is tried again, what is not, what is believed.

use mlctl_artifacts::{ArtifactError, Stores, Upload};
use mlctl_protocol::{ExitClass, s3::S3Access};

use super::puppet::{Answer, Puppet};

const DATED: &str = "etag: \"e\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n";

fn error(code: &str, more: &str) -> Vec<u8> {
    format!("<Error><Code>{code}</Code><Message>so it is</Message>{more}</Error>").into_bytes()
}

#[tokio::test]
async fn refusals_are_said_in_words_and_asked_for_once() {
    let skew = "<RequestTime>20260101T000000Z</RequestTime><ServerTime>2026-01-01T02:00:00Z</ServerTime>";
    for (status, code, more, words) in [
        (403, "RequestTimeTooSkewed", skew, "clock and the store's are too far apart: 20260101T000000Z here"),
        (400, "AuthorizationHeaderMalformed", "<Region>eu-north-1</Region>", "in another region: eu-north-1"),
        (301, "PermanentRedirect", "<Endpoint>b.s3.eu.example</Endpoint>", "in another region: b.s3.eu.example"),
        (403, "AccessDenied", "", "access is denied: so it is"),
    ] {
        let puppet = Puppet::new(move |_, _| Answer::Say(status, "", error(code, more)));
        let at = puppet.stores().open("s3://bucket/x").unwrap();
        for found in [at.get(9).await.unwrap_err(), at.put("x".into()).await.unwrap_err()] {
            assert!(found.to_string().contains(words), "{found}");
            assert_eq!(found.exit_class(), ExitClass::Spec);
        }
        assert_eq!(puppet.asked().len(), 2, "{code} is not tried again");
        // The answer to HEAD has no body: what is wrong is asked for.
        assert!(at.size().await.unwrap_err().to_string().contains(words), "{code}");
    }
}

#[tokio::test]
async fn a_key_that_has_run_out_is_for_the_next_attempt() {
    let puppet = Puppet::new(|_, _| Answer::Say(400, "", error("ExpiredToken", "")));
    let found = puppet.stores().open("s3://bucket/x").unwrap().get(9).await.unwrap_err();
    assert!(matches!(found, ArtifactError::Unavailable { .. }), "{found:?}");
    assert_eq!(found.exit_class(), ExitClass::Storage);
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    for fault in [500, 503, 429, 0] {
        let puppet = Puppet::new(move |number, _| match (number, fault) {
            (0 | 1, 0) => Answer::HangUp,
            (0 | 1, status) => Answer::Say(status, "", error("SlowDown", "")),
            _ => Answer::Say(200, DATED, b"content".to_vec()),
        });
        let at = puppet.stores().open("s3://bucket/x").unwrap();
        assert_eq!(at.get(9).await.unwrap(), "content", "{fault}");
        assert_eq!(puppet.asked().len(), 3, "{fault}");
    }
    let puppet = Puppet::new(|_, _| Answer::Say(503, "", error("SlowDown", "")));
    let found = puppet.stores().open("s3://bucket/x").unwrap().get(9).await.unwrap_err();
    assert!(matches!(found, ArtifactError::Unavailable { .. }), "{found:?}");
    assert!((2..20).contains(&puppet.asked().len()), "but not for ever");
}

#[tokio::test]
async fn an_endpoint_of_tls_is_never_spoken_to_without() {
    let puppet = Puppet::new(|_, _| Answer::Say(200, DATED, b"plain".to_vec()));
    let access = S3Access { endpoint: Some(puppet.url.replace("http:", "https:")), ..puppet.access() };
    let found = Stores::with_s3(Some(access)).open("s3://bucket/x").unwrap().get(9).await.unwrap_err();
    assert!(matches!(found, ArtifactError::Unavailable { .. }), "{found:?}");
    assert_eq!(puppet.asked().len(), 0, "nothing of the request was sent");
}

#[tokio::test]
async fn no_error_s_body_is_read_without_end() {
    let puppet = Puppet::new(|_, _| Answer::Say(403, "", vec![b'x'; 64 << 20]));
    let found = puppet.stores().open("s3://bucket/x").unwrap().get(9).await.unwrap_err();
    assert!(found.to_string().len() < 500, "{found}");
}

#[tokio::test]
async fn a_failed_upload_is_cleared_away() {
    for failing in ["partNumber=2", "POST /bucket/x?uploadId"] {
        let puppet = Puppet::new(move |_, asked| {
            if asked.line.contains(failing) {
                return Answer::Say(403, "", error("AccessDenied", ""));
            }
            match asked.line.as_str() {
                line if line.starts_with("POST /bucket/x?uploads") => Answer::Say(
                    200,
                    "",
                    b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>".to_vec(),
                ),
                line if line.starts_with("PUT ") => Answer::Say(200, DATED, Vec::new()),
                _ => Answer::Say(204, "", Vec::new()),
            }
        });
        let at = puppet.stores().open("s3://bucket/x").unwrap();
        let deletes = || puppet.asked().iter().filter(|asked| asked.line == "DELETE /bucket/x?uploadId=u1").count();
        let found = at.put(vec![1; 20 << 20].into()).await.unwrap_err();
        assert!(matches!(found, ArtifactError::Denied { .. }), "{found:?}");
        assert_eq!(deletes(), 1, "{failing}: {:?}", puppet.asked());
        let mut upload = Upload::new(at);
        let written = upload.write(&vec![1; 20 << 20]).await;
        assert!(written.is_err() || upload.finish().await.is_err());
        assert_eq!(deletes(), 2, "{failing}: a streamed one too");
    }
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_found_out() {
    let puppet = Puppet::new(|_, asked| match asked.line.split_once(' ').unwrap().0 {
        "PUT" => Answer::Say(200, DATED, Vec::new()),
        "GET" => Answer::Say(200, DATED, b"mlctl probe 2".to_vec()),
        _ => Answer::Say(204, "", Vec::new()),
    });
    let folder = puppet.stores().open("s3://bucket/probes").unwrap();
    assert_eq!(mlctl_artifacts::probe::run(&folder).await.unwrap(), Err(mlctl_artifacts::probe::Unfit::Overwrites));
    assert!(
        puppet
            .asked()
            .iter()
            .filter(|asked| asked.line.starts_with("PUT "))
            .all(|asked| { asked.header("if-none-match") == Some("*") })
    );
}

#[tokio::test]
async fn no_request_and_no_error_holds_the_secret() {
    let puppet = Puppet::new(|_, _| Answer::Say(403, "", error("SignatureDoesNotMatch", "")));
    let stores = puppet.stores();
    let at = stores.open("s3://bucket/x").unwrap();
    let found = at.get(9).await.unwrap_err();
    let shown = format!("{found} {found:?} {stores:?} {at:?}");
    assert!(!shown.contains("canary"), "{shown}");
    let sent = format!("{:?}", puppet.asked());
    assert!(sent.contains("AWS4-HMAC-SHA256 Credential=key/"), "it is signed: {sent}");
    assert!(sent.contains("canary-token"), "a session's token is sent, as it must be");
    assert!(!sent.replace("canary-token", "").contains("canary"), "the secret is not");
}
