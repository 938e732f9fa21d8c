//! The places for connections, and who makes room.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::{AbortHandle, Id, JoinError};

use super::connection::Connection;

/// Connections in the order in which they came.
pub struct Places {
    most: usize,
    next: u64,
    taken: HashMap<Id, Place>,
    /// Whether the log says already that known peers hold every place.
    said: bool,
}

struct Place {
    number: u64,
    connection: Arc<Connection>,
    task: AbortHandle,
}

impl Places {
    pub fn new(most: usize) -> Self {
        Self {
            most,
            next: 0,
            taken: HashMap::new(),
            said: false,
        }
    }

    pub fn take(&mut self, task: AbortHandle, connection: Arc<Connection>) {
        let place = Place {
            number: self.next,
            connection,
            task,
        };
        self.next += 1;
        self.taken.insert(place.task.id(), place);
    }

    pub fn leave<T>(&mut self, ended: &Result<(Id, T), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        self.taken.remove(&id);
        self.said = false;
    }

    pub fn has_room(&self) -> bool {
        self.taken.len() < self.most
    }

    /// Tells a stranger to go, for somebody who waits. Its place is free when it has gone.
    pub fn make_room(&mut self) {
        if !self.evict() && !self.said {
            tracing::warn!(
                connections = self.most,
                "all connections are taken by peers that have shown the token; others wait. Raise the limit of open files (ulimit -n, LimitNOFILE)"
            );
            self.said = true;
        }
    }

    /// Ends the stranger's connection that came first. False where there is none.
    pub fn evict(&self) -> bool {
        let strangers = self
            .taken
            .values()
            .filter(|place| !place.connection.is_known());
        let first = strangers.min_by_key(|place| place.number);
        if let Some(place) = first {
            place.task.abort();
        }
        first.is_some()
    }
}
