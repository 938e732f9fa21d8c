//! What is wrong, where, and the way out, in the form that compilers use.

use std::fmt;

use qlora_codes::Code;

/// A place in a text that a person wrote; line and column count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub source: String,
    pub line: u64,
    pub column: u64,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source, self.line, self.column)
    }
}

/// One fault. `message` states it, and only `help` advises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// `qlora-ctl explain CODE` prints its meaning.
    pub code: Code,
    pub message: String,
    /// The file position, or the variable or flag that set the value.
    pub place: Option<Place>,
    pub help: Option<String>,
}

/// Where a faulty value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Text(Location),
    /// An environment variable or a command-line flag, by name.
    Named(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Text(location) => location.fmt(f),
            Place::Named(name) => f.write_str(name),
        }
    }
}

impl Diagnostic {
    /// Puts faults in the order of the file; those of flags and variables come first.
    pub(crate) fn position(&self) -> (u64, u64) {
        match &self.place {
            Some(Place::Text(location)) => (location.line, location.column),
            _ => (0, 0),
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, kind: &str) -> fmt::Result {
        write!(f, "{kind}[{}]: {}", self.code, self.message)?;
        if let Some(place) = &self.place {
            write!(f, "  ({place})")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "error")
    }
}

/// A setting without effect, in a valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub Diagnostic);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, "warning")
    }
}

/// Every fault that was found; whoever makes one has found a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Diagnostic>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl ConfigErrors {
    /// The code of the first fault.
    pub fn code(&self) -> Code {
        self.0
            .first()
            .map_or(Code::InvalidValue, |first| first.code)
    }
}

impl From<Diagnostic> for ConfigErrors {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}
