//! What the configuration's own crate cannot check: models of the catalogue, and Jinja.

use qlora_codes::Code;
use qlora_config::{ConfigErrors, Diagnostic, Layers, ResolvedConfig};
use qlora_data::{ChatTemplate, SpecialTokens, TemplateError};
use qlora_planner::{Misfit, find, misfits, unmet_quantization};

pub const TEMPLATE: &str = "data.template";

/// Merges and checks `layers`, before anything is sent.
pub fn checked(layers: &Layers) -> Result<ResolvedConfig, ConfigErrors> {
    let resolved = layers.resolve()?;
    let config = resolved.config();
    let mut faults = Vec::new();
    let known = config.model.base.as_deref().and_then(find);
    let misfits = known.iter().flat_map(|entry| {
        let unmet = unmet_quantization((&entry.format).into(), &config.model);
        unmet.into_iter().chain(misfits(&entry.shape, config))
    });
    faults.extend(misfits.map(|misfit| unfit(layers, misfit)));
    faults.extend(uncompiled(&config.data.template).map(|message| {
        Diagnostic {
            code: Code::InvalidValue,
            message,
            place: layers.place_of(TEMPLATE),
            help: Some(
                "mend the template; `auto` takes the model's own, `chatml-tools` the built-in one"
                    .into(),
            ),
        }
    }));
    if faults.is_empty() {
        Ok(resolved)
    } else {
        Err(ConfigErrors(faults))
    }
}

/// The fault of what the model does not have.
pub fn unfit(layers: &Layers, misfit: Misfit) -> Diagnostic {
    Diagnostic {
        code: Code::InvalidValue,
        message: misfit.message,
        place: layers.place_of(misfit.key),
        help: Some(misfit.help),
    }
}

/// Why `template` does not compile, with the line of it where that shows.
fn uncompiled(template: &str) -> Option<String> {
    if template == "auto" {
        return None;
    }
    let fault = match ChatTemplate::new(template, SpecialTokens::default()).err()? {
        TemplateError::Syntax(fault) => fault,
        other => return Some(format!("`{TEMPLATE}`: {other}")),
    };
    let what = as_written(template, fault.detail().unwrap_or("it is no Jinja"));
    let line = fault.line().unwrap_or(1);
    let text = template
        .lines()
        .nth(line.saturating_sub(1))
        .unwrap_or_default()
        .trim();
    Some(format!(
        "`{TEMPLATE}` does not compile: {what}, in its line {line}: {text}"
    ))
}

/// Names of filters are put in place of `generation` blocks before a template is compiled; here
/// they are taken back.
fn as_written(template: &str, fault: &str) -> String {
    if template.contains("endfilter") {
        return fault.to_owned();
    }
    fault.replace("endfilter", "endgeneration")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(template: &str, set: &[&str]) -> String {
        let template = serde_json::Value::from(template);
        let text = format!(
            "model: {{base: llama-3.1-8b-instruct}}\ndata: {{train: t.jsonl, template: {template}}}\n"
        );
        let set = set.iter().map(|pair| (*pair).to_owned()).collect();
        let layers = Layers {
            file: Some(("f.yaml".into(), text)),
            env: Vec::new(),
            set,
        };
        checked(&layers)
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn nf4_over_a_gguf_model_of_the_catalogue_is_refused_as_over_a_file() {
        let refused = |base: &str| {
            fault(
                "auto",
                &[&format!("model.base={base}"), "model.quantization=nf4"],
            )
        };
        assert!(
            refused("m.gguf").contains("a second time  (--set model.quantization)"),
            "{}",
            refused("m.gguf")
        );
        assert_eq!(refused("smollm2-135m-instruct"), refused("m.gguf"));
        assert_eq!(refused("llama-3.1-8b-instruct"), "");
    }

    #[test]
    fn blocks_of_a_gguf_file_are_refused_of_a_folder_of_the_catalogue() {
        let said = |base: &str| {
            fault(
                "auto",
                &[&format!("model.base={base}"), "model.quantization=gguf"],
            )
        };
        let refused = said("llama-3.1-8b-instruct");
        assert!(
            refused.contains("is no GGUF file  (--set model.quantization)"),
            "{refused}"
        );
        assert_eq!(said("smollm2-135m-instruct"), "");
    }

    #[test]
    fn sequences_beyond_the_positions_of_a_model_of_the_catalogue_are_refused() {
        let said = |base: &str, tokens: usize| {
            fault(
                "auto",
                &[
                    &format!("model.base={base}"),
                    &format!("data.max_seq_len={tokens}"),
                ],
            )
        };
        for (base, positions) in [
            ("smollm2-135m-instruct", 8192),
            ("mistral-7b-instruct", 32_768),
        ] {
            let refused = said(base, positions + 1);
            assert!(
                refused.contains("[Q0103]") && refused.contains("(--set data.max_seq_len)"),
                "{refused}"
            );
            assert!(
                refused.contains(&positions.to_string())
                    && refused.contains("lower data.max_seq_len"),
                "{refused}"
            );
            assert_eq!(said(base, positions), "");
        }
        assert_eq!(said("me/mine", 1 << 20), "");
    }

    #[test]
    fn a_template_that_does_not_compile_is_refused_with_its_own_line() {
        for (template, line) in [
            (
                "a\n{% for m in messages %}\n{{ m.content }\n{% endfor %}",
                3,
            ),
            ("{% if x %}\n{{ x }}\n{% endfor %}", 3),
            ("a\n{% generation %}{{ x }}\n{% endfor %}", 3),
            ("a\n{{ x }}{% endgeneration %}", 2),
            ("a\n{% for m of messages %}{% endfor %}", 2),
        ] {
            let said = fault(template, &[]);
            let wanted = format!(
                "line {line}: {}",
                template.lines().nth(line - 1).expect("a line").trim()
            );
            assert!(
                said.contains("Q0103") && said.contains("(f.yaml:2:"),
                "{said}"
            );
            assert!(said.contains(&wanted), "{wanted}: {said}");
            assert!(
                !said.contains("filter") && !said.contains("_iterable"),
                "{said}"
            );
        }
        for template in [
            "auto",
            "chatml-tools",
            "{% for m in messages %}{{ m.content }}{% endfor %}",
        ] {
            assert_eq!(fault(template, &[]), "");
        }
    }
}
