//! Who we are to an S3 store: from the environment, a file, or systemd's credentials, in this order. Called by `mld`'s main function once, at its start. What is read here
//! goes to the stores and to workers' hand-overs alone: it is no setting, so that nothing that shows settings can show it, and no message repeats it.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use mlctl_protocol::s3::{S3Access, S3Credentials};

use super::{
    ConfigError, Environment, S3Settings, Settings,
    file::S3Section,
    load::{is_endpoint, s3_settings},
};

/// The name of the credential that systemd is asked for: `LoadCredential=mld.s3:/etc/mld/s3-credentials`.
pub const SYSTEMD_CREDENTIAL: &str = "mld.s3";

/// The section of a credentials file that is read, beside what stands before the first one.
const SECTION: &str = "default";

/// The largest credentials file, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The most of certificates, in bytes: they reach a worker with its job, in a line of twice that.
const MAX_CA_BYTES: u64 = 32 * 1024;

/// The way into the S3 store; `None` where nothing says who we are and nothing of ours is kept there.
///
/// # Errors
/// [`ConfigError::Credentials`].
pub fn access(settings: &Settings, environment: &Environment) -> Result<Option<S3Access>, ConfigError> {
    let s3 = &settings.storage.s3;
    let Some(credentials) = credentials(s3.credentials_file.as_deref(), environment)? else {
        if settings.storage.url.starts_with("s3://") {
            let why = "there are none: neither AWS_ACCESS_KEY_ID nor storage.s3.credentials_file nor systemd's credential `mld.s3`";
            return Err(ConfigError::Credentials { place: settings.storage.url.clone(), why: why.into() });
        }
        return Ok(None);
    };
    granted(s3, credentials).map(Some)
}

/// The way into the S3 store for a program that a person runs: as the daemon's settings file says it, where there is one that this person may read, with `AWS_ENDPOINT_URL` and `AWS_REGION` over it.
/// `None` where nothing says who we are.
///
/// # Errors
/// [`ConfigError`].
pub fn own_access(environment: &Environment) -> Result<Option<S3Access>, ConfigError> {
    let mut s3 = match super::load(&super::Overrides::default(), environment) {
        Ok(settings) => settings.storage.s3,
        Err(ConfigError::Homeless) => s3_settings(&S3Section::default()),
        Err(ConfigError::Read { source, .. })
            if environment.mld_config.is_none() && source.kind() == io::ErrorKind::PermissionDenied =>
        {
            s3_settings(&S3Section::default())
        }
        Err(error) => return Err(error),
    };
    if let Some(url) = &environment.aws_endpoint_url {
        let url = url.trim_end_matches('/');
        if !is_endpoint(url) {
            let why = "expected a server's URL without a path or a user: https://host or https://host:port";
            return Err(ConfigError::Credentials { place: "AWS_ENDPOINT_URL".into(), why: why.into() });
        }
        s3.endpoint = Some(url.to_owned());
    }
    if let Some(region) = &environment.aws_region {
        s3.region.clone_from(region);
    }
    let credentials = credentials(s3.credentials_file.as_deref(), environment)?;
    credentials.map(|credentials| granted(&s3, credentials)).transpose()
}

fn granted(s3: &S3Settings, credentials: S3Credentials) -> Result<S3Access, ConfigError> {
    Ok(S3Access {
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        path_style: s3.path_style,
        checksum: s3.checksum,
        retry_seconds: s3.retry_seconds,
        ca_pem: s3.ca_file.as_deref().map(authorities).transpose()?,
        proxy: s3.proxy.clone(),
        credentials,
    })
}

/// Certificates of authorities, which are no secret: they go to workers with the key.
fn authorities(file: &Path) -> Result<String, ConfigError> {
    let wrong = |why: String| ConfigError::Credentials { place: file.display().to_string(), why };
    let pem =
        opened(file).and_then(|(opened, _)| within(opened, MAX_CA_BYTES)).map_err(|error| wrong(error.to_string()))?;
    match mlctl_artifacts::check_authorities(&pem) {
        Ok(()) => Ok(pem),
        Err(why) => Err(wrong(why)),
    }
}

fn credentials(file: Option<&Path>, environment: &Environment) -> Result<Option<S3Credentials>, ConfigError> {
    if let Some(credentials) = &environment.s3 {
        let wrong = |why: &str| Err(ConfigError::Credentials { place: "the environment".into(), why: why.into() });
        return match (credentials.access_key_id.is_empty(), credentials.secret_access_key.is_empty()) {
            (false, false) => Ok(Some(credentials.clone())),
            (true, _) => wrong("AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not"),
            (_, true) => wrong("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not"),
        };
    }
    if let Some(file) = file {
        return read(file).map(Some);
    }
    let systemd: Option<PathBuf> = environment.credentials_directory.as_ref().map(|dir| dir.join(SYSTEMD_CREDENTIAL));
    systemd.filter(|file| file.exists()).map(|file| read(&file)).transpose()
}

fn read(file: &Path) -> Result<S3Credentials, ConfigError> {
    let wrong = |why: String| ConfigError::Credentials { place: file.display().to_string(), why };
    let text = text(file).map_err(|error| wrong(error.to_string()))?;
    parse(&text).map_err(wrong)
}

fn text(file: &Path) -> io::Result<String> {
    let (opened, mode) = opened(file)?;
    if mode & 0o004 != 0 {
        return Err(io::Error::other("everybody may read it: `chmod o-r` it, and take a new key"));
    }
    within(opened, MAX_BYTES)
}

/// A regular file, and its mode.
fn opened(file: &Path) -> io::Result<(File, u32)> {
    // Opening a pipe would wait for its writer, for ever.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let opened = File::options().read(true).custom_flags(flags).open(file)?;
    let found = opened.metadata()?;
    if found.is_file() { Ok((opened, found.mode())) } else { Err(io::Error::other("it is not a regular file")) }
}

/// All of a file that is no larger.
fn within(opened: File, bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    opened.take(bytes + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes { Err(io::Error::other(format!("it is larger than {bytes} bytes"))) } else { Ok(text) }
}

/// The form of `~/.aws/credentials`, of which `[default]` is read; without a section, the variables of the same names do as well. What is
/// wrong is said by its line's number: the line may be the secret.
fn parse(text: &str) -> Result<S3Credentials, String> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut section = SECTION.to_owned();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            name.strip_suffix(']')
                .ok_or(format!("line {number}: a section's name ends in `]`"))?
                .trim()
                .clone_into(&mut section);
            continue;
        }
        let (key, value) = line.split_once('=').ok_or(format!("line {number} is no `key = value`"))?;
        let value = value.trim();
        if section != SECTION {
            continue;
        }
        if value.is_empty() || value.chars().any(char::is_control) {
            return Err(format!("line {number} has no value, or one with a control character"));
        }
        match key.trim().to_ascii_lowercase().as_str() {
            "aws_access_key_id" => id = Some(value.to_owned()),
            "aws_secret_access_key" => secret = Some(value.to_owned()),
            "aws_session_token" => token = Some(value.to_owned()),
            // Regions and the like have their place in mld.toml.
            _ => {}
        }
    }
    let missing = |key: &str| format!("{key} is missing from its section [{SECTION}]");
    Ok(S3Credentials {
        access_key_id: id.ok_or_else(|| missing("aws_access_key_id"))?,
        secret_access_key: secret.ok_or_else(|| missing("aws_secret_access_key"))?,
        session_token: token,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::StorageSettings;

    fn key(id: &str) -> S3Credentials {
        S3Credentials { access_key_id: id.into(), secret_access_key: "canary/+=".into(), session_token: None }
    }

    #[test]
    fn files_as_people_have_them_are_read() {
        for text in [
            "[default]\naws_access_key_id = a\naws_secret_access_key = canary/+=\n",
            "# mine\naws_access_key_id=a\naws_secret_access_key=canary/+=",
            "AWS_ACCESS_KEY_ID=a\r\nAWS_SECRET_ACCESS_KEY=canary/+=\r\nAWS_REGION=x\r\n",
            "[other]\naws_access_key_id = b\n[default]\naws_secret_access_key = canary/+=\naws_access_key_id = a\n[last]\nx=\n",
        ] {
            assert_eq!(parse(text), Ok(key("a")), "{text}");
        }
        let temporary = parse("aws_access_key_id=a\naws_secret_access_key=b\naws_session_token=c\n").unwrap();
        assert_eq!(temporary.session_token.as_deref(), Some("c"));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_without_its_secret() {
        for (text, why) in [
            ("", "aws_access_key_id is missing"),
            ("aws_access_key_id=a\n", "aws_secret_access_key is missing"),
            ("[canary]\naws_access_key_id=a\naws_secret_access_key=canary\n", "missing from its section [default]"),
            ("aws_access_key_id=a\ncanary\n", "line 2 is no"),
            ("[canary\n", "line 1"),
            ("aws_access_key_id=a\naws_secret_access_key=\n", "line 2 has no value"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(why) && !said.contains("canary"), "{text:?}: {said}");
        }
    }

    #[test]
    fn the_environment_goes_over_the_file_and_the_file_over_systemd() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, id: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("aws_access_key_id={id}\naws_secret_access_key=canary/+=\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let file = write("file", "from-file");
        write(SYSTEMD_CREDENTIAL, "from-systemd");
        let systemd = Environment { credentials_directory: Some(dir.path().to_owned()), ..Environment::default() };
        let all = Environment { s3: Some(key("from-environment")), ..systemd.clone() };
        let found = |file: Option<&Path>, environment: &Environment| credentials(file, environment).unwrap();
        assert_eq!(found(Some(&file), &all), Some(key("from-environment")));
        assert_eq!(found(Some(&file), &systemd), Some(key("from-file")));
        assert_eq!(found(None, &systemd), Some(key("from-systemd")));
        assert_eq!(found(None, &Environment::default()), None);
        let half = S3Credentials { secret_access_key: String::new(), ..key("a") };
        let half = Environment { s3: Some(half), ..Environment::default() };
        assert!(credentials(None, &half).unwrap_err().to_string().contains("the environment"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let Err(ConfigError::Credentials { why, .. }) = credentials(Some(&file), &systemd) else {
            panic!("it was read")
        };
        assert!(why.contains("everybody may read it"), "{why}");
        assert!(credentials(Some(dir.path()), &systemd).is_err());
        assert!(!format!("{all:?}").contains("canary"), "nor is it shown with the environment");
    }

    #[test]
    fn a_person_s_programs_go_by_the_variables_that_others_go_by() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mld.toml");
        std::fs::write(&file, "[storage.s3]\nendpoint = 'https://of.file'\nregion = 'of-file'\nretry_seconds = 7\n")
            .unwrap();
        let nobody = Environment { mld_config: Some(file), ..Environment::default() };
        let nobody = Environment { state_home: Some(dir.path().into()), ..nobody };
        assert_eq!(own_access(&nobody).unwrap(), None);
        let plain = Environment { s3: Some(key("a")), ..nobody };
        let found = own_access(&plain).unwrap().unwrap();
        assert_eq!((found.endpoint.as_deref(), found.region.as_str()), (Some("https://of.file"), "of-file"));
        let url = |url: &str| Environment { aws_endpoint_url: Some(url.into()), ..plain.clone() };
        let told = Environment { aws_region: Some("north".into()), ..url("http://127.0.0.1:9/") };
        let found = own_access(&told).unwrap().unwrap();
        assert_eq!((found.endpoint.as_deref(), found.region.as_str()), (Some("http://127.0.0.1:9"), "north"));
        assert_eq!(found.retry_seconds, 7, "the rest is the file's");
        assert!(own_access(&url("ftp://host")).unwrap_err().to_string().contains("AWS_ENDPOINT_URL"));
        // With no file at all.
        let bare = Environment { s3: Some(key("a")), ..Environment::default() };
        assert_eq!(
            own_access(&Environment { mld_state_dir: Some(dir.path().into()), ..bare }).unwrap().unwrap().endpoint,
            None
        );
    }

    #[test]
    fn a_bucket_of_ours_needs_somebody_to_be() {
        let mut settings = Settings::under(Path::new("/d"), Path::new("/w"));
        assert_eq!(access(&settings, &Environment::default()).unwrap(), None);
        settings.storage = StorageSettings { url: "s3://bucket/ml".into(), ..settings.storage };
        let said = access(&settings, &Environment::default()).unwrap_err().to_string();
        assert!(said.contains("s3://bucket/ml"), "{said}");
        let environment = Environment { s3: Some(key("a")), ..Environment::default() };
        let found = access(&settings, &environment).unwrap().unwrap();
        assert_eq!((found.region.as_str(), found.path_style, found.credentials), ("us-east-1", true, key("a")));
    }
}
