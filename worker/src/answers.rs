//! `qlora-worker score` and `generate`: a model, with or without an adapter, at work.

use std::path::Path;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use qlora_config::{Compute, DeviceKind, ModelConfig, Quantization};
use qlora_trainer::score::{Answerer, Scores, Subject};
use serde_json::json;

use crate::cli::{AgentArgs, GenerateArgs, ScoreArgs, SubjectArgs};
use crate::error::WorkerError;
use crate::models;

/// Scores and prints.
pub fn score(agent: &AgentArgs, args: &ScoreArgs) -> Result<ExitCode, WorkerError> {
    let answerer = open(agent, &args.subject)?;
    let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} rows, {elapsed}") {
        bar.set_style(style);
    }
    let name = args.data.display().to_string();
    let scores = answerer.score(&args.data, &name, args.rows, |row| {
        bar.set_position(row.rows as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string(&scores).unwrap_or_default());
    } else {
        print(&scores);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(scores: &Scores) {
    println!("rows          {}", scores.rows);
    if scores.left_out > 0 {
        println!("left out      {}, longer than the model's positions", scores.left_out);
    }
    println!("loss          {:.4} over {} tokens", scores.loss, scores.tokens);
    println!("perplexity    {:.3}", scores.perplexity);
    if let Some(calls) = &scores.calls {
        println!("tool calls    {} rows", calls.rows);
        for (what, share) in [
            ("valid JSON", calls.valid_json),
            ("fits schema", calls.schema_valid),
            ("right names", calls.names_match),
            ("all exact", calls.exact_match),
        ] {
            println!("  {what:<11} {:.1} %", 100.0 * share);
        }
    }
}

/// Answers one message and prints the answer.
pub fn generate(agent: &AgentArgs, args: &GenerateArgs) -> Result<ExitCode, WorkerError> {
    let tools = args.tools.as_deref().map(read_tools).transpose()?.unwrap_or_default();
    let messages = vec![json!({"role": "user", "content": args.prompt})];
    let conversation = qlora_trainer::score::Conversation { messages, tools };
    println!("{}", open(agent, &args.subject)?.answer(&conversation)?);
    Ok(ExitCode::SUCCESS)
}

fn read_tools(path: &Path) -> Result<Vec<serde_json::Value>, WorkerError> {
    let text = std::fs::read_to_string(path).map_err(WorkerError::io(path))?;
    serde_json::from_str(&text).map_err(|e| WorkerError::Input(format!("{}: no list of tools: {e}", path.display())))
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
    answerer.notes.iter().for_each(|note| eprintln!("warning: {note}"));
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
