//! Which chat template a model is asked with.

use std::path::Path;

use qlora_data::ChatTemplate;

use crate::adapter::template::{self, Own};
use crate::weights::ModelFiles;
use crate::{Error, Result};

/// The template that `wanted` names, on the day on which the adapter in the folder `adapter` was
/// trained, and what a person should hear of the one that lies beside the adapter.
///
/// # Errors
/// The template cannot be had. What is wrong with the adapter's own is a note where another is
/// asked for: it is then the way out.
pub(super) fn template_of(
    wanted: &str,
    adapter: Option<&Path>,
    files: &ModelFiles,
) -> Result<(ChatTemplate, Option<String>)> {
    let Some(folder) = adapter else {
        return Ok((files.chat_template(wanted)?, None));
    };
    let (own, fault) = match template::own(folder) {
        Err(fault @ Error::Adapter { .. }) if wanted != "auto" => (None, Some(fault)),
        own => (own?, None),
    };
    let chosen = match &own {
        Some(own) if wanted == "auto" => own.compiled(folder, files.special.clone())?,
        _ => files.chat_template(wanted)?,
    };
    let chosen = match template::date(folder)? {
        Some(date) => chosen.dated(&date)?,
        None => chosen,
    };
    let note = match (fault, own) {
        (Some(fault), _) => Some(format!(
            "the chat template is the one that is asked for; {fault}"
        )),
        (None, own) => {
            own.and_then(|own: Own| own.note(folder, wanted, &chosen, files.template.as_ref()))
        }
    };
    Ok((chosen, note))
}
