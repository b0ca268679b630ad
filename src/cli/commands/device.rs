//! `mlctl device`: the GPUs that jobs are given, what is done with them, and who may have them.

use clap::{Args, Subcommand};

use crate::{
    api::{
        query::segment,
        types::{DeviceList, DeviceRequest, DeviceState, DeviceView},
    },
    cli::{
        Context, Done, Failure,
        client::{ANSWER_LIMIT, Client},
        exit::Exit,
        output,
    },
};

const EXAMPLES: &str = "\
A job with --gpus N has so many GPUs for itself; with --vram it shares them with others while they have so much memory left. It sees no other (CUDA_VISIBLE_DEVICES). A GPU on which
processes of others compute, or of whose memory they have more than 1 GiB, is given to nobody for itself, and to jobs with --vram as far as memory is left. Jobs without GPUs never wait for one.

DEVICE is a GPU's index, its UUID, or the beginning of that.

Examples:
  mlctl device ls
  mlctl device drain 0 --reason 'fan replaced on Friday'   no job starts on it; what runs goes on
  mlctl device reserve 1 --queue night                     only for jobs of that queue
  mlctl device reserve GPU-8f6 --user ada
  mlctl device open 0 1                                    for everybody again";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List GPUs with what is done with them
    #[command(after_help = EXAMPLES)]
    Ls,
    /// Start no job on these GPUs until `open`; jobs that have them keep them
    #[command(after_help = EXAMPLES)]
    Drain(Named),
    /// Start only jobs of a queue or a user on these GPUs; other jobs that have them keep them
    #[command(after_help = EXAMPLES)]
    Reserve(Reserve),
    /// Give these GPUs to every job again
    #[command(after_help = EXAMPLES)]
    Open(Named),
}

#[derive(Debug, Args)]
struct Named {
    /// The GPUs
    #[arg(required = true, value_name = "DEVICE")]
    devices: Vec<String>,
    /// What for; others see it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
struct Reserve {
    #[command(flatten)]
    named: Named,
    /// The queue whose jobs may have them
    #[arg(long, value_name = "QUEUE", required_unless_present = "user", conflicts_with = "user")]
    queue: Option<String>,
    /// The user whose jobs may have them: a login name or a user id
    #[arg(long, value_name = "USER")]
    user: Option<String>,
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Ls => "list GPUs".into(),
            Verb::Drain(named) => format!("drain GPU {}", named.devices.join(", ")),
            Verb::Reserve(reserve) => format!("reserve GPU {}", reserve.named.devices.join(", ")),
            Verb::Open(named) => format!("open GPU {}", named.devices.join(", ")),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        match self.verb {
            Verb::Ls => {
                let list: DeviceList = context.client.get("/v1/devices").await?;
                output::devices::list(&mut context.out, &list)?;
                Ok(Exit::Ok)
            }
            Verb::Drain(named) => assign(context, named, (DeviceState::Drained, None, None)).await,
            Verb::Reserve(Reserve { named, queue, user }) => {
                assign(context, named, (DeviceState::Reserved, queue, user)).await
            }
            Verb::Open(named) => assign(context, named, (DeviceState::Open, None, None)).await,
        }
    }
}

/// Says who may have GPUs.
async fn assign(
    context: &mut Context<'_>,
    Named { devices, reason }: Named,
    (state, queue, user): (DeviceState, Option<String>, Option<String>),
) -> Done {
    let request = DeviceRequest { state, queue, user, reason };
    let ask = async |client: &Client, device: &str| -> Result<DeviceView, Failure> {
        client.post_body(&format!("/v1/devices/{}", segment(device)), &request, ANSWER_LIMIT).await
    };
    super::each(context, devices, ask, output::devices::changed).await
}
