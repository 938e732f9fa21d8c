//! Tables: columns as wide as what stands in them, and no wider together than the terminal.

use std::io::IsTerminal;

use qlora_client::console::line;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Between two columns.
const GAP: usize = 2;
/// A column is not cut below this.
const LEAST: usize = 8;

/// Rows under headings, each column as wide as its widest cell; numbers to the right where `right` says so. On a terminal
/// that is narrower, columns of text are cut; a pipe or a file gets all of them.
pub fn table(headings: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    within(terminal_width(), headings, right, rows)
}

/// Columns of the terminal that stdout is, where it is one.
fn terminal_width() -> Option<usize> {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

fn within(room: Option<usize>, headings: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| line(cell).into_owned()).collect()).collect();
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.width());
        cells.chain([headings[i].width()]).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..headings.len()).map(width).collect();
    if let Some(room) = room {
        shrink(&mut widths, headings, right, room);
    }
    let padded = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(&widths).enumerate().map(|(i, (cell, width))| {
            let cell = short(cell, *width);
            let fill = " ".repeat(width.saturating_sub(cell.width()));
            if right.contains(&i) { format!("{fill}{cell}") } else { format!("{cell}{fill}") }
        });
        cells.collect::<Vec<_>>().join(&" ".repeat(GAP)).trim_end().to_owned()
    };
    let mut lines = vec![padded(&mut headings.iter().copied())];
    lines.extend(rows.iter().map(|row| padded(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// Takes from the widest column of text until all fit, or none can be cut further.
fn shrink(widths: &mut [usize], headings: &[&str], right: &[usize], room: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > room {
        let can_be_cut =
            |(i, width): &(usize, &mut usize)| !right.contains(i) && **width > LEAST.max(headings[*i].width());
        match widths.iter_mut().enumerate().filter(can_be_cut).max_by_key(|(_, width)| **width) {
            Some((_, width)) => *width -= 1,
            None => return,
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

    const HEADINGS: [&str; 3] = ["JOB", "NAME", "WORKER"];

    fn rows(names: &[&str]) -> Vec<Vec<String>> {
        let row = |(i, name): (usize, &&str)| vec![i.to_string(), (*name).to_owned(), "a-worker-of-some-length".into()];
        names.iter().enumerate().map(row).collect()
    }

    #[test]
    fn a_table_is_no_wider_than_the_terminal_and_a_pipe_gets_all() {
        let rows = rows(&["short", &"n".repeat(48)]);
        let whole = within(None, &HEADINGS, &[0], &rows);
        assert!(whole.contains(&"n".repeat(48)) && whole.contains("a-worker-of-some-length"), "{whole}");
        for room in [30, 50, 79, 80] {
            let cut = within(Some(room), &HEADINGS, &[0], &rows);
            assert!(cut.lines().all(|line| line.width() <= room), "{room}:\n{cut}");
            assert!(cut.contains("short") && cut.contains('…') == (room < 78), "{room}:\n{cut}");
        }
        // Narrower than the least: nothing is lost but the look.
        assert!(within(Some(5), &HEADINGS, &[0], &rows).lines().count() == 3);
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let table = within(None, &HEADINGS, &[0], &rows(&["日本語", "abcdef", "Größe"]));
        let starts: Vec<usize> =
            table.lines().skip(1).map(|line| line.split("a-worker").next().unwrap_or("").width()).collect();
        assert_eq!(starts, [starts[0]; 3], "{table}");
        assert_eq!(short("日本語", 5), "日本…");
        assert_eq!(short("日本語", 4), "日…");
        assert_eq!(short("abc", 3), "abc");
    }
}
