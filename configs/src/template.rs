//! Names of chat templates. A text that is neither a name nor Jinja would be rendered as it stands, the same for every
//! row, so it is refused wherever a template is named.

/// The model's own template, and the built-in ChatML with tools.
const NAMES: [&str; 2] = ["auto", "chatml-tools"];

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
    let near = |name: &str| strsim::damerau_levenshtein(&text.to_lowercase(), name) <= name.len() / 4;
    match NAMES.iter().find(|name| near(name)) {
        Some(name) => Err(format!("did you mean `{name}`?")),
        None if may_be_the_models(text) => Ok(()),
        None => Err(format!(
            "it takes {}, the name of a template that the model's tokenizer has, or Jinja text such as that of a model's chat_template.jinja",
            NAMES.join(", ")
        )),
    }
}

fn is_jinja(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

/// Whether `text` is one word, as the names of templates are; which ones a model has shows when its files are read.
fn may_be_the_models(text: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    !text.is_empty() && text.chars().all(is_part) && !text.ends_with(".jinja")
}

/// Whether `text` stands for a template of the model's own, whose text is not known before its files are read.
pub(crate) fn is_the_models(text: &str) -> bool {
    text == NAMES[0] || (text != NAMES[1] && !is_jinja(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_jinja_are_templates_and_nothing_else_is() {
        for text in ["auto", "chatml-tools", "{% for m in messages %}{{ m.content }}{% endfor %}", "{{ messages }}"] {
            assert_eq!(template(text), Ok(text.to_owned()));
        }
        for text in ["chatml-tool", "chatml_tools", "chatml-toolss", "ChatML-tools", "CHATML_TOOLS"] {
            assert!(template(text).is_err_and(|e| e.contains("did you mean `chatml-tools`?")), "{text}");
        }
        for text in ["rag", "tool_use", "default", "a", "v1.5", "auto-2"] {
            assert!(template(text).is_ok() && is_the_models(text), "{text}");
        }
        assert!(is_the_models("auto") && !is_the_models("chatml-tools") && !is_the_models("{{ messages }}"));
        for text in ["", "You are brief", "own.jinja", "templates/own.jinja", "{ messages }"] {
            assert!(template(text).is_err(), "{text}");
        }
    }
}
