//! Which models a job may name on this machine. The machine's owner decides that, not the
//! submitter.
//!
//! Models of the catalogue are always allowed. Beyond them a job may name what the owner lists:
//! folders of this machine and repositories of the hub. The owner's `HF_TOKEN` is used for listed
//! repositories only. If nothing is listed, and the coordinator is called by and listens on
//! loopback addresses only, submitter and owner are taken for one person, and every model is
//! allowed.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use qlora_client::{Address, several};
use qlora_planner::find;

use super::error::ModelError;

/// What the owner allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    Everything,
    Listed(Vec<Rule>),
}

/// One thing that the owner lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// This folder or file, and what lies below it.
    Path(PathBuf),
    /// `owner/name` of the hub; every name of the owner where there is none.
    Repository { owner: String, name: Option<String> },
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if Path::new(text).is_absolute() {
            return Ok(Self::Path(text.into()));
        }
        match text.split_once('/') {
            Some((owner, name))
                if !owner.is_empty() && !name.is_empty() && !name.contains('/') && owner != "." =>
            {
                let name = Some(name.to_owned()).filter(|name| name != "*");
                Ok(Self::Repository {
                    owner: owner.into(),
                    name,
                })
            }
            _ => Err(format!(
                "`{text}` is neither an absolute path nor OWNER/NAME or OWNER/* of the hub"
            )),
        }
    }
}

impl Allowed {
    /// What `rules` allow; without any, what the place of the coordinator says, of several that of
    /// each.
    pub fn of(rules: &[Rule], coordinator: &str) -> Self {
        if rules.is_empty() && several(coordinator).all(is_this_machine) {
            return Self::Everything;
        }
        Self::Listed(rules.to_vec())
    }

    /// The same where the coordinator says whether it can be reached from this machine only.
    pub fn narrowed(self, loopback_only: bool) -> Self {
        match self {
            Self::Everything if !loopback_only => Self::Listed(Vec::new()),
            allowed => allowed,
        }
    }

    /// # Errors
    /// `name` is not allowed. Whether it exists is not looked at then.
    pub fn check(&self, name: &str) -> Result<(), ModelError> {
        let Self::Listed(rules) = self else {
            return Ok(());
        };
        if find(name).is_some() || rules.iter().any(|rule| rule.allows(name)) {
            return Ok(());
        }
        Err(ModelError::NotAllowed {
            name: name.to_owned(),
        })
    }
}

impl Rule {
    fn allows(&self, name: &str) -> bool {
        match self {
            Self::Path(folder) => is_below(Path::new(name), folder),
            Self::Repository {
                owner,
                name: wanted,
            } => name.split_once('/').is_some_and(|(named_owner, named)| {
                let valid = !named.is_empty() && !named.contains('/');
                valid
                    && named_owner == owner
                    && wanted.as_deref().is_none_or(|wanted| wanted == named)
            }),
        }
    }
}

/// Whether `path` lies in `folder`, by its words and by where links lead.
fn is_below(path: &Path, folder: &Path) -> bool {
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !plain || !path.starts_with(folder) {
        return false;
    }
    match (path.canonicalize(), folder.canonicalize()) {
        (Ok(path), Ok(folder)) => path.starts_with(folder),
        // It is not there; that may be told of what the owner lists.
        _ => true,
    }
}

/// Whether `address`, HOST:PORT or a URL, is a loopback address.
fn is_this_machine(address: &str) -> bool {
    Address::parse(address).is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts
            .iter()
            .map(|text| text.parse().expect("a rule"))
            .collect()
    }

    #[test]
    fn beside_the_coordinator_anything_goes_and_elsewhere_the_catalogue() {
        for here in [
            "127.0.0.1:7070",
            "http://127.0.0.1:7070",
            "https://127.0.0.1:7070",
            "localhost:7070",
            "http://[::1]:7070/",
        ] {
            assert_eq!(Allowed::of(&[], here), Allowed::Everything, "{here}");
        }
        for elsewhere in [
            "10.0.0.5:7070",
            "http://gpu.example:7070",
            "[fe80::1]:7070",
            "localhost.example:1",
        ] {
            let allowed = Allowed::of(&[], elsewhere);
            assert!(
                allowed.check("llama-3.1-8b-instruct").is_ok(),
                "{elsewhere}"
            );
            for name in [
                "/etc",
                "/home/me/model",
                "owner/name",
                "relative",
                "./relative",
                "../up",
            ] {
                assert!(
                    matches!(allowed.check(name), Err(ModelError::NotAllowed { .. })),
                    "{elsewhere} {name}"
                );
            }
        }
        assert!(
            Allowed::of(&rules(&["/models"]), "127.0.0.1:7070")
                .check("/etc")
                .is_err(),
            "a list is a list"
        );
        assert_eq!(Allowed::Everything.narrowed(true), Allowed::Everything);
        assert!(
            Allowed::Everything.narrowed(false).check("/etc").is_err(),
            "others can reach the coordinator"
        );
    }

    #[test]
    fn what_is_listed_is_allowed_and_no_way_leads_out_of_it() {
        let home = tempfile::tempdir().expect("a folder");
        let at = |name: &str| home.path().join(name).to_string_lossy().into_owned();
        std::fs::create_dir_all(at("models/a")).expect("folders");
        std::fs::create_dir_all(at("models-of-others")).expect("folders");
        std::os::unix::fs::symlink("/etc", at("models/link")).expect("a link");
        let allowed = Allowed::of(
            &rules(&[&at("models"), "meta-llama/*", "me/mine"]),
            "10.0.0.5:7070",
        );
        for name in [
            at("models"),
            at("models/a"),
            at("models/not-there"),
            "meta-llama/x".into(),
            "me/mine".into(),
        ] {
            assert!(allowed.check(&name).is_ok(), "{name}");
        }
        let outside = [
            at("models/../models-of-others"),
            at("models-of-others"),
            at("models/link"),
            at("models/link/ssl"),
        ];
        let others = [
            "me/other",
            "other/mine",
            "me/mine/x",
            "meta-llama/",
            "meta-llama/../x",
            "models/a",
        ];
        for name in outside.iter().map(String::as_str).chain(others) {
            assert!(allowed.check(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_rule_is_a_path_or_a_repository() {
        for wrong in [
            "",
            "models",
            "a/",
            "/".trim_start_matches('/'),
            "a/b/c",
            "./models",
        ] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
    }
}
