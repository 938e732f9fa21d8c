//! Which models are on this machine, by the names that jobs give.

use std::collections::BTreeSet;
use std::fs;

use qlora_planner::{catalogue, name_everywhere};

use super::cache::Cache;

/// Names that a coordinator is told at the most.
const MOST: usize = 256;

/// Names of the models in the user's cache that are complete; none where there is no cache. A model
/// that a job names by its path is not among them.
pub fn here() -> Vec<String> {
    Cache::open().map_or_else(|_| Vec::new(), |cache| names(&cache))
}

fn names(cache: &Cache) -> Vec<String> {
    let known = catalogue().into_iter().filter(|entry| cache.has(entry));
    let mut names: BTreeSet<String> = known.map(|entry| entry.name.to_owned()).collect();
    let folders = fs::read_dir(cache.folder()).into_iter().flatten().flatten();
    let repositories = folders.filter_map(|folder| {
        let folder = folder.file_name().into_string().ok()?;
        let (owner, name) = folder.split_once("--")?;
        let repository = format!("{owner}/{name}");
        cache.has_repository(&repository).then_some(repository)
    });
    names.extend(repositories.filter_map(|repository| name_everywhere(&repository)));
    names.into_iter().take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_are_complete_are_named_as_jobs_name_them() {
        let home = tempfile::tempdir().expect("a folder");
        let cache = Cache::at(home.path());
        assert_eq!(names(&cache), [] as [&str; 0]);
        let known = catalogue()
            .into_iter()
            .find(|entry| entry.name == "qwen3-0.6b")
            .expect("a model of the catalogue");
        for repository in ["own/tiny--2", "own/half", known.repository] {
            fs::create_dir(cache.repository(repository)).expect("a folder");
        }
        // What is still fetched is not here.
        for repository in ["own/tiny--2", known.repository] {
            cache.complete(repository).expect("a mark");
        }
        fs::write(home.path().join(".own--half.lock"), "").expect("a file");
        assert_eq!(names(&cache), ["own/tiny--2", "qwen3-0.6b"]);
    }
}
