//! What the text of `model.base` names, by its form alone: a GGUF file, or a model of the hub. This
//! module does not know whether the model exists, or which names a catalogue has.

/// Whether `base` is the name or the path of a GGUF file.
pub fn is_gguf_name(base: &str) -> bool {
    base.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether `base` has the form `owner/name`, as the hub has it, and is not the path of a file.
pub fn is_hub_name(base: &str) -> bool {
    let parts: Vec<&str> = base.split('/').collect();
    let is_name = |part: &&str| !part.is_empty() && !part.starts_with(['.', '~']);
    parts.len() == 2 && parts.iter().all(is_name) && !is_gguf_name(base)
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
        ] {
            assert_eq!(
                (is_hub_name(base), is_gguf_name(base)),
                (hub, gguf),
                "{base}"
            );
        }
    }
}
