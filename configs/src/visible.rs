//! Which characters can be seen.

/// Whether anything of `text` can be seen: a name of none looks like no name, and like any other of
/// the kind.
pub fn has_visible(text: &str) -> bool {
    text.chars().any(is_visible)
}

/// Fillers, joiners, marks of direction and selectors take no place that anybody sees.
fn is_visible(c: char) -> bool {
    let is_seen_through = matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    !(is_seen_through || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_no_name() {
        for text in [
            "",
            " \t",
            "\u{200b}",
            "\u{200d}\u{feff} ",
            "\u{e0041}",
            "\u{3164}",
            "\u{a0}",
        ] {
            assert!(!has_visible(text), "{text:?}");
        }
        for text in [
            "a",
            "\u{200b}a",
            "\u{1f469}\u{200d}\u{1f4bb}",
            "\u{65e5}",
            "-",
        ] {
            assert!(has_visible(text), "{text:?}");
        }
    }
}
