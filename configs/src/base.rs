//! What the text of `model.base` names, by its form alone: a GGUF file, or a model of the hub. This
//! module does not know whether the model exists, or which names a catalogue has.

/// Whether `base` is the name or the path of a GGUF file.
pub fn is_gguf_name(base: &str) -> bool {
    base.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether `base` has the form `owner/name`, as the hub has it, and is not the path of a file.
pub fn is_hub_name(base: &str) -> bool {
    has_hub_form(base) && base.chars().all(is_of_the_hub)
}

/// What helps where `base` has the form `owner/name` and the hub takes no such name; none for any
/// other base.
pub fn hub_name_fault(base: &str) -> Option<&'static str> {
    let is_wrong = has_hub_form(base) && !is_hub_name(base);
    is_wrong.then_some(if base.contains(['@', ':']) {
        "write owner/name, of which the hub's main branch is fetched; for another revision, fetch it into a folder and name the folder"
    } else {
        "a name of the hub has letters, digits, `.`, `_` and `-`, as in owner/name"
    })
}

fn has_hub_form(base: &str) -> bool {
    let parts: Vec<&str> = base.split('/').collect();
    let is_name = |part: &&str| !part.is_empty() && !part.starts_with(['.', '~']);
    parts.len() == 2 && parts.iter().all(is_name) && !is_gguf_name(base)
}

/// Whether names of the hub have `character`, beside the stroke after the owner.
fn is_of_the_hub(character: char) -> bool {
    character.is_ascii_alphanumeric() || ['/', '.', '_', '-'].contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_told_by_its_form() {
        for (base, hub, gguf) in [
            ("meta-llama/Llama-3.1-8B-Instruct", true, false),
            ("TheBloke/Llama-2-7B-GGUF", true, false),
            ("models/m.gguf", false, true),
            ("M.GGUF", false, true),
            ("llama", false, false),
            ("a/b/c", false, false),
            ("/models", false, false),
            ("./llama", false, false),
            ("~/llama", false, false),
            ("llama/", false, false),
            ("owner/name@main", false, false),
            ("owner/na me", false, false),
            ("own\u{e9}r/name", false, false),
        ] {
            assert_eq!(
                (is_hub_name(base), is_gguf_name(base)),
                (hub, gguf),
                "{base}"
            );
        }
    }

    #[test]
    fn a_name_that_the_hub_does_not_take_is_told_what_helps() {
        for base in ["owner/name@main", "owner/name:v1", "a@b/c"] {
            let help = hub_name_fault(base).expect(base);
            assert!(help.contains("revision"), "{base}: {help}");
        }
        for base in ["owner/na me", "owner/name?", "\u{fc}/x"] {
            let help = hub_name_fault(base).expect(base);
            assert!(help.contains("letters"), "{base}: {help}");
        }
        for base in [
            "owner/name",
            "/a b/c",
            "./a b",
            "a b",
            "a/b/c d",
            "a b/m.gguf",
        ] {
            assert_eq!(hub_name_fault(base), None, "{base}");
        }
    }
}
