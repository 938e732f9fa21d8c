//! JSON lines, and a JSON array taken apart into its elements without reading all of it.

use std::collections::VecDeque;
use std::io::{self, BufRead, Cursor, Read};

use serde_json::Value;

use super::head::MARK;
use super::row::{Place, ReadError, Row, Rows};
use crate::plain::foreign_encoding;
use crate::row_error::RowError;
use crate::strict;

/// Bytes of one row with the line on which they begin.
type Piece = Result<(usize, Vec<u8>), Fault>;

/// Why a file cannot be read any further.
enum Fault {
    Io(io::Error),
    Form(String),
}

impl Fault {
    fn of(self, file: &str) -> ReadError {
        match self {
            Self::Io(source) => ReadError::Io {
                file: file.to_owned(),
                source,
            },
            Self::Form(fault) => ReadError::Format {
                file: file.to_owned(),
                fault,
            },
        }
    }
}

/// An array where the first character that is not white space is `[`, lines elsewhere.
pub(super) fn open(name: &str, mut reader: Box<dyn BufRead>) -> Result<Rows, ReadError> {
    let fault = |source| ReadError::Io {
        file: name.to_owned(),
        source,
    };
    let mut head = Vec::new();
    reader
        .by_ref()
        .take(4)
        .read_to_end(&mut head)
        .map_err(fault)?;
    if let Some(encoding) = foreign_encoding(&head) {
        return Err(Fault::Form(format!("the file is {encoding}; save it as UTF-8")).of(name));
    }
    let mut reader: Box<dyn BufRead> = Box::new(Cursor::new(head).chain(reader));
    let mut line = 1;
    let first = skip_space(&mut reader, &mut line).map_err(fault)?;
    let name = name.to_owned();
    if first == Some(b'[') {
        reader.consume(1);
        let elements = Elements {
            reader,
            line,
            ended: false,
        };
        return Ok(Box::new(elements.map(move |piece| {
            piece.map(|p| row(&name, p)).map_err(|e| e.of(&name))
        })));
    }
    let lines = Lines {
        reader,
        number: line - 1,
        ended: false,
    };
    Ok(Box::new(FromLines {
        name,
        lines,
        first: true,
        waiting: VecDeque::new(),
    }))
}

fn row(file: &str, (line, bytes): (usize, Vec<u8>)) -> Row {
    Row {
        place: Place {
            file: file.to_owned(),
            line,
        },
        value: value(&bytes, line),
    }
}

/// The row that begins at `line` of its file.
fn value(bytes: &[u8], line: usize) -> Result<Value, RowError> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let byte = bytes.get(e.valid_up_to()).copied().unwrap_or_default();
        RowError::NotUtf8 {
            byte,
            column: e.valid_up_to() + 1,
        }
    })?;
    strict::parse(text).map_err(|e| RowError::NotJson(fault_of(&e, line)))
}

/// A fault of a row that begins at `line`: its own lines are none of the file.
fn fault_of(error: &serde_json::Error, line: usize) -> String {
    let (text, (within, column)) = (error.to_string(), (error.line(), error.column()));
    match text.strip_suffix(&format!(" at line {within} column {column}")) {
        Some(text) if within <= 1 => format!("{text} at column {column}"),
        Some(text) => format!("{text} at line {} column {column}", line + within - 1),
        None => text,
    }
}

/// Reads over white space and byte order marks, and returns, without reading it, what follows.
fn skip_space(reader: &mut dyn BufRead, line: &mut usize) -> io::Result<Option<u8>> {
    loop {
        let Some(&byte) = reader.fill_buf()?.first() else {
            return Ok(None);
        };
        // A mark of byte order is no content.
        if !byte.is_ascii_whitespace() && !MARK.contains(&byte) {
            return Ok(Some(byte));
        }
        *line += usize::from(byte == b'\n');
        reader.consume(1);
    }
}

/// Rows of a file of lines; one whose first row goes on over several lines is refused as a whole.
struct FromLines {
    name: String,
    lines: Lines,
    first: bool,
    waiting: VecDeque<Row>,
}

impl Iterator for FromLines {
    type Item = Result<Row, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.waiting.pop_front() {
            return Some(Ok(row));
        }
        let (line, bytes) = match self.lines.next()? {
            Ok(piece) => piece,
            Err(fault) => return Some(Err(fault.of(&self.name))),
        };
        if std::mem::take(&mut self.first) && breaks_off(&bytes) {
            match self.lines.next() {
                Some(Ok((number, next))) if value(&next, number).is_err() => {
                    self.lines.ended = true;
                    return Some(Err(several_lines(line).of(&self.name)));
                }
                Some(Ok(next)) => self.waiting.push_back(row(&self.name, next)),
                Some(Err(fault)) => return Some(Err(fault.of(&self.name))),
                None => {}
            }
        }
        Some(Ok(row(&self.name, (line, bytes))))
    }
}

fn several_lines(line: usize) -> Fault {
    Fault::Form(format!(
        "the object that begins at line {line} goes on over several lines; write one row a line, or a list of rows: [{{...}}, {{...}}]"
    ))
}

/// Whether `line` is the beginning of an object that it does not end.
fn breaks_off(line: &[u8]) -> bool {
    let read: Result<Value, _> = serde_json::from_slice(line);
    read.is_err_and(|e| e.is_eof())
}

/// Lines that are not blank, numbered from 1, without a byte order mark: files that were joined
/// have one at each seam.
struct Lines {
    reader: Box<dyn BufRead>,
    number: usize,
    ended: bool,
}

impl Iterator for Lines {
    type Item = Piece;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let mut line = Vec::new();
            match self.reader.read_until(b'\n', &mut line) {
                Ok(0) => self.ended = true,
                Ok(_) => self.number += 1,
                Err(e) => {
                    self.ended = true;
                    return Some(Err(Fault::Io(e)));
                }
            }
            while line.starts_with(MARK) {
                line.drain(..MARK.len());
            }
            if !line.trim_ascii().is_empty() {
                return Some(Ok((self.number, line)));
            }
        }
        None
    }
}

/// Texts of the elements of an array whose bracket has been read, with the lines on which they
/// begin.
struct Elements {
    reader: Box<dyn BufRead>,
    line: usize,
    ended: bool,
}

impl Iterator for Elements {
    type Item = Piece;

    fn next(&mut self) -> Option<Self::Item> {
        let element = if self.ended {
            return None;
        } else {
            self.element()
        };
        self.ended |= !matches!(element, Ok(Some(_)));
        element.transpose()
    }
}

impl Elements {
    fn element(&mut self) -> Result<Option<(usize, Vec<u8>)>, Fault> {
        let mut first = self.skip_space()?;
        if first == Some(b',') {
            self.reader.consume(1);
            first = self.skip_space()?;
            if first == Some(b']') {
                let fault = format!(
                    "a comma stands before the end of the list at line {}; leave it out",
                    self.line
                );
                return Err(Fault::Form(fault));
            }
        }
        match first {
            None => Err(Fault::Form(
                "the list is not closed: its `]` is missing".into(),
            )),
            Some(b']') => {
                self.reader.consume(1);
                self.nothing_follows()
            }
            Some(_) => Ok(Some((self.line, self.text()?))),
        }
    }

    fn skip_space(&mut self) -> Result<Option<u8>, Fault> {
        skip_space(&mut self.reader, &mut self.line).map_err(Fault::Io)
    }

    fn nothing_follows(&mut self) -> Result<Option<(usize, Vec<u8>)>, Fault> {
        let ended = self.line;
        match self.skip_space()? {
            None => Ok(None),
            Some(_) => Err(Fault::Form(format!(
                "the list ends at line {ended}, and more follows at line {}; write all rows into one list, or one row a line",
                self.line
            ))),
        }
    }

    /// Bytes up to the comma or bracket that ends the element.
    fn text(&mut self) -> Result<Vec<u8>, Fault> {
        let start = self.line;
        let (mut text, mut depth, mut quoted, mut escaped) = (Vec::new(), 0usize, false, false);
        loop {
            let buffer = self.reader.fill_buf().map_err(Fault::Io)?;
            if buffer.is_empty() {
                return Err(Fault::Form(format!(
                    "the row that begins at line {start} of the list does not end"
                )));
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
