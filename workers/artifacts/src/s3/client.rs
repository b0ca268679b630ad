//! The HTTP client below the storage library: connections, their limits in time, and a look at every answer before the library sees it. A refusal that no second try
//! heals becomes an error of its own, which the library does not try again; and the body of no error is read beyond a limit.

use std::{
    fmt,
    sync::{Arc, Mutex, Once, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use mlctl_protocol::s3::S3Access;
use object_store::{
    ClientOptions,
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService},
};
use reqwest::Certificate;

use super::refusal::Refusal;
use crate::{crc, lanes::Weather};

/// To reach the server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Without a byte. The whole of a request has no limit: large objects take their time. A body that is sent counts as silence, so
/// what is sent at once must go through in this time: 8 MiB need 280 KB/s.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Connections that may wait for the next request.
const MAX_IDLE: usize = 256;

/// The most that is read of an error's body, in bytes.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// What the store's answers say of its clock. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerClock {
    last: Arc<Mutex<Option<(String, Instant)>>>,
}

impl ServerClock {
    /// The `Date` of the last answer, and how long ago that was.
    pub(crate) fn last(&self) -> Option<(String, Duration)> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(date, at)| (date.clone(), at.elapsed()))
    }

    fn saw(&self, answer: &HttpResponse) {
        if let Some(date) = answer.headers().get("date").and_then(|date| date.to_str().ok()) {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((date.to_owned(), Instant::now()));
        }
    }
}

/// The CRC-64/NVME of the whole object that an answer is about, where the store said it: among the answer's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WholeCrc(pub(crate) u64);

impl WholeCrc {
    fn of(answer: &HttpResponse) -> Option<Self> {
        // With a part of an object some stores send what is the part's, others what is the whole's.
        if answer.status() != 200 {
            return None;
        }
        let text = answer.headers().get("x-amz-checksum-crc64nvme")?.to_str().ok()?;
        crc::parse(text).map(Self)
    }
}

/// Makes the clients of all buckets: one client, so that they share connections.
#[derive(Clone)]
pub(super) struct Connector {
    plain: bool,
    /// Certificates (PEM) that are trusted beside the system's.
    ca_pem: Option<String>,
    proxy: Option<String>,
    clock: ServerClock,
    weather: Weather,
    client: Arc<Mutex<Option<reqwest::Client>>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("plain", &self.plain).finish_non_exhaustive()
    }
}

impl Connector {
    /// Without TLS only for an endpoint that says `http://`.
    pub(super) fn new(access: &S3Access) -> Self {
        let plain = access.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        Self {
            plain,
            ca_pem: access.ca_pem.clone(),
            proxy: access.proxy.clone(),
            clock: ServerClock::default(),
            weather: Weather::default(),
            client: Arc::default(),
        }
    }

    pub(super) const fn is_plain(&self) -> bool {
        self.plain
    }

    pub(super) const fn clock(&self) -> &ServerClock {
        &self.clock
    }

    pub(super) const fn weather(&self) -> &Weather {
        &self.weather
    }

    fn client(&self) -> reqwest::Result<reqwest::Client> {
        let mut made = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.as_ref() {
            return Ok(client.clone());
        }
        install_tls();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("mlctl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(SILENCE_LIMIT)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_only()
            .https_only(!self.plain)
            // Another region's address: to be set, not to be followed with our signature.
            .redirect(reqwest::redirect::Policy::none())
            // The daemon and its workers must go the same way, and workers do not see the daemon's environment.
            .no_proxy();
        let builder = match &self.ca_pem {
            Some(pem) => builder.tls_certs_merge(Certificate::from_pem_bundle(pem.as_bytes())?),
            None => builder,
        };
        let builder = match &self.proxy {
            Some(url) => builder.proxy(reqwest::Proxy::all(url)?),
            None => builder,
        };
        Ok(made.insert(builder.build()?).clone())
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client =
            self.client().map_err(|error| object_store::Error::Generic { store: "S3", source: error.into() })?;
        Ok(HttpClient::new(Client { inner: client, clock: self.clock.clone(), weather: self.weather.clone() }))
    }
}

/// Whether a text is certificates (PEM) that can be trusted beside the system's.
///
/// # Errors
/// Why not, in words.
pub fn check_authorities(pem: &str) -> Result<(), String> {
    let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| because(&error))?;
    if certificates.is_empty() {
        return Err("there is no certificate in it: expected `-----BEGIN CERTIFICATE-----`".into());
    }
    install_tls();
    let built = reqwest::Client::builder().tls_certs_merge(certificates).build();
    built.map(drop).map_err(|error| because(&error))
}

/// An error with what is behind it.
fn because(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}

/// One implementation of cryptography for the process, once. Another that is there already does as well. For whoever makes a client of HTTPS.
pub fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("another provider of cryptography is installed already");
        }
    });
}

struct Client {
    inner: reqwest::Client,
    clock: ServerClock,
    weather: Weather,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

#[async_trait::async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut answer = HttpService::call(&self.inner, request).await.map_err(|error| {
            if error.kind() == HttpErrorKind::Timeout {
                self.weather.storm();
            }
            match Refusal::of_certificate(&error) {
                Some(refusal) => HttpError::new(HttpErrorKind::Unknown, refusal),
                None => error,
            }
        })?;
        self.clock.saw(&answer);
        if answer.status().is_success() {
            if let Some(crc) = WholeCrc::of(&answer) {
                answer.extensions_mut().insert(crc);
            }
            return Ok(answer);
        }
        if matches!(answer.status().as_u16(), 429 | 503) {
            self.weather.storm();
        }
        let (mut head, body) = answer.into_parts();
        let body = beginning(body.bytes_stream(), MAX_ERROR_BYTES).await?;
        if Refusal::is_expiry(&body) {
            head.status = reqwest::StatusCode::BAD_REQUEST;
        }
        match Refusal::find(head.status.as_u16(), &body) {
            Some(refusal) => Err(HttpError::new(HttpErrorKind::Unknown, refusal)),
            None => Ok(HttpResponse::from_parts(head, body.into())),
        }
    }
}

/// As much of a body as there is, and no more than `limit` bytes.
pub(super) async fn beginning(
    mut body: impl futures_util::Stream<Item = Result<Bytes, HttpError>> + Unpin,
    limit: usize,
) -> Result<Bytes, HttpError> {
    let mut read = BytesMut::new();
    while let Some(bytes) = body.next().await {
        let bytes = bytes?;
        read.extend_from_slice(&bytes[..bytes.len().min(limit - read.len())]);
        if read.len() == limit {
            break;
        }
    }
    Ok(read.freeze())
}
