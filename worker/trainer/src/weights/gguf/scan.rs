//! A look at the header of a GGUF file before candle reads it.
//!
//! candle keeps the last of two keys or tensors of one name, multiplies sizes without looking for
//! an overflow, and divides by whatever alignment the file names. This module keeps nothing of what
//! it reads.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};

use super::blocks;

const CUT_OFF: &str = "it is no GGUF file, or its header is cut off";
/// How the keys begin whose texts tokens are made by.
const TEXT: &str = "tokenizer.";
/// No key and no tensor has a longer name.
const LONGEST_NAME: u64 = 1 << 16;

/// A tensor in blocks of a type that is not read.
pub(super) struct Unread {
    pub tensor: String,
    /// ggml's number of the type.
    pub number: u32,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensor, number } = self;
        match blocks::name_of(*number) {
            Some(name) => write!(
                f,
                "its tensor `{tensor}` is of the type {number}, {name}, which is not read"
            ),
            None => write!(
                f,
                "its tensor `{tensor}` is of the type {number}, which has no known name and is not read"
            ),
        }
    }
}

/// Checks the header of `file`, which has `length` bytes; returns the first tensor of a type that
/// is not read.
///
/// # Errors
/// It is cut off, or says something twice or nothing that can be; the text names it.
pub(super) fn check(file: &File, length: u64) -> Result<Option<Unread>, String> {
    let mut scan = Scan {
        input: BufReader::new(file),
        left: length,
    };
    let mut unread = None;
    if scan.take()? != *b"GGUF" {
        return Err(CUT_OFF.into());
    }
    let version = scan.number()?;
    if !matches!(version, 2 | 3) {
        return Err(format!(
            "it is of version {version} of GGUF; 2 and 3 are read"
        ));
    }
    let (tensors, keys) = (scan.long()?, scan.long()?);
    let mut known = HashSet::new();
    for _ in 0..keys {
        let key = scan.name()?;
        let kind = scan.number()?;
        if key == "general.alignment" {
            scan.alignment(kind)?;
        } else {
            scan.skip_value(kind, &key)?;
        }
        if let Some(twice) = known.replace(key) {
            return Err(format!("its key `{twice}` stands twice"));
        }
    }
    known.clear();
    for _ in 0..tensors {
        let name = scan.name()?;
        let number = scan.tensor(&name)?;
        if unread.is_none() && !blocks::is_read(number) {
            unread = Some(Unread {
                tensor: name.clone(),
                number,
            });
        }
        if let Some(twice) = known.replace(name) {
            return Err(format!("its tensor `{twice}` stands twice"));
        }
    }
    Ok(unread)
}

struct Scan<'f> {
    input: BufReader<&'f File>,
    left: u64,
}

impl Scan<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|_| CUT_OFF)?;
        self.left = self.left.saturating_sub(N as u64);
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u32, String> {
        self.take().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Result<u64, String> {
        self.take().map(u64::from_le_bytes)
    }

    fn skip(&mut self, bytes: Option<u64>) -> Result<(), String> {
        let bytes = bytes.filter(|&bytes| bytes <= self.left).ok_or(CUT_OFF)?;
        self.left -= bytes;
        self.input
            .seek_relative(bytes as i64)
            .map_err(|_| CUT_OFF.into())
    }

    fn name(&mut self) -> Result<String, String> {
        let length = self.long()?;
        if length > LONGEST_NAME.min(self.left) {
            return Err(CUT_OFF.into());
        }
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes).map_err(|_| CUT_OFF)?;
        self.left -= length;
        String::from_utf8(bytes).map_err(|e| format!("a name in its header is not UTF-8 ({e})"))
    }

    fn skip_value(&mut self, kind: u32, key: &str) -> Result<(), String> {
        match (kind, width(kind)) {
            (_, Some(width)) => self.skip(Some(width)),
            (8, _) if key.starts_with(TEXT) => self.text(key, None),
            (8, _) => self.skip_text(),
            (9, _) => {
                let (kind, count) = (self.number()?, self.long()?);
                match width(kind) {
                    Some(width) => self.skip(count.checked_mul(width)),
                    // Each text has its length before it, so a count that cannot be ends with the
                    // file.
                    None if kind == 8 && key.starts_with(TEXT) => {
                        (0..count).try_for_each(|index| self.text(key, Some(index)))
                    }
                    None if kind == 8 => (0..count).try_for_each(|_| self.skip_text()),
                    None => Err(format!(
                        "its key `{key}` is a list of values of the type {kind}, which is not read"
                    )),
                }
            }
            _ => Err(format!(
                "its key `{key}` has a value of the type {kind}, which is not read"
            )),
        }
    }

    /// Goes over a text that candle would read with other characters in the place of what is none:
    /// that of `key`, or the one at `index` of its list.
    fn text(&mut self, key: &str, index: Option<u64>) -> Result<(), String> {
        let length = self.long()?;
        if length > self.left {
            return Err(CUT_OFF.into());
        }
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(length).read_to_end(&mut bytes);
        if read.map_err(|_| CUT_OFF)? as u64 != length {
            return Err(CUT_OFF.into());
        }
        self.left -= length;
        str::from_utf8(&bytes).map(drop).map_err(|e| {
            let which = index.map_or_else(String::new, |index| format!(" at {index}"));
            format!("the text{which} of its key `{key}` is not UTF-8 ({e})")
        })
    }

    fn skip_text(&mut self) -> Result<(), String> {
        let length = self.long()?;
        self.skip(Some(length))
    }

    fn alignment(&mut self, kind: u32) -> Result<(), String> {
        let value = if kind == 4 { self.number()? } else { 0 };
        if value.is_power_of_two() && value >= 8 {
            return Ok(());
        }
        Err(format!(
            "its `general.alignment` (type {kind}, value {value}) is no power of two from 8 on as u32"
        ))
    }

    /// Goes over the tensor `name` and returns the number of its type.
    fn tensor(&mut self, name: &str) -> Result<u32, String> {
        let count = self.number()?;
        if !(1..=4).contains(&count) {
            return Err(format!("its tensor `{name}` has {count} dimensions"));
        }
        let dims = (0..count)
            .map(|_| self.long())
            .collect::<Result<Vec<_>, _>>()?;
        // No element takes more than 4 bytes.
        let product = dims
            .iter()
            .try_fold(4u64, |product, &dim| product.checked_mul(dim));
        if product.is_none_or(|product| product == 0 || product > i64::MAX as u64) {
            return Err(format!(
                "its tensor `{name}` has the dimensions {dims:?}, which no tensor can have"
            ));
        }
        let number = self.number()?;
        self.skip(Some(8))?;
        Ok(number)
    }
}

/// Bytes of a value of the type `kind`, where all have as many.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
