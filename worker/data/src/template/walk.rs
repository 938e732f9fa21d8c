//! A walk along the text of a tag: what stands in quotation marks or brackets is no part of the
//! expression around it. It knows no operators and changes nothing.

/// Keeps count of quotation marks and brackets.
#[derive(Default)]
pub(super) struct Walk {
    quote: Option<char>,
    escaped: bool,
    depth: usize,
}

impl Walk {
    pub(super) fn quoted(&self) -> bool {
        self.quote.is_some()
    }

    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn step(&mut self, c: char) {
        match (self.quote, c) {
            (Some(_), _) if self.escaped => self.escaped = false,
            (Some(_), '\\') => self.escaped = true,
            (Some(quote), c) if c == quote => self.quote = None,
            (None, '"' | '\'') => self.quote = Some(c),
            (None, '(' | '[' | '{') => self.depth += 1,
            (None, ')' | ']' | '}') => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// The parts of `text` between `separator` outside of quotation marks and brackets.
pub(super) fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut walk) = (Vec::new(), 0, Walk::default());
    for (at, c) in text.char_indices() {
        if c == separator && !walk.quoted() && walk.depth == 0 {
            parts.push(&text[start..at]);
            start = at + c.len_utf8();
        }
        walk.step(c);
    }
    parts.push(&text[start..]);
    parts
}

/// Where `keyword` stands as a word of its own from `from` on, outside of quotation marks and
/// brackets.
pub(super) fn word(text: &str, keyword: &str, from: usize) -> Option<usize> {
    let mut walk = Walk::default();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let free = at >= from && !walk.quoted() && walk.depth == 0 && !is_part(before);
        if free
            && text[at..].starts_with(keyword)
            && !text[at + keyword.len()..].starts_with(is_part)
        {
            return Some(at);
        }
        walk.step(c);
        before = c;
    }
    None
}
