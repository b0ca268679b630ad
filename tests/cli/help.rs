//! Help texts, to the letter. Each has examples.

use crate::rig::{Rig, snapshot};

const VERBS: &[&str] = &[
    "",
    "submit",
    "ls",
    "show",
    "follow",
    "logs",
    "why",
    "wait",
    "stop",
    "cancel",
    "pause",
    "resume",
    "hold",
    "release",
    "edit",
    "retry",
    "rm",
    "diff",
    "repro",
    "plot",
    "checkpoint",
    "checkpoint ls",
    "checkpoint show",
    "checkpoint now",
    "checkpoint verify",
    "checkpoint rm",
    "checkpoint gc",
    "model",
    "model ls",
    "model show",
    "model add",
    "model compare",
    "model export",
    "model alias",
    "model promote",
    "model rollback",
    "model rm",
    "dataset",
    "dataset add",
    "dataset push",
    "dataset ls",
    "dataset show",
    "dataset verify",
    "dataset pin",
    "dataset rm",
    "storage",
    "storage put",
    "storage get",
    "storage ls",
    "storage abort",
    "schedule",
    "schedule add",
    "schedule apply",
    "schedule backfill",
    "schedule ls",
    "schedule show",
    "schedule preview",
    "schedule rm",
    "queue",
    "queue ls",
    "queue set",
    "queue pause",
    "queue resume",
    "queue drain",
    "queue rm",
    "notify",
    "notify ls",
    "notify test",
    "spec",
    "spec init",
    "spec validate",
    "spec schema",
    "daemon",
    "daemon drain",
    "daemon reload",
    "daemon status",
    "daemon stop",
    "db",
    "db check",
    "db backup",
    "db ls",
    "db restore",
    "doctor",
    "config",
    "config show",
    "completion",
    "version",
];

#[test]
fn every_help_is_pinned_and_has_examples() {
    let rig = Rig::without_daemon();
    let mut all = String::new();
    for verb in VERBS {
        let mut args: Vec<_> = verb.split_whitespace().collect();
        args.push("--help");
        let ran = rig.run(&args);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{verb}");
        assert!(ran.stdout.contains("Examples:\n  mlctl "), "{verb}: {}", ran.stdout);
        all += &format!("=== mlctl {verb}\n{}\n", ran.stdout);
    }
    snapshot("help", &all);
}

#[test]
fn completions_name_the_verbs() {
    let rig = Rig::without_daemon();
    for shell in ["bash", "zsh", "fish"] {
        let ran = rig.run(&["completion", shell]);
        assert_eq!(ran.code, 0);
        assert!(ran.stdout.contains("checkpoint"), "{shell}");
    }
}
