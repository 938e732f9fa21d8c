//! Tokens, and who asked for a change.

use qlora_store::*;

use crate::common::entry;

fn token(id: u64, name: &str) -> TokenRecord {
    TokenRecord {
        id,
        name: name.into(),
        role: "viewer".into(),
        hash: "h".into(),
        created_unix_ms: 3,
        expires_unix_ms: Some(9),
        revoked_unix_ms: None,
        used_day: None,
    }
}

/// Tokens are kept, ended once, and used on the latest day that was told; a change says whose it is.
pub async fn keeps_tokens(store: &impl JobStore) {
    let by = By {
        who: "ci".into(),
        from: "10.0.0.5:1".into(),
        act: "token create".into(),
    };
    let told = JournalEntry {
        by: Some(by.clone()),
        ..entry("created")
    };
    let endless = TokenRecord {
        expires_unix_ms: None,
        ..token(2, "")
    };
    let writes = vec![
        Write::AddToken(Box::new(token(1, "ci"))),
        Write::AddToken(Box::new(endless.clone())),
        Write::Journal(told.clone()),
    ];
    store.apply(writes).await.expect("writes");
    assert_eq!(
        store.tokens().await.expect("tokens"),
        [token(1, "ci"), endless.clone()]
    );
    let writes = vec![
        Write::RevokeToken { id: 1, unix_ms: 7 },
        Write::RevokeToken { id: 1, unix_ms: 8 },
        Write::TokenUsed { id: 2, day: 20 },
        Write::TokenUsed { id: 2, day: 19 },
        // One that is not there is nobody's.
        Write::RevokeToken { id: 9, unix_ms: 7 },
        Write::TokenUsed { id: 9, day: 1 },
    ];
    store.apply(writes).await.expect("writes");
    let revoked = TokenRecord {
        revoked_unix_ms: Some(7),
        ..token(1, "ci")
    };
    let used = TokenRecord {
        used_day: Some(20),
        ..endless
    };
    assert_eq!(store.tokens().await.expect("tokens"), [revoked, used]);

    let put = |text: &'static str| store.put_config("c", text, text, 4, Some(by.clone()));
    for text in ["one", "two", "two"] {
        put(text).await.expect("a revision");
    }
    let told_of = store.journal(0, 10).await.expect("the journal");
    let texts: Vec<_> = told_of.iter().map(|e| e.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "",
            "configuration c revision 1",
            "configuration c revision 2"
        ],
        "the same text is no change"
    );
    assert_eq!(told_of[0], JournalEntry { seq: 1, ..told });
    assert!(told_of.iter().all(|e| e.by.as_ref() == Some(&by)));

    let made = vec![Write::AddToken(Box::new(token(3, "old")))];
    store.apply(made).await.expect("writes");
    // The second one is not there.
    let gone = vec![Write::RemoveToken(3), Write::RemoveToken(9)];
    store.apply(gone).await.expect("writes");
    let kept = store.tokens().await.expect("tokens");
    assert_eq!(kept.iter().map(|t| t.id).collect::<Vec<_>>(), [1, 2]);
}

/// What [`keeps_tokens`] left is there when the store is opened once more.
pub async fn are_still_revoked(again: &impl JobStore) {
    let kept = again.tokens().await.expect("tokens");
    assert_eq!(
        kept.iter().map(|t| t.revoked_unix_ms).collect::<Vec<_>>(),
        [Some(7), None],
        "a revoked token came back"
    );
}

#[tokio::test]
async fn tokens_and_who_asked_for_a_change_are_kept() {
    keeps_tokens(&MemoryStore::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path()).await.expect("a store");
    keeps_tokens(&store).await;
    drop(store);
    let again = SqliteStore::open(folder.path()).await.expect("a store");
    are_still_revoked(&again).await;
}
