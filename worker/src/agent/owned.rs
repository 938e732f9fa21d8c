//! A task that ends when nobody waits for it any more.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::{JoinError, JoinHandle};

/// Aborted when it is dropped: nobody is left who would stop it.
#[derive(Debug)]
pub struct Owned<T>(JoinHandle<T>);

impl<T: Send + 'static> Owned<T> {
    pub fn spawn(task: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl<T> Future for Owned<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_task_ends_when_nobody_waits_for_it_any_more() {
        assert_eq!(Owned::spawn(async { 7 }).await.expect("its end"), 7);
        let (held, ended) = oneshot::channel::<()>();
        let task = Owned::spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(task);
        ended.await.expect_err("what the task held is dropped");
    }
}
