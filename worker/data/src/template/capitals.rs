//! The first letter of a word as Unicode and Python write it in titles, which is not always the
//! capital one: `ǆ` becomes `ǅ`, and `ﬁ` becomes `Fi`.

/// Whether `c` is a letter of titles, of which the first half is a capital.
pub(super) fn is_titlecase(c: char) -> bool {
    matches!(
        c,
        'ǅ' | 'ǈ' | 'ǋ' | 'ǲ'
            | '\u{1f88}'..='\u{1f8f}'
            | '\u{1f98}'..='\u{1f9f}'
            | '\u{1fa8}'..='\u{1faf}'
            | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}'
    )
}

/// `c` as a title begins with it.
pub(super) fn capital(c: char) -> String {
    let one = match c {
        '\u{1c4}'..='\u{1c6}' => 'ǅ',
        '\u{1c7}'..='\u{1c9}' => 'ǈ',
        '\u{1ca}'..='\u{1cc}' => 'ǋ',
        '\u{1f1}'..='\u{1f3}' => 'ǲ',
        // Georgian has capitals, and does not begin titles with them.
        '\u{10d0}'..='\u{10fa}' | '\u{10fd}'..='\u{10ff}' => c,
        c if is_titlecase(c) => c,
        // Greek with an iota below: the letters of titles stand eight or nine places behind.
        '\u{1f80}'..='\u{1faf}' => behind(c, 8),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => behind(c, 9),
        c => return several(c),
    };
    one.into()
}

fn behind(c: char, places: u32) -> char {
    char::from_u32(u32::from(c) + places).unwrap_or(c)
}

/// A letter that becomes several, of which only the first is a capital, or any other.
fn several(c: char) -> String {
    let upper = || c.to_uppercase();
    match c {
        // An iota below stays below.
        '\u{1fb2}' | '\u{1fb4}' | '\u{1fb7}' | '\u{1fc2}' | '\u{1fc4}' | '\u{1fc7}'
        | '\u{1ff2}' | '\u{1ff4}' | '\u{1ff7}' => upper()
            .map(|c| if c == '\u{399}' { '\u{345}' } else { c })
            .collect(),
        'ß' | 'և' | '\u{fb00}'..='\u{fb06}' | '\u{fb13}'..='\u{fb17}' => {
            let rest = upper().skip(1).flat_map(char::to_lowercase);
            upper().take(1).chain(rest).collect()
        }
        _ => upper().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `str.title` of Python gives them.
    #[test]
    fn titles_begin_as_pythons_do() {
        for (letters, wanted) in [
            ("aAéÉ", "AAÉÉ"),
            ("ǄǅǆǇǈǉǊǋǌǱǲǳ", "ǅǅǅǈǈǈǋǋǋǲǲǲ"),
            ("ßŉǰ", "SsʼNJ\u{30c}"),
            ("ﬀﬁﬂﬃﬄﬅﬆ", "FfFiFlFfiFflStSt"),
            ("ևﬓ", "ԵւՄն"),
            ("აჿᲐ", "აჿᲐ"),
            (
                "\u{1f80}\u{1f97}\u{1faf}\u{1fb3}",
                "\u{1f88}\u{1f9f}\u{1faf}\u{1fbc}",
            ),
            ("\u{1fb2}\u{1fb7}", "\u{1fba}\u{345}\u{391}\u{342}\u{345}"),
            ("日1.", "日1."),
        ] {
            let found: String = letters.chars().map(capital).collect();
            assert_eq!(found, wanted, "{letters}");
        }
    }
}
