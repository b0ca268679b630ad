//! Signatures against the vector that the specification's own libraries are tested with, keys from files, and what a page of events comes to.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::webhook::{fault, sign};
use crate::domain::notify::Channel;

#[test]
fn a_signature_is_that_of_the_specification() {
    let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let of = |body: &str| sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body.as_bytes());
    let known = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    assert_eq!(of("{\"test\": 2432232314}"), known);
    assert_ne!(of("{\"test\": 2432232315}"), known);
}

#[test]
fn a_key_is_what_it_should_be_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let why = |path: PathBuf| fault(&Channel::Webhook { url: "https://h".into(), secret_file: path, proxy: None });
    let encoded = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
    let cases = [
        (encoded(32), 0o600, None),
        (format!("\n{} \n", encoded(24)), 0o640, None),
        (encoded(64), 0o600, None),
        (encoded(32), 0o644, Some("everybody may read it")),
        (encoded(23), 0o600, Some("expected whsec_")),
        (encoded(65), 0o600, Some("expected whsec_")),
        ("whsec_not base64".into(), 0o600, Some("expected whsec_")),
        (STANDARD.encode([7; 32]), 0o600, Some("expected whsec_")),
        (String::new(), 0o600, Some("expected whsec_")),
    ];
    for (text, mode, expected) in cases {
        fs::write(&file, &text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        match (why(file.clone()), expected) {
            (None, None) => {}
            (Some(said), Some(expected)) => assert!(said.contains(expected) && !said.contains("Bwc"), "{said}"),
            (said, expected) => panic!("{text}: {said:?}, not {expected:?}"),
        }
    }
    assert!(why(PathBuf::new()).unwrap().contains("secret_file"));
    assert!(why(dir.path().into()).unwrap().contains("not a regular file"));
    assert!(why(dir.path().join("none")).is_some());
    assert_eq!(fault(&Channel::Command(vec!["/bin/true".into()])), None);
}
