//! Aliases of models' versions: moved in one transaction or not at all, kept over a restart with every move, and never left without what they mean.

use mlctl::{
    domain::{
        Uid,
        alias::{AliasError, Aliases, CHAMPION, Change, PREVIOUS, Pick},
    },
    store::{AliasMove, NewMove, StoreError},
};
use mlctl_protocol::JobId;
use sqlx::{Connection as _, SqliteConnection};

use crate::{
    models::{register, trained},
    rig::{Rig, USER},
};

/// A rig with three versions of a model.
async fn stage() -> Rig {
    let rig = Rig::new().await;
    for name in ["one", "two", "three"] {
        let job = trained(&rig, name, None).await;
        register(&rig, job, None, USER).await;
    }
    rig
}

fn set(alias: &str, version: u32) -> Change {
    Change::Set { alias: alias.into(), version }
}

fn asked(change: Change, expect: Option<u32>) -> NewMove {
    NewMove { model: "digits".into(), change, expect, by: USER, job: Some(JobId(3)), reason: Some("why".into()) }
}

async fn make(rig: &Rig, change: Change) -> Vec<AliasMove> {
    rig.store.move_alias(asked(change, None)).await.unwrap()
}

async fn aliases(rig: &Rig) -> Vec<(String, u32)> {
    rig.store.aliases("digits").await.unwrap().into_iter().collect()
}

fn pairs(pairs: &[(&str, u32)]) -> Vec<(String, u32)> {
    pairs.iter().map(|(alias, version)| ((*alias).to_owned(), *version)).collect()
}

#[tokio::test]
async fn aliases_and_their_moves_outlive_a_restart() {
    let mut rig = stage().await;
    assert_eq!(make(&rig, set(CHAMPION, 1)).await.len(), 1);
    let moved = make(&rig, set(CHAMPION, 2)).await;
    let told: Vec<_> = moved.iter().map(|one| (one.alias.as_str(), one.before, one.version)).collect();
    assert_eq!(told, [(CHAMPION, Some(1), Some(2)), (PREVIOUS, None, Some(1))]);
    assert_eq!(make(&rig, set(CHAMPION, 2)).await, [], "it is so already");
    make(&rig, set("eu", 3)).await;
    make(&rig, Change::Clear { alias: "eu".into() }).await;
    make(&rig, Change::RollBack).await;
    for _ in 0..2 {
        assert_eq!(aliases(&rig).await, pairs(&[(CHAMPION, 1)]));
        let moves = rig.store.alias_moves("digits", 100).await.unwrap();
        let told: Vec<_> = moves.iter().map(|one| (one.alias.as_str(), one.before, one.version)).collect();
        let expected = [
            (PREVIOUS, Some(1), None),
            (CHAMPION, Some(2), Some(1)),
            ("eu", Some(3), None),
            ("eu", None, Some(3)),
            (PREVIOUS, None, Some(1)),
            (CHAMPION, Some(1), Some(2)),
            (CHAMPION, None, Some(1)),
        ];
        assert_eq!(told, expected);
        assert_eq!((moves[0].by, moves[0].job, moves[0].reason.as_deref()), (USER, Some(JobId(3)), Some("why")));
        assert_eq!(
            (moves[0].at, rig.store.alias_moves("digits", 2).await.unwrap()),
            (moves[1].at, moves[..2].to_vec())
        );
        rig.check().await;
        rig.reopen().await;
    }
    assert_eq!(rig.store.models().await.unwrap()[0].aliases, Aliases::from([(CHAMPION.to_owned(), 1)]));
    let meant = rig.store.model_version("digits", &Pick::Alias(CHAMPION.into())).await.unwrap();
    assert_eq!(meant.version, 1);
    assert_eq!(rig.store.model_version("digits", &Pick::Newest).await.unwrap().version, 3);
}

#[tokio::test]
async fn what_an_alias_means_is_not_removed() {
    let rig = stage().await;
    make(&rig, set(CHAMPION, 1)).await;
    make(&rig, set(CHAMPION, 3)).await;
    for (version, named) in [(1, PREVIOUS), (3, CHAMPION)] {
        let refused = rig.store.remove_version("digits", version, USER).await.unwrap_err();
        assert_eq!(refused.to_string(), format!("version {version} of model digits is its {named}"));
    }
    rig.store.remove_version("digits", 2, USER).await.unwrap();
    let gone = rig.store.move_alias(asked(set(CHAMPION, 2), None)).await;
    assert!(matches!(gone, Err(StoreError::NoVersion { version: Some(2), .. })), "{gone:?}");
    make(&rig, Change::RollBack).await;
    rig.store.remove_version("digits", 3, USER).await.unwrap();
    assert_eq!(aliases(&rig).await, pairs(&[(CHAMPION, 1)]));
    // In one group, in either order.
    let (moved, removed) = tokio::join!(
        rig.store.move_alias(asked(Change::Clear { alias: CHAMPION.into() }, None)),
        rig.store.remove_version("digits", 1, USER)
    );
    assert!(moved.is_ok() && removed.is_ok(), "{removed:?}");
    let job = trained(&rig, "four", None).await;
    register(&rig, job, None, USER).await;
    let (removed, moved) =
        tokio::join!(rig.store.remove_version("digits", 4, USER), rig.store.move_alias(asked(set("eu", 4), None)));
    assert!(removed.is_ok() && matches!(moved, Err(StoreError::NoVersion { .. })), "{moved:?}");
    rig.check().await;
}

#[tokio::test]
async fn of_two_who_expect_the_same_one_is_refused() {
    let rig = stage().await;
    make(&rig, set(CHAMPION, 1)).await;
    let ask = |version| rig.store.move_alias(asked(set(CHAMPION, version), Some(1)));
    let (first, second) = tokio::join!(ask(2), ask(3));
    assert!(first.is_ok(), "{first:?}");
    let Err(StoreError::Alias { why: AliasError::Moved { found: Some(2), expected: Some(1), .. }, .. }) = second else {
        panic!("{second:?}")
    };
    assert_eq!(aliases(&rig).await, pairs(&[(CHAMPION, 2), (PREVIOUS, 1)]));
    assert_eq!(rig.store.alias_moves("digits", 100).await.unwrap().len(), 3, "nothing is kept of what was refused");
    for (change, expected) in [
        (Change::Clear { alias: "eu".into() }, "model digits has no alias eu"),
        (set(CHAMPION, 9), "model digits has no version 9"),
    ] {
        let refused = rig.store.move_alias(asked(change, None)).await.unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }
    make(&rig, Change::RollBack).await;
    let again = rig.store.move_alias(asked(Change::RollBack, None)).await.unwrap_err();
    assert_eq!(again.to_string(), "model digits has no previous version to go back to");
    let new = NewMove { model: "nobody".into(), ..asked(Change::RollBack, None) };
    assert!(matches!(rig.store.move_alias(new).await, Err(StoreError::NoModel(_))));
    let new = NewMove { by: Uid(7), job: None, reason: None, ..asked(set("eu", 3), Some(0)) };
    assert_eq!(rig.store.move_alias(new).await.unwrap()[0].by, Uid(7));
}

#[tokio::test]
async fn a_plausible_wrong_alias_is_found() {
    for change in ["UPDATE model_aliases SET version = 2", "UPDATE alias_moves SET reason = 'none'"] {
        let rig = stage().await;
        make(&rig, set(CHAMPION, 1)).await;
        let (path, store) = (rig.path(), rig.store.clone());
        let mut conn = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        sqlx::query(change).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let problems = store.check().await.unwrap();
        assert!(problems.iter().any(|problem| problem.contains("does not fit its seal")), "{problems:?}");
    }
}
