use std::process::ExitCode;

use clap::Args;
use qlora_client::console;
use qlora_proto::ExplainRequest;
use serde_json::json;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{json, print, print_json};

/// Codes with what they mean and what helps.
const CODES: &[(&str, &str)] = &[
    (
        "Q0001",
        "The command line asks for something that cannot be done. The message names it.",
    ),
    (
        "Q0100",
        "The configuration file is not YAML, or gives a key twice. The message names the lines.",
    ),
    (
        "Q0101",
        "A key is not known. Keys stand in docs/reference/config.md; the nearest known key is suggested.",
    ),
    (
        "Q0102",
        "A recorded configuration cannot be read, mostly because another version wrote it.",
    ),
    (
        "Q0103",
        "A value is outside its range, or does not go with another one.",
    ),
    ("Q0104", "--set needs key=value, such as --set lora.r=8."),
    ("Q0105", "extends: takes h100, m4 or cpu."),
    ("Q0106", "A key is missing that has no default."),
    (
        "Q0107",
        "A value is not one of the words that the key takes.",
    ),
    (
        "Q0108",
        "A value has the wrong type, such as text where a number belongs.",
    ),
    (
        "Q0109",
        "A key has no effect, because another key or the length of the run overrules it. docs/reference/config.md lists all such keys.",
    ),
    (
        "Q0203",
        "A row of the data is no conversation, or no row of a file can be trained on. A row is {\"messages\": [{\"role\": ..., \"content\": ...}], \"tools\": [...]}.",
    ),
    (
        "Q0204",
        "The chat template cannot render a row. The message names the row; data.template takes another template.",
    ),
    (
        "Q0205",
        "Rows have keys that nothing reads, which is a warning. A misspelt key is one of them: what it says is not trained on.",
    ),
    (
        "Q0301",
        "The run needs more memory than the device has. The message says what would fit.",
    ),
    ("Q0302", "The model cannot be found or fetched."),
    (
        "Q0303",
        "The device that was asked for is not here, or the worker was built without it.",
    ),
    (
        "Q0304",
        "The device's memory ran out while the run was going on. The message says what would need less.",
    ),
    (
        "Q0401",
        "No coordinator answers. It is not running, or the address or the network is wrong.",
    ),
    (
        "Q0402",
        "The address, the token or its file cannot be used as it is given. The message says which.",
    ),
    (
        "Q0403",
        "The coordinator answers and refuses: a name that is taken, a job that is not there, a host that it does not go by.",
    ),
    (
        "Q0404",
        "The coordinator does not take the token, or the call brought none. Its token is the first line of the file `token` in its state folder, or of the file that its --token-file names. Programs that the same user runs on the same machine find it by themselves; others are given it by --token-file or QLORA_TOKEN.",
    ),
    ("Q0405", "The coordinator cannot listen on its address."),
    (
        "Q0407",
        "The coordinator's token file cannot be used: it is missing, too short, open to everybody, or cannot be made.",
    ),
    (
        "Q0408",
        "Neither HOME nor --state-dir says where state may lie.",
    ),
    (
        "Q0409",
        "Two workers, or two coordinators, cannot share one state folder.",
    ),
    (
        "Q0410",
        "The coordinator answers and has trouble of its own, such as a full disk. What it acknowledged is safe.",
    ),
    (
        "Q0501",
        "The job failed. Its log says at which step and why.",
    ),
    (
        "Q0503",
        "The job was cancelled; its last checkpoint is kept.",
    ),
    (
        "Q0504",
        "The job did not end within the time that was given. It goes on.",
    ),
    (
        "Q0511",
        "The model's files cannot be used as they are: one is missing, cut off or not of its format, two do not agree, or a text does not go with them. Download the model again, or repair what the message names.",
    ),
    (
        "Q0512",
        "The adapter cannot be used: it was made in a way that is not read here, or for another model.",
    ),
    (
        "Q0513",
        "A checkpoint cannot be read or written, or belongs to another configuration.",
    ),
    (
        "Q0514",
        "A model or an adapter cannot be exported as asked, such as into numbers that cannot hold its values.",
    ),
    (
        "Q0515",
        "Training or scoring cannot go on: numbers are not finite, or gradients reach no adapter. Lower training.learning_rate, or look for a broken row with qlora-ctl data check.",
    ),
    (
        "Q0516",
        "The workers that train a job together cannot reach each other, or do not work on the same.",
    ),
    (
        "Q0517",
        "A computation failed on the device. The message is the device's own.",
    ),
    (
        "Q0518",
        "The model is whole, and of a kind that is not read here: another architecture, a setting of it that is not carried out, another quantization or file format. docs/reference/models.md lists what is; take another model or another form of it.",
    ),
    (
        "Q0601",
        "The state folder or the database in it cannot be used.",
    ),
    (
        "Q0602",
        "The artifact store cannot be used; often its disk is full.",
    ),
    (
        "Q0603",
        "Telemetry cannot start; the OTEL_* variables name a receiver that cannot be used.",
    ),
    (
        "Q0604",
        "The coordinator cannot serve: its address file cannot be written, or its network failed.",
    ),
    ("Q0605", "A file cannot be read or written."),
    ("Q0606", "A program that quickstart starts did not come up."),
    (
        "Q0607",
        "A disk is full. The message names the file; nothing that was acknowledged is lost.",
    ),
    (
        "Q0608",
        "The command was interrupted by a signal; what it had begun is removed.",
    ),
];

/// Say why a job waits, for each worker; or what an error code such as Q0301 means.
#[derive(Debug, Args)]
pub struct Explain {
    /// A job's number, or an error code.
    what: String,
}

impl Explain {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        if let Some((code, text)) = CODES
            .iter()
            .find(|(code, _)| code.eq_ignore_ascii_case(&self.what))
        {
            if context.global.json {
                print_json(&json!({"v": 1, "code": code, "text": text}))?;
            } else {
                print(format!("{code}: {text}"))?;
            }
            return Ok(Exit::Done.into());
        }
        let id = self.what.parse().map_err(|_| CtlError::Usage {
            message: format!("`{}` is no job and no error code", self.what),
            help: "write a number such as 7, or a code such as Q0301".into(),
        })?;
        let answer = context
            .client()?
            .jobs
            .explain(ExplainRequest { id })
            .await
            .map_err(context.fault())?
            .into_inner();
        if context.global.json {
            print_json(&json::explanation(id, &answer))?;
        } else {
            print(console::line(&answer.summary))?;
            for worker in &answer.workers {
                print(format!(
                    "  {:<12} {}",
                    console::line(&worker.worker),
                    console::line(&worker.reason)
                ))?;
            }
        }
        Ok(Exit::Done.into())
    }
}
