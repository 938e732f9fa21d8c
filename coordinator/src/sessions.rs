//! Sessions of browsers: who has logged in on the page, until when, and the key that the forms of
//! its pages bring.
//!
//! A browser holds random bits in a cookie, and this table a fingerprint of them. The table is in
//! memory: a restart of the coordinator ends every session.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qlora_access::Fingerprint;
use qlora_proto::DAY_MS;

use crate::random;
use crate::tokens::{Denied, Holder};

/// How long a session lasts, unless its token ends before.
pub const LIFE_MS: u64 = 7 * DAY_MS;
/// Sessions of one token at a time. The one that began first makes room.
const MOST: usize = 20;

/// One browser that has logged in.
#[derive(Debug)]
pub struct Session {
    pub number: u64,
    pub holder: Holder,
    /// The address that it came from at log-in.
    pub from: String,
    pub begun: u64,
    pub ends: u64,
    id: Fingerprint,
    form: Hidden,
}

/// A text that no log shows.
struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hidden")
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Session {}

impl Session {
    /// What every form of its pages brings: a page of another origin cannot read it.
    pub fn form_key(&self) -> &str {
        &self.form.0
    }

    /// Whether `given` is [`Self::form_key`].
    pub fn is_own_form(&self, given: &str) -> bool {
        Fingerprint::of(given).is(&Fingerprint::of(&self.form.0))
    }

    fn check(&self, wall: u64) -> Result<(), Denied> {
        if self.ends <= wall {
            return Err(Denied::Unknown);
        }
        self.holder
            .issued()
            .map_or(Ok(()), |token| token.check(wall))
    }
}

/// Every session.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    all: BTreeMap<u64, Arc<Session>>,
}

impl Sessions {
    /// Begins a session of `holder`; gives what the browser holds of it.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn begin(
        &self,
        holder: Holder,
        from: Option<SocketAddr>,
        wall: u64,
    ) -> Result<String, getrandom::Error> {
        let (id, form) = (random::text()?, Hidden(random::text()?));
        let mut table = self.table();
        table.all.retain(|_, session| session.check(wall).is_ok());
        let own = table.all.values().filter(|one| one.holder == holder);
        let own: Vec<u64> = own.map(|one| one.number).collect();
        let beyond = (own.len() + 1).saturating_sub(MOST);
        for number in own.iter().take(beyond) {
            table.all.remove(number);
        }
        table.last += 1;
        let session = Session {
            number: table.last,
            holder,
            from: from.map(|at| at.ip().to_string()).unwrap_or_default(),
            begun: wall,
            ends: wall.saturating_add(LIFE_MS),
            id: Fingerprint::of(&id),
            form,
        };
        table.all.insert(session.number, Arc::new(session));
        Ok(id)
    }

    /// The session of a browser that holds `id`.
    ///
    /// # Errors
    /// There is none, or it has ended, or its token is over.
    pub fn find(&self, id: &str, wall: u64) -> Result<Arc<Session>, Denied> {
        let id = Fingerprint::of(id);
        let table = self.table();
        let found = table.all.values().find(|session| session.id.is(&id));
        let session = found.cloned().ok_or(Denied::Unknown)?;
        session.check(wall)?;
        if let Some(token) = session.holder.issued() {
            token.uses(wall);
        }
        Ok(session)
    }

    /// The sessions of `holder`, the one that began first before the others.
    pub fn of(&self, holder: &Holder, wall: u64) -> Vec<Arc<Session>> {
        let table = self.table();
        let open = table.all.values().filter(|one| one.check(wall).is_ok());
        open.filter(|one| one.holder == *holder).cloned().collect()
    }

    /// Ends a session of `holder`. False where that has none of this number.
    pub fn end(&self, number: u64, holder: &Holder) -> bool {
        let mut table = self.table();
        let is_own = table
            .all
            .get(&number)
            .is_some_and(|one| one.holder == *holder);
        is_own && table.all.remove(&number).is_some()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lasts_until_its_end_and_no_other_text_opens_it() {
        let sessions = Sessions::default();
        let id = sessions.begin(Holder::Local, None, 5).expect("a session");
        let found = sessions.find(&id, 6).expect("a session");
        assert!(found.is_own_form(found.form_key()) && !found.is_own_form(""));
        assert!(!found.is_own_form(&id), "the cookie is not the form's key");
        assert!(!format!("{sessions:?}").contains(&id));
        assert!(!format!("{sessions:?}").contains(found.form_key()));
        assert_eq!(sessions.find("", 6), Err(Denied::Unknown));
        assert_eq!(sessions.find(&id, 5 + LIFE_MS), Err(Denied::Unknown));
        assert!(sessions.end(found.number, &Holder::Local));
        assert!(!sessions.end(found.number, &Holder::Local));
        assert_eq!(sessions.find(&id, 6), Err(Denied::Unknown));
    }

    #[test]
    fn the_oldest_session_of_a_token_makes_room() {
        let sessions = Sessions::default();
        let begin = || sessions.begin(Holder::Local, None, 1).expect("a session");
        let all: Vec<String> = (0..=MOST).map(|_| begin()).collect();
        assert_eq!(sessions.of(&Holder::Local, 2).len(), MOST);
        assert_eq!(sessions.find(&all[0], 2), Err(Denied::Unknown));
        assert!(sessions.find(&all[1], 2).is_ok() && sessions.find(&all[MOST], 2).is_ok());
    }
}
