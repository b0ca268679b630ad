//! An inference job: every row of a dataset through a model, in batches, to one file of results that appears whole at the end. In memory are
//! one batch, two pieces of the input and one piece of the output. A retry begins anew.

mod input;
mod lines;
mod meter;
mod output;
mod results;
mod task;

use candle_core::{Device, Tensor};
use mlctl_protocol::{
    message::ReportBody,
    progress::Progress,
    spec::{InferSpec, ModelSpec},
};

use self::output::Output;
pub(crate) use self::{
    input::{Batch, Input, Row},
    meter::{Meter, Score},
    results::Results,
};
use crate::{
    bundle::{self, config::shape, read::Model},
    data::pinned,
    device,
    fault::Fault,
    host::Done,
    job::Job,
    nn::Network,
    orders::Orders,
};

/// Runs an inference job from its model and data to its published results.
///
/// # Errors
/// Whatever a job can end with, see `Fault`.
pub fn run(job: Job<'_>, spec: &InferSpec) -> Result<Done, Fault> {
    let (pinned, plain) = pinned::resolve(job, &spec.data)?;
    let job = Job { pinned: pinned.as_ref(), ..job };
    let predicted = predict(job, &InferSpec { data: plain, ..spec.clone() });
    predicted.map_err(|fault| pinned::explained(pinned.as_ref(), fault))
}

fn predict(job: Job<'_>, spec: &InferSpec) -> Result<Done, Fault> {
    let device = device::open(&job.start.spec.resources)?;
    let model = bundle::read::read(job, &spec.model)?;
    if matches!(model.network, ModelSpec::Gpt(_)) {
        return Err(Fault::spec(
            format!(
                "{} is a gpt, and an inference job predicts rows of numbers: it does not write text yet",
                spec.model.from
            ),
            "load the model's files with Hugging Face's transformers: its tensors have their names",
        ));
    }
    let mut input = Input::open(job, spec, &model)?;
    let predictor = Predictor::new(model, &device)?;
    let mut output = Output::new(job, spec.output, input.task())?;
    let mut meter = Meter::default();
    let rows = predictor.network.rows_at_once(spec.batch_size as usize);
    let mut orders = Orders::default();
    while let Some(batch) = input.next_batch(rows)? {
        orders.poll(job.host);
        if let Some(ending) = orders.ending() {
            output.abort();
            return Err(ending.fault.clone());
        }
        let outputs = predictor.outputs(&batch)?;
        output.write(&batch, &outputs, &mut meter)?;
        let records = Some(output.records() + output.errors());
        job.host.progress(Progress { records, total: input.total(), ..Progress::default() });
    }
    input.check_whole()?;
    let unread = input.unread_labels();
    if unread > 0 {
        let message =
            format!("{unread} labels could not be read; those rows are predicted and left out of the metrics");
        job.host.report(ReportBody::Warning { message })?;
    }
    let output = output.publish()?;
    Ok(Done { metrics: meter.metrics(), model: None, output: Some(output) })
}

/// A model on its device.
pub(crate) struct Predictor<'a> {
    network: Network,
    device: &'a Device,
    inputs: usize,
}

impl<'a> Predictor<'a> {
    pub(crate) fn new(model: Model, device: &'a Device) -> Result<Self, Fault> {
        let on_device = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_device(device)?));
        let weights = model.weights.into_iter().map(on_device).collect::<candle_core::Result<_>>()?;
        Ok(Self { network: Network::new(&model.network, &weights)?, device, inputs: shape(&model.network).0 })
    }

    /// The outputs of a batch's rows, row-major.
    pub(crate) fn outputs(&self, batch: &Batch) -> Result<Vec<f32>, Fault> {
        if batch.rows.is_empty() {
            return Ok(Vec::new());
        }
        let features = Tensor::from_slice(&batch.features, (batch.rows.len(), self.inputs), self.device)?;
        Ok(self.network.forward(&features, None)?.flatten_all()?.to_vec1()?)
    }
}
