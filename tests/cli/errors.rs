//! What goes wrong: the words, the exit codes, the objects.

use std::{io::Read as _, os::unix::net::UnixListener};

use serde_json::{Value as Json, json};

use crate::{
    played::Answer,
    rig::{Rig, snapshot},
    views::{error, job},
};

#[test]
fn a_wrong_command_line_is_2() {
    let rig = Rig::without_daemon();
    for args in [
        &["submit"][..],
        &["submit", "job.toml", "--wait", "--follow"],
        &["submit", "job.toml", "--label", "=x"],
        &["ls", "--state", "odd"],
        &["wait", "7", "--timeout", "soon"],
        &["show", ""],
        &["show", ".."],
        &["no-such-verb"],
        &["ls", "--socket", "a", "--state-dir", "b"],
        &[],
    ] {
        let ran = rig.run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}: {ran:?}");
        assert!(!ran.stderr.is_empty(), "{args:?}");
    }
    let ran = rig.run(&["-o", "json", "ls", "--odd"]);
    let said: Json = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((ran.code, &said["error"]["code"], &said["error"]["exit_code"]), (2, &json!("usage"), &json!(2)));
    let mut command = rig.command(&["ls"]);
    let ran = rig.ran(command.env("MLCTL_OUTPUT", "yaml").spawn().unwrap());
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("MLCTL_OUTPUT=\"yaml\"") && ran.stderr.contains("jsonl"), "{ran:?}");
}

#[test]
fn no_daemon_is_3_and_names_the_sockets_and_what_starts_one() {
    let rig = Rig::without_daemon();
    snapshot("unreachable", &rig.run(&["show", "7"]).text());
    let ran = rig.run(&["ls", "--state-dir", "elsewhere"]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("HOME/elsewhere/mld.sock: there is no such socket"), "{ran:?}");
    assert!(ran.stderr.contains("mld --state-dir HOME/elsewhere"), "{ran:?}");
    let mut command = rig.command(&["ls"]);
    let ran = rig.ran(command.env_remove("MLCTL_SOCKET").spawn().unwrap());
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.matches("no daemon answers at").count() >= 2, "every usual socket is named: {ran:?}");
    // A socket that its daemon left behind.
    drop(UnixListener::bind(rig.path().join("mld.sock")).unwrap());
    let ran = rig.run(&["ls", "-o", "json"]);
    let said: Json = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((ran.code, &said["error"]["code"]), (3, &json!("unreachable")));
    assert_eq!(said["error"]["reasons"][0].as_str().unwrap().split(": ").last(), Some("nobody listens there any more"));
}

#[test]
fn the_daemons_errors_have_exit_codes_of_their_own() {
    for (status, code, exit) in [
        (400, "bad_request", 2),
        (404, "not_found", 4),
        (409, "ambiguous", 5),
        (409, "wrong_state", 5),
        (409, "key_conflict", 5),
        (422, "spec_invalid", 6),
        (403, "not_permitted", 7),
        (503, "stopping", 3),
        (507, "disk_full", 1),
        (500, "internal", 1),
        (500, "a_code_of_tomorrow", 1),
    ] {
        let rig = Rig::new(&[("GET /v1/jobs/7", &[Answer::Json(status, error(code, "it is so"))])]);
        let ran = rig.run(&["show", "7"]);
        assert_eq!(
            (ran.code, ran.stderr.as_str()),
            (exit, "mlctl: cannot show 7\n  it is so\n  hint: look again\n"),
            "{code}"
        );
        let said: Json = serde_json::from_str(&rig.run(&["show", "7", "-o", "json"]).stderr).unwrap();
        assert_eq!(said["error"]["exit_code"], json!(exit));
        let name = if code == "a_code_of_tomorrow" { "unknown" } else { code };
        assert_eq!(said["error"]["code"], json!(name));
    }
}

#[test]
fn an_answer_that_is_none_is_a_failure_and_no_panic() {
    for (answer, exit, part) in [
        (Answer::Break, 3, "the connection to the daemon broke"),
        (Answer::Json(200, json!({"schema": 2})), 1, "is not understood"),
        (Answer::Json(502, json!("gateway")), 1, "status 502"),
        (Answer::Bytes(b"<html>".to_vec()), 1, "is not understood"),
    ] {
        let ran = Rig::new(&[("GET /v1/jobs/7", &[answer])]).run(&["show", "7"]);
        assert_eq!(ran.code, exit, "{ran:?}");
        assert!(ran.stderr.contains(part), "{ran:?}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_program_in_silence() {
    let jobs: Vec<_> = (0..5000).map(|id| job(id, json!({}))).collect();
    let rig = Rig::new(&[("GET /v1/jobs", &[Answer::Json(200, json!({"schema": 1, "jobs": jobs}))])]);
    let mut child = rig.command(&["ls"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    drop(stdout);
    let ran = rig.ran(child);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

#[test]
fn a_hostile_text_moves_no_cursor() {
    let hostile = job(7, json!({"reason": "\u{1b}[2Jgone\r\n\u{202e}", "labels": {"a": "\u{1b}]0;title\u{7}"}}));
    let rig = Rig::new(&[
        ("GET /v1/jobs/7", &[Answer::Json(200, hostile.clone())]),
        ("GET /v1/jobs", &[Answer::Json(200, json!({"schema": 1, "jobs": [hostile]}))]),
        ("GET /v1/jobs/8", &[Answer::Json(404, error("not_found", "\u{1b}[2J"))]),
    ]);
    for args in [&["show", "7"][..], &["ls", "-o", "wide"], &["show", "8"]] {
        let text = rig.run(args).text();
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}', '\r']), "{args:?}: {text:?}");
    }
}
