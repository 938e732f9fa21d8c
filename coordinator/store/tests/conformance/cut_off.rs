//! Writes that nobody waits for any more.

use std::task::Poll;

use qlora_store::*;

use crate::common::entry;

/// Whoever waits for a write may go away at any point of it: the next one does not suffer.
pub async fn cuts_off(store: impl JobStore) {
    let (mut cut, mut made) = (0, 0);
    for polls in 0..400 {
        let yaml = format!("revision {polls}");
        let mut put = Box::pin(store.put_config("c", &yaml, &yaml, 1, None));
        let mut left = polls;
        // Dropped after so many polls, or done before.
        let ended = std::future::poll_fn(|context| {
            left -= i32::from(left > 0);
            match put.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        let ended = ended.await;
        drop(put);
        match ended {
            Some(done) => {
                drop(done.expect("a revision"));
                made += 1;
            }
            None => cut += 1,
        }
        store
            .apply(vec![Write::Journal(entry("next"))])
            .await
            .expect("the next write");
        if polls > 20 && cut < polls - 20 {
            break;
        }
    }
    assert!(cut > 3, "only {cut} writes were cut off");
    let kept = store.configs(Some("c")).await.expect("revisions").len();
    assert!(kept >= made, "{made} revisions were made, {kept} are kept");
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_any_more_leaves_no_doubt_about_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    cuts_off(SqliteStore::open(folder.path()).await.expect("a store")).await;
}
