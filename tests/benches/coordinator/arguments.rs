//! What the command line asks for.

pub const USAGE: &str = "\
cargo bench --bench coordinator -- [MODE] [NAME=NUMBER...]
  dispatch  jobs=5000 workers=32 submitters=32 single=500
            jobs that do nothing: dispatches a second, submit to start, CPU time a job, memory
  stamp     jobs=5000 workers=4 submitters=8 single=300
            the same with a process for each job, which notes when it began
  fleet     workers=1000 seconds=60
            connected workers, each of which runs a job that makes a step a second
  finished  jobs=100000 lists=50
            a coordinator that starts over ended jobs: time, lists, memory
  engine    most=10000 times=500
            the engine alone: an event as workers and waiting jobs grow";

/// The default mode is `dispatch`.
pub enum Mode {
    Dispatch(Dispatch),
    Stamp(Stamp),
    Fleet(Fleet),
    Finished(Finished),
    Growth(Growth),
}

pub struct Dispatch {
    pub jobs: usize,
    pub workers: usize,
    pub submitters: usize,
    /// Jobs that are submitted one by one to an idle worker.
    pub single: usize,
}

/// As [`Dispatch`], with a process for each job.
pub struct Stamp {
    pub jobs: usize,
    pub workers: usize,
    pub submitters: usize,
    pub single: usize,
}

pub struct Fleet {
    pub workers: usize,
    pub seconds: u64,
}

pub struct Finished {
    pub jobs: u64,
    /// How often each list is asked for.
    pub lists: usize,
}

/// The engine alone.
pub struct Growth {
    /// Workers or waiting jobs at the most.
    pub most: usize,
    /// Events of each kind.
    pub times: usize,
}

impl Mode {
    /// # Errors
    /// There is no such mode or setting, or a value is no number above 0.
    pub fn read(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        // Cargo adds `--bench` to what it was told.
        let mut words = arguments.filter(|word| word != "--bench").peekable();
        let mode = words.next_if(|word| !word.contains('='));
        let mut settings = Settings::read(words)?;
        let mode = match mode.as_deref() {
            None | Some("dispatch") => Self::Dispatch(Dispatch {
                jobs: settings.take("jobs", 5000) as usize,
                workers: settings.take("workers", 32) as usize,
                submitters: settings.take("submitters", 32) as usize,
                single: settings.take("single", 500) as usize,
            }),
            Some("stamp") => Self::Stamp(Stamp {
                jobs: settings.take("jobs", 5000) as usize,
                workers: settings.take("workers", 4) as usize,
                submitters: settings.take("submitters", 8) as usize,
                single: settings.take("single", 300) as usize,
            }),
            Some("fleet") => Self::Fleet(Fleet {
                workers: settings.take("workers", 1000) as usize,
                seconds: settings.take("seconds", 60),
            }),
            Some("finished") => Self::Finished(Finished {
                jobs: settings.take("jobs", 100_000),
                lists: settings.take("lists", 50) as usize,
            }),
            Some("engine") => Self::Growth(Growth {
                most: settings.take("most", 10_000) as usize,
                times: settings.take("times", 500) as usize,
            }),
            Some(other) => return Err(format!("there is no mode {other}")),
        };
        settings.end()?;
        Ok(mode)
    }
}

/// Settings that nobody has taken yet.
struct Settings(Vec<(String, u64)>);

impl Settings {
    fn read(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let one = |word: String| {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| format!("{word} is not NAME=NUMBER"))?;
            let value: u64 = value
                .parse()
                .ok()
                .filter(|value| *value > 0)
                .ok_or_else(|| format!("{word}: {value} is no number above 0"))?;
            Ok((name.to_owned(), value))
        };
        words.map(one).collect::<Result<_, String>>().map(Self)
    }

    fn take(&mut self, name: &str, default: u64) -> u64 {
        let place = self.0.iter().position(|(known, _)| known == name);
        place.map_or(default, |place| self.0.remove(place).1)
    }

    fn end(self) -> Result<(), String> {
        match self.0.first() {
            Some((name, _)) => Err(format!("this mode has no setting {name}")),
            None => Ok(()),
        }
    }
}
