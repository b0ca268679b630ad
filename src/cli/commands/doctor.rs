//! `mlctl doctor`: whether everything is as it should be, first here, then in the daemon.

use clap::Args;

use crate::{
    api::types::{CheckStatus, CheckView, DaemonView, DoctorView, SCHEMA},
    cli::{Context, Done, Failure, client::LONG_LIMIT, exit::Exit, output::daemon},
};

const EXAMPLES: &str = "\
The exit code is 1 when a check failed, 3 when there is no daemon to ask; warnings do not count.

Examples:
  mlctl doctor
  mlctl doctor -o json | jq '.checks[] | select(.status != \"ok\")'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {}

impl Arguments {
    pub fn goal(&self) -> String {
        "examine the daemon".into()
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let mut checks = Vec::new();
        // Whoever asks a doctor wants to know what is wrong as a finding, not as an error.
        let exit = match ask(context, &mut checks).await {
            Ok(()) if checks.iter().all(|check| check.status != CheckStatus::Fail) => Exit::Ok,
            Ok(()) => Exit::Failed,
            Err(failure) => {
                let exit = failure.exit;
                checks.push(check(CheckStatus::Fail, "daemon", failure.why.join("; "), failure.hint));
                exit
            }
        };
        daemon::doctor(&mut context.out, &DoctorView { schema: SCHEMA, ok: exit == Exit::Ok, checks })?;
        Ok(exit)
    }
}

async fn ask(context: &Context<'_>, checks: &mut Vec<CheckView>) -> Result<(), Failure> {
    let daemon: DaemonView = context.client.get("/v1/daemon").await?;
    checks.push(check(CheckStatus::Ok, "daemon", format!("answers at {}", daemon.socket), None));
    checks.push(release(env!("CARGO_PKG_VERSION"), &daemon.version));
    let view: DoctorView = context.client.get_within("/v1/doctor", LONG_LIMIT).await?;
    checks.extend(view.checks);
    Ok(())
}

/// Whether the two programs are of one release.
fn release(own: &str, daemons: &str) -> CheckView {
    if own == daemons {
        return check(CheckStatus::Ok, "release", format!("mlctl and mld are {own}"), None);
    }
    let hint = "restart the daemon after an upgrade: `mlctl daemon stop`; jobs run on".to_owned();
    check(CheckStatus::Warn, "release", format!("mlctl is {own}, mld is {daemons}"), Some(hint))
}

fn check(status: CheckStatus, name: &str, detail: String, hint: Option<String>) -> CheckView {
    CheckView { name: name.into(), status, detail, hint }
}
