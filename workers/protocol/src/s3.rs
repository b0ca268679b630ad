//! Access to an S3 store as the daemon hands it to a worker: beside the attempt's secret, on the descriptor inherited at spawn, and nowhere else. It is
//! never stored, and what is printed of it holds no secret.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where the buckets are, and how to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Access {
    /// The server's URL, `https://…` or `http://…`, without a path; Amazon's when absent.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The region requests are signed for.
    pub region: String,
    /// Whether the bucket stands in the path of a URL rather than before the host's name.
    pub path_style: bool,
    /// The checksum sent with every object.
    pub checksum: S3Checksum,
    /// Seconds for which a request that fails is tried again; 0 for never.
    pub retry_seconds: u32,
    /// Certificates (PEM) of authorities that are trusted beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The URL of the proxy that all requests go through, `http://host:port`; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Who asks.
    pub credentials: S3Credentials,
}

/// The checksum sent with every object, which the store compares with what arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum S3Checksum {
    /// CRC-64/NVME: the fastest, and what current servers keep.
    #[default]
    Crc64nvme,
    /// SHA-256.
    Sha256,
    /// None: for servers that refuse the headers.
    None,
}

/// A key of an S3 store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct S3Credentials {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: String,
    /// What makes a temporary key complete.
    #[serde(default)]
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_holds_no_secret() {
        let credentials = S3Credentials {
            access_key_id: "id".into(),
            secret_access_key: "canary-1".into(),
            session_token: Some("canary-2".into()),
        };
        let access = S3Access {
            endpoint: None,
            region: "us-east-1".into(),
            path_style: true,
            checksum: S3Checksum::Crc64nvme,
            retry_seconds: 1,
            ca_pem: None,
            proxy: None,
            credentials,
        };
        assert!(!format!("{access:?} {access:#?}").contains("canary"));
        let sent = serde_json::to_string(&access).unwrap();
        assert_eq!(serde_json::from_str::<S3Access>(&sent).unwrap(), access, "but it is handed over whole");
    }
}
