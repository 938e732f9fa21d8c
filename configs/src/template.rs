//! Names of chat templates. A text that is neither a name nor Jinja would be rendered as it stands, the same for every
//! row, so it is refused wherever a template is named.

/// The model's own template, and the built-in ChatML with tools.
const NAMES: [&str; 2] = ["auto", "chatml-tools"];

/// Takes `auto`, `chatml-tools`, or Jinja text.
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
    if NAMES.contains(&text) || text.contains("{{") || text.contains("{%") {
        return Ok(());
    }
    let best = NAMES.iter().map(|name| (strsim::damerau_levenshtein(text, name), *name)).min();
    match best {
        Some((distance, name)) if distance <= 3 => Err(format!("did you mean `{name}`?")),
        _ => Err(format!("it takes {}, or Jinja text such as that of a model's chat_template.jinja", NAMES.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_jinja_are_templates_and_nothing_else_is() {
        for text in ["auto", "chatml-tools", "{% for m in messages %}{{ m.content }}{% endfor %}", "{{ messages }}"] {
            assert_eq!(template(text), Ok(text.to_owned()));
        }
        for text in ["chatml-tool", "chatml_tools", "chatml-toolss", "ChatML-tools"] {
            assert!(template(text).is_err_and(|e| e.contains("did you mean `chatml-tools`?")), "{text}");
        }
        for text in ["", "llama3", "templates/own.jinja", "{ messages }"] {
            assert!(template(text).is_err(), "{text}");
        }
    }
}
