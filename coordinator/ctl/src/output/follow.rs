//! Follows a job on the screen: one line that rewrites itself on a terminal, a plain line now and then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use qlora_proto::{Job, JobState, WatchRequest};
use tonic::Code;

use super::{human, json, print_json};
use crate::context::Context;
use crate::error::CtlError;

/// Waits before the stream is opened again.
const RETRY: Duration = Duration::from_millis(500);
/// Time that a coordinator may be away before following ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the following of a job ended.
pub enum Ended {
    Job(Box<Job>),
    /// The person detached; the job goes on.
    Detached,
}

/// Shows `id` until it ends, through breaks of the connection; Ctrl-C detaches.
pub async fn follow(context: &Context, id: u64) -> Result<Ended, CtlError> {
    let mut screen = Screen::new(context);
    let result = tokio::select! {
        result = stream(context, id, &mut screen) => result.map(|job| Ended::Job(Box::new(job))),
        _ = tokio::signal::ctrl_c() => Ok(Ended::Detached),
    };
    screen.clear();
    if matches!(result, Ok(Ended::Detached)) {
        context.say(format!("detached; the job goes on. Attach again: qlora-ctl watch {id}"));
    }
    result
}

async fn stream(context: &Context, id: u64, screen: &mut Screen<'_>) -> Result<Job, CtlError> {
    let mut client = context.client()?;
    let mut last_word = Instant::now();
    let fault = context.fault();
    loop {
        let opened = client.jobs.watch(WatchRequest { id }).await;
        let broken = match opened {
            Ok(answer) => {
                let mut changes = answer.into_inner();
                loop {
                    match changes.message().await {
                        Ok(Some(job)) => {
                            last_word = Instant::now();
                            screen.show(&job);
                            if job.state().is_final() {
                                return Ok(job);
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        if let Some(status) = broken {
            let passing = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal);
            if !passing || last_word.elapsed() > PATIENCE {
                return Err(fault(status));
            }
            screen.note("the coordinator is away, waiting for it");
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct Screen<'a> {
    context: &'a Context,
    bar: Option<ProgressBar>,
    last: String,
    last_twentieth: u64,
}

impl<'a> Screen<'a> {
    fn new(context: &'a Context) -> Self {
        let bar = context.draws().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { context, bar, last: String::new(), last_twentieth: u64::MAX }
    }

    fn show(&mut self, job: &Job) {
        if self.context.global.json {
            return print_json(&json::job(job));
        }
        let p = job.progress.clone().unwrap_or_default();
        let text = match job.state() {
            JobState::Queued if job.reason.is_empty() => format!("{}   queued", job.id),
            JobState::Queued => format!("{}   queued again: {}", job.id, job.reason),
            _ => format!("{}   {}", job.id, human::progress(&p)),
        };
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => self.line(&text, &p),
        }
    }

    /// Without a terminal: each phase once, and training once every twentieth of its steps.
    fn line(&mut self, text: &str, p: &qlora_proto::Progress) {
        let twentieth = if p.phase == "training" && p.steps > 0 { 20 * p.step / p.steps } else { u64::MAX };
        let word =
            if twentieth == u64::MAX { format!("{} {}", p.phase, text.contains("queued")) } else { "training".into() };
        if word != self.last || twentieth != self.last_twentieth {
            self.context.say(text);
            (self.last, self.last_twentieth) = (word, twentieth);
        }
    }

    fn note(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if self.last != text => {
                self.context.say(text);
                self.last = text.to_owned();
            }
            None => {}
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
