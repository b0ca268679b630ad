//! A real S3 server for tests (`ops/s3-server.py`), with signed requests required: started, killed as by a power cut, and started again on what it had. A test that
//! needs one and cannot have it fails; `MLCTL_TEST_S3=skip` says that this is known, and is said back.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mlctl_protocol::s3::{S3Access, S3Checksum, S3Credentials};
use tempfile::TempDir;

/// The bucket there is.
pub const BUCKET: &str = "ml-test";

/// A server, running or not.
#[derive(Debug)]
pub struct Server {
    dir: TempDir,
    child: Option<Child>,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// `https://127.0.0.1:PORT`, where it was started with TLS.
    pub https: Option<String>,
    /// May list, get, put and delete.
    pub writer: S3Credentials,
    /// May list and get.
    pub reader: S3Credentials,
}

impl Server {
    /// Starts one on nothing, with a bucket. `None` only where the environment says to do without.
    pub fn start() -> Option<Self> {
        Self::with(false)
    }

    /// The same that serves TLS as well, by a certificate of its own authority.
    pub fn start_with_tls() -> Option<Self> {
        Self::with(true)
    }

    fn with(tls: bool) -> Option<Self> {
        if variable("MLCTL_TEST_S3").as_deref() == Some("skip") {
            println!("MLCTL_TEST_S3=skip: nothing was tried against an S3 server");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("s3").tempdir().unwrap();
        let nobody =
            S3Credentials { access_key_id: String::new(), secret_access_key: String::new(), session_token: None };
        let https = tls.then(String::new);
        let mut server = Self { dir, child: None, url: String::new(), https, writer: nobody.clone(), reader: nobody };
        server.start_again();
        Some(server)
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut command = Command::new("python3");
        command.arg(script()).arg("--dir").arg(self.dir.path()).args(["--bucket", BUCKET]);
        if let Some((_, port)) = self.url.rsplit_once(':') {
            command.args(["--port", port]);
        }
        if self.https.is_some() {
            command.arg("--tls");
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("python3 is needed to start the S3 server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.child = Some(child);
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", url, key, secret, reader, reader_secret, ref https @ ..] = words[..] else {
            panic!("the S3 server did not start; its reason is above. MLCTL_TEST_S3=skip does without it");
        };
        let credentials = |id: &str, secret: &str| S3Credentials {
            access_key_id: id.into(),
            secret_access_key: secret.into(),
            session_token: None,
        };
        self.url = url.to_owned();
        self.https = https.first().map(|url| (*url).to_owned());
        (self.writer, self.reader) = (credentials(key, secret), credentials(reader, reader_secret));
    }

    /// SIGKILL; the server dies with its script.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The certificate of its authority.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Access for the writer.
    pub fn access(&self) -> S3Access {
        self.access_as(&self.writer)
    }

    /// Access for somebody.
    pub fn access_as(&self, credentials: &S3Credentials) -> S3Access {
        S3Access {
            endpoint: Some(self.url.clone()),
            region: "us-east-1".into(),
            path_style: true,
            checksum: S3Checksum::Crc64nvme,
            ca_pem: None,
            proxy: None,
            retry_seconds: 20,
            credentials: credentials.clone(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn script() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().map(|folder| folder.join("ops/s3-server.py")).find(|script| script.is_file());
    found.expect("ops/s3-server.py is in the repository")
}

#[expect(clippy::disallowed_methods, reason = "a variable tells tests to do without a server")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
