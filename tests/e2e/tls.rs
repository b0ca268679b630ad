//! A store behind TLS with a certificate of somebody's own making, and behind a proxy, which is how stores stand in most companies. Everything goes that way: the daemon's own requests, the workers', and those of
//! a person's `mlctl storage`.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    s3::{setup, upload},
    s3_server::{BUCKET, Server},
    support::{Daemon, Setup, Worker, programs},
};

const DIGITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/jobs/data/digits.csv");
const JOB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/jobs/digits.toml");

/// A proxy that makes tunnels (RFC 9110, 9.3.6) and remembers where to.
struct Tunnels {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Tunnels {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let heard = heard.clone();
                thread::spawn(move || tunnel(stream.unwrap(), &heard));
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn tunnel(client: TcpStream, heard: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut request, mut line) = (String::new(), String::new());
    reader.read_line(&mut request)?;
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    heard.lock().unwrap().push(request.trim().to_owned());
    let server = TcpStream::connect(request.split(' ').nth(1).unwrap_or_default())?;
    (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client);
    let back = thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let mut to_server = server;
    io::copy(&mut reader, &mut to_server)?;
    to_server.shutdown(Shutdown::Write)?;
    let _ = back.join();
    Ok(())
}

fn trained(daemon: &Daemon) -> String {
    let on_s3 = format!("train.data.uri=s3://{BUCKET}/data/digits.csv");
    daemon.mlctl(&["submit", JOB, "-w", "--set", &on_s3]).ok();
    daemon.last()["model"]["uri"].as_str().unwrap().to_owned()
}

#[test]
fn a_store_behind_tls_of_ones_own_and_a_proxy_is_as_good_as_any() {
    let Some(server) = Server::start_with_tls() else { return };
    let (keys, tunnels) = (tempfile::tempdir().unwrap(), Tunnels::start());
    let https = server.https.clone().unwrap();
    upload(&server, &format!("s3://{BUCKET}/data/digits.csv"), fs::read(DIGITS).unwrap());
    let ways = [
        format!("storage.s3.endpoint='{https}'"),
        format!("storage.s3.ca_file='{}'", server.ca().display()),
        format!("storage.s3.proxy='{}'", tunnels.url),
    ];
    let setup = ways.iter().fold(setup(&server, &keys.path().join("key")), |setup, way| setup.set(way));
    let daemon = setup.start();
    let model = trained(&daemon);
    let asked = tunnels.asked();
    let expected = format!("CONNECT {} HTTP/1.1", https.trim_start_matches("https://"));
    // The daemon's connection and the worker's at least.
    assert!(asked.len() >= 2 && asked.iter().all(|request| *request == expected), "{asked:?}");
    let pulled = keys.path().join("model");
    daemon.mlctl(&["checkpoint", "pull", "@last/model", pulled.to_str().unwrap()]).ok();

    // A person's own programs go by the settings file.
    let file = keys.path().join("mld.toml");
    let key = keys.path().join("key");
    let settings = format!(
        "[storage.s3]\nendpoint = '{https}'\nca_file = '{}'\nproxy = '{}'\ncredentials_file = '{}'\n",
        server.ca().display(),
        tunnels.url,
        key.display()
    );
    fs::write(&file, settings).unwrap();
    let before = tunnels.asked().len();
    let mut list = Command::new(programs::mlctl());
    let listed = list.args(["storage", "ls", &model]).env("MLD_CONFIG", &file).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("model"), "{listed:?}");
    assert!(tunnels.asked().len() > before);
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused_and_said() {
    let Some(server) = Server::start_with_tls() else { return };
    let keys = tempfile::tempdir().unwrap();
    let https = format!("storage.s3.endpoint='{}'", server.https.as_deref().unwrap());
    let daemon = setup(&server, &keys.path().join("key")).set(&https).set("storage.s3.retry_seconds=0").start();
    let job = daemon.must_fail(&["submit", JOB, "-w"], "spec", &["certificate is not trusted"]);
    assert!(job["exit_hint"].as_str().unwrap().contains("storage.s3.ca_file"), "{job:#}");
}

#[test]
fn a_file_that_is_no_certificate_is_named_at_the_start() {
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("ca.pem");
    let mut daemon = Daemon::with(Worker::Fake);
    assert!(daemon.stop().success());
    let named = [format!("storage.s3.ca_file='{}'", file.display())];
    let setup =
        || Setup::of(Worker::Fake).variable("AWS_ACCESS_KEY_ID", "id").variable("AWS_SECRET_ACCESS_KEY", "canary");
    let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (content, why) in [
        (None, "No such file"),
        (Some(String::new()), "no certificate in it"),
        (Some(garbled.into()), "ertificate"),
        (Some("x".repeat(40_000)), "larger than 32768 bytes"),
    ] {
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        daemon.change(setup(), &named);
        daemon.fail_to_start().must_fail(2, &["ca.pem", why, "hint: "]);
    }
}
