//! Settings from files, environment and flags, and what is said of wrong ones.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{file::SettingsFile, *};
use crate::domain::notify::{Channel, Topic};

const SHIPPED: &str = include_str!("../../config/mld.toml");

fn environment(home: &Path) -> Environment {
    Environment {
        config_home: Some(home.join("config")),
        state_home: Some(home.join("state")),
        runtime_dir: Some("/run/user/7".into()),
        working_dir: home.to_owned(),
        program_dir: Some("/opt/mld/bin".into()),
        ..Environment::default()
    }
}

fn load_text(text: &str, set: &[&str]) -> Result<Settings, String> {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("mld.toml"), text).unwrap();
    let set = set.iter().map(|set| (*set).to_owned()).collect();
    let flags = Overrides { config: Some("mld.toml".into()), set, ..Overrides::default() };
    load(&flags, &environment(home.path())).map_err(|error| error.to_string())
}

#[test]
fn the_shipped_file_says_the_defaults() {
    let file: SettingsFile = toml::from_str(SHIPPED).unwrap();
    assert_eq!(file, SettingsFile::default());
}

#[test]
fn the_shipped_file_lists_every_key_and_no_other() {
    let schema = schemars::schema_for!(SettingsFile);
    let sections = schema.get("$defs").unwrap().as_object().unwrap();
    let mut keys = BTreeSet::new();
    let mut todo = vec![(String::new(), schema.as_value())];
    while let Some((section, schema)) = todo.pop() {
        for (key, value) in schema["properties"].as_object().unwrap() {
            // A table of which there may be several has a head of its own at the top alone.
            let several = value.pointer("/items/$ref").filter(|_| section.is_empty());
            let name = value.get("$ref").or(several).and_then(|name| name.as_str()?.rsplit('/').next());
            match name.map(|name| &sections[name]).filter(|inner| inner.get("properties").is_some()) {
                Some(inner) => todo.push((format!("{section}{key}."), inner)),
                None => assert!(keys.insert(format!("{section}{key}"))),
            }
        }
    }
    let mut listed = BTreeSet::new();
    let mut section = "";
    for line in SHIPPED.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.trim_matches(['[', ']']);
        } else if let Some((key, _)) = line.split_once(" = ")
            && !key.contains(' ')
        {
            assert!(listed.insert(format!("{section}.{key}")), "{key} stands there twice");
        }
    }
    assert_eq!(listed, keys);
    let uncommented = SHIPPED.replace("\n# state_dir = ", "\nstate_dir = ").replace("\n# cpus = ", "\ncpus = ");
    let uncommented =
        uncommented.replace("\n# endpoint = ", "\nendpoint = ").replace("\n# credentials_file", "\ncredentials_file");
    let uncommented = uncommented.replace("\n# ca_file", "\nca_file").replace("\n# proxy", "\nproxy");
    load_text(&uncommented.replace("\n# url = ", "\nurl = "), &[]).unwrap();
}

#[test]
fn a_state_directory_holds_everything_and_no_other_file_is_read() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("config/mld");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("mld.toml"), "[workers]\ncpus = 3\n").unwrap();
    let environment = environment(home.path());
    let flags = Overrides { state_dir: Some("d".into()), ..Overrides::default() };
    let settings = load(&flags, &environment).unwrap();
    let under = |name: &str| home.path().join("d").join(name);
    assert_eq!(settings, Settings::under(&home.path().join("d"), Path::new("/opt/mld/bin")));
    assert_eq!((settings.socket, settings.database), (under("mld.sock"), under("mld.db")));
    assert_eq!((settings.workers_socket, settings.attempts_dir), (under("workers.sock"), under("attempts")));
    assert_eq!(settings.storage.url, format!("file://{}", under("objects").display()));

    let settings = load(&Overrides::default(), &environment).unwrap();
    assert_eq!(settings.workers.cpus, 3, "the user's own file is read otherwise");
    assert_eq!(settings.state_dir, home.path().join("state/mld"));
    assert_eq!(settings.socket, PathBuf::from("/run/user/7/mld/mld.sock"));
    let from_environment = Environment { mld_state_dir: Some("/e".into()), ..environment };
    assert_eq!(load(&Overrides::default(), &from_environment).unwrap().state_dir, PathBuf::from("/e"));
    let flagged = load(&flags, &from_environment).unwrap();
    assert_eq!(flagged.state_dir, home.path().join("d"), "flags go over the environment");
}

#[test]
fn a_service_has_the_systems_places() {
    let home = tempfile::tempdir().unwrap();
    let environment = Environment { is_service: true, ..environment(home.path()) };
    let flags = Overrides { config: Some("/dev/null".into()), ..Overrides::default() };
    let settings = load(&flags, &environment).unwrap();
    assert_eq!(settings.state_dir, PathBuf::from("/var/lib/mld"));
    assert_eq!(settings.socket, PathBuf::from("/run/mld/mld.sock"));
    let sockets = usual_sockets(&environment);
    assert_eq!(sockets.last(), Some(&PathBuf::from("/run/user/7/mld/mld.sock")));
}

#[test]
fn a_hook_that_makes_no_sense_is_refused_at_its_place() {
    let sound = "[[notify]]\nname = \"team\"\nfilter = \"label.team=vision\"\ncommand = [\"/bin/true\", \"x\"]\n\
        [[notify]]\nname = \"web\"\non = [\"succeeded\"]\nwebhook = { url = \"https://h:8443/a?b=c\", secret_file = \"/k\" }\n\
        [[notify]]\nname = \"mail\"\nmail = { to = [\"a@b.c\"], from = \"m@b.c\" }\ntimeout_seconds = 600\n";
    let hooks = load_text(sound, &[]).unwrap().notify;
    let names: Vec<&str> = hooks.iter().map(|hook| hook.name.as_str()).collect();
    assert_eq!(names, ["team", "web", "mail"]);
    assert_eq!(hooks[0].on, Topic::DEFAULT.into());
    assert_eq!((hooks[0].timeout_seconds, hooks[2].timeout_seconds), (30, 600));
    for (line, place, words) in [
        ("name = \"Team\"\ncommand = [\"/a\"]", "2:8", "lower-case letters"),
        ("name = \"a\"", "2:8", "exactly one of"),
        ("name = \"a\"\ncommand = [\"/a\"]\nmail = { to = [\"a@b\"], from = \"a@b\" }", "2:8", "exactly one of"),
        ("name = \"a\"\ncommand = [\"tell\"]", "3:", "absolute path of a program"),
        ("name = \"a\"\ncommand = \"rm -rf\"", "3:11", "expected"),
        ("name = \"a\"\ncommand = [\"/a\"]\non = [\"fialed\"]", "4:7", "failed"),
        ("name = \"a\"\ncommand = [\"/a\"]\non = []", "4:6", "told of nothing"),
        ("name = \"a\"\ncommand = [\"/a\"]\nfilter = \"stat=x\"", "4:10", "stat"),
        ("name = \"a\"\ncommand = [\"/a\"]\ntimeout_seconds = 0", "4:19", "1"),
        ("name = \"a\"\ncommand = [\"/a\"]\n[[notify]]\nname = \"a\"\ncommand = [\"/a\"]", "5:8", "twice"),
        ("name = \"a\"\nwebhook = { url = \"https://me:pw@h/x\", secret_file = \"/k\" }", "3:19", "without a user"),
        ("name = \"a\"\nwebhook = { url = \"ftp://h\", secret_file = \"/k\" }", "3:19", "https://host/path"),
        ("name = \"a\"\nwebhook = { url = \"https://h\", secret_file = \"k\" }", "3:46", "absolute path"),
        ("name = \"a\"\nwebhook = { url = \"https://h\", secret = \"k\" }", "3:32", "secret_file"),
        ("name = \"a\"\nwebhook = { url = \"https://h\", proxy = \"http://u@p\" }", "3:40", "proxy"),
        ("name = \"a\"\nmail = { to = [\"a@b\\nBcc: c@d\"], from = \"m@b\" }", "3:16", "no mail address"),
        ("name = \"a\"\nmail = { to = [\"a@b\"], from = \"Me <m@b>\" }", "3:31", "no mail address"),
        ("name = \"a\"\nmail = { to = [], from = \"m@b\" }", "3:15", ""),
        ("name = \"a\"\nmail = { to = [\"a@b\"], from = \"m@b\", sendmail = \"s\" }", "3:49", "absolute path"),
        ("command = [\"/a\"]", "1:", "name"),
    ] {
        let said = load_text(&format!("[[notify]]\n{line}\n"), &[]).unwrap_err();
        assert!(said.contains(&format!("mld.toml:{place}")) && said.contains(words), "{line}: {said}");
    }
}

#[test]
fn a_key_that_systemd_hands_over_needs_no_file() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("mld.toml");
    std::fs::write(&file, "[[notify]]\nname = \"web\"\nwebhook = { url = \"https://h\" }\n").unwrap();
    let flags = Overrides { config: Some(file), ..Overrides::default() };
    let of = |credentials: Option<PathBuf>| {
        load(&flags, &Environment { credentials_directory: credentials, ..environment(home.path()) })
    };
    let key = home.path().join("mld.notify.web");
    let said = of(Some(home.path().to_owned())).unwrap_err().to_string();
    assert!(said.contains("there is no key to sign with"), "{said}");
    std::fs::write(&key, "x").unwrap();
    let hooks = of(Some(home.path().to_owned())).unwrap().notify;
    assert!(matches!(&hooks[0].channel, Channel::Webhook { secret_file, .. } if *secret_file == key));
    // Who only reads the settings of a daemon is handed nothing.
    assert!(of(None).is_ok());
}

#[test]
fn flags_go_over_the_file() {
    let settings =
        load_text("[workers]\ncpus = 1\ngrace_seconds = 5\n", &["workers.cpus=2", "log.format=json"]).unwrap();
    assert_eq!((settings.workers.cpus, settings.workers.grace_seconds), (2, 5));
    assert_eq!(settings.log.format, LogFormat::Json);
}

#[test]
fn every_mistake_is_shown_at_once() {
    let text = "[worker]\ncpus = 1\n\n[workers]\ncpus = \"2\"\nlog_files = 0\n\n[log]\nformat = \"xml\"\n";
    let expected = r#"mld.toml:1:2: unknown key `worker`
 1 | [worker]
   |  ^^^^^^
   = hint: did you mean `workers`? allowed: `backup`, `commands`, `daemon`, `devices`, `limits`, `log`, `notify`, `retention`, `scheduler`, `storage`, `workers`

mld.toml:5:8: expected an integer, found the string "2"
 5 | cpus = "2"
   |        ^^^
   = hint: take away the quotes: cpus = 2

mld.toml:6:13: `log_files` must be from 1 to 100, found 0
 6 | log_files = 0
   |             ^

mld.toml:9:10: "xml" is no value of `format`
 9 | format = "xml"
   |          ^^^^^
   = hint: allowed: "text", "json"

--set: unknown key `cpu`
  | workers.cpu=1
  |         ^^^
  = hint: did you mean `cpus`? allowed: `ahead`, `cgroup_dir`, `command`, `cpus`, `grace_seconds`, `hang_seconds`, `heartbeat_seconds`, `lease_seconds`, `log_files`, `log_max_bytes`, `memory_mib`, `min_run_seconds`"#;
    assert_eq!(load_text(text, &["workers.cpu=1"]).unwrap_err(), expected);
}

#[test]
fn what_no_schema_can_say_is_checked_too() {
    let long = format!("[daemon]\nstate_dir = \"/{}\"", "x".repeat(120));
    let cases = [
        ("[daemon]\nsocket = \"mld.sock\"", "mld.toml:2:10: expected an absolute path"),
        ("[storage]\ndata_roots = [\"/a\", \"b\"]", "mld.toml:2:21: expected an absolute path"),
        ("[storage]\nurl = \"s3://B\"", "mld.toml:2:7: expected the URI of a folder"),
        ("[storage]\nurl = \"s3://bucket/../x\"", "mld.toml:2:7: expected the URI of a folder"),
        ("[storage]\nurl = \"gs://bucket/x\"", "mld.toml:2:7: expected the URI of a folder"),
        ("[storage.s3]\nendpoint = \"minio:9000\"", "mld.toml:2:12: expected a server's URL"),
        ("[storage.s3]\nendpoint = \"https://me:secret@minio\"", "mld.toml:2:12: expected a server's URL"),
        ("[storage.s3]\nendpoint = \"https://minio/bucket\"", "mld.toml:2:12: expected a server's URL"),
        ("[storage.s3]\ncredentials_file = \"key\"", "mld.toml:2:20: expected an absolute path"),
        ("[storage.s3]\nca_file = \"ca.pem\"", "mld.toml:2:11: expected an absolute path"),
        ("[storage.s3]\nproxy = \"http://me:secret@proxy:3128\"", "mld.toml:2:9: expected a proxy's URL"),
        ("[storage.s3]\nproxy = \"proxy:3128\"", "mld.toml:2:9: expected a proxy's URL"),
        ("[storage.s3]\nretry_seconds = 241", "mld.toml:2:17: `retry_seconds` must be"),
        ("[storage.s3]\nchecksum = \"md5\"", "mld.toml:2:12: \"md5\" is no value"),
        ("[storage]\nurl = \"file://\"", "mld.toml:2:7: expected the URI of a folder"),
        ("[workers]\nheartbeat_seconds = 60\nlease_seconds = 100", "mld.toml:3:17: a lease must be at least"),
        (long.as_str(), "mld.toml:2:13: the socket /xxx"),
    ];
    for (text, expected) in cases {
        let said = load_text(text, &[]).unwrap_err();
        assert!(said.starts_with(expected), "{text:?} should give {expected:?}, but gave\n{said}");
    }
}

#[test]
fn a_bucket_may_hold_everything() {
    let text = "[storage]\nurl = \"s3://my-bucket/ml/\"\n[storage.s3]\nendpoint = \"http://127.0.0.1:9000/\"\n";
    let set = ["storage.s3.path_style=false", "storage.s3.credentials_file=/etc/mld/s3"];
    let settings = load_text(text, &set).unwrap();
    assert_eq!(settings.storage.url, "s3://my-bucket/ml");
    let s3 = settings.storage.s3;
    assert_eq!((s3.endpoint.as_deref(), s3.region.as_str()), (Some("http://127.0.0.1:9000"), "us-east-1"));
    assert_eq!((s3.path_style, s3.credentials_file), (false, Some("/etc/mld/s3".into())));
    assert!(load_text("[storage]\nurl = \"s3://bucket\"\n", &[]).is_ok());
}

#[test]
fn a_named_file_must_be_there_and_small() {
    let home = tempfile::tempdir().unwrap();
    let flags = Overrides { config: Some("none.toml".into()), ..Overrides::default() };
    assert!(matches!(load(&flags, &environment(home.path())), Err(ConfigError::Read { .. })));
    let said = load_text(&"#".repeat(300_000), &[]).unwrap_err();
    assert_eq!(said, "read mld.toml");
}

#[test]
fn the_clients_file_is_checked_as_well() {
    let home = tempfile::tempdir().unwrap();
    let environment = environment(home.path());
    assert_eq!(load_client(&environment).unwrap(), file::ClientFile::default());
    let folder = home.path().join("config/mlctl");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.toml"), "socket = \"/s\"\noutput = \"json\"\n").unwrap();
    let client = load_client(&environment).unwrap();
    assert_eq!((client.socket, client.output), (Some("/s".into()), Some(OutputForm::Json)));
    std::fs::write(folder.join("config.toml"), "outptu = \"json\"\n").unwrap();
    assert!(load_client(&environment).unwrap_err().to_string().contains("did you mean `output`?"));
}
