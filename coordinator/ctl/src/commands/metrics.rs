use std::process::ExitCode;

use clap::Args;
use qlora_proto::numbers::whole;
use qlora_proto::{GetMetricsRequest, Metric};

use crate::arguments::job_number;
use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{human, json, print, print_json};

/// Print a job's metrics.
#[derive(Debug, Args)]
pub struct Metrics {
    /// Number of the job, as `jobs` lists it.
    #[arg(allow_negative_numbers = true, value_parser = job_number)]
    job: u64,
    /// Only points after this number.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = whole::<u64>("the number of a point", 0..))]
    after: u64,
}

impl Metrics {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let mut client = context.client().await?;
        let mut after = self.after;
        let mut points = Vec::new();
        loop {
            let request = GetMetricsRequest {
                id: self.job,
                after,
                limit: 10_000,
            };
            let page = client
                .jobs
                .get_metrics(request)
                .await
                .map_err(context.fault())?
                .into_inner()
                .points;
            let Some(last) = page.last() else { break };
            after = last.seq;
            points.extend(page);
        }
        if context.global.json {
            points
                .iter()
                .try_for_each(|p| print_json(&json::metric(p)))?;
            return Ok(Exit::Done.into());
        }
        if points.is_empty() {
            let which = if self.after > 0 {
                format!(" after {}", self.after)
            } else {
                String::new()
            };
            context.say(format!("job {} has no metrics{which}", self.job));
            return Ok(Exit::Done.into());
        }
        let metrics = [
            Metric::Loss,
            Metric::EvalLoss,
            Metric::GradNorm,
            Metric::LearningRate,
            Metric::TokensPerSecond,
        ];
        let cell = |v: Option<f64>| {
            v.map(|v| {
                if v.abs() < 1e-3 && v != 0.0 {
                    format!("{v:.2e}")
                } else {
                    format!("{v:.4}")
                }
            })
            .unwrap_or_default()
        };
        let row = |p: &qlora_proto::MetricPoint| {
            let values = metrics.iter().map(|metric| cell(p.value(*metric)));
            std::iter::once(p.step.to_string())
                .chain(values)
                .collect::<Vec<_>>()
        };
        let rows: Vec<_> = points.iter().map(row).collect();
        let columns = [
            ("STEP", 0),
            ("LOSS", 0),
            ("EVAL", 1),
            ("GRAD", 2),
            ("LR", 3),
            ("TOK/S", 4),
        ];
        print(human::table(
            &columns.map(|(heading, rank)| human::number(heading, rank)),
            &rows,
        ))?;
        Ok(Exit::Done.into())
    }
}
