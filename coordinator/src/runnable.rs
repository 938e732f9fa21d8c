//! Refuses configurations that no worker could ever run, though each of their values is allowed.
//!
//! `qlora-ctl` makes the same checks earlier and names the place in the file; other clients submit
//! as well. Values that only a worker can check pass: a path, a repository of the hub.

use qlora_codes::Code;
use qlora_config::{ConfigErrors, Diagnostic, TrainingConfig, unlikely_template};
use qlora_planner::{Misfit, catalogue, find, misfits, unmet_quantization};

/// # Errors
/// Every reason why no worker could run `config`.
pub fn runnable(config: &TrainingConfig) -> Result<(), ConfigErrors> {
    let mut faults = Vec::new();
    faults.extend(
        quantizable(config)
            .err()
            .into_iter()
            .flat_map(|errors| errors.0),
    );
    let base = config.model.base.as_deref().unwrap_or_default();
    faults.extend(unknown_base(base));
    let known = find(base);
    let misfits = known.iter().flat_map(|entry| misfits(&entry.shape, config));
    faults.extend(misfits.map(unfit));
    // Which names another model's tokenizer has is known where its files are.
    let unlikely = known.and_then(|_| unlikely_template(&config.data.template, true));
    faults.extend(unlikely.map(|help| Diagnostic {
        code: Code::InvalidValue,
        message: format!(
            "`data.template` is `{}`, which is no template",
            config.data.template.escape_debug()
        ),
        place: None,
        help: Some(help),
    }));
    if faults.is_empty() {
        Ok(())
    } else {
        Err(ConfigErrors(faults))
    }
}

/// Refuses a quantization that the files of a model of the catalogue cannot give.
pub fn quantizable(config: &TrainingConfig) -> Result<(), ConfigErrors> {
    let known = config.model.base.as_deref().and_then(find);
    let unmet = known.and_then(|entry| unmet_quantization((&entry.format).into(), &config.model));
    unmet.map_or(Ok(()), |misfit| Err(unfit(misfit).into()))
}

fn unfit(misfit: Misfit) -> Diagnostic {
    Diagnostic {
        code: Code::InvalidValue,
        message: misfit.message,
        place: None,
        help: Some(misfit.help),
    }
}

/// A name that is no path, no repository and no model of the catalogue.
fn unknown_base(base: &str) -> Option<Diagnostic> {
    let is_file = [".gguf", ".safetensors"]
        .iter()
        .any(|ending| base.to_ascii_lowercase().ends_with(ending));
    if base.contains(['/', '\\']) || is_file || find(base).is_some() {
        return None;
    }
    let names = catalogue()
        .iter()
        .map(|entry| entry.name)
        .collect::<Vec<_>>()
        .join(", ");
    Some(Diagnostic {
        code: Code::NoModel,
        message: format!(
            "`model.base` is `{}`, which is no model of the catalogue",
            base.escape_debug()
        ),
        place: None,
        help: Some(format!(
            "known are {names}; a model of the hub is written owner/name, any other by its whole path on the worker"
        )),
    })
}

#[cfg(test)]
mod tests {
    use qlora_config::Layers;

    use super::*;

    fn refused(base: &str, set: &[&str]) -> String {
        let text = format!("model: {{base: {base}}}\ndata: {{train: t.jsonl}}\n");
        let set = set.iter().map(|pair| (*pair).to_owned()).collect();
        let resolved = Layers {
            file: Some(("f.yaml".into(), text)),
            env: Vec::new(),
            set,
        }
        .resolve();
        runnable(resolved.expect("a configuration").config())
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn a_name_that_nothing_has_is_refused_and_one_that_a_worker_may_have_is_not() {
        for base in ["gpt2", "llama-3.1-8b", "mistral-7b-instuct", "model", "a.b"] {
            let said = refused(base, &[]);
            assert!(
                said.contains("Q0302")
                    && said.contains(base)
                    && said.contains("smollm2-135m-instruct"),
                "{said}"
            );
        }
        for base in [
            "llama-3.1-8b-instruct",
            "me/mine",
            "/models/own",
            "./own",
            "own.gguf",
            "OWN.GGUF",
        ] {
            assert_eq!(refused(base, &[]), "", "{base}");
        }
    }

    #[test]
    fn templates_of_other_tools_and_lengths_beyond_the_model_are_refused() {
        let known = "llama-3.1-8b-instruct";
        for template in ["llama3", "own", "chatml"] {
            let said = refused(known, &[&format!("data.template={template}")]);
            assert!(
                said.contains("Q0103") && said.contains(template) && said.contains("chatml-tools"),
                "{said}"
            );
        }
        for template in ["data.template=own", "data.template=llama3"] {
            assert_eq!(refused("me/mine", &[template]), "", "the model may have it");
        }
        let said = refused(known, &["data.max_seq_len=200000"]);
        assert!(said.contains("200000") && said.contains("131072"), "{said}");
    }

    #[test]
    fn a_model_of_the_catalogue_is_not_quantized_a_second_time() {
        assert!(
            refused("smollm2-135m-instruct", &["model.quantization=nf4"]).contains("a second time")
        );
        assert_eq!(
            refused("llama-3.1-8b-instruct", &["model.quantization=nf4"]),
            ""
        );
    }
}
