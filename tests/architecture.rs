//! The arrows of ARCHITECTURE.md, held: which room of `src/` may use which, which crate may depend on which, and which words may stand in one room only. A new
//! arrow fails here first; it is added to the tables below in the same change that says in ARCHITECTURE.md why it is needed. Reads source text and manifests,
//! runs nothing.

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        path::Path,
    };

    /// Room by room, which others it may use. A path such as `api::types` allows that part alone.
    const ROOMS: &[(&str, &[&str])] = &[
        ("domain", &[]),
        ("config", &["domain"]),
        ("store", &["domain"]),
        ("scheduler", &["domain", "store", "supervisor"]),
        ("supervisor", &["domain", "store"]),
        ("vault", &["domain", "store"]),
        ("registry", &["domain", "store"]),
        // Of the supervisor the one who runs a program for it: a pid is nobody else's.
        ("pipeline", &["domain", "store", "registry", "supervisor::process"]),
        ("api", &["domain", "store", "supervisor", "scheduler", "registry", "pipeline", "vault"]),
        ("daemon", &["domain", "config", "store", "scheduler", "supervisor", "registry", "pipeline", "api", "vault"]),
        ("cli", &["domain", "config", "api::types", "api::query"]),
        // The programs: main functions over the library.
        ("bin", &["config", "daemon", "cli"]),
    ];

    /// Crate by crate, which others of this workspace it may depend on.
    const CRATES: &[(&str, &[&str])] = &[
        ("mlctl-protocol", &[]),
        ("mlctl-link", &["mlctl-protocol"]),
        ("mlctl-artifacts", &["mlctl-protocol"]),
        ("mlworker", &["mlctl-protocol", "mlctl-link", "mlctl-artifacts"]),
        ("mlworker-fake", &["mlctl-protocol", "mlctl-link", "mlctl-artifacts"]),
        ("mlworker-command", &["mlctl-protocol", "mlctl-link", "mlctl-artifacts"]),
        ("mlctl", &["mlctl-protocol", "mlctl-link", "mlctl-artifacts"]),
    ];

    /// Which crates of others must not be linked into a crate, by the beginning of their names, whatever brings them along.
    const NEVER: &[(&str, &[&str])] = &[
        ("mlctl", &["candle", "safetensors", "cudarc"]),
        ("mlctl-protocol", &["tokio", "sqlx", "candle", "object_store"]),
        ("mlctl-link", &["sqlx", "libsqlite3", "candle", "axum", "object_store"]),
        ("mlctl-artifacts", &["sqlx", "libsqlite3", "candle", "axum"]),
        ("mlworker", &["sqlx", "libsqlite3", "axum"]),
        ("mlworker-fake", &["sqlx", "libsqlite3", "axum", "candle"]),
        ("mlworker-command", &["sqlx", "libsqlite3", "axum", "candle"]),
    ];

    /// Words that may stand in one place of `src/` only, strings included, comments not.
    const WORDS: &[(&str, &[&str])] = &[
        ("SELECT ", STORE),
        ("INSERT INTO ", STORE),
        ("DELETE FROM ", STORE),
        ("PRAGMA ", STORE),
        ("BEGIN IMMEDIATE", STORE),
        ("sqlx::", STORE),
        // The CLI waits for the end of the daemon it stops, and signals nobody.
        ("pidfd_open", &["src/supervisor/process/", "src/cli/commands/daemon.rs"]),
        ("kill_process", PROCESSES),
        ("/proc/", &["src/supervisor/process/", "src/config/env.rs"]),
        ("axum::", &["src/api/"]),
        ("clap::", &["src/cli/", "src/bin/"]),
        ("mlctl_link::", &["src/supervisor/"]),
        ("manifest.json", &[]),
    ];
    const STORE: &[&str] = &["src/store/"];
    const PROCESSES: &[&str] = &["src/supervisor/process/"];

    /// A source file: its path from the root of the repository, and its text.
    type Source = (String, String);

    #[test]
    fn rooms_use_only_what_their_arrows_allow() {
        assert_eq!(new_arrows(&sources("src")), Vec::<String>::new());
    }

    #[test]
    fn words_stay_in_their_room() {
        assert_eq!(stray_words(&sources("src")), Vec::<String>::new());
    }

    #[test]
    fn crates_depend_only_on_what_their_arrows_allow() {
        assert_eq!(new_dependencies(&manifests()), Vec::<String>::new());
    }

    #[test]
    fn the_daemon_links_no_candle_and_no_worker_links_sql() {
        assert_eq!(forbidden_links(&table(&read("Cargo.lock"))), Vec::<String>::new());
    }

    #[test]
    fn the_daemon_takes_the_codec_alone_from_the_workers_link() {
        for (path, text) in sources("src") {
            let code = without_comments(&text);
            let others =
                code.match_indices("mlctl_link::").filter(|(at, _)| !code[*at..].starts_with("mlctl_link::frame"));
            assert_eq!(others.count(), 0, "{path} uses more of mlctl_link than `frame`");
        }
    }

    #[test]
    fn a_made_up_violation_is_found() {
        let found = |path: &str, text: &str| new_arrows(&[(path.into(), text.into())]);
        for (path, text, arrow) in [
            ("src/domain/x.rs", "use crate::store::Store;", "src/domain/x.rs: domain -> store"),
            (
                "src/domain/x.rs",
                "use crate::{\n    domain::Job,\n    store::{Store, error},\n};",
                "src/domain/x.rs: domain -> store",
            ),
            ("src/store/mod.rs", "fn f() { crate::supervisor::Handle::x() }", "src/store/mod.rs: store -> supervisor"),
            (
                "src/store/deep/x.rs",
                "use super::super::super::scheduler::plan;",
                "src/store/deep/x.rs: store -> scheduler",
            ),
            ("src/store/mod.rs", "use super::{config, domain};", "src/store/mod.rs: store -> config"),
            ("src/cli/x.rs", "use crate::api::server;", "src/cli/x.rs: cli -> api::server"),
            ("src/cli/x.rs", "use crate::{api::{types::JobView, server}};", "src/cli/x.rs: cli -> api::server"),
            ("src/bin/mld.rs", "use mlctl::store::Store;", "src/bin/mld.rs: bin -> store"),
            ("src/surprise/mod.rs", "", "src/surprise/mod.rs: no such room"),
        ] {
            assert_eq!(found(path, text), [arrow], "{text}");
        }
        for (path, text) in [
            ("src/domain/x.rs", "// use crate::store::Store;\n/// [`crate::store`]\nuse crate::domain::Job;"),
            ("src/cli/x.rs", "use crate::{api::types::{self, JobView}, config};"),
            ("src/store/mod.rs", "mod tests { use super::*; use super::Store; }"),
            ("src/lib.rs", "pub mod store;"),
        ] {
            assert_eq!(found(path, text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_made_up_word_is_found() {
        let found = |path: &str, text: &str| stray_words(&[(path.into(), text.into())]).len();
        assert_eq!(found("src/api/x.rs", r#"query("SELECT id FROM jobs")"#), 1);
        assert_eq!(found("src/store/x.rs", r#"query("SELECT id FROM jobs")"#), 0);
        assert_eq!(found("src/api/x.rs", "// SELECT what you like"), 0);
        assert_eq!(found("src/scheduler/x.rs", "rustix::process::kill_process(pid, signal)"), 1);
        assert_eq!(found("src/daemon/x.rs", r#"join("manifest.json")"#), 1);
    }

    #[test]
    fn a_made_up_dependency_is_found() {
        let manifest = |name: &str, kind: &str, dependency: &str| {
            table(&format!("[package]\nname = \"{name}\"\n[{kind}]\n{dependency}.workspace = true\n"))
        };
        assert_eq!(new_dependencies(&[manifest("mlctl-protocol", "dependencies", "mlctl-link")]).len(), 1);
        assert_eq!(new_dependencies(&[manifest("mlworker", "dev-dependencies", "mlctl")]).len(), 1);
        assert_eq!(new_dependencies(&[manifest("surprise", "dependencies", "serde")]).len(), 1);
        assert!(new_dependencies(&[manifest("mlworker", "dependencies", "mlctl-link")]).is_empty());
        let lock = "[[package]]\nname = \"mlctl\"\ndependencies = [\"harmless 1.0.0\"]\n\
                    [[package]]\nname = \"harmless\"\ndependencies = [\"candle-core\"]\n[[package]]\nname = \"candle-core\"\n";
        assert_eq!(forbidden_links(&table(lock)), ["mlctl links candle-core"]);
    }

    /// Uses of another room that [`ROOMS`] does not allow.
    fn new_arrows(sources: &[Source]) -> Vec<String> {
        let mut found = BTreeSet::new();
        for (path, text) in sources {
            let Some((room, _)) = path.strip_prefix("src/").and_then(|rest| rest.split_once('/')) else { continue };
            let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
                found.insert(format!("{path}: no such room"));
                continue;
            };
            for used in used_paths(path, &without_comments(text)) {
                let other = used.split("::").next().unwrap_or_default();
                let known = ROOMS.iter().any(|(name, _)| *name == other);
                let fits = |allowed: &&str| used == **allowed || used.starts_with(&format!("{allowed}::"));
                if known && other != room && !allowed.iter().any(fits) {
                    let part = allowed.iter().any(|allowed| allowed.starts_with(&format!("{other}::")));
                    let shown = if part { used.as_str() } else { other };
                    found.insert(format!("{path}: {room} -> {shown}"));
                }
            }
        }
        found.into_iter().collect()
    }

    /// Every path into this crate that a file names, from the crate's root: `store::Store` for `use crate::{store::{Store}}`.
    fn used_paths(file: &str, code: &str) -> Vec<String> {
        let inside = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        let module: Vec<&str> = inside.split('/').collect();
        let mut paths = Vec::new();
        let root = if file.starts_with("src/bin/") { "mlctl::" } else { "crate::" };
        for (at, _) in code.match_indices(root) {
            if !code[..at].ends_with(is_word) {
                expand("", &code[at + root.len()..], &mut paths);
            }
        }
        for (at, _) in code.match_indices("super::") {
            // The first of a chain only: the rest of it is counted from there.
            if code[..at].ends_with(is_word) || code[..at].ends_with("super::") {
                continue;
            }
            let mut rest = &code[at..];
            let mut levels = 0;
            while let Some(after) = rest.strip_prefix("super::") {
                (rest, levels) = (after, levels + 1);
            }
            if let Some(base) = module.len().checked_sub(levels) {
                let base = module[..base].iter().map(|name| format!("{name}::")).collect::<String>();
                expand(&base, rest, &mut paths);
            }
        }
        paths
    }

    /// The paths of what may be a group: `a::{b, c::{d}}` is `a::b` and `a::c::d`. Returns what follows it.
    fn expand<'a>(base: &str, text: &'a str, paths: &mut Vec<String>) -> &'a str {
        let text = text.trim_start();
        if let Some(mut rest) = text.strip_prefix('{') {
            loop {
                rest = expand(base, rest, paths).trim_start();
                match rest.strip_prefix(',') {
                    Some(after) if !after.trim_start().starts_with('}') => rest = after,
                    Some(after) => return after.trim_start().strip_prefix('}').unwrap_or_default(),
                    None => return rest.strip_prefix('}').unwrap_or_default(),
                }
            }
        }
        let name: String = text.chars().take_while(|c| is_word(*c) || *c == '*').collect();
        let rest = &text[name.len()..];
        let path = if name == "self" { base.trim_end_matches("::").to_owned() } else { format!("{base}{name}") };
        if let Some(deeper) = rest.strip_prefix("::") {
            return expand(&format!("{path}::"), deeper, paths);
        }
        paths.push(path);
        // `as another` follows the name in a group.
        rest.trim_start().strip_prefix("as ").map_or(rest, |renamed| renamed.trim_start_matches(is_word))
    }

    fn is_word(c: char) -> bool {
        c.is_alphanumeric() || c == '_'
    }

    /// Uses of a word outside the places that [`WORDS`] gives it.
    fn stray_words(sources: &[Source]) -> Vec<String> {
        let mut found = Vec::new();
        for (path, text) in sources {
            if path.ends_with("tests.rs") || path.contains("/tests/") {
                continue;
            }
            let code = without_comments(without_tests(text));
            for (word, places) in WORDS {
                if code.contains(word) && !places.iter().any(|place| path.starts_with(place)) {
                    found.push(format!("{path}: {word:?} may stand in {places:?} only"));
                }
            }
        }
        found
    }

    /// A text without its tests: they may hold any word.
    fn without_tests(text: &str) -> &str {
        text.split_once("#[cfg(test)]\nmod tests {").map_or(text, |(product, _)| product)
    }

    /// A text without line comments. `//` inside a string ends that line too, which hides at most the rest of one line.
    fn without_comments(text: &str) -> String {
        let code = |line: &str| match line.find("//") {
            // A URI in a string is no comment.
            Some(at) if !line[..at].ends_with(':') => line[..at].to_owned(),
            _ => line.to_owned(),
        };
        text.lines().map(|line| code(line) + "\n").collect()
    }

    /// Dependencies inside the workspace, of any kind, that [`CRATES`] does not allow.
    fn new_dependencies(manifests: &[toml::Table]) -> Vec<String> {
        let mut found = Vec::new();
        for manifest in manifests {
            let name = manifest["package"]["name"].as_str().unwrap();
            let Some((_, allowed)) = CRATES.iter().find(|(known, _)| *known == name) else {
                found.push(format!("{name}: no such crate"));
                continue;
            };
            for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
                let dependencies = manifest.get(kind).and_then(toml::Value::as_table);
                for dependency in dependencies.into_iter().flat_map(toml::Table::keys) {
                    let ours = CRATES.iter().any(|(known, _)| known == dependency);
                    if ours && !allowed.contains(&dependency.as_str()) {
                        found.push(format!("{name} -> {dependency}"));
                    }
                }
            }
        }
        found
    }

    /// What a lock file links into our crates though [`NEVER`] forbids it.
    fn forbidden_links(lock: &toml::Table) -> Vec<String> {
        let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for package in lock["package"].as_array().unwrap() {
            let dependencies = package.get("dependencies").and_then(toml::Value::as_array);
            // `name` or `name version`.
            let names = dependencies.into_iter().flatten().filter_map(|entry| entry.as_str()?.split(' ').next());
            graph.entry(package["name"].as_str().unwrap()).or_default().extend(names);
        }
        let mut found = Vec::new();
        for (ours, forbidden) in NEVER {
            let mut linked = BTreeSet::from([*ours]);
            let mut todo = vec![*ours];
            while let Some(next) = todo.pop() {
                let more = graph.get(next).into_iter().flatten();
                todo.extend(more.filter(|name| linked.insert(name)));
            }
            let is_forbidden = |name: &&&str| forbidden.iter().any(|beginning| name.starts_with(beginning));
            found.extend(linked.iter().filter(is_forbidden).map(|name| format!("{ours} links {name}")));
        }
        found
    }

    fn sources(folder: &str) -> Vec<Source> {
        let mut found = Vec::new();
        let mut todo = vec![folder.to_owned()];
        while let Some(folder) = todo.pop() {
            for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
                let entry = entry.unwrap();
                let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
                if entry.file_type().unwrap().is_dir() {
                    todo.push(path);
                } else if path.ends_with(".rs") {
                    let text = read(&path);
                    found.push((path, text));
                }
            }
        }
        assert!(found.len() > 20, "the sources are where they are looked for");
        found
    }

    /// The manifests of the workspace, the root's included.
    fn manifests() -> Vec<toml::Table> {
        let root = table(&read("Cargo.toml"));
        let members = root["workspace"]["members"].as_array().unwrap().clone();
        let path = |member: &toml::Value| format!("{}/Cargo.toml", member.as_str().unwrap());
        members.iter().map(|member| table(&read(&path(member)))).collect()
    }

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    fn read(path: &str) -> String {
        std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }
}
