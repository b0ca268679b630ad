//! `mlctl plot`: a job's learning curve in the terminal, and how its final model tells classes apart.

use std::{collections::BTreeMap, path::Path};

use clap::Args;
use mlctl_protocol::JobId;
use serde::Serialize;

use super::{job_name, job_path};
use crate::{
    api::{
        query::{MAX_PAGE_LIMIT, PageQuery, address},
        types::{JobView, MetricList, PointView, SCHEMA},
    },
    cli::{
        Context, Done, Failure,
        exit::Exit,
        output::{
            confusion::{self, Evaluation},
            plot::{self, Series},
        },
    },
    config::document,
};

/// The file in a model's folder that says how good it is.
const EVALUATION_FILE: &str = "evaluation.json";

/// The largest of these: a matrix of 1,000 classes.
const MAX_EVALUATION_BYTES: u64 = 32 * 1024 * 1024;

/// Points of a curve that are read at most.
const MAX_POINTS: usize = 1_000_000;

const EXAMPLES: &str = "\
Draws the losses and, where there are some, the accuracies; for a classifier that has ended, the confusion matrix too.

Examples:
  mlctl plot digits
  mlctl plot @last --metric train_loss --metric val_loss --log
  mlctl plot 17 -o jsonl > curve.jsonl";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The job: an id, a name or @last
    #[arg(value_parser = job_name)]
    job: String,
    /// Draw this metric; may be repeated [default: losses and accuracies]
    #[arg(long, value_name = "NAME")]
    metric: Vec<String>,
    /// A logarithmic scale
    #[arg(long)]
    log: bool,
}

/// The curve as JSON.
#[derive(Serialize)]
struct PlotView<'a> {
    schema: u32,
    id: JobId,
    points: &'a [PointView],
    evaluation: Option<Evaluation>,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("plot {}", self.job)
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let job: JobView = context.client.get(&job_path(&self.job, "")).await?;
        let points = points(context, job.id).await?;
        let evaluation = job.model.as_ref().and_then(|model| evaluation(&model.uri));
        if context.out.is_json() {
            context.out.json_list(&PlotView { schema: SCHEMA, id: job.id, points: &points, evaluation }, &points)?;
            return Ok(Exit::Ok);
        }
        let series = collect(&points);
        for (heading, chosen) in self.charts(&series)? {
            plot::draw(&mut context.out, &heading, &chosen, self.log)?;
        }
        if series.is_empty() {
            context.out.say(format!(
                "job {} ({}) has no points yet; `mlctl why {}` says where it stands",
                job.id, job.name, job.id
            ));
        }
        if let Some(evaluation) = evaluation.filter(|_| self.metric.is_empty()) {
            confusion::draw(&mut context.out, &evaluation)?;
        }
        Ok(Exit::Ok)
    }

    /// What is drawn: the metrics that were named in one chart, or a chart each of losses and accuracies.
    fn charts<'a>(&self, series: &'a BTreeMap<String, Series>) -> Result<Vec<(String, Vec<&'a Series>)>, Failure> {
        if self.metric.is_empty() {
            let ending = |end: &str| series.values().filter(|one| one.name.ends_with(end)).collect::<Vec<_>>();
            let charts = [("loss".to_owned(), ending("loss")), ("accuracy".to_owned(), ending("accuracy"))];
            return Ok(charts.into_iter().filter(|(_, chosen)| !chosen.is_empty()).collect());
        }
        let mut chosen = Vec::new();
        for name in &self.metric {
            let full = if name == "lr" { "learning_rate" } else { name };
            chosen.push(series.get(name).or_else(|| series.get(full)).ok_or_else(|| {
                let names: Vec<_> = series.keys().map(String::as_str).collect();
                Failure::new(Exit::NotFound, format!("there is no metric {name}"))
                    .hint(format!("there are: {}", if names.is_empty() { "none yet".into() } else { names.join(", ") }))
            })?);
        }
        Ok(vec![(self.metric.join(", "), chosen)])
    }
}

async fn points(context: &Context<'_>, id: JobId) -> Result<Vec<PointView>, Failure> {
    let mut points: Vec<PointView> = Vec::new();
    let mut query = PageQuery { limit: Some(MAX_PAGE_LIMIT), ..PageQuery::default() };
    while points.len() < MAX_POINTS {
        let page: MetricList = context.client.get(&address(&job_path(&id.to_string(), "metrics"), &query)).await?;
        points.extend(page.points);
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    Ok(points)
}

fn collect(points: &[PointView]) -> BTreeMap<String, Series> {
    let mut series = BTreeMap::<String, Series>::new();
    for point in points {
        for (name, value) in &point.values {
            let one = series.entry(name.clone()).or_insert_with(|| Series { name: name.clone(), points: Vec::new() });
            one.points.push((point.step, *value));
        }
    }
    series
}

/// The evaluation beside a model that is on this machine, where there is one that can be read.
fn evaluation(model: &str) -> Option<Evaluation> {
    let folder = Path::new(model.strip_prefix("file://")?);
    let text = document::read_file(&folder.join(EVALUATION_FILE), MAX_EVALUATION_BYTES).ok()?;
    serde_json::from_str(&text).ok()
}
