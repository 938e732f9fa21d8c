//! Which tokens let somebody in: the first one, which a file holds, and those that were given out.
//!
//! Of the latter the store keeps SHA-256 only. They are in memory as long as the coordinator runs,
//! so that a request costs no read; what changes is stored first.

mod holder;
mod issued;
mod links;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use qlora_access::{Fingerprint, Token};
use qlora_store::{JobStore, TokenRecord, Write};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

pub use self::holder::{Holder, LOCAL};
pub use self::issued::{Denied, Issued};
pub use self::links::LIFE as LINK_LIFE;
use self::links::Links;
use crate::clock::now;

/// How often days of use are stored: what a crash loses of them.
const EVERY: Duration = Duration::from_secs(60);

/// Every token.
#[derive(Debug)]
pub struct Tokens {
    own: Token,
    issued: RwLock<Table>,
    links: Links,
    /// Held by whoever makes a token, from looking at those that there are until it is stored.
    making: Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: BTreeMap<u64, Arc<Issued>>,
    /// By the first bytes of the hash of the token.
    by_token: HashMap<[u8; 8], Vec<Arc<Issued>>>,
    /// The greatest number that was ever given, also to a token that cannot be read.
    last: u64,
}

impl Tokens {
    /// `own` is the first token, `records` are those that were given out.
    pub fn new(own: Token, records: &[TokenRecord]) -> Arc<Self> {
        let tokens = Self {
            own,
            issued: RwLock::default(),
            links: Links::default(),
            making: Mutex::default(),
        };
        for record in records {
            if tokens.add(record).is_none() {
                tracing::error!(
                    "token {} cannot be read and opens nothing; make another one",
                    record.id
                );
            }
        }
        Arc::new(tokens)
    }

    /// Whose token `given` is.
    ///
    /// # Errors
    /// Nobody's, or it is over.
    pub fn by_token(&self, given: &str) -> Result<Holder, Denied> {
        if self.own.is(given) {
            return Ok(Holder::Local);
        }
        let given = Fingerprint::of(given);
        let table = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let near = table.by_token.get(&given.start());
        let found = near.into_iter().flatten().find(|one| one.token.is(&given));
        in_force(found)
    }

    /// Makes a link of the page for `holder`; gives its key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn link(&self, holder: Holder) -> Result<String, getrandom::Error> {
        self.links.make(holder, Instant::now())
    }

    /// Whose link of the page has the key `given`. From now on it opens nothing.
    ///
    /// # Errors
    /// Nobody's any more, or its token is over.
    pub fn by_link(&self, given: &str) -> Result<Holder, Denied> {
        let holder = self.links.take(given, Instant::now())?;
        match &holder {
            Holder::Local => Ok(holder),
            Holder::Issued(token) => in_force(Some(token)),
        }
    }

    /// Every token that was given out, oldest first.
    pub fn all(&self) -> Vec<Arc<Issued>> {
        let table = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        table.by_id.values().cloned().collect()
    }

    /// The token of this number.
    pub fn get(&self, id: u64) -> Option<Arc<Issued>> {
        let table = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        table.by_id.get(&id).cloned()
    }

    /// From now on it lets somebody in. It is stored already; none where this version cannot read
    /// it.
    pub fn add(&self, record: &TokenRecord) -> Option<Arc<Issued>> {
        let mut table = self.issued.write().unwrap_or_else(PoisonError::into_inner);
        table.last = table.last.max(record.id);
        let made = Arc::new(Issued::new(record)?);
        let near = table.by_token.entry(made.token.start());
        near.or_default().push(made.clone());
        table.by_id.insert(made.id, made.clone());
        Some(made)
    }

    /// Waits until nobody else makes a token; gives the number of the next one.
    pub async fn making(&self) -> (MutexGuard<'_, ()>, u64) {
        let alone = self.making.lock().await;
        let mut table = self.issued.write().unwrap_or_else(PoisonError::into_inner);
        // Taken whatever comes of it: what was stored is not always known.
        table.last += 1;
        (alone, table.last)
    }
}

impl Tokens {
    /// Those that were over long ago. The newest token stays, since its number tells which one the
    /// next is given: the journal knows tokens by their numbers.
    fn forgotten(&self, wall: u64) -> Vec<u64> {
        let table = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let mut older = table.by_id.values();
        older.next_back();
        older
            .filter(|one| one.is_forgotten(wall))
            .map(|one| one.id)
            .collect()
    }

    /// It is not in the list any more. That is stored already.
    fn remove(&self, id: u64) {
        let mut table = self.issued.write().unwrap_or_else(PoisonError::into_inner);
        let Some(gone) = table.by_id.remove(&id) else {
            return;
        };
        if let Entry::Occupied(mut near) = table.by_token.entry(gone.token.start()) {
            near.get_mut().retain(|one| one.id != id);
            if near.get().is_empty() {
                near.remove();
            }
        }
    }
}

fn in_force(found: Option<&Arc<Issued>>) -> Result<Holder, Denied> {
    let token = found.ok_or(Denied::Unknown)?;
    let wall = now().wall.0;
    token.check(wall)?;
    token.uses(wall);
    Ok(Holder::Issued(token.clone()))
}

/// Stores on which day each token was used last, and removes those that were over long ago.
pub async fn keep<S: JobStore>(tokens: Arc<Tokens>, store: Arc<S>) {
    let mut interval = tokio::time::interval(EVERY);
    loop {
        interval.tick().await;
        keep_days(&tokens, &*store).await;
        forget(&tokens, &*store, now().wall.0).await;
    }
}

async fn keep_days<S: JobStore>(tokens: &Tokens, store: &S) {
    let all = tokens.all();
    let late: Vec<_> = all
        .iter()
        .filter_map(|token| Some((token, token.unsaved_day()?)))
        .collect();
    if late.is_empty() {
        return;
    }
    let writes = late
        .iter()
        .map(|(token, day)| Write::TokenUsed {
            id: token.id,
            day: *day,
        })
        .collect();
    match store.apply(writes).await {
        Ok(_) => late.iter().for_each(|(token, day)| token.saved_day(*day)),
        Err(e) => tracing::warn!("days on which tokens were used are not stored: {e}"),
    }
}

async fn forget<S: JobStore>(tokens: &Tokens, store: &S, wall: u64) {
    let gone = tokens.forgotten(wall);
    if gone.is_empty() {
        return;
    }
    let writes = gone.iter().copied().map(Write::RemoveToken).collect();
    match store.apply(writes).await {
        Ok(_) => gone.into_iter().for_each(|id| tokens.remove(id)),
        Err(e) => tracing::warn!("tokens that were over long ago stay in the list for now: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u64, token: &Token) -> TokenRecord {
        TokenRecord {
            id,
            name: format!("n{id}"),
            role: "viewer".into(),
            hash: Fingerprint::of(token.secret()).hex(),
            created_unix_ms: 1,
            expires_unix_ms: None,
            revoked_unix_ms: None,
            used_day: None,
        }
    }

    fn token() -> Token {
        Token::issue().expect("a token")
    }

    #[test]
    fn a_token_and_its_links_open_until_it_is_over() {
        let (own, one, other) = (token(), token(), token());
        let expired = TokenRecord {
            expires_unix_ms: Some(5),
            ..record(2, &other)
        };
        let tokens = Tokens::new(own.clone(), &[record(1, &one), expired]);
        assert_eq!(tokens.by_token(own.secret()), Ok(Holder::Local));
        let holder = tokens.by_token(one.secret()).expect("a holder");
        assert_eq!(
            (holder.who().as_str(), holder.role().word()),
            ("n1", "viewer")
        );
        let link = || tokens.link(holder.clone()).expect("a link");
        let (key, late) = (link(), link());
        assert_eq!(tokens.by_token(&key), Err(Denied::Unknown));
        assert_eq!(tokens.by_link(&key), Ok(holder.clone()));
        assert_eq!(tokens.by_link(&key), Err(Denied::Unknown));
        assert_eq!(tokens.by_link(one.secret()), Err(Denied::Unknown));
        assert_eq!(tokens.by_token(other.secret()), Err(Denied::Expired));
        assert_eq!(tokens.by_token("qlora_0"), Err(Denied::Unknown));
        let held = tokens.get(1).expect("a token");
        assert!(held.record().used_day.is_some() && held.unsaved_day().is_some());
        held.revoke(7);
        held.revoke(8);
        assert_eq!(tokens.by_token(one.secret()), Err(Denied::Revoked));
        assert_eq!(tokens.by_link(&late), Err(Denied::Revoked));
        assert_eq!(held.record().revoked_unix_ms, Some(7));
    }

    #[tokio::test]
    async fn a_token_that_was_over_for_90_days_leaves_the_list_and_its_number_is_not_given_again() {
        const DAY: u64 = qlora_proto::DAY_MS;
        let store = qlora_store::MemoryStore::default();
        let over_at = |id, at| TokenRecord {
            expires_unix_ms: at,
            ..record(id, &token())
        };
        let records = [
            over_at(1, Some(DAY)),
            over_at(2, Some(3 * DAY)),
            over_at(3, None),
            over_at(4, Some(DAY)),
        ];
        let made = records.iter().cloned().map(Box::new).map(Write::AddToken);
        store.apply(made.collect()).await.expect("writes");
        let tokens = Tokens::new(token(), &records);
        let listed = |tokens: &Tokens| tokens.all().iter().map(|t| t.id).collect::<Vec<_>>();
        forget(&tokens, &store, 91 * DAY - 1).await;
        assert_eq!(listed(&tokens), [1, 2, 3, 4]);
        forget(&tokens, &store, 92 * DAY).await;
        // The last one stays for its number.
        assert_eq!(listed(&tokens), [2, 3, 4]);
        let kept = store.tokens().await.expect("tokens");
        assert_eq!(listed(&Tokens::new(token(), &kept)), [2, 3, 4]);
        assert_eq!(Tokens::new(token(), &kept).making().await.1, 5);
        let table = tokens.issued.read().expect("a lock");
        assert_eq!(table.by_token.len(), 3);
    }

    #[test]
    fn a_token_of_a_role_or_with_a_hash_of_another_version_opens_nothing() {
        let one = token();
        for damaged in [
            TokenRecord {
                role: "auditor".into(),
                ..record(1, &one)
            },
            TokenRecord {
                hash: "x".into(),
                ..record(1, &one)
            },
        ] {
            let tokens = Tokens::new(token(), &[damaged]);
            assert_eq!(tokens.by_token(one.secret()), Err(Denied::Unknown));
        }
    }
}
