//! Random changes of a seed: those that break its form, and those that keep it and change a value.

use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use crate::input::Input;

/// Changes of one input at the most.
const MOST_EDITS: usize = 6;
/// Bytes of one input at the most.
const MOST_BYTES: usize = 256 * 1024;
/// Values at which formats and programs change their minds.
const WORDS: [&str; 24] = [
    "null",
    "true",
    "0",
    "-1",
    "-0.0",
    "1e999",
    "1e-999",
    "NaN",
    "255",
    "65536",
    "4294967295",
    "9223372036854775807",
    "18446744073709551616",
    "0.1",
    "\"\"",
    "[]",
    "{}",
    "[[]]",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "\u{feff}",
    "\u{e9}\u{1f600}",
    "\r\n",
    "\t",
];

/// What every input of a target is made of.
#[derive(Debug, Clone)]
pub(crate) struct Stock {
    pub seeds: Arc<[Vec<u8>]>,
    pub words: Arc<[Vec<u8>]>,
}

impl Stock {
    pub(crate) fn new(seeds: Vec<Vec<u8>>, words: &[&str]) -> Self {
        let words = WORDS.iter().chain(words);
        Self {
            seeds: seeds.into(),
            words: words.map(|word| word.as_bytes().to_vec()).collect(),
        }
    }

    /// Changed seeds, and now and then bytes that no seed has.
    pub(crate) fn inputs(self) -> impl Strategy<Value = Input> {
        let noise = proptest::collection::vec(any::<u8>(), 0..200).prop_map(Input);
        let edits = proptest::collection::vec(edit(), 1..=MOST_EDITS);
        let changed = (any::<Index>(), edits).prop_map(move |(seed, edits)| {
            let mut bytes = self
                .seeds
                .get(seed.index(self.seeds.len()))
                .cloned()
                .unwrap_or_default();
            edits.iter().for_each(|edit| edit.apply(&mut bytes, &self));
            bytes.truncate(MOST_BYTES);
            Input(bytes)
        });
        prop_oneof![1 => noise, 15 => changed]
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Byte(Index, u8),
    Cut(Index, u16),
    End(Index),
    Copy(Index, u16, Index),
    Splice(Index, Index, u16, Index),
    Insert(Index, Index),
    Replace(Index, Index),
    Number(Index, u8, u64),
    Repeat(Index, u8, u16),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let number = prop_oneof![
        Just(0u64),
        Just(u64::MAX),
        Just(1u64 << 31),
        Just(1u64 << 62),
        any::<u64>()
    ];
    prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Byte(at, byte)),
        2 => (at(), 1..40u16).prop_map(|(at, bytes)| Edit::Cut(at, bytes)),
        1 => at().prop_map(Edit::End),
        2 => (at(), 1..200u16, at()).prop_map(|(from, bytes, to)| Edit::Copy(from, bytes, to)),
        2 => (at(), at(), 1..400u16, at())
            .prop_map(|(seed, from, bytes, to)| Edit::Splice(seed, from, bytes, to)),
        2 => (at(), at()).prop_map(|(at, word)| Edit::Insert(at, word)),
        6 => (at(), at()).prop_map(|(at, word)| Edit::Replace(at, word)),
        2 => (at(), 0..4u8, number).prop_map(|(at, width, value)| Edit::Number(at, width, value)),
        1 => (at(), 1..12u8, 1..4000u16).prop_map(|(at, bytes, times)| Edit::Repeat(at, bytes, times)),
    ]
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>, stock: &Stock) {
        match self {
            Self::Byte(at, byte) => {
                let at = place(at, bytes);
                bytes.splice(part(at, 1, bytes), [*byte]);
            }
            Self::Cut(at, count) => {
                bytes.drain(part(place(at, bytes), usize::from(*count), bytes));
            }
            Self::End(at) => bytes.truncate(place(at, bytes)),
            Self::Copy(from, count, to) => {
                let copied = bytes[part(place(from, bytes), usize::from(*count), bytes)].to_vec();
                insert(bytes, to, copied);
            }
            Self::Splice(seed, from, count, to) => {
                let seed = &stock.seeds[seed.index(stock.seeds.len())];
                let taken = seed[part(place(from, seed), usize::from(*count), seed)].to_vec();
                insert(bytes, to, taken);
            }
            Self::Insert(at, word) => insert(bytes, at, word_of(word, stock)),
            Self::Replace(at, word) => {
                let token = token(bytes, place(at, bytes));
                bytes.splice(token, word_of(word, stock));
            }
            Self::Number(at, width, value) => {
                let value = value.to_le_bytes();
                let number = &value[..1usize << width];
                let at = place(at, bytes);
                bytes.splice(part(at, number.len(), bytes), number.iter().copied());
            }
            Self::Repeat(at, count, times) => {
                let once = &bytes[part(place(at, bytes), usize::from(*count), bytes)];
                let repeated = once.repeat(usize::from(*times));
                insert(bytes, at, repeated);
            }
        }
    }
}

/// A place in `bytes`, which may be its end.
fn place(at: &Index, bytes: &[u8]) -> usize {
    at.index(bytes.len() + 1)
}

/// `count` bytes from `at` on, as far as there are any.
fn part(at: usize, count: usize, bytes: &[u8]) -> Range<usize> {
    at..(at + count).min(bytes.len())
}

fn insert(bytes: &mut Vec<u8>, at: &Index, inserted: Vec<u8>) {
    let at = place(at, bytes);
    bytes.splice(at..at, inserted);
}

fn word_of(word: &Index, stock: &Stock) -> Vec<u8> {
    stock.words[word.index(stock.words.len())].clone()
}

/// The word or number around `at`, with the quotes around it: what most formats have as a value.
fn token(bytes: &[u8], at: usize) -> Range<usize> {
    let is_of_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(byte);
    let before = bytes[..at]
        .iter()
        .rev()
        .take_while(|byte| is_of_word(byte))
        .count();
    let after = bytes[at..]
        .iter()
        .take_while(|byte| is_of_word(byte))
        .count();
    let (start, end) = (at - before, at + after);
    let is_quoted = start > 0 && bytes[start - 1] == b'"' && bytes.get(end) == Some(&b'"');
    if is_quoted {
        start - 1..end + 1
    } else {
        start..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_replaced_with_its_quotes() {
        let text = b"{\"key\": \"value\", \"n\": -12.5}";
        for (at, wanted) in [(10, "\"value\""), (3, "\"key\""), (22, "-12.5"), (0, "")] {
            assert_eq!(&text[token(text, at)], wanted.as_bytes(), "{at}");
        }
        assert_eq!(token(b"", 0), 0..0);
    }
}
