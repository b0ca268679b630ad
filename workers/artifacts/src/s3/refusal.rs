//! What an S3 store says when it will not let us, in words for people: the key, the secret, the region, the bucket, the clock. Only what a second try cannot heal is
//! found here; everything else stays with the storage library.

use std::fmt;

/// The longest part of a server's text that is shown, in bytes.
const MAX_TEXT_BYTES: usize = 200;

/// An answer that will be the same next time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The store's name for it, such as `AccessDenied`; the HTTP status where it gave none.
    pub(crate) code: String,
    /// What is wrong, a lower-case fragment.
    pub(crate) why: String,
    /// What to do.
    pub(crate) hint: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.why, self.code)
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Reads an answer that was no success. `None` for what may pass, and for what is no refusal: a missing object, a condition that does not hold.
    pub(crate) fn find(status: u16, body: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(body);
        let code = element(&text, "Code").unwrap_or_default();
        let (why, hint) = match (code.as_str(), status) {
            ("InvalidAccessKeyId" | "InvalidClientTokenId", _) => {
                ("the store does not know the access key".to_owned(), "check access_key_id in the credentials of mld")
            }
            ("SignatureDoesNotMatch", _) => (
                "the secret key does not fit the access key".into(),
                "check secret_access_key in the credentials of mld",
            ),
            ("NoSuchBucket" | "InvalidBucketName", _) => {
                ("there is no such bucket".into(), "check the bucket's name, or make it: mld and its workers make none")
            }
            ("RequestTimeTooSkewed", _) => (clocks(&text), "set this machine's clock: `timedatectl set-ntp true`"),
            (
                "AuthorizationHeaderMalformed"
                | "PermanentRedirect"
                | "TemporaryRedirect"
                | "IllegalLocationConstraintException"
                | "InvalidRegion",
                _,
            )
            | (_, 301 | 307 | 308) => (region(&text), "set storage.s3.region and storage.s3.endpoint of mld"),
            // A key that has run out: a later attempt is handed the one of then.
            ("ExpiredToken" | "TokenRefreshRequired", _) => return None,
            ("RequestTimeout" | "SlowDown" | "OperationAborted" | "NoSuchKey" | "NoSuchUpload", _) => return None,
            // An answer to HEAD has no body to say more.
            ("", 400) if body.is_empty() => ("the request is refused".into(), "check storage.s3 of mld"),
            (_, 401 | 403) => (
                said("access is denied", &text),
                "allow the key to list the bucket and to get, put and delete its objects, or check the bucket's policy",
            ),
            _ => return None,
        };
        let code = if code.is_empty() { format!("HTTP status {status}") } else { code };
        Some(Self { code, why, hint })
    }

    /// What it means that a connection could not be made, where that is for the server's certificate. `None` for all that may pass.
    pub(crate) fn of_certificate(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref::<rustls::Error>() {
                let why = format!("the server's certificate is not trusted: {why}");
                let hint = "name the authority of a certificate of your own making in storage.s3.ca_file of mld, and the server as its certificate does in storage.s3.endpoint";
                return Some(Self { code: "TLS".into(), why, hint });
            }
            // An error of input and output hides the one it was made of.
            let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            next = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
        }
        None
    }

    /// Whether the key has run out. Some stores say so with the status of a denial, and the library would take it for one.
    pub(crate) fn is_expiry(body: &[u8]) -> bool {
        let code = element(&String::from_utf8_lossy(body), "Code");
        matches!(code.as_deref(), Some("ExpiredToken" | "TokenRefreshRequired"))
    }

    /// The refusal that an error of the storage library was caused by.
    pub(crate) fn behind<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(refusal) = error.downcast_ref::<Self>() {
                return Some(refusal);
            }
            next = error.source();
        }
        None
    }
}

fn clocks(text: &str) -> String {
    let at = |name| element(text, name);
    match (at("RequestTime"), at("ServerTime")) {
        (Some(ours), Some(theirs)) => {
            format!("this machine's clock and the store's are too far apart: {ours} here, {theirs} there")
        }
        _ => "this machine's clock and the store's are too far apart".into(),
    }
}

fn region(text: &str) -> String {
    match element(text, "Region").or_else(|| element(text, "Endpoint")) {
        Some(region) => format!("the bucket is in another region: {region}"),
        None => said("the bucket is in another region, or the region is wrong", text),
    }
}

fn said(why: &str, text: &str) -> String {
    match element(text, "Message") {
        Some(message) => format!("{why}: {message}"),
        None => why.to_owned(),
    }
}

/// The content of an element that holds text alone, shortened and without control characters.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once(&format!("</{name}>"))?;
    let mut shown = String::new();
    for c in content.chars().filter(|c| !c.is_control() && *c != '<') {
        if shown.len() + c.len_utf8() > MAX_TEXT_BYTES {
            shown.push('…');
            break;
        }
        shown.push(c);
    }
    (!shown.is_empty()).then_some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: &str, more: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>As it is.</Message>{more}<RequestId>1</RequestId></Error>"
        )
    }

    #[test]
    fn every_refusal_says_what_and_what_to_do() {
        let times = "<RequestTime>20260101T000000Z</RequestTime><ServerTime>2026-01-01T01:00:00Z</ServerTime>";
        for (status, code, more, words) in [
            (403, "InvalidAccessKeyId", "", "does not know the access key"),
            (403, "SignatureDoesNotMatch", "", "secret key does not fit"),
            (404, "NoSuchBucket", "", "no such bucket"),
            (403, "RequestTimeTooSkewed", times, "20260101T000000Z here, 2026-01-01T01:00:00Z there"),
            (400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>", "another region: eu-west-1"),
            (301, "PermanentRedirect", "<Endpoint>b.s3.eu.example</Endpoint>", "another region: b.s3.eu.example"),
            (403, "AccessDenied", "", "access is denied: As it is."),
        ] {
            let refusal = Refusal::find(status, answer(code, more).as_bytes()).unwrap();
            assert!(refusal.why.contains(words) && !refusal.hint.is_empty(), "{refusal}");
            assert_eq!(refusal.code, code);
        }
        let bare = Refusal::find(403, b"").unwrap();
        assert_eq!(bare.to_string(), "access is denied (HTTP status 403)");
    }

    #[test]
    fn what_may_pass_or_is_plainly_not_there_is_left_to_the_library() {
        for (status, code) in [
            (404, "NoSuchKey"),
            (404, "NoSuchUpload"),
            (412, "PreconditionFailed"),
            (409, "OperationAborted"),
            (503, "SlowDown"),
            (500, "InternalError"),
            (400, "ExpiredToken"),
            (403, "ExpiredToken"),
            (416, "InvalidRange"),
        ] {
            assert_eq!(Refusal::find(status, answer(code, "").as_bytes()), None, "{code}");
        }
        assert_eq!(Refusal::find(404, b""), None);
    }

    #[test]
    fn a_servers_text_is_shortened_and_cleaned() {
        let long = answer("AccessDenied", "").replace("As it is.", &"\u{1b}[31m<x>".repeat(1000));
        let refusal = Refusal::find(403, long.as_bytes()).unwrap();
        assert!(refusal.why.len() < 250 && !refusal.why.contains('\u{1b}'), "{}", refusal.why);
        assert!(Refusal::find(403, &[0xff; 100_000]).is_some());
    }
}
