//! Requests that the storage library has no words for, signed by its authorizer and sent by the same client: which parts of an upload have arrived, which uploads are open, and whether the store
//! looks at checksums at all. Small answers, read whole; what may pass is tried again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use mlctl_protocol::s3::S3Access;
use object_store::{
    ClientOptions,
    aws::{AwsAuthorizer, AwsCredential},
    client::{HttpClient, HttpConnector as _, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    FIRST_PAUSE, LONGEST_PAUSE, before_host,
    client::{Connector, beginning},
};
use crate::{ArtifactError, crc, digest};

/// The longest answer that is read, in bytes: a page has a thousand entries of a kilobyte or two.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// The most pages of a list.
const MAX_PAGES: usize = 1000;

/// A part that has arrived.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListedPart {
    /// From 1.
    pub(crate) part_number: usize,
    #[serde(rename = "ETag")]
    pub(crate) e_tag: String,
    pub(crate) size: u64,
}

/// An upload that is open.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListedUpload {
    pub(crate) key: String,
    pub(crate) upload_id: String,
    /// RFC 3339.
    pub(crate) initiated: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PartsPage {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_part_number_marker: Option<String>,
    #[serde(default, rename = "Part")]
    parts: Vec<ListedPart>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadsPage {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: Option<String>,
    #[serde(default)]
    next_upload_id_marker: Option<String>,
    #[serde(default, rename = "Upload")]
    uploads: Vec<ListedUpload>,
}

/// Asks a bucket.
pub(crate) struct Direct {
    client: HttpClient,
    /// With the bucket, without a slash at its end.
    url: String,
    region: String,
    credential: AwsCredential,
    patience: Duration,
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What a request came to.
struct Answered {
    status: u16,
    body: Bytes,
}

impl Direct {
    pub(super) fn new(access: &S3Access, connector: &Connector, bucket: &str) -> object_store::Result<Self> {
        let S3Access { endpoint, region, path_style, retry_seconds, credentials, .. } = access;
        let amazon = || format!("https://s3.{region}.amazonaws.com");
        let endpoint = endpoint.clone().unwrap_or_else(amazon);
        let url = if *path_style { format!("{endpoint}/{bucket}") } else { before_host(&endpoint, bucket) };
        Ok(Self {
            client: connector.connect(&ClientOptions::new())?,
            url,
            region: region.clone(),
            credential: AwsCredential {
                key_id: credentials.access_key_id.clone(),
                secret_key: credentials.secret_access_key.clone(),
                token: credentials.session_token.clone(),
            },
            patience: Duration::from_secs((*retry_seconds).into()),
        })
    }

    /// The parts of an upload that have arrived, by number.
    pub(crate) async fn parts(&self, uri: &str, key: &str, id: &str) -> Result<Vec<ListedPart>, ArtifactError> {
        let (mut parts, mut marker) = (Vec::new(), String::from("0"));
        for _ in 0..MAX_PAGES {
            let query = [("uploadId", id), ("part-number-marker", &marker), ("max-parts", "1000")];
            let page: PartsPage = self.list(uri, key, &query).await?;
            parts.extend(page.parts);
            match page.next_part_number_marker.filter(|next| page.is_truncated && *next != marker) {
                Some(next) => marker = next,
                None => return Ok(parts),
            }
        }
        Err(too_many(uri))
    }

    /// The uploads that are open under a prefix.
    pub(crate) async fn uploads(&self, uri: &str, prefix: &str) -> Result<Vec<ListedUpload>, ArtifactError> {
        let (mut uploads, mut markers) = (Vec::new(), (String::new(), String::new()));
        for _ in 0..MAX_PAGES {
            let mut query = vec![("uploads", ""), ("prefix", prefix), ("max-uploads", "1000")];
            if !markers.0.is_empty() {
                query.extend([("key-marker", markers.0.as_str()), ("upload-id-marker", markers.1.as_str())]);
            }
            let page: UploadsPage = self.list(uri, "", &query).await?;
            uploads.extend(page.uploads);
            let next = (page.next_key_marker.unwrap_or_default(), page.next_upload_id_marker.unwrap_or_default());
            if !page.is_truncated || next == markers || next.0.is_empty() {
                return Ok(uploads);
            }
            markers = next;
        }
        Err(too_many(uri))
    }

    /// Whether the store refuses an object that comes with a wrong checksum. One that takes it has then stored it.
    pub(crate) async fn compares_checksums(&self, uri: &str, key: &str) -> Result<bool, ArtifactError> {
        let body = Bytes::from_static(b"mlctl probe");
        let wrong = crc::base64(!crc::of(&body));
        let answered = self.ask(uri, || {
            let mut request = self.request("PUT", key, &[])?;
            let headers = request.headers_mut();
            headers.insert("x-amz-checksum-crc64nvme", wrong.parse().ok()?);
            headers.insert("content-length", body.len().into());
            *request.body_mut() = body.clone().into();
            Some(request)
        });
        // What is no refusal says nothing.
        Ok((400..500).contains(&answered.await?.status))
    }

    async fn list<T: DeserializeOwned>(
        &self,
        uri: &str,
        key: &str,
        query: &[(&str, &str)],
    ) -> Result<T, ArtifactError> {
        let answered = self.ask(uri, || self.request("GET", key, query)).await?;
        if answered.status == 404 {
            return Err(ArtifactError::NotFound { uri: uri.to_owned() });
        }
        if answered.status != 200 {
            let source = format!("the store answered with HTTP status {}", answered.status).into();
            return Err(match answered.status {
                501 | 405 | 400 => ArtifactError::Refused { uri: uri.to_owned(), source },
                _ => ArtifactError::Unavailable { uri: uri.to_owned(), source },
            });
        }
        quick_xml::de::from_reader(&answered.body[..])
            .map_err(|error| ArtifactError::Unavailable { uri: uri.to_owned(), source: error.into() })
    }

    fn request(&self, method: &str, key: &str, query: &[(&str, &str)]) -> Option<HttpRequest> {
        let slash = if key.is_empty() { "" } else { "/" };
        let pairs: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value, ""))).collect();
        let mark = if pairs.is_empty() { "" } else { "?" };
        let url = format!("{}{slash}{}{mark}{}", self.url, encoded(key, "/"), pairs.join("&"));
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.parse().ok()?;
        *request.uri_mut() = url.parse().ok()?;
        Some(request)
    }

    /// Sends a request, and again where that may help.
    async fn ask(&self, uri: &str, make: impl Fn() -> Option<HttpRequest>) -> Result<Answered, ArtifactError> {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let again = match self.once(&make).await {
                Ok(answered) if matches!(answered.status, 408 | 429 | 500..) && answered.status != 501 => Ok(answered),
                Ok(answered) => return Ok(answered),
                Err(error) if matches!(error.kind(), HttpErrorKind::Unknown | HttpErrorKind::Decode) => {
                    return Err(failed(uri, error));
                }
                Err(error) => Err(error),
            };
            if began.elapsed() + pause > self.patience {
                return again.map_err(|error| failed(uri, error));
            }
            tokio::time::sleep(digest::jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn once(&self, make: &impl Fn() -> Option<HttpRequest>) -> Result<Answered, HttpError> {
        let wrong = |error: std::io::Error| HttpError::new(HttpErrorKind::Unknown, error);
        let mut request = make().ok_or_else(|| wrong(std::io::Error::other("the request cannot be written")))?;
        AwsAuthorizer::new(&self.credential, "s3", &self.region)
            .with_sign_payload(false)
            .try_authorize(&mut request, None)
            .map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let answer = self.client.execute(request).await?;
        let status = answer.status().as_u16();
        let body = beginning(answer.into_body().bytes_stream(), MAX_ANSWER_BYTES + 1).await?;
        if body.len() > MAX_ANSWER_BYTES {
            return Err(wrong(std::io::Error::other("the answer is too long")));
        }
        Ok(Answered { status, body })
    }
}

fn too_many(uri: &str) -> ArtifactError {
    ArtifactError::corrupt(uri, format!("its list has more than {MAX_PAGES} pages"))
}

fn failed(uri: &str, error: HttpError) -> ArtifactError {
    ArtifactError::from_store(uri, object_store::Error::Generic { store: "S3", source: error.into() })
}

/// Text in a URL: letters, digits, `-._~` and what is to be `kept` as they are, all else as bytes in hexadecimal.
fn encoded(text: &str, kept: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte);
        match plain {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let page: PartsPage = quick_xml::de::from_str(
            "<?xml version=\"1.0\"?><ListPartsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Bucket>b</Bucket>\
             <IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
             <ETag>&quot;a&quot;</ETag><Size>8</Size></Part><Owner><ID>x</ID></Owner><Part><PartNumber>2</PartNumber>\
             <ETag>\"b\"</ETag><Size>3</Size><ChecksumCRC64NVME>AAAAAAAAAAA=</ChecksumCRC64NVME></Part></ListPartsResult>",
        )
        .unwrap();
        let part = |part_number, e_tag: &str, size| ListedPart { part_number, e_tag: e_tag.into(), size };
        assert_eq!(page.parts, [part(1, "\"a\"", 8), part(2, "\"b\"", 3)]);
        let page: UploadsPage = quick_xml::de::from_str(
            "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k&amp;</NextKeyMarker>\
             <Upload><Key>a b</Key><UploadId>u</UploadId><Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload></ListMultipartUploadsResult>",
        )
        .unwrap();
        assert_eq!((page.is_truncated, page.next_key_marker.as_deref(), page.uploads.len()), (true, Some("k&"), 1));
        let empty: UploadsPage = quick_xml::de::from_str("<ListMultipartUploadsResult/>").unwrap();
        assert_eq!(empty.uploads, []);
    }

    #[test]
    fn text_is_encoded_as_signatures_want_it() {
        assert_eq!(encoded("a b/ü~+", "/"), "a%20b/%C3%BC~%2B");
        assert_eq!(encoded("a/b=c", ""), "a%2Fb%3Dc");
    }
}
