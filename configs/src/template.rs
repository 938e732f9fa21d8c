//! Names of chat templates. A text that is neither a name nor Jinja would be rendered as it stands,
//! the same for every row, so it is refused wherever a template is named.

/// The model's own template, and the built-in ChatML with tools.
const NAMES: [&str; 2] = ["auto", "chatml-tools"];

/// Names that models of the hub give templates of their own.
const USUAL: [&str; 3] = ["default", "tool_use", "rag"];
/// How names of templates begin that other tools build in, for families of models.
const FOREIGN: [&str; 22] = [
    "alpaca",
    "chatglm",
    "chatml",
    "cohere",
    "command",
    "deepseek",
    "exaone",
    "falcon",
    "gemma",
    "granite",
    "jamba",
    "jinja",
    "llama",
    "llava",
    "metharme",
    "mistral",
    "phi",
    "pixtral",
    "qwen",
    "tokenizer_default",
    "vicuna",
    "zephyr",
];

/// Takes `auto`, `chatml-tools`, the name of one of the model's own templates, or Jinja text.
///
/// # Errors
/// What is wrong, and what helps.
pub fn template(text: &str) -> Result<String, String> {
    check(text)
        .map(|()| text.to_owned())
        .map_err(|help| format!("it is neither a template's name nor Jinja text; {help}"))
}

/// As [`template`]; only what helps is given.
pub(crate) fn check(text: &str) -> Result<(), String> {
    if NAMES.contains(&text) || is_jinja(text) {
        return Ok(());
    }
    let near =
        |name: &str| strsim::damerau_levenshtein(&text.to_lowercase(), name) <= name.len() / 4;
    match NAMES.iter().find(|name| near(name)) {
        Some(name) => Err(format!("did you mean `{name}`?")),
        None if may_be_the_models(text) => Ok(()),
        None => Err(format!(
            "it takes {}, the name of a template that the model's tokenizer has, or Jinja text such as that of a model's chat_template.jinja",
            NAMES.join(", ")
        )),
    }
}

/// What helps where `text` names a template that a model whose files are not at hand will hardly
/// have: one that other tools build in, and for a model of the catalogue (`is_known`) every name
/// but the usual ones. None where it may have it.
pub fn unlikely_template(text: &str, is_known: bool) -> Option<String> {
    if NAMES.contains(&text) || is_jinja(text) || USUAL.contains(&text) {
        return None;
    }
    let lower = text.to_lowercase();
    let is_foreign = FOREIGN.iter().any(|start| lower.starts_with(start));
    (is_known || is_foreign).then(|| {
        let own = USUAL.join(", ");
        format!(
            "it takes {}, a template that the model's tokenizer has ({own}), or Jinja text; `auto` is the model's own template",
            NAMES.join(", ")
        )
    })
}

fn is_jinja(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

/// Whether `text` is one word, as the names of templates are; which ones a model has shows when its
/// files are read.
fn may_be_the_models(text: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    !text.is_empty() && text.chars().all(is_part) && !text.ends_with(".jinja")
}

/// Whether `text` stands for a template of the model's own, whose text is not known before its
/// files are read.
pub(crate) fn is_the_models(text: &str) -> bool {
    text == NAMES[0] || (text != NAMES[1] && !is_jinja(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_of_other_tools_are_no_templates_of_a_model_that_is_not_at_hand() {
        for text in [
            "chatml",
            "llama3",
            "Llama-3",
            "alpaca",
            "qwen_25",
            "mistral_v3_tekken",
            "tokenizer_default",
        ] {
            for is_known in [false, true] {
                let help = unlikely_template(text, is_known).expect(text);
                assert!(
                    NAMES.iter().chain(&USUAL).all(|name| help.contains(name)),
                    "{help}"
                );
            }
        }
        for text in [
            "auto",
            "chatml-tools",
            "default",
            "tool_use",
            "rag",
            "{{ messages }}",
        ] {
            assert_eq!(
                (
                    unlikely_template(text, true),
                    unlikely_template(text, false)
                ),
                (None, None),
                "{text}"
            );
        }
        assert!(
            unlikely_template("own", true).is_some() && unlikely_template("own", false).is_none()
        );
    }

    #[test]
    fn names_and_jinja_are_templates_and_nothing_else_is() {
        for text in [
            "auto",
            "chatml-tools",
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            "{{ messages }}",
        ] {
            assert_eq!(template(text), Ok(text.to_owned()));
        }
        for text in [
            "chatml-tool",
            "chatml_tools",
            "chatml-toolss",
            "ChatML-tools",
            "CHATML_TOOLS",
        ] {
            assert!(
                template(text).is_err_and(|e| e.contains("did you mean `chatml-tools`?")),
                "{text}"
            );
        }
        for text in ["rag", "tool_use", "default", "a", "v1.5", "auto-2"] {
            assert!(template(text).is_ok() && is_the_models(text), "{text}");
        }
        assert!(
            is_the_models("auto")
                && !is_the_models("chatml-tools")
                && !is_the_models("{{ messages }}")
        );
        for text in [
            "",
            "You are brief",
            "own.jinja",
            "templates/own.jinja",
            "{ messages }",
        ] {
            assert!(template(text).is_err(), "{text}");
        }
    }
}
