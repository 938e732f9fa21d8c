//! Who is told of the changes of which job.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qlora_engine::{Job, JobId};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Changes of one job that a slow watcher may lag behind.
const CHANGES: usize = 64;

/// Watched jobs, and no others: what nobody watches costs nothing.
#[derive(Default)]
pub(super) struct Watchers(Mutex<HashMap<JobId, broadcast::Sender<Arc<Job>>>>);

impl Watchers {
    pub fn watch(self: &Arc<Self>, job: JobId) -> JobWatch {
        let mut all = self.all();
        let sender = all
            .entry(job)
            .or_insert_with(|| broadcast::channel(CHANGES).0);
        JobWatch {
            job,
            changes: Some(sender.subscribe()),
            watchers: self.clone(),
        }
    }

    /// Tells the watchers of `job` how it is now.
    pub fn tell(&self, job: &Job) {
        if let Some(sender) = self.all().get(&job.id) {
            // Nobody hears it where the last watcher is just leaving.
            let _ = sender.send(Arc::new(job.clone()));
        }
    }

    /// `job` is gone: nobody hears of it again.
    pub fn end(&self, job: JobId) {
        self.all().remove(&job);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<JobId, broadcast::Sender<Arc<Job>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears of every change of one job.
pub struct JobWatch {
    job: JobId,
    /// There until the watch ends.
    changes: Option<broadcast::Receiver<Arc<Job>>>,
    watchers: Arc<Watchers>,
}

impl JobWatch {
    /// The job after its next change.
    ///
    /// # Errors
    /// The watcher was too slow, and some changes are gone; or the job is.
    pub async fn changed(&mut self) -> Result<Arc<Job>, RecvError> {
        match &mut self.changes {
            Some(changes) => changes.recv().await,
            None => Err(RecvError::Closed),
        }
    }
}

impl Drop for JobWatch {
    fn drop(&mut self) {
        // Under the lock, so that of two watchers that leave at once the second sees no other.
        let mut all = self.watchers.all();
        self.changes = None;
        if all.get(&self.job).is_some_and(|s| s.receiver_count() == 0) {
            all.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use qlora_engine::{JobSpec, Now};

    use super::*;

    fn job(id: u64) -> Job {
        let spec = JobSpec::noop("");
        Job::new(JobId(id), spec, Now::both(0))
    }

    #[tokio::test]
    async fn a_change_is_told_to_the_watchers_of_that_job_and_to_no_others() {
        let watchers = Arc::<Watchers>::default();
        let mut of_first = [watchers.watch(JobId(1)), watchers.watch(JobId(1))];
        let mut of_second = watchers.watch(JobId(2));
        for id in [1, 3, 2] {
            watchers.tell(&job(id));
        }
        for watch in &mut of_first {
            assert_eq!(watch.changed().await.expect("a change").id, JobId(1));
        }
        assert_eq!(of_second.changed().await.expect("a change").id, JobId(2));
    }

    #[tokio::test]
    async fn what_nobody_watches_any_more_is_forgotten() {
        let watchers = Arc::<Watchers>::default();
        let (first, second) = (watchers.watch(JobId(1)), watchers.watch(JobId(1)));
        drop(first);
        assert_eq!(watchers.all().len(), 1, "the other one watches on");
        drop(second);
        assert_eq!(watchers.all().len(), 0);
    }

    #[tokio::test]
    async fn the_watchers_of_a_job_that_is_gone_wait_no_longer() {
        let watchers = Arc::<Watchers>::default();
        let mut watch = watchers.watch(JobId(1));
        watchers.tell(&job(1));
        watchers.end(JobId(1));
        assert!(watch.changed().await.is_ok(), "what it was told before");
        assert!(matches!(watch.changed().await, Err(RecvError::Closed)));
        drop(watch);
        assert_eq!(watchers.all().len(), 0);
    }

    #[tokio::test]
    async fn a_watcher_that_is_too_slow_learns_that_it_missed_something() {
        let watchers = Arc::<Watchers>::default();
        let mut watch = watchers.watch(JobId(1));
        for _ in 0..=CHANGES {
            watchers.tell(&job(1));
        }
        assert!(matches!(watch.changed().await, Err(RecvError::Lagged(1))));
        assert!(watch.changed().await.is_ok());
    }
}
