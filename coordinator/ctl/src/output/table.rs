//! Tables: columns as wide as their contents, and together no wider than the terminal.

use std::io::IsTerminal;

use qlora_client::console::line;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Between two columns.
const GAP: usize = 2;
/// A column of text is cut down to this before another column is left out.
const LEAST: usize = 8;

/// What stands in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To the right, and never cut: a part of a number is another number.
    Number,
    /// One of a few words, never cut.
    Word,
    /// Cut where the terminal is too narrow.
    Text,
}

/// A heading, and what a narrow terminal does to the column under it.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    pub heading: &'a str,
    pub kind: Kind,
    /// The column with the highest rank is left out first where cutting is not enough; one of rank
    /// 0 always stays.
    pub rank: u8,
}

pub const fn number(heading: &str, rank: u8) -> Column<'_> {
    Column {
        heading,
        kind: Kind::Number,
        rank,
    }
}

pub const fn word(heading: &str, rank: u8) -> Column<'_> {
    Column {
        heading,
        kind: Kind::Word,
        rank,
    }
}

pub const fn text(heading: &str, rank: u8) -> Column<'_> {
    Column {
        heading,
        kind: Kind::Text,
        rank,
    }
}

/// Rows under headings, each column as wide as its widest cell. On a terminal that is narrower,
/// columns of text are cut, and columns left out; a pipe or a file gets all of them.
pub fn table(columns: &[Column<'_>], rows: &[Vec<String>]) -> String {
    within(terminal_width(), columns, rows)
}

/// Columns of the terminal that stdout is, where it is one.
fn terminal_width() -> Option<usize> {
    let stdout = std::io::stdout();
    let size = stdout
        .is_terminal()
        .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
        .flatten();
    size.map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
}

fn within(room: Option<usize>, columns: &[Column<'_>], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| line(cell).into_owned()).collect())
        .collect();
    let width = |(i, column): (usize, &Column<'_>)| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(i))
            .map(|cell| cell.width());
        cells.chain([column.heading.width()]).max().unwrap_or(0)
    };
    let whole: Vec<usize> = columns.iter().enumerate().map(width).collect();
    let widths = room.map_or_else(
        || whole.iter().copied().map(Some).collect(),
        |room| fitted(&whole, columns, room),
    );
    let padded = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells
            .zip(&widths)
            .zip(columns)
            .filter_map(|((cell, width), column)| {
                let width = (*width)?;
                let cell = short(cell, width);
                let fill = " ".repeat(width.saturating_sub(cell.width()));
                Some(if column.kind == Kind::Number {
                    format!("{fill}{cell}")
                } else {
                    format!("{cell}{fill}")
                })
            });
        cells
            .collect::<Vec<_>>()
            .join(&" ".repeat(GAP))
            .trim_end()
            .to_owned()
    };
    let mut lines = vec![padded(&mut columns.iter().map(|column| column.heading))];
    lines.extend(
        rows.iter()
            .map(|row| padded(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

/// The width of each column; none for one that is left out.
fn fitted(whole: &[usize], columns: &[Column<'_>], room: usize) -> Vec<Option<usize>> {
    let mut widths: Vec<Option<usize>> = whole.iter().copied().map(Some).collect();
    loop {
        let mut cut = widths.clone();
        if cut_text(&mut cut, columns, room, LEAST) {
            return cut;
        }
        let ranked = columns
            .iter()
            .enumerate()
            .filter(|(i, column)| widths[*i].is_some() && column.rank > 0);
        let Some((last, _)) = ranked.max_by_key(|(_, column)| column.rank) else {
            break;
        };
        widths[last] = None;
    }
    cut_text(&mut widths, columns, room, 1);
    widths
}

/// Takes from the widest column of text until all fit, but of none more than down to `least` or its
/// heading; whether they fit.
fn cut_text(
    widths: &mut [Option<usize>],
    columns: &[Column<'_>],
    room: usize,
    least: usize,
) -> bool {
    loop {
        let kept = widths.iter().flatten();
        let gaps = GAP * kept.clone().count().saturating_sub(1);
        if kept.sum::<usize>() + gaps <= room {
            return true;
        }
        let can_be_cut = |(i, width): &(usize, &mut usize)| {
            columns[*i].kind == Kind::Text && **width > least.max(columns[*i].heading.width())
        };
        let kept = widths
            .iter_mut()
            .enumerate()
            .filter_map(|(i, width)| Some((i, width.as_mut()?)));
        match kept.filter(can_be_cut).max_by_key(|(_, width)| **width) {
            Some((_, width)) => *width -= 1,
            None => return false,
        }
    }
}

/// The beginning of `text`, where it takes more than `most` columns.
pub fn short(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let mut used = 1;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= most
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column<'static>; 3] = [number("JOB", 0), text("NAME", 0), text("WORKER", 1)];

    fn rows(names: &[&str]) -> Vec<Vec<String>> {
        let row = |(i, name): (usize, &&str)| {
            vec![
                i.to_string(),
                (*name).to_owned(),
                "a-worker-of-some-length".into(),
            ]
        };
        names.iter().enumerate().map(row).collect()
    }

    #[test]
    fn a_table_is_no_wider_than_the_terminal_and_a_pipe_gets_all() {
        let rows = rows(&["short", &"n".repeat(48)]);
        let whole = within(None, &COLUMNS, &rows);
        assert!(
            whole.contains(&"n".repeat(48)) && whole.contains("a-worker-of-some-length"),
            "{whole}"
        );
        for room in [12, 20, 23, 30, 50, 79, 80] {
            let cut = within(Some(room), &COLUMNS, &rows);
            assert!(
                cut.lines().all(|line| line.width() <= room),
                "{room}:\n{cut}"
            );
            assert!(
                cut.contains("short") && cut.contains('…') == (room < 78),
                "{room}:\n{cut}"
            );
            assert_eq!(cut.contains("WORKER"), room >= 23, "{room}:\n{cut}");
        }
        // Narrower than the least: nothing is lost but the look.
        assert!(within(Some(5), &COLUMNS, &rows).lines().count() == 3);
    }

    #[test]
    fn a_word_and_a_number_are_whole_on_every_terminal() {
        let columns = [
            number("JOB", 0),
            text("NAME", 0),
            word("STATE", 0),
            number("STEP", 1),
            number("LOSS", 2),
            text("WORKER", 3),
        ];
        let states = ["succeeded", "cancelled", "running"];
        let row = |state: &&str| {
            let name = format!("a rather long name of a job that has {state}");
            vec![
                "1234".into(),
                name,
                (*state).into(),
                "123456/250000".into(),
                "1.132".into(),
                "worker".repeat(4),
            ]
        };
        let rows: Vec<_> = states.iter().map(row).collect();
        for room in 24..=120 {
            let cut = within(Some(room), &columns, &rows);
            for (line, state) in cut.lines().skip(1).zip(states) {
                assert!(line.width() <= room, "{room}:\n{cut}");
                assert!(
                    line.contains("1234 ") && line.contains(&format!(" {state}")),
                    "{room}:\n{cut}"
                );
                assert_eq!(
                    line.contains("123456/250000"),
                    cut.contains("STEP"),
                    "{room}:\n{cut}"
                );
            }
        }
        let narrow = within(Some(40), &columns, &rows);
        assert!(
            narrow.contains("a rath") && !narrow.contains("WORKER"),
            "{narrow}"
        );
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let table = within(None, &COLUMNS, &rows(&["日本語", "abcdef", "Größe"]));
        let starts: Vec<usize> = table
            .lines()
            .skip(1)
            .map(|line| line.split("a-worker").next().unwrap_or("").width())
            .collect();
        assert_eq!(starts, [starts[0]; 3], "{table}");
        assert_eq!(short("日本語", 5), "日本…");
        assert_eq!(short("日本語", 4), "日…");
        assert_eq!(short("abc", 3), "abc");
    }
}
