//! Words that are spelled nearly as a keyword of JSON Schema.

use super::keywords;

/// Words that sets have for things of their own, or that are too near to such ones.
const OWN: [&str; 12] = [
    "annotations",
    "comment",
    "dependencies",
    "enumDescriptions",
    "example",
    "id",
    "markdownDescription",
    "name",
    "optional",
    "order",
    "propertyOrdering",
    "strict",
];

/// Letters from which on a word shows what it was meant to be, and with two faults too.
const SHORTEST: usize = 5;
const LONG: usize = 9;

/// The keyword that `word`, in small letters, is a misspelling of: a letter that is missing, too
/// much, another one, or changed places with the next; two of these in a long word.
pub(super) fn nearest(word: &str) -> Option<&'static str> {
    let letters = word.chars().count();
    let most = match letters {
        ..SHORTEST => return None,
        SHORTEST..LONG => 1,
        _ => 2,
    };
    let all = keywords::all().filter(|keyword| !OWN.contains(keyword));
    let away = all.map(|keyword| (strsim::osa_distance(word, &keyword.to_lowercase()), keyword));
    let (distance, keyword) = away.min_by_key(|(distance, _)| *distance)?;
    (distance <= most).then_some(keyword)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_a_letter_or_two_is_known_and_other_words_are_not() {
        for (word, meant) in [
            ("requird", Some("required")),
            ("requierd", Some("required")),
            ("descripton", Some("description")),
            ("desciprtion", Some("description")),
            ("propertes", Some("properties")),
            ("aditionalpropertie", Some("additionalProperties")),
            ("maxlenght", Some("maxLength")),
            ("minimun", Some("minimum")),
            ("patern", Some("pattern")),
            ("enums", Some("enum")),
            ("types", Some("type")),
            ("note", None),
            ("unit", None),
            ("orders", None),
            ("comments", None),
            ("location", None),
            ("currency", None),
            ("temperature", None),
            ("placeholder", None),
        ] {
            assert_eq!(nearest(word), meant, "{word}");
        }
    }
}
