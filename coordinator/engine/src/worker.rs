//! What a worker is, and what a job needs of one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, Millis, SessionId, Token};
use crate::number;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DeviceClass {
    Cpu,
    Cuda,
    Metal,
}

impl DeviceClass {
    pub fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        }
    }
}

/// What a machine is and can do, as far as placement asks; the rest is carried for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    pub device: DeviceClass,
    pub device_name: String,
    /// Bytes that training may use.
    pub device_memory: u64,
    /// None where the system does not tell.
    pub device_memory_free: Option<u64>,
    pub compute_capability: String,
    pub driver: String,
    pub cpu_model: String,
    pub cpu_cores: u32,
    pub memory: u64,
    /// Bytes that the worker's state folder has room for; none where the system does not tell.
    pub disk_free: Option<u64>,
    pub bf16: bool,
    pub flash_attention: bool,
    pub os: String,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    /// The machine: workers on one are near each other.
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub device_id: String,
    /// Models that lie on the machine, by the names that jobs give in [`Needs::model`].
    #[serde(default)]
    pub models: BTreeSet<String>,
}

/// What a job needs of a worker.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Needs {
    /// Any class when absent.
    pub device: Option<DeviceClass>,
    /// Bytes on a device of each class; a class that is missing is not judged by memory.
    pub memory: BTreeMap<DeviceClass, u64>,
    /// Share of a device's memory that may be planned with.
    #[serde(default, with = "number::optional")]
    pub memory_fraction: Option<f64>,
    /// What would make it fit, for each class.
    pub advice: BTreeMap<DeviceClass, String>,
    pub labels: BTreeMap<String, String>,
    pub flash_attention: bool,
    /// Workers of one class that take the job together; 0 and 1 are one alone.
    #[serde(default)]
    pub workers: usize,
    /// Bytes of host memory that a run on a GPU needs as well. Stored jobs have it under the word
    /// of earlier versions.
    #[serde(default, rename = "main_memory")]
    pub host_memory: u64,
    /// The base model by its name, where every machine calls it so. A worker that has it is
    /// preferred; none is needed to.
    #[serde(default)]
    pub model: Option<String>,
}

/// An operator's word that a worker is given nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// For people: on the wall clock.
    pub since: Millis,
    pub reason: String,
}

/// A worker that has registered since the coordinator started, or that holds an attempt from
/// before.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    pub name: String,
    pub instance: String,
    pub session: SessionId,
    /// The session that this one took the place of, as the worker presented it; of one that has not
    /// registered since the coordinator started, the last that is stored with its attempt.
    pub follows: Option<SessionId>,
    /// The worker has used its session, so the answer that gave it has arrived.
    pub heard: bool,
    pub platform: Platform,
    /// The lease ends here unless it is renewed.
    pub lease_until: Millis,
    pub last_seen: Millis,
    /// The attempt that it has been given.
    pub assigned: Option<Token>,
    /// It said that it is idle, and waits for work.
    pub waiting: bool,
    /// When it was woken, on the steady clock, if it has not asked for work since.
    pub woken_at: Option<Millis>,
    /// It said that it takes no new work, since it is about to end.
    pub draining: bool,
    /// An operator said so.
    pub drained: Option<Drain>,
    /// Its lease still holds.
    pub connected: bool,
    /// Failures that are attributed to it: jobs that failed on it and succeeded elsewhere, since it
    /// registered or last succeeded itself.
    pub attributed: BTreeSet<JobId>,
}

/// Jobs that may fail on a worker and succeed elsewhere before it is given no more.
const MOST_ATTRIBUTED: usize = 3;

impl Worker {
    /// Why it is given nothing though it is there; none where it is.
    pub fn set_aside(&self) -> Option<String> {
        (self.attributed.len() >= MOST_ATTRIBUTED).then(|| {
            let n = self.attributed.len();
            format!(
                "{n} jobs failed on {} and succeeded elsewhere; it is given work again once it is restarted",
                self.name
            )
        })
    }

    /// One that has not registered since the coordinator started and holds the attempt `token` from
    /// before.
    pub(crate) fn absent(
        (name, instance, last): (&str, &str, Option<SessionId>),
        token: Token,
        now: Millis,
        lease_until: Millis,
    ) -> Self {
        Self {
            name: name.to_owned(),
            instance: instance.to_owned(),
            session: SessionId(0),
            follows: last,
            heard: false,
            platform: Platform::unknown(),
            lease_until,
            last_seen: now,
            assigned: Some(token),
            waiting: false,
            woken_at: None,
            draining: false,
            drained: None,
            connected: false,
            attributed: BTreeSet::new(),
        }
    }

    /// It has not registered since the coordinator started.
    pub(crate) fn is_absent(&self) -> bool {
        self.session == SessionId(0)
    }

    /// Whether who presents `previous` as the session that it was given last, and runs `running`, is
    /// this worker once more. The state folder alone is no proof: it may be a copy.
    pub(crate) fn is_succeeded_by(
        &self,
        previous: Option<SessionId>,
        running: Option<Token>,
    ) -> bool {
        if self.is_absent() {
            // Sessions do not outlive the coordinator that gave them, but for those that are stored
            // with attempts. Earlier versions stored none.
            return self.follows.is_none() || previous == self.follows || self.assigned == running;
        }
        // The answer that gave the session may be lost: who asked for it asks again.
        let asks_again = !self.heard
            && previous == self.follows
            && (self.assigned.is_none() || self.assigned == running);
        previous == Some(self.session) || asks_again
    }

    /// It waits for work and may be given some.
    pub(crate) fn is_free(&self) -> bool {
        self.waiting && self.may_be_given_work()
    }

    /// It waits for work, or was woken less than `head_start` milliseconds ago and is about to ask
    /// for some.
    pub(crate) fn is_about_to_ask(&self, now: Millis, head_start: u64) -> bool {
        let is_woken = self.woken_at.is_some_and(|at| now < at.plus(head_start));
        (self.waiting || is_woken) && self.may_be_given_work()
    }

    fn may_be_given_work(&self) -> bool {
        self.connected && self.assigned.is_none() && self.takes_work() && self.set_aside().is_none()
    }

    /// Neither it nor an operator has said that it is given nothing more.
    pub fn takes_work(&self) -> bool {
        !self.draining && self.drained.is_none()
    }

    /// The base model of a job with these `needs` lies on its machine.
    pub fn has_model_for(&self, needs: &Needs) -> bool {
        let model = needs.model.as_ref();
        model.is_some_and(|model| self.platform.models.contains(model))
    }
}

impl Platform {
    /// Stands in for a worker that has not registered since the coordinator started.
    pub(crate) fn unknown() -> Self {
        Self {
            device: DeviceClass::Cpu,
            device_name: String::new(),
            device_memory: 0,
            device_memory_free: None,
            compute_capability: String::new(),
            driver: String::new(),
            cpu_model: String::new(),
            cpu_cores: 0,
            memory: 0,
            disk_free: None,
            bf16: false,
            flash_attention: false,
            os: String::new(),
            labels: BTreeMap::new(),
            version: String::new(),
            host: String::new(),
            device_id: String::new(),
            models: BTreeSet::new(),
        }
    }
}
