//! Reads a job's log line by line; with `follow` until the job has ended, through breaks of the
//! connection. What a line looks like on the screen is the command's.

use std::time::Instant;

use qlora_client::Client;
use qlora_client::retry::{Backoff, Policy, Verdict, judge};
use qlora_proto::{GetJobRequest, LogLine, StreamLogsRequest};

use super::absence::Absence;
use crate::context::Context;
use crate::error::CtlError;

/// Gives every line of the log of job `id` to `show`, each once and in order.
///
/// # Errors
/// A coordinator that was never heard, or that is away for too long; a job that is not known; whatever
/// `show` returns.
pub async fn read(
    context: &Context,
    id: u64,
    follow: bool,
    mut show: impl FnMut(&LogLine) -> Result<(), CtlError>,
) -> Result<(), CtlError> {
    let mut log = Log {
        client: context.client().await?,
        id,
        after: 0,
        last_word: None,
    };
    let (mut until_end, mut told, mut absence) = (follow, false, Absence::default());
    let mut backoff = Backoff::new(Policy::CALL);
    loop {
        let heard = log.last_word;
        let broken = match log.stream(until_end, &mut show).await? {
            None if !until_end => return Ok(()),
            // A coordinator that stops ends the stream like a job that has ended.
            None => match log.has_ended().await {
                Ok(true) => {
                    until_end = false;
                    continue;
                }
                Ok(false) => None,
                Err(status) => Some(status),
            },
            broken => broken,
        };
        if log.last_word > heard {
            backoff.reset();
            absence.end();
            told = false;
        }
        if let Some(status) = broken {
            let is_silent = log.last_word.is_none() || absence.is_too_long(Instant::now());
            if !follow || is_silent || judge(&status) != Verdict::Again {
                return Err(context.fault()(status));
            }
            if !std::mem::replace(&mut told, true) {
                context.say("the coordinator is away, waiting for it");
            }
        }
        backoff.wait().await;
    }
}

struct Log {
    client: Client,
    id: u64,
    /// The last line that was shown.
    after: u64,
    last_word: Option<Instant>,
}

impl Log {
    /// Shows the lines of one stream; the status that broke it, if one did.
    async fn stream(
        &mut self,
        follow: bool,
        show: &mut impl FnMut(&LogLine) -> Result<(), CtlError>,
    ) -> Result<Option<tonic::Status>, CtlError> {
        let request = StreamLogsRequest {
            id: self.id,
            after: self.after,
            follow,
        };
        let mut lines = match self.client.jobs.stream_logs(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Some(status)),
        };
        self.last_word = Some(Instant::now());
        loop {
            match lines.message().await {
                Ok(Some(line)) => {
                    self.last_word = Some(Instant::now());
                    show(&line)?;
                    self.after = line.seq;
                }
                Ok(None) => return Ok(None),
                Err(status) => return Ok(Some(status)),
            }
        }
    }

    async fn has_ended(&mut self) -> Result<bool, tonic::Status> {
        let request = GetJobRequest { id: self.id };
        let job = self.client.jobs.get_job(request).await?.into_inner();
        Ok(job.state().is_final())
    }
}
