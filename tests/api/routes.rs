//! Every route with every method, and everything that is no route.

use std::collections::{BTreeMap, BTreeSet};

use hyper::Method;
use mlctl::api::{self, types::ErrorCode};

use crate::rig::{Rig, bad};

const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];

#[tokio::test]
async fn a_method_that_is_not_in_the_table_is_refused_and_one_that_is_is_answered() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let mut known: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (method, path) in api::routes() {
        known.entry(path).or_default().insert(method.to_string());
    }
    assert_eq!(known.len(), 66, "{known:?}");
    for (path, methods) in known {
        let asked = path
            .replace("{job}", &id.to_string())
            .replace("{step}", "5")
            .replace("{schedule}", "none")
            .replace("{array}", "none")
            .replace("{queue}", "none")
            .replace("{model}", "none")
            .replace("{dataset}", "none")
            .replace("{version}", "1")
            .replace("{alias}", "champion")
            .replace("{hook}", "none")
            .replace("{object}", "x");
        for method in METHODS {
            // A stream has no end to wait for, and a stopping daemon no answers.
            if methods.contains(method.as_str()) && (path.ends_with("/follow") || path.ends_with("/stop")) {
                continue;
            }
            let (status, body) = rig.ask(method.clone(), &asked, "").await;
            let head_of_get = method == Method::HEAD && methods.contains("GET");
            if methods.contains(method.as_str()) || head_of_get {
                assert!(status != 405 && status != 500, "{method} {asked}: {status}");
                let not_there =
                    (path.contains("{schedule}") && !path.ends_with("/run") && !path.ends_with("/backfill"))
                        || path.contains("{array}")
                        || ((path.contains("{model}") || path.contains("{dataset}")) && method != Method::POST)
                        || path.ends_with("{alias}")
                        || path.ends_with("/rollback")
                        || path.contains("{hook}")
                        || (path.contains("{queue}") && [Method::GET, Method::HEAD].contains(&method))
                        || ([Method::GET, Method::DELETE].contains(&method)
                            && ["{step}", "{object}", "/model"].iter().any(|end| path.ends_with(end)));
                assert_eq!(status == 404, not_there || (head_of_get && status == 404) || path.ends_with("/verify"));
            } else if method == Method::HEAD {
                assert_eq!(status, 405, "{method} {asked}");
            } else {
                let (status, code, message) = bad((status, body));
                assert_eq!((status, code), (405, ErrorCode::BadRequest), "{method} {asked}");
                assert!(message.contains(method.as_str()) && message.contains(&asked), "{message}");
            }
        }
    }
    assert!(!rig.stop_daemon.is_cancelled(), "no wrong method stops a daemon");
    rig.end_server().await;
}

#[tokio::test]
async fn what_is_no_route_is_refused() {
    let rig = Rig::new().await;
    rig.submit("one").await;
    let paths = [
        "/",
        "/v1",
        "/v1/",
        "/v2/jobs",
        "/v1/jobs/",
        "/v1/jobs//",
        "/v1/jobs/1/",
        "/v1/jobs/1/spec/",
        "/v1/jobs/1/nothing",
        "/v1/jobs/1/checkpoints/5/objects",
        "/v1/jobs/1/../1/spec",
        "/v1/jobs/1/spec/../../../etc/passwd",
        "/v1/Jobs",
        "/V1/jobs",
        "/v1/daemon/",
        "/metrics",
        "//v1/jobs",
    ];
    for path in paths {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let (status, code, _) = bad(rig.ask(method, path, "").await);
            assert_eq!((status, code), (404, ErrorCode::BadRequest), "{path}");
        }
    }
    rig.end_server().await;
}

#[tokio::test]
async fn a_hostile_reference_names_no_job() {
    let rig = Rig::new().await;
    rig.submit("one").await;
    let (long, too_long) = ("x".repeat(200), "x".repeat(201));
    let encoded = "%41".repeat(201);
    let cases = [
        ("..", 404, ErrorCode::NotFound),
        ("%2e%2e", 404, ErrorCode::NotFound),
        ("%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404, ErrorCode::NotFound),
        ("..%2f1", 404, ErrorCode::NotFound),
        ("%252e", 404, ErrorCode::NotFound),
        ("1%20", 404, ErrorCode::NotFound),
        ("%201", 404, ErrorCode::NotFound),
        ("01%2f", 404, ErrorCode::NotFound),
        ("-1", 404, ErrorCode::NotFound),
        ("1e0", 404, ErrorCode::NotFound),
        ("0x1", 404, ErrorCode::NotFound),
        ("18446744073709551617", 404, ErrorCode::NotFound),
        ("99999999999999999999999999", 404, ErrorCode::NotFound),
        ("@first", 404, ErrorCode::NotFound),
        ("%27%20OR%201=1%20--", 404, ErrorCode::NotFound),
        ("one%25", 404, ErrorCode::NotFound),
        ("%C3%BC", 404, ErrorCode::NotFound),
        (&long, 404, ErrorCode::NotFound),
        (&too_long, 400, ErrorCode::BadRequest),
        (&encoded, 400, ErrorCode::BadRequest),
        ("one%00", 400, ErrorCode::BadRequest),
        ("one%0a", 400, ErrorCode::BadRequest),
        ("%ff%fe", 400, ErrorCode::BadRequest),
        ("%c3", 400, ErrorCode::BadRequest),
    ];
    for (reference, status, code) in cases {
        for rest in ["", "/spec", "/logs"] {
            let path = format!("/v1/jobs/{reference}{rest}");
            let (found, found_code, _) = rig.get_error(&path).await;
            assert_eq!((found, found_code), (status, code), "{path}");
        }
        let (found, found_code, _) = rig.post_error(&format!("/v1/jobs/{reference}/cancel"), "").await;
        assert_eq!((found, found_code), (status, code), "cancel {reference}");
    }
    assert_eq!(rig.get_error("/v1/jobs//spec").await.0, 404);
    let steps = [("x", 400), ("-1", 400), ("1.5", 400), ("%2e%2e", 400), ("18446744073709551616", 400), ("7", 404)];
    for (step, status) in steps {
        assert_eq!(rig.get_error(&format!("/v1/jobs/one/checkpoints/{step}")).await.0, status, "{step}");
    }
    rig.end_server().await;
}
