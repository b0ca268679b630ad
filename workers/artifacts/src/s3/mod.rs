//! Buckets of an S3 store. Made by `stores` from what the daemon handed over; a bucket is opened when it is first named, and kept. Requests are signed,
//! bounded in time and tried again here; what a refusal means is for `refusal`.

mod client;
pub(crate) mod direct;
pub(crate) mod refusal;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mlctl_protocol::s3::{S3Access, S3Checksum};
use object_store::{
    BackoffConfig, ClientOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, Checksum, S3ConditionalPut},
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use self::{
    client::{Connector, ServerClock},
    direct::Direct,
};
use crate::lanes::Weather;

pub(crate) use self::client::WholeCrc;
pub use self::client::{check_authorities, install_tls};

/// Pauses between tries: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Buckets kept open before all are forgotten.
const MAX_BUCKETS: usize = 256;

/// A bucket, whether it exists or not. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub(crate) store: Arc<AmazonS3>,
    /// The same for reading: it asks for the checksums that the store keeps.
    pub(crate) reader: Arc<AmazonS3>,
    /// What the storage library has no words for.
    pub(crate) direct: Arc<Direct>,
    pub(crate) weather: Weather,
    /// For how long a request that fails is tried again.
    pub(crate) patience: Duration,
}

/// The buckets of one S3 store. Clones of the `Arc` share connections.
pub(crate) struct Buckets {
    access: S3Access,
    connector: Connector,
    open: Mutex<HashMap<String, Bucket>>,
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets").field("access", &self.access).finish_non_exhaustive()
    }
}

impl Buckets {
    pub(crate) fn new(access: S3Access) -> Self {
        let connector = Connector::new(&access);
        Self { access, connector, open: Mutex::default() }
    }

    /// The same buckets for one who does not wait: nothing is tried again.
    pub(crate) fn impatient(&self) -> Self {
        self.patient_for(0)
    }

    /// The same buckets for one who waits so long at most.
    pub(crate) fn patient_for(&self, seconds: u32) -> Self {
        let access = S3Access { retry_seconds: self.access.retry_seconds.min(seconds), ..self.access.clone() };
        Self { access, connector: self.connector.clone(), open: Mutex::default() }
    }

    /// What is known of the store's clock.
    pub(crate) fn clock(&self) -> &ServerClock {
        self.connector.clock()
    }

    /// A bucket, whether it exists or not.
    pub(crate) fn bucket(&self, name: &str) -> object_store::Result<Bucket> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = open.get(name) {
            return Ok(bucket.clone());
        }
        let bucket = Bucket {
            store: Arc::new(self.build(name, HeaderMap::new())?),
            reader: Arc::new(self.build(name, checksum_mode())?),
            direct: Arc::new(Direct::new(&self.access, &self.connector, name)?),
            weather: self.connector.weather().clone(),
            patience: Duration::from_secs(self.access.retry_seconds.into()),
        };
        if open.len() >= MAX_BUCKETS {
            open.clear();
        }
        open.insert(name.to_owned(), bucket.clone());
        Ok(bucket)
    }

    fn build(&self, bucket: &str, headers: HeaderMap) -> object_store::Result<AmazonS3> {
        let S3Access { endpoint, region, path_style, checksum, retry_seconds, credentials, .. } = &self.access;
        let retry = RetryConfig {
            backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 },
            max_retries: if *retry_seconds == 0 { 0 } else { usize::MAX },
            retry_timeout: Duration::from_secs((*retry_seconds).into()),
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(region)
            .with_virtual_hosted_style_request(!path_style)
            .with_access_key_id(&credentials.access_key_id)
            .with_secret_access_key(&credentials.secret_access_key)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // Not every server knows the bulk request; all know the plain one.
            .with_disable_bulk_delete(true)
            // Under TLS a second hash of the body protects from nobody; a CRC that the store compares finds what went wrong on the way, for a tenth of the time.
            .with_unsigned_payload(!self.connector.is_plain() || *checksum == S3Checksum::Crc64nvme)
            .with_retry(retry)
            .with_client_options(ClientOptions::new().with_default_headers(headers))
            .with_http_connector(self.connector.clone());
        if let Some(token) = &credentials.session_token {
            builder = builder.with_token(token);
        }
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(if *path_style { endpoint.clone() } else { before_host(endpoint, bucket) });
        }
        builder = match checksum {
            S3Checksum::Crc64nvme => builder.with_checksum_algorithm(Checksum::CRC64NVME),
            S3Checksum::Sha256 => builder.with_checksum_algorithm(Checksum::SHA256),
            S3Checksum::None => builder,
        };
        builder.build()
    }
}

/// Has the checksum of an object sent along with it.
fn checksum_mode() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("x-amz-checksum-mode"), HeaderValue::from_static("ENABLED"))])
}

/// The bucket before the host's name: `https://bucket.s3.example.com`.
fn before_host(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_may_stand_before_the_host() {
        assert_eq!(before_host("https://s3.example.com:9000", "b"), "https://b.s3.example.com:9000");
    }
}
