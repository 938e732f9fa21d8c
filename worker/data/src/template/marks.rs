//! Characters of the private planes, which mark places in rendered text.

/// Characters of a private plane that no template of a set holds. Data may hold them: there
/// `stage.rs` puts others in their place while rendering, and puts them back afterwards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    pub open: char,
    pub close: char,
    /// Stands for a turn's text.
    pub stand_in: char,
}

impl Marks {
    /// Three characters that none of `texts` holds.
    pub fn absent_from<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Self {
        let mut free = private().filter(|c| !texts.clone().any(|text| text.contains(*c)));
        let mut next = || free.next().unwrap_or('\u{F0001}');
        Self {
            open: next(),
            close: next(),
            stand_in: next(),
        }
    }

    pub fn all(&self) -> [char; 3] {
        [self.open, self.close, self.stand_in]
    }
}

/// The characters of the private planes that are used for marks, ascending.
pub(super) fn private() -> impl Iterator<Item = char> {
    ('\u{F0001}'..='\u{FFFFD}').chain('\u{100001}'..='\u{10FFFD}')
}

pub(super) fn is_private(c: &char) -> bool {
    *c >= '\u{F0000}'
}
