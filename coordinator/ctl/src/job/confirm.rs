//! Asks a person before something that cannot be undone.

use std::io::{IsTerminal, Write};

use crate::error::CtlError;

/// Whether the person at the terminal says yes to `question`.
///
/// # Errors
/// There is no terminal: `command` then needs `--yes`.
pub fn confirmed(command: &str, question: &str) -> Result<bool, CtlError> {
    if !std::io::stdin().is_terminal() {
        return Err(CtlError::Usage {
            message: format!("{command} asks first, and there is no terminal"),
            help: "add --yes".into(),
        });
    }
    let mut stderr = std::io::stderr().lock();
    let asked = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    asked.map_err(CtlError::io("stderr"))?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(CtlError::io("stdin"))?;
    let answer = answer.trim().to_ascii_lowercase();
    Ok(matches!(answer.as_str(), "y" | "yes"))
}

/// Such as `job 3` or `jobs 3, 4 and 7`.
pub fn jobs(ids: &[u64]) -> String {
    let words: Vec<String> = ids.iter().map(u64::to_string).collect();
    match words.split_last() {
        Some((last, [])) => format!("job {last}"),
        Some((last, others)) => format!("jobs {} and {last}", others.join(", ")),
        None => "no job".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_as_people_name_them() {
        assert_eq!(jobs(&[3]), "job 3");
        assert_eq!(jobs(&[3, 4]), "jobs 3 and 4");
        assert_eq!(jobs(&[3, 4, 7]), "jobs 3, 4 and 7");
    }
}
