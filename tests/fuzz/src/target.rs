//! A fuzz target: a name, its seeds, and what it asks of every input.

use std::path::PathBuf;

use crate::bounds::{MOST_TIME, limit_memory, timed};
use crate::edit::Stock;
use crate::input::Input;
use crate::run::run;
use crate::seeds::{files, read, repository};

/// Seeds and words of one format.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    words: Vec<&'static str>,
}

impl Target {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            seeds: Vec::new(),
            words: Vec::new(),
        }
    }

    /// Takes the files below `folder` of the repository whose names end in `end` as seeds.
    ///
    /// # Panics
    /// There are none.
    pub fn files(mut self, folder: &str, end: &str) -> Self {
        self.seeds.extend(files(&repository().join(folder), end));
        self
    }

    /// Takes one file of the repository as a seed.
    ///
    /// # Panics
    /// It cannot be read.
    pub fn file(self, path: &str) -> Self {
        let bytes = read(&repository().join(path));
        self.seed(bytes)
    }

    pub fn seed(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.seeds.push(bytes.into());
        self
    }

    /// Takes `words` of the format, which come in the place of others.
    pub fn words(mut self, words: &[&'static str]) -> Self {
        self.words.extend_from_slice(words);
        self
    }

    /// Gives `check` the seeds, and then inputs that are made of them.
    ///
    /// The input that is being read lies in a file, which stays if it ends the process.
    ///
    /// # Panics
    /// There is no seed, or an input fails. The message says where the smallest one lies.
    pub fn run(self, check: impl Fn(&[u8])) {
        assert!(!self.seeds.is_empty(), "{} has no seed", self.name);
        limit_memory();
        let kept = self.kept();
        let one = |input: &Input| {
            std::fs::write(&kept, &input.0).expect("a file for the input");
            let took = timed(|| check(&input.0));
            assert!(took < MOST_TIME, "the input took {took:?} of CPU time");
        };
        for seed in &self.seeds {
            one(&Input(seed.clone()));
        }
        let stock = Stock::new(self.seeds, &self.words);
        if let Err((reason, smallest)) = run(&stock.inputs(), &one) {
            std::fs::write(&kept, &smallest.0).expect("a file for the input");
            panic!(
                "{} fails: {reason}\nby {smallest:?}\nthe input lies in {}; make it a seed of the target",
                self.name,
                kept.display()
            );
        }
        std::fs::remove_file(&kept).expect("the file of the last input goes");
    }

    /// Where the input lies that is being read.
    fn kept(&self) -> PathBuf {
        let folder = std::env::temp_dir().join("qlora-fuzz");
        std::fs::create_dir_all(&folder).expect("a folder for inputs");
        folder.join(format!("{}-{}", self.name, std::process::id()))
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn fault_of(check: impl Fn(&[u8])) -> String {
        let target = Target::new("planted").seed("{\"size\": 12, \"name\": \"x\"}");
        let fault = catch_unwind(AssertUnwindSafe(|| target.run(check)));
        let fault = fault.expect_err("a target that fails");
        fault
            .downcast::<String>()
            .map_or_else(|_| String::new(), |text| *text)
    }

    #[test]
    fn a_planted_fault_is_found_and_its_input_kept() {
        let is_broken = |text: &str| {
            let value = text.split("\"size\": ").nth(1);
            value.is_some_and(|value| value.starts_with(['n', 't', '-', '"', '[', '{']))
        };
        let fault = fault_of(|bytes| {
            assert!(!is_broken(&String::from_utf8_lossy(bytes)), "no size");
        });
        assert!(fault.contains("no size"), "{fault}");
        let place = fault
            .split("lies in ")
            .nth(1)
            .and_then(|rest| rest.split(';').next());
        let path = place.expect("a path");
        let input = std::fs::read(path).expect("the input");
        assert!(is_broken(&String::from_utf8_lossy(&input)), "{input:?}");
        std::fs::remove_file(path).expect("the input goes");
    }
}
