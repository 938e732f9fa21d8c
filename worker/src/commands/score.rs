use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qlora_proto::numbers::whole;
use qlora_proto::words::count;
use qlora_trainer::scores::Scores;
use serde_json::{Value, json};

use super::subject::SubjectArgs;
use crate::cli::AgentArgs;
use crate::error::WorkerError;
use crate::output::{number, print, print_json};

/// Scores a model on held-out rows: loss, and how many of its own tool calls are right.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Score {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Held-out rows, in any form that training takes.
    #[arg(long)]
    data: PathBuf,
    /// Rows at the most.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true, allow_negative_numbers = true, value_parser = whole::<usize>("a number of rows", 0..))]
    rows: usize,
}

const EXAMPLE: &str = "Example:
  qlora-worker score --model smollm2-135m-instruct --adapter adapter-1 --data eval.jsonl --rows 100";

impl Score {
    pub fn run(&self, agent: &AgentArgs, as_json: bool) -> Result<ExitCode, WorkerError> {
        let answerer = self.subject.open(agent)?;
        let bar = if as_json {
            ProgressBar::hidden()
        } else {
            ProgressBar::new_spinner()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} rows, {elapsed}") {
            bar.set_style(style);
        }
        let name = self.data.display().to_string();
        let scores = answerer.score(&self.data, &name, self.rows, |row| {
            bar.set_position(row.rows as u64);
            Ok(())
        })?;
        bar.finish_and_clear();
        if as_json {
            print_json(&scores_json(&scores))?;
        } else {
            print_scores(&scores)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn scores_json(s: &Scores) -> Value {
    let calls = s.calls.as_ref().map(|c| {
        json!({
            "rows": c.rows, "valid_json": number(c.valid_json), "schema_valid": number(c.schema_valid),
            "names_match": number(c.names_match), "exact_match": number(c.exact_match),
        })
    });
    let (loss, perplexity) = (number(s.loss), number(s.perplexity));
    json!({"v": 1, "rows": s.rows, "left_out": s.left_out, "tokens": s.tokens, "loss": loss, "perplexity": perplexity, "calls": calls})
}

fn print_scores(scores: &Scores) -> Result<(), WorkerError> {
    print(format!("rows          {}", scores.rows))?;
    if scores.left_out > 0 {
        print(format!(
            "left out      {}, longer than the model's positions",
            scores.left_out
        ))?;
    }
    print(format!(
        "loss          {:.4} over {} tokens",
        scores.loss, scores.tokens
    ))?;
    print(format!("perplexity    {:.3}", scores.perplexity))?;
    if let Some(calls) = &scores.calls {
        print(format!("tool calls    {}", count(calls.rows as u64, "row")))?;
        for (what, share) in [
            ("valid JSON", calls.valid_json),
            ("fits schema", calls.schema_valid),
            ("right names", calls.names_match),
            ("all exact", calls.exact_match),
        ] {
            print(format!("  {what:<11} {:.1} %", 100.0 * share))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_that_are_not_finite_stay_what_they_are() {
        let said = scores_json(&Scores {
            loss: f64::NAN,
            perplexity: f64::INFINITY,
            ..Scores::default()
        });
        assert_eq!(
            (&said["loss"], &said["perplexity"], &said["calls"]),
            (&"NaN".into(), &"Infinity".into(), &Value::Null)
        );
    }
}
