//! What the coordinator knows about a job: its record, and the configuration in it.

use qlora_proto::{GetJobRequest, Job};

use crate::context::Context;
use crate::error::CtlError;

/// The job `id`, as it is by now.
pub async fn find(context: &Context, id: u64) -> Result<Job, CtlError> {
    Ok(context
        .client()
        .await?
        .jobs
        .get_job(GetJobRequest { id })
        .await
        .map_err(context.fault())?
        .into_inner())
}

/// The exact configuration of `job`.
pub fn config(job: &Job) -> Result<serde_json::Value, CtlError> {
    serde_json::from_str(&job.config_json).map_err(|e| CtlError::Usage {
        message: format!(
            "job {} records no configuration that can be read: {e}",
            job.id
        ),
        help: "jobs of this kind may have none".into(),
    })
}
