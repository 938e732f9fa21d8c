//! Words that records have in a database, whatever the code calls them.

mod common;

use common::job;
use qlora_engine::{AfterStop, Artifact, ArtifactKind, File, FileRole, Job, JobState, Stop};

/// Jobs that were recorded by other versions have these words.
#[test]
fn a_recorded_job_has_its_roles_and_kinds_as_words() {
    let mut job = job(1);
    let file = job.spec.files[0].clone();
    job.spec.files = [FileRole::Train, FileRole::Eval, FileRole::Adapter]
        .map(|role| File {
            role,
            ..file.clone()
        })
        .to_vec();
    job.artifacts = [ArtifactKind::Checkpoint, ArtifactKind::Adapter]
        .map(|kind| Artifact {
            kind,
            name: "a".into(),
            digest: "d".into(),
            size: 1,
            step: 2,
        })
        .to_vec();
    let json = serde_json::to_value(&job).expect("JSON");
    let words = |list: &serde_json::Value, key: &str| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|one| one[key].as_str().expect("a word").to_owned())
            .collect()
    };
    assert_eq!(
        words(&json["spec"]["files"], "role"),
        ["train", "eval", "adapter"]
    );
    assert_eq!(words(&json["artifacts"], "kind"), ["checkpoint", "adapter"]);
    assert_eq!(serde_json::from_value::<Job>(json).expect("a job"), job);
}

#[test]
fn a_stop_that_was_stored_before_jobs_could_be_paused_is_a_cancel() {
    let old = r#"{"Running": {"token": 4294967297, "worker": "a", "stopping": "by user"}}"#;
    let state: JobState = serde_json::from_str(old).expect("a state");
    let JobState::Running {
        stopping: Some(stop),
        ..
    } = state
    else {
        panic!("{state:?}");
    };
    assert_eq!(
        (stop.reason.as_str(), stop.then),
        ("by user", AfterStop::Cancelled)
    );
    let text = serde_json::to_string(&stop).expect("text");
    assert_eq!(serde_json::from_str::<Stop>(&text).expect("a stop"), stop);
}
