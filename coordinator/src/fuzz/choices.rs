//! Bytes of an input as decisions. Once they are used up, each decision is the first there is, so
//! that fewer bytes make a smaller message.

use std::slice::Iter;

use super::coordinator::Coordinator;

/// Numbers at which programs change their minds.
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    3,
    7,
    100,
    60_000,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];
const FRACTIONS: [f64; 8] = [
    0.0,
    1.0,
    -1.0,
    0.5,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
];

/// What is left of the bytes, and what a caller of the coordinator knows.
pub struct Choices<'a> {
    bytes: Iter<'a, u8>,
    known: &'a Coordinator,
}

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8], known: &'a Coordinator) -> Self {
        Self {
            bytes: bytes.iter(),
            known,
        }
    }

    fn byte(&mut self) -> u8 {
        self.bytes.next().copied().unwrap_or_default()
    }

    /// A number below `count`, which is at most 256.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == count - 1
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes).copied().collect()
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// A number that means something to the coordinator, one at a limit, or any.
    pub fn number(&mut self) -> u64 {
        match self.below(4) {
            0 | 1 => self.pick(&self.known.numbers),
            2 => self.pick(&NUMBERS),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    pub fn fraction(&mut self) -> f64 {
        match self.below(2) {
            0 => self.pick(&FRACTIONS),
            _ => f64::from_bits(self.number()),
        }
    }

    /// A text that means something to the coordinator, a strange one, or any.
    pub fn text(&mut self) -> String {
        match self.below(8) {
            0..=4 => self.pick(&self.known.texts),
            5 => strange(self.below(6)),
            _ => {
                let length = self.below(40);
                let bytes: Vec<u8> = (0..length).map(|_| self.byte()).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }

    /// A text of the coordinator with another value in the place of a part of it.
    pub fn changed_text(&mut self) -> String {
        let text = self.text();
        let at = (self.below(256) * 256 + self.below(256)) % (text.len() + 1);
        let Some((before, after)) = text.split_at_checked(at) else {
            return text;
        };
        let other = self.pick(&["null", "-1", "\"x\"", "{", "1e999", "[]", "\0"]);
        let rest = after.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        format!("{before}{other}{rest}")
    }
}

fn strange(which: usize) -> String {
    match which {
        0 => "\u{202e}\u{0}\n\u{1b}[31m".into(),
        1 => "n".repeat(10_000),
        2 => "../../etc/passwd".into(),
        3 => "\u{1f600}".repeat(200),
        4 => "[".repeat(5_000),
        _ => " ".into(),
    }
}
