//! Follows a job on the screen: one line that rewrites itself on a terminal, a plain line now and
//! then elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use qlora_client::retry::{Backoff, Policy, Verdict, judge};
use qlora_client::{Client, console};
use qlora_proto::{ExplainResponse, Job, JobState, Progress, WatchRequest};

use super::absence::Absence;
use super::waiting::{reason, waiting};
use crate::context::Context;
use crate::error::CtlError;
use crate::interrupt::interrupted;
use crate::output::{human, json, print_json};

/// Time between two looks at why a job waits: workers come and go without a change of the job.
const LOOK: Duration = Duration::from_secs(2);

/// How the following of a job ended.
pub enum Ended {
    Job(Box<Job>),
    /// A signal detached this program; the job goes on.
    Detached,
}

/// What `--json` prints meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum States {
    /// Every state of the job: they are the command's result.
    Printed,
    /// Nothing: the command's result comes after.
    Hidden,
}

/// Shows `id` until it ends, through breaks of the connection; Ctrl-C and SIGTERM detach. Whoever
/// calls has heard of the coordinator a moment ago, so one that cannot be reached is taken to come
/// back.
pub async fn follow(context: &Context, id: u64, states: States) -> Result<Ended, CtlError> {
    let mut screen = Screen::new(context, states);
    let result = tokio::select! {
        result = stream(context, id, &mut screen) => result.map(|job| Ended::Job(Box::new(job))),
        () = interrupted() => Ok(Ended::Detached),
    };
    screen.clear();
    match result {
        Ok(Ended::Detached) => {
            context.say(format!(
                "detached; the job goes on. Attach again: qlora-ctl watch {id}"
            ));
            Ok(Ended::Detached)
        }
        other => other,
    }
}

async fn stream(context: &Context, id: u64, screen: &mut Screen<'_>) -> Result<Job, CtlError> {
    let mut client = context.client().await?;
    let mut absence = Absence::default();
    let mut backoff = Backoff::new(Policy::CALL);
    let fault = context.fault();
    loop {
        let mut heard = false;
        let broken = match client.jobs.watch(WatchRequest { id }).await {
            Ok(answer) => match changes(
                context,
                &mut client,
                answer.into_inner(),
                screen,
                &mut heard,
            )
            .await?
            {
                Stream::Ended(job) => return Ok(*job),
                Stream::Broke(status) => status,
            },
            Err(status) => Some(status),
        };
        if heard {
            backoff.reset();
            absence.end();
        }
        if let Some(status) = broken {
            if judge(&status) != Verdict::Again || absence.is_too_long(Instant::now()) {
                return Err(fault(status));
            }
            screen.note("the coordinator is away, waiting for it");
        }
        backoff.wait().await;
    }
}

/// How a stream of states came to its end.
enum Stream {
    Ended(Box<Job>),
    Broke(Option<tonic::Status>),
}

async fn changes(
    context: &Context,
    client: &mut Client,
    mut changes: tonic::Streaming<Job>,
    screen: &mut Screen<'_>,
    heard: &mut bool,
) -> Result<Stream, CtlError> {
    let mut job: Option<Job> = None;
    loop {
        let is_queued = job
            .as_ref()
            .is_some_and(|job| job.state() == JobState::Queued);
        tokio::select! {
            message = changes.message() => match message {
                Ok(Some(changed)) => {
                    *heard = true;
                    job = Some(changed);
                }
                Ok(None) => return Ok(Stream::Broke(None)),
                Err(status) => return Ok(Stream::Broke(Some(status))),
            },
            () = tokio::time::sleep(LOOK), if is_queued => {}
        }
        let Some(job) = &job else { continue };
        let why = match waiting(context, client, job.clone()).await {
            // The stream brings the state that it has by now.
            Ok((now, _)) if now.state() != job.state() => continue,
            Ok((_, why)) => why,
            // Where this fails the stream breaks too, and says so.
            Err(_) => None,
        };
        screen.show(job, why.as_ref())?;
        if job.state().is_final() {
            return Ok(Stream::Ended(Box::new(job.clone())));
        }
    }
}

struct Screen<'a> {
    context: &'a Context,
    states: States,
    bar: Option<ProgressBar>,
    last: String,
    last_twentieth: u64,
}

impl<'a> Screen<'a> {
    fn new(context: &'a Context, states: States) -> Self {
        let bar = context.draws().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self {
            context,
            states,
            bar,
            last: String::new(),
            last_twentieth: u64::MAX,
        }
    }

    fn show(&mut self, job: &Job, why: Option<&ExplainResponse>) -> Result<(), CtlError> {
        if self.context.global.json {
            return self.json(job, why);
        }
        let p = job.progress.clone().unwrap_or_default();
        let text = format!("{}   {}", job.id, where_it_stands(job, &p, why));
        match &self.bar {
            Some(bar) => bar.set_message(console::line(&text).into_owned()),
            None if job.state() == JobState::Queued => self.once(&text),
            None => self.line(&text, &p),
        }
        Ok(())
    }

    /// Each state once: a look at a job that still waits for the same reason is none.
    fn json(&mut self, job: &Job, why: Option<&ExplainResponse>) -> Result<(), CtlError> {
        if self.states == States::Hidden {
            return Ok(());
        }
        let value = json::job(job, why);
        let text = value.to_string();
        if text != self.last {
            print_json(&value)?;
            self.last = text;
        }
        Ok(())
    }

    /// Without a terminal: each phase once, and training once every twentieth of its steps.
    fn line(&mut self, text: &str, p: &Progress) {
        let twentieth = if p.phase == "training" && p.steps > 0 {
            20 * p.step / p.steps
        } else {
            u64::MAX
        };
        if p.phase != self.last || twentieth != self.last_twentieth {
            self.context.say(text);
            (self.last, self.last_twentieth) = (p.phase.clone(), twentieth);
        }
    }

    fn note(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(console::line(text).into_owned()),
            None => self.once(text),
        }
    }

    fn once(&mut self, text: &str) {
        if self.last != text {
            self.context.say(text);
            self.last = text.to_owned();
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// State and reason, or progress.
fn where_it_stands(job: &Job, p: &Progress, why: Option<&ExplainResponse>) -> String {
    let last = console::line(&job.reason);
    match (job.state(), why) {
        (JobState::Queued, Some(why)) if job.reason.is_empty() => {
            format!("queued: {}", reason(job.id, why))
        }
        (JobState::Queued, Some(why)) => format!(
            "queued again: {}; last attempt: {last}",
            reason(job.id, why)
        ),
        (JobState::Queued, None) if job.reason.is_empty() => "queued".into(),
        (JobState::Queued, None) => format!("queued again: {last}"),
        _ => human::progress(p),
    }
}
