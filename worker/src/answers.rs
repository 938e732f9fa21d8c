//! `qlora-worker score` and `generate`: a model, with or without an adapter, at work.

use std::path::Path;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use qlora_client::console;
use qlora_config::{Compute, DeviceKind, ModelConfig, Quantization};
use qlora_proto::words::count;
use qlora_trainer::score::{Answerer, Subject};
use qlora_trainer::scores::Scores;
use serde_json::{Value, json};

use crate::cli::{AgentArgs, GenerateArgs, ScoreArgs, SubjectArgs};
use crate::error::WorkerError;
use crate::models;
use crate::output::{number, print, print_json};

/// Scores and prints.
pub fn score(agent: &AgentArgs, args: &ScoreArgs, as_json: bool) -> Result<ExitCode, WorkerError> {
    let answerer = open(agent, &args.subject)?;
    let bar = if as_json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new_spinner()
    };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} rows, {elapsed}") {
        bar.set_style(style);
    }
    let name = args.data.display().to_string();
    let scores = answerer.score(&args.data, &name, args.rows, |row| {
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

/// Answers one message and prints the answer.
pub fn generate(
    agent: &AgentArgs,
    args: &GenerateArgs,
    as_json: bool,
) -> Result<ExitCode, WorkerError> {
    let tools = args
        .tools
        .as_deref()
        .map(read_tools)
        .transpose()?
        .unwrap_or_default();
    let messages = vec![json!({"role": "user", "content": args.prompt})];
    let conversation = qlora_trainer::score::Conversation { messages, tools };
    let answer = open(agent, &args.subject)?.answer(&conversation)?;
    if as_json {
        print_json(&json!({"v": 1, "answer": answer}))?
    } else {
        print(answer)?
    }
    Ok(ExitCode::SUCCESS)
}

fn read_tools(path: &Path) -> Result<Vec<serde_json::Value>, WorkerError> {
    let text = std::fs::read_to_string(path).map_err(WorkerError::io(path))?;
    // Editors put a byte order mark before the text.
    serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|e| WorkerError::Input(format!("{}: no list of tools: {e}", path.display())))
}

fn open(agent: &AgentArgs, args: &SubjectArgs) -> Result<Answerer, WorkerError> {
    let model = models::resolve(&args.model, &models::Quiet)?;
    let config = ModelConfig::held_as(Quantization::Auto, Compute::Auto);
    let answerer = Answerer::open(&Subject {
        model,
        adapter: args.adapter.clone(),
        config: &config,
        template: args.template.clone(),
        max_new_tokens: args.max_new_tokens,
        device: device_kind(agent.device.as_deref()),
    })?;
    answerer
        .notes
        .iter()
        .for_each(|note| console::note(&format!("warning: {note}")));
    Ok(answerer)
}

fn device_kind(name: Option<&str>) -> DeviceKind {
    match name {
        Some("cpu") => DeviceKind::Cpu,
        Some("cuda") => DeviceKind::Cuda,
        Some("metal") => DeviceKind::Metal,
        _ => DeviceKind::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_before_a_list_of_tools_is_skipped() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("tools.json");
        for mark in ["", "\u{feff}"] {
            std::fs::write(&path, format!("{mark}[{{\"type\": \"function\"}}]")).expect("a file");
            assert_eq!(
                read_tools(&path).expect("tools"),
                [json!({"type": "function"})]
            );
        }
        std::fs::write(&path, "[\u{feff}]").expect("a file");
        assert!(read_tools(&path).is_err());
    }

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
