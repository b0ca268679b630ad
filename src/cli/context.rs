//! What every verb needs, made from flags, environment and the client's file before it runs: where the daemon may be, the form of the output, clock and chance.

use std::path::{Path, PathBuf};

use super::{Failure, Surroundings, args::Global, client::Client, exit::Exit, output::Output};
use crate::{
    config::{self, Environment, OutputForm},
    domain::Clock,
};

/// What every verb needs.
pub struct Context<'a> {
    /// Where everything is printed.
    pub out: Output,
    /// The way to the daemon.
    pub client: Client,
    /// Where the sockets that are tried come from.
    pub origin: Origin,
    /// The environment.
    pub environment: &'a Environment,
    /// The wall clock.
    pub clock: &'a dyn Clock,
    /// Fills bytes at random.
    pub chance: fn(&mut [u8]),
}

/// Who said where the daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `--socket`.
    Socket,
    /// `--state-dir`.
    StateDir,
    /// `MLCTL_SOCKET`.
    Variable,
    /// The client's settings file.
    File,
    /// Nobody: the usual places.
    Usual,
}

impl Origin {
    /// The name that people know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket => "--socket",
            Self::StateDir => "--state-dir",
            Self::Variable => "MLCTL_SOCKET",
            Self::File => "settings file",
            Self::Usual => "default",
        }
    }
}

impl<'a> Context<'a> {
    /// # Errors
    /// The settings file is wrong, or `MLCTL_OUTPUT` names no form.
    pub fn new(global: &Global, surroundings: &Surroundings<'a>) -> Result<Self, Failure> {
        let Surroundings { environment, clock, chance } = *surroundings;
        let file = config::load_client(environment)?;
        let form = match (global.output, environment.mlctl_output.as_deref()) {
            (Some(form), _) => form,
            (None, Some(name)) => form_named(name)?,
            (None, None) => file.output.unwrap_or_default(),
        };
        let one = |path: &Path| vec![environment.absolute(path)];
        let (origin, sockets) = if let Some(socket) = &global.socket {
            (Origin::Socket, one(socket))
        } else if let Some(folder) = &global.state_dir {
            (Origin::StateDir, one(&folder.join("mld.sock")))
        } else if let Some(socket) = &environment.mlctl_socket {
            (Origin::Variable, one(socket))
        } else if let Some(socket) = &file.socket {
            (Origin::File, one(socket))
        } else {
            (Origin::Usual, config::usual_sockets(environment))
        };
        let client = Client::new(sockets.clone(), starter(origin, &sockets));
        Ok(Self { out: Output::new(form, environment), client, origin, environment, clock, chance })
    }

    /// A new idempotency key: milliseconds first, so that keys of the same time stand together in the index, then 80 bits of chance.
    pub fn new_key(&self) -> String {
        let mut bytes = [0; 16];
        (self.chance)(&mut bytes);
        let milliseconds = self.clock.now().as_millisecond().to_be_bytes();
        bytes[..6].copy_from_slice(&milliseconds[2..]);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The command that starts a daemon where one was looked for.
fn starter(origin: Origin, sockets: &[PathBuf]) -> String {
    let folder = sockets.first().filter(|socket| socket.ends_with("mld.sock")).and_then(|socket| socket.parent());
    match (origin, folder) {
        (Origin::Usual, _) => "start one with `mld`, as a service with `systemctl start mld`, or with `mld --state-dir DIR` and name it: mlctl --state-dir DIR".into(),
        (_, Some(folder)) => format!("start one with `mld --state-dir {}`", folder.display()),
        (_, None) => "start one with `mld --state-dir DIR`, and name it: mlctl --state-dir DIR".into(),
    }
}

fn form_named(name: &str) -> Result<OutputForm, Failure> {
    let found = OutputForm::ALL.into_iter().find(|(form, _)| *form == name).map(|(_, form)| form);
    found.ok_or_else(|| {
        let names: Vec<_> = OutputForm::ALL.iter().map(|(name, _)| *name).collect();
        let why = format!("MLCTL_OUTPUT={name:?} is no form of output");
        Failure::new(Exit::Usage, why).hint(format!("use one of {}", names.join(", ")))
    })
}
