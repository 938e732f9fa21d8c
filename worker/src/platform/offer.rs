//! Which devices a worker offers, from what was asked for, what this program was built with, and
//! what was found.
//!
//! It asks no device itself.

use qlora_proto::DeviceClass;

use super::accelerator::Accelerator;
use crate::error::WorkerError;

/// The GPUs of a class, or in words why none can be used.
pub(super) type Found = Result<Vec<Accelerator>, String>;

/// A kind of GPU.
pub(super) struct Kind {
    pub class: DeviceClass,
    /// This program can compute on it.
    pub built: bool,
    pub found: Found,
}

/// What is offered.
#[derive(Debug)]
pub(super) enum Offer {
    Gpus(DeviceClass, Vec<Accelerator>),
    /// The CPU, and why it is not a GPU that this machine or this build lets one expect.
    Cpu {
        instead: Vec<String>,
    },
}

/// Takes the GPUs of the class `wanted`, or else of the first of `kinds` that was found and can be
/// computed on.
///
/// # Errors
/// The class that was asked for is not here, or not in this build.
pub(super) fn choose(wanted: Option<DeviceClass>, kinds: Vec<Kind>) -> Result<Offer, WorkerError> {
    let mut instead = Vec::new();
    for kind in kinds
        .into_iter()
        .filter(|kind| wanted.is_none_or(|wanted| wanted == kind.class))
    {
        match (kind.found, kind.built) {
            (Ok(gpus), true) => return Ok(Offer::Gpus(kind.class, gpus)),
            (Ok(gpus), false) => instead.push(not_built(kind.class, &gpus)),
            (Err(fault), true) => instead.push(fault),
            // Nobody expects a GPU that neither the machine nor the build has.
            (Err(fault), false) => instead.extend(wanted.map(|_| fault)),
        }
    }
    match wanted.filter(|&wanted| wanted != DeviceClass::Cpu) {
        Some(_) => Err(WorkerError::Device(instead.join("; "))),
        None => Ok(Offer::Cpu { instead }),
    }
}

fn not_built(class: DeviceClass, gpus: &[Accelerator]) -> String {
    let names: Vec<&str> = gpus.iter().map(|gpu| gpu.name.as_str()).collect();
    let (names, word) = (names.join(", "), class.word());
    format!(
        "{names} is here, but this worker was built without {word}; build it with --features {word}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str) -> Found {
        Ok(vec![Accelerator {
            name: name.into(),
            ..Accelerator::default()
        }])
    }

    fn none(why: &str) -> Found {
        Err(why.into())
    }

    /// What is offered where CUDA and Metal were each built or not, and found what is given.
    fn offered(
        wanted: Option<DeviceClass>,
        cuda: (bool, Found),
        metal: (bool, Found),
    ) -> Result<Offer, String> {
        let kind = |class, (built, found)| Kind {
            class,
            built,
            found,
        };
        let kinds = vec![
            kind(DeviceClass::Cuda, cuda),
            kind(DeviceClass::Metal, metal),
        ];
        choose(wanted, kinds).map_err(|e| e.faults()[0].text())
    }

    fn gpus(offer: Result<Offer, String>) -> (DeviceClass, String) {
        match offer {
            Ok(Offer::Gpus(class, gpus)) => (class, gpus[0].name.clone()),
            other => panic!("no GPU: {other:?}"),
        }
    }

    fn instead(offer: Result<Offer, String>) -> Vec<String> {
        match offer {
            Ok(Offer::Cpu { instead }) => instead,
            other => panic!("not the CPU: {other:?}"),
        }
    }

    #[test]
    fn the_gpu_that_this_build_computes_on_is_offered() {
        let mac = || (true, gpu("Apple M4"));
        assert_eq!(
            gpus(offered(None, (false, none("no driver")), mac())),
            (DeviceClass::Metal, "Apple M4".into())
        );
        let h100 = || (true, gpu("H100"));
        assert_eq!(
            gpus(offered(None, h100(), (false, none("not a Mac")))),
            (DeviceClass::Cuda, "H100".into())
        );
        assert_eq!(
            gpus(offered(Some(DeviceClass::Metal), h100(), mac())),
            (DeviceClass::Metal, "Apple M4".into())
        );
    }

    #[test]
    fn the_cpu_is_offered_with_a_word_where_a_gpu_was_expected() {
        let old = || (true, none("this is macOS 14.7.1"));
        assert_eq!(
            instead(offered(None, (false, none("no driver")), old())),
            ["this is macOS 14.7.1"]
        );
        assert_eq!(
            instead(offered(
                None,
                (true, none("no driver")),
                (false, none("not a Mac"))
            )),
            ["no driver"]
        );
        let told = instead(offered(
            None,
            (false, none("no driver")),
            (false, gpu("Apple M4")),
        ));
        assert!(
            told.len() == 1 && told[0].contains("Apple M4") && told[0].contains("--features metal"),
            "{told:?}"
        );
        let told = instead(offered(
            None,
            (false, gpu("H100")),
            (false, none("not a Mac")),
        ));
        assert!(
            told.len() == 1 && told[0].contains("--features cuda"),
            "{told:?}"
        );
    }

    #[test]
    fn the_cpu_is_offered_without_a_word_where_none_was() {
        let nothing = || ((false, none("no driver")), (false, none("not a Mac")));
        let (cuda, metal) = nothing();
        assert_eq!(instead(offered(None, cuda, metal)), [] as [&str; 0]);
        assert_eq!(
            instead(offered(
                Some(DeviceClass::Cpu),
                (true, none("x")),
                (true, gpu("y"))
            )),
            [] as [&str; 0]
        );
    }

    #[test]
    fn a_class_that_was_asked_for_is_offered_or_refused() {
        let metal = Some(DeviceClass::Metal);
        let other = || (true, gpu("H100"));
        let refused =
            offered(metal, other(), (true, none("Metal shows no GPU"))).expect_err("no GPU");
        assert!(
            refused.contains("Q0303") && refused.contains("Metal shows no GPU"),
            "{refused}"
        );
        let refused =
            offered(metal, other(), (false, none("this is not a Mac"))).expect_err("no Mac");
        assert!(refused.contains("this is not a Mac"), "{refused}");
        let refused = offered(metal, other(), (false, gpu("Apple M4"))).expect_err("not built");
        assert!(refused.contains("--features metal"), "{refused}");
    }
}
