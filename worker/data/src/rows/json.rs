//! JSON lines, and a JSON array taken apart into its elements without reading all of it.

use std::io::{self, BufRead};

use serde_json::Value;

use super::{Place, ReadError, Row, Rows};
use crate::chat::RowError;

/// An array where the first character that is not white space is `[`, lines elsewhere.
pub(super) fn open(name: &str, mut reader: Box<dyn BufRead>) -> Result<Rows, ReadError> {
    let name = name.to_owned();
    let fault = |source| ReadError::Io { file: name.clone(), source };
    let mut line = 1;
    let first = skip_space(&mut reader, &mut line).map_err(fault)?;
    if first == Some(b'[') {
        reader.consume(1);
        return Ok(Box::new(rows(name, Elements { reader, line, ended: false })));
    }
    Ok(Box::new(rows(name, Lines { reader, number: line - 1 })))
}

fn rows(
    name: String,
    texts: impl Iterator<Item = io::Result<(usize, String)>>,
) -> impl Iterator<Item = Result<Row, ReadError>> {
    texts.map(move |text| {
        let (line, text) = text.map_err(|source| ReadError::Io { file: name.clone(), source })?;
        let value: Result<Value, _> = serde_json::from_str(&text);
        Ok(Row {
            place: Place { file: name.clone(), line },
            value: value.map_err(|e| RowError::NotJson(e.to_string())),
        })
    })
}

/// Reads over white space and returns, without reading it, what follows.
fn skip_space(reader: &mut dyn BufRead, line: &mut usize) -> io::Result<Option<u8>> {
    loop {
        let Some(&byte) = reader.fill_buf()?.first() else { return Ok(None) };
        // A mark of byte order is no content.
        if !byte.is_ascii_whitespace() && !matches!(byte, 0xef | 0xbb | 0xbf) {
            return Ok(Some(byte));
        }
        *line += usize::from(byte == b'\n');
        reader.consume(1);
    }
}

/// Lines that are not blank, numbered from 1.
struct Lines {
    reader: Box<dyn BufRead>,
    number: usize,
}

impl Iterator for Lines {
    type Item = io::Result<(usize, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = String::new();
            match self.reader.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => self.number += 1,
                Err(e) => return Some(Err(e)),
            }
            if !line.trim().is_empty() {
                return Some(Ok((self.number, line)));
            }
        }
    }
}

/// Texts of the elements of an array whose bracket has been read, with the lines on which they begin.
struct Elements {
    reader: Box<dyn BufRead>,
    line: usize,
    ended: bool,
}

impl Iterator for Elements {
    type Item = io::Result<(usize, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        let element = if self.ended { return None } else { self.element() };
        self.ended |= !matches!(element, Ok(Some(_)));
        element.transpose()
    }
}

impl Elements {
    fn element(&mut self) -> io::Result<Option<(usize, String)>> {
        let mut first = skip_space(&mut self.reader, &mut self.line)?;
        if first == Some(b',') {
            self.reader.consume(1);
            first = skip_space(&mut self.reader, &mut self.line)?;
        }
        match first {
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the array is not closed")),
            Some(b']') => Ok(None),
            Some(_) => {
                let start = self.line;
                let text = self.text()?;
                let text = String::from_utf8(text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                Ok(Some((start, text)))
            }
        }
    }

    /// Bytes up to the comma or bracket that ends the element.
    fn text(&mut self) -> io::Result<Vec<u8>> {
        let (mut text, mut depth, mut quoted, mut escaped) = (Vec::new(), 0usize, false, false);
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the array is not closed"));
            }
            let mut used = 0;
            for &byte in buffer {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    _ if quoted => {}
                    b'{' | b'[' => depth += 1,
                    b',' | b']' if depth == 0 => {
                        text.extend_from_slice(&buffer[..used]);
                        self.reader.consume(used);
                        return Ok(text);
                    }
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                self.line += usize::from(byte == b'\n');
                used += 1;
            }
            text.extend_from_slice(buffer);
            self.reader.consume(used);
        }
    }
}
