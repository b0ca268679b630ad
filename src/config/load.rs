//! From flags, environment and files to settings: flags > environment > file > defaults. Called by the programs' main functions. Every mistake in the file and in `--set`
//! is found before one is shown.

use std::{
    io,
    num::NonZero,
    path::{Path, PathBuf},
};

use mlctl_artifacts::uri::is_bucket;

use super::{
    BackupSettings, CommandSettings, DeviceSettings, Environment, GpuSettings, LimitSettings, LogSettings,
    RetentionSettings, S3Settings, SchedulerSettings, Settings, StorageSettings, WorkerSettings,
    document::{self, Document, Problem, Report},
    file::{ClientFile, DevicesSection, GpuSection, OutputForm, S3Section, SettingsFile, WorkersSection},
    notify,
};

/// The settings file of the system's daemon, from which the CLI learns its socket too.
pub const SYSTEM_FILE: &str = "/etc/mld/mld.toml";

/// The largest settings file, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// The longest path of a socket, in bytes: the kernel's limit less the zero at its end.
const MAX_SOCKET_BYTES: usize = 107;

/// What `mld`'s flags say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--config`: the file to read.
    pub config: Option<PathBuf>,
    /// `--state-dir`: everything under one folder.
    pub state_dir: Option<PathBuf>,
    /// `--set key=value`, in order.
    pub set: Vec<String>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something in the file or in a flag is wrong: the report shows where.
    #[error("{0}")]
    Wrong(Report),
    /// Who we are to the S3 store cannot be read, or nobody says it.
    #[error("read the S3 credentials of {place}: {why}")]
    Credentials {
        /// The file, the environment, or what needs them.
        place: String,
        /// Why. Never what was read.
        why: String,
    },
    /// There is no folder to keep anything in.
    #[error("neither XDG_STATE_HOME nor HOME is set, so there is no folder to keep jobs in")]
    Homeless,
}

/// The folders and sockets that settings do not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    state_dir: PathBuf,
    socket: PathBuf,
}

impl Places {
    /// Everything under one folder.
    pub(super) fn under(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), socket: state_dir.join("mld.sock") }
    }
}

/// The daemon's settings. With a state directory from a flag or the environment and no settings file named, none is read: that daemon is a private one.
///
/// # Errors
/// [`ConfigError`].
pub fn load(flags: &Overrides, environment: &Environment) -> Result<Settings, ConfigError> {
    let state_dir = flags.state_dir.as_ref().or(environment.mld_state_dir.as_ref());
    let state_dir = state_dir.map(|path| environment.absolute(path));
    let mut document = match settings_file(flags, environment, state_dir.is_some())? {
        Some((path, text)) => Document::parse(&path.display().to_string(), &text).map_err(ConfigError::Wrong)?,
        None => Document::parse("settings", "").map_err(ConfigError::Wrong)?,
    };
    let mut problems = Vec::new();
    for assignment in &flags.set {
        problems.extend(document.set("--set", assignment).err());
    }
    if let Some(level) = &environment.mld_log {
        document.set_text("MLD_LOG", &["log", "level"], level);
    }
    problems.extend(document.problems(&schemars::schema_for!(SettingsFile)));
    if !problems.is_empty() {
        return Err(ConfigError::Wrong(document.report(problems)));
    }
    let file: SettingsFile = document.read(&schemars::schema_for!(SettingsFile)).map_err(ConfigError::Wrong)?;
    let places = match state_dir.as_ref().or(file.daemon.state_dir.as_ref()) {
        Some(state_dir) => Places::under(state_dir),
        None => default_places(environment).ok_or(ConfigError::Homeless)?,
    };
    let credentials = environment.credentials_directory.as_deref();
    let mut settings = settled(&file, &places, environment.program_dir.as_deref());
    settings.notify = notify::settled(&file.notify, credentials);
    let mut problems = unsound(&document, &file, &settings);
    problems.extend(notify::unsound(&document, &file.notify, credentials));
    if problems.is_empty() { Ok(settings) } else { Err(ConfigError::Wrong(document.report(problems))) }
}

/// The file to read and its text. A file that was named must be there.
fn settings_file(
    flags: &Overrides,
    environment: &Environment,
    is_private: bool,
) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let read = |path: &Path| document::read_file(path, MAX_FILE_BYTES);
    if let Some(path) = flags.config.as_ref().or(environment.mld_config.as_ref()) {
        let text = read(&environment.absolute(path));
        return match text {
            Ok(text) => Ok(Some((path.clone(), text))),
            Err(source) => Err(ConfigError::Read { path: path.clone(), source }),
        };
    }
    if is_private {
        return Ok(None);
    }
    let own = environment.config_home.as_ref().map(|home| home.join("mld/mld.toml"));
    for path in own.filter(|_| !environment.is_service).into_iter().chain([PathBuf::from(SYSTEM_FILE)]) {
        match read(&path) {
            Ok(text) => return Ok(Some((path, text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ConfigError::Read { path, source }),
        }
    }
    Ok(None)
}

/// The service's folders for a service, the user's for a user.
fn default_places(environment: &Environment) -> Option<Places> {
    if environment.is_service {
        return Some(Places { state_dir: "/var/lib/mld".into(), socket: "/run/mld/mld.sock".into() });
    }
    let mut places = Places::under(&environment.state_home.as_ref()?.join("mld"));
    if let Some(runtime) = &environment.runtime_dir {
        places.socket = runtime.join("mld/mld.sock");
    }
    Some(places)
}

/// The file's values, and what follows from places for those it leaves out. `programs` is the folder with the workers' programs; without it, PATH says where they are.
pub(super) fn settled(file: &SettingsFile, places: &Places, programs: Option<&Path>) -> Settings {
    let SettingsFile { daemon, storage, workers, devices, commands, limits, scheduler, retention, backup, log, .. } =
        file;
    let program = |set: &Option<PathBuf>, name: &str| {
        set.clone().unwrap_or_else(|| programs.map_or_else(|| name.into(), |dir| dir.join(name)))
    };
    let Places { state_dir, socket } = places;
    let objects = || format!("file://{}", state_dir.join("objects").display());
    Settings {
        state_dir: state_dir.clone(),
        socket: daemon.socket.clone().unwrap_or_else(|| socket.clone()),
        group_access: daemon.group_access,
        check_hours: daemon.check_hours,
        disk_reserve_bytes: daemon.disk_reserve_bytes,
        workers_socket: state_dir.join("workers.sock"),
        database: state_dir.join("mld.db"),
        attempts_dir: state_dir.join("attempts"),
        storage: StorageSettings {
            url: storage.url.as_ref().map_or_else(objects, |url| url.trim_end_matches('/').to_owned()),
            data_roots: storage.data_roots.clone(),
            spool_max_bytes: storage.spool_max_bytes,
            outage_seconds: storage.outage_seconds,
            s3: s3_settings(&storage.s3),
        },
        workers: worker_settings(workers, program(&workers.command, "mlworker")),
        devices: device_settings(devices),
        commands: CommandSettings {
            enabled: commands.enabled,
            users: commands.users.clone(),
            executable: program(&commands.executable, "mlworker-command"),
        },
        limits: LimitSettings {
            max_queued: limits.max_queued,
            max_spec_bytes: limits.max_spec_bytes,
            max_array: limits.max_array,
        },
        scheduler: SchedulerSettings {
            fair_share_points: scheduler.fair_share_points,
            fair_share_half_life_hours: scheduler.fair_share_half_life_hours,
            fair_share_gpu_cores: scheduler.fair_share_gpu_cores,
        },
        retention: RetentionSettings {
            finished_days: retention.finished_days,
            finished_jobs: retention.finished_jobs,
            checkpoints_nightly: retention.checkpoints_nightly,
            checkpoints_weekly: retention.checkpoints_weekly,
            checkpoints_max_bytes: retention.checkpoints_max_bytes,
            gc_hours: retention.gc_hours,
            gc_grace_hours: retention.gc_grace_hours,
        },
        backup: BackupSettings {
            every_hours: backup.every_hours,
            keep: backup.keep,
            url: backup.url.as_ref().map(|url| url.trim_end_matches('/').to_owned()),
        },
        log: LogSettings { level: log.level.clone(), format: log.format },
        notify: Vec::new(),
    }
}

fn worker_settings(section: &WorkersSection, command: PathBuf) -> WorkerSettings {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    WorkerSettings {
        command,
        cpus: section.cpus.unwrap_or_else(|| u32::try_from(cores).unwrap_or(u32::MAX)),
        memory_mib: section.memory_mib,
        heartbeat_seconds: section.heartbeat_seconds,
        lease_seconds: section.lease_seconds,
        grace_seconds: section.grace_seconds,
        hang_seconds: section.hang_seconds,
        min_run_seconds: section.min_run_seconds,
        ahead: section.ahead,
        cgroup_dir: section.cgroup_dir.clone(),
        log_max_bytes: section.log_max_bytes,
        log_files: section.log_files,
    }
}

fn device_settings(section: &DevicesSection) -> DeviceSettings {
    let gpu = |gpu: &GpuSection| GpuSettings { id: gpu.id.clone(), worker: gpu.worker.clone(), enabled: gpu.enabled };
    DeviceSettings {
        enabled: section.enabled,
        worker: section.worker.clone(),
        simulated: section.simulated.clone(),
        gpus: section.gpu.iter().map(gpu).collect(),
    }
}

pub(super) fn s3_settings(section: &S3Section) -> S3Settings {
    S3Settings {
        endpoint: section.endpoint.as_ref().map(|url| url.trim_end_matches('/').to_owned()),
        region: section.region.clone(),
        path_style: section.path_style,
        checksum: section.checksum,
        retry_seconds: section.retry_seconds,
        credentials_file: section.credentials_file.clone(),
        ca_file: section.ca_file.clone(),
        proxy: section.proxy.as_ref().map(|url| url.trim_end_matches('/').to_owned()),
    }
}

/// What no schema can say.
fn unsound(document: &Document, file: &SettingsFile, settings: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    let roots = file.storage.data_roots.iter().enumerate();
    let paths = [
        ("daemon.state_dir".to_owned(), file.daemon.state_dir.as_ref()),
        ("daemon.socket".to_owned(), file.daemon.socket.as_ref()),
        ("workers.command".to_owned(), file.workers.command.as_ref()),
        ("workers.cgroup_dir".to_owned(), file.workers.cgroup_dir.as_ref()),
        ("devices.worker".to_owned(), file.devices.worker.as_ref()),
        ("devices.simulated".to_owned(), file.devices.simulated.as_ref()),
        ("commands.executable".to_owned(), file.commands.executable.as_ref()),
        ("storage.s3.credentials_file".to_owned(), file.storage.s3.credentials_file.as_ref()),
        ("storage.s3.ca_file".to_owned(), file.storage.s3.ca_file.as_ref()),
    ];
    let roots = roots.map(|(index, root)| (format!("storage.data_roots[{index}]"), Some(root)));
    let gpus = file.devices.gpu.iter().enumerate();
    let gpus = gpus.map(|(index, gpu)| (format!("devices.gpu[{index}].worker"), gpu.worker.as_ref()));
    for (key, path) in paths.into_iter().chain(roots).chain(gpus) {
        if path.is_some_and(|path| !path.is_absolute()) {
            let problem = document.problem(&key, "expected an absolute path: one that starts with `/`");
            problems.push(problem.hint("a daemon has no working directory that a relative path could mean"));
        }
    }
    let sockets = [("daemon.socket", &settings.socket), ("daemon.state_dir", &settings.workers_socket)];
    for (key, socket) in sockets.into_iter().filter(|(key, _)| document.has(key)) {
        let bytes = socket.as_os_str().len();
        if bytes > MAX_SOCKET_BYTES {
            let message =
                format!("the socket {} is {bytes} bytes long, the kernel takes {MAX_SOCKET_BYTES}", socket.display());
            problems.push(document.problem(key, message).hint("choose a shorter folder"));
        }
    }
    problems.extend(unsound_storage(document, settings));
    for (index, gpu) in file.devices.gpu.iter().enumerate() {
        if file.devices.gpu.iter().take(index).any(|earlier| earlier.id == gpu.id) {
            let message = format!("GPU {} is there twice", gpu.id);
            problems.push(document.problem(&format!("devices.gpu[{index}].id"), message));
        }
    }
    if settings.workers.lease_seconds < settings.workers.heartbeat_seconds.saturating_mul(5) {
        let message = "a lease must be at least five heartbeats long";
        problems.push(document.problem("workers.lease_seconds", message));
    }
    problems
}

fn unsound_storage(document: &Document, settings: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    let message = "expected the URI of a folder: file:///absolute/path or s3://bucket/prefix";
    if !is_folder(&settings.storage.url) {
        let hint = "for example \"file:///srv/ml/objects\" or \"s3://my-bucket/ml\"";
        problems.push(document.problem("storage.url", message).hint(hint));
    }
    if settings.backup.url.as_ref().is_some_and(|url| !is_folder(url)) {
        let hint = "for example \"file:///mnt/backup/mld\" or \"s3://my-bucket/mld-backups\"";
        problems.push(document.problem("backup.url", message).hint(hint));
    }
    if settings.storage.s3.endpoint.as_deref().is_some_and(|url| !is_endpoint(url)) {
        let message = "expected a server's URL without a path or a user: https://host or https://host:port";
        let hint = "the bucket stands in storage.url, the key in storage.s3.credentials_file";
        problems.push(document.problem("storage.s3.endpoint", message).hint(hint));
    }
    if settings.storage.s3.proxy.as_deref().is_some_and(|url| !is_endpoint(url)) {
        let message = "expected a proxy's URL without a path or a user: http://host:port";
        let hint = "a proxy that asks for a password cannot be used: what stands here is shown by `mlctl config show`";
        problems.push(document.problem("storage.s3.proxy", message).hint(hint));
    }
    problems
}

/// Whether a text is a server's URL without a path or a user.
pub(super) fn is_endpoint(url: &str) -> bool {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']))
}

/// Whether a URI names a folder, and no other one by a detour.
fn is_folder(url: &str) -> bool {
    let no_detour = |path: &str| !path.split('/').any(|name| matches!(name, "." | ".."));
    match url.split_once("://") {
        Some(("file", path)) => path.starts_with('/') && path.len() > 1 && no_detour(path),
        Some(("s3", rest)) => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            is_bucket(bucket) && no_detour(prefix) && !prefix.contains("//")
        }
        _ => false,
    }
}

/// Where the CLI finds the daemon and how it prints, as far as files say.
///
/// # Errors
/// [`ConfigError`].
pub fn load_client(environment: &Environment) -> Result<ClientFile, ConfigError> {
    let Some(path) = environment.client_file() else { return Ok(ClientFile::default()) };
    let is_named = environment.mlctl_config.is_some();
    match document::read_file(&path, MAX_FILE_BYTES) {
        Ok(text) => {
            let document = Document::parse(&path.display().to_string(), &text).map_err(ConfigError::Wrong)?;
            document.read(&schemars::schema_for!(ClientFile)).map_err(ConfigError::Wrong)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named => Ok(ClientFile::default()),
        Err(source) => Err(ConfigError::Read { path, source }),
    }
}

/// The sockets at which a daemon may be found when nobody says where, best first: the user's own, then the service's.
#[must_use]
pub fn usual_sockets(environment: &Environment) -> Vec<PathBuf> {
    let system = system_socket().unwrap_or_else(|| "/run/mld/mld.sock".into());
    let user = Environment { is_service: false, ..environment.clone() };
    let user = default_places(&user).map(|places| places.socket);
    match (environment.is_service, user) {
        (true, user) => std::iter::once(system).chain(user).collect(),
        (false, user) => user.into_iter().chain([system]).collect(),
    }
}

/// The socket that the system's settings file names. A file that cannot be read or is wrong is the daemon's business.
fn system_socket() -> Option<PathBuf> {
    let text = document::read_file(Path::new(SYSTEM_FILE), MAX_FILE_BYTES).ok()?;
    let file: SettingsFile = toml::from_str(&text).ok()?;
    file.daemon.socket.or_else(|| Some(file.daemon.state_dir?.join("mld.sock")))
}

impl OutputForm {
    /// Every form by its name.
    pub const ALL: [(&'static str, Self); 5] = [
        ("table", Self::Table),
        ("wide", Self::Wide),
        ("json", Self::Json),
        ("jsonl", Self::Jsonl),
        ("name", Self::Name),
    ];
}
