//! How an attempt ended.

use qlora_codes::Code;
use qlora_proto::Outcome;

#[derive(Debug, Clone)]
pub struct ExitStatus {
    pub outcome: Outcome,
    pub message: String,
    /// The error code of what `message` tells, as the training process gave it; empty where it has
    /// none.
    pub code: String,
    /// Of an attempt that was stopped: whether its job goes on.
    pub resumes: bool,
}

impl ExitStatus {
    pub fn of(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            outcome,
            message: message.into(),
            code: String::new(),
            resumes: false,
        }
    }

    pub fn succeeded() -> Self {
        Self::of(Outcome::Succeeded, "")
    }

    pub fn with_code(self, code: Code) -> Self {
        Self {
            code: code.into(),
            ..self
        }
    }

    /// What is told of it, the newest step that the coordinator has of this attempt being `saved`.
    pub fn told(&self, saved: Option<u64>) -> String {
        let is_stopped = matches!(self.outcome, Outcome::Stopped | Outcome::Lost);
        let saved = saved
            .filter(|_| is_stopped)
            .map(|step| format!("; saved step {step}"))
            .unwrap_or_default();
        let next = if self.resumes {
            "; the job will resume"
        } else {
            ""
        };
        format!("{}{saved}{next}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_says_why_it_stopped_what_is_saved_and_whether_the_job_goes_on() {
        let stopped = |reason: &str, resumes| ExitStatus {
            resumes,
            ..ExitStatus::of(Outcome::Stopped, reason)
        };
        let worker = stopped("the worker is shutting down", true);
        assert_eq!(
            worker.told(Some(12)),
            "the worker is shutting down; saved step 12; the job will resume"
        );
        assert_eq!(
            worker.told(None),
            "the worker is shutting down; the job will resume"
        );
        assert_eq!(
            stopped("by user", false).told(Some(3)),
            "by user; saved step 3"
        );
        assert_eq!(
            ExitStatus::of(Outcome::Failed, "it broke").told(Some(3)),
            "it broke"
        );
    }
}
