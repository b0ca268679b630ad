//! Who may do what. Until there is access control: the daemon's own user and root may do everything, and so may its group where the settings say so; everybody
//! else nothing (the kernel keeps them from the socket already). Called for every connection, before a byte of it is read. Command jobs run as the daemon's user, and so are for those alone
//! to submit whom the settings trust with that: asked where a spec is taken.

use mlctl_protocol::{JobSpec, spec::Work};

use super::{Shared, error::Failure, types::ErrorCode};
use crate::domain::Uid;

/// Who is at the other end, as the kernel says (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: Uid,
}

const ROOT: Uid = Uid(0);

/// Stands for everybody who may use the daemon.
const EVERYBODY: &str = "*";

/// Who may submit command jobs.
#[derive(Debug, Clone, Default)]
pub struct Commands {
    /// Whether anybody may.
    pub enabled: bool,
    /// Who may besides the daemon's own user and root: login names, user ids, or `*`.
    pub users: Vec<String>,
}

impl Commands {
    /// Refuses who may not. `find` knows the users of this machine by name.
    fn check(&self, peer: Peer, owner: Uid, find: impl Fn(&str) -> Option<Uid>) -> Result<(), Failure> {
        if !self.enabled {
            let hint = "`enabled` in [commands] of mld.toml switches them on";
            return Err(Failure::new(ErrorCode::NotPermitted, "command jobs are switched off", hint));
        }
        let is_named = |user: &String| user == EVERYBODY || find(user) == Some(peer.uid);
        if peer.uid == owner || peer.uid == ROOT || self.users.iter().any(is_named) {
            return Ok(());
        }
        let message = format!("user {} may not submit command jobs: they would run as user {}", peer.uid.0, owner.0);
        let hint = "who may is said by `users` in [commands] of mld.toml; jobs that train and infer are open to you";
        Err(Failure::new(ErrorCode::NotPermitted, message, hint))
    }
}

/// Refuses a spec that this user may not submit.
pub(super) fn check_spec(api: &Shared, peer: Peer, spec: &JobSpec) -> Result<(), Failure> {
    match &spec.work {
        Work::Command(_) => api.policy().commands.check(peer, api.owner, |name| api.users.find(name)),
        Work::Train(_) | Work::Infer(_) | Work::Evaluate(_) | Work::Retrain(_) => Ok(()),
    }
}

/// Refuses who may do nothing. With `group_access`, whom the kernel let through to the socket is a member of the group: it knows all of a process's groups, and the peer's
/// credentials tell but one.
pub(super) fn check(peer: Peer, owner: Uid, group_access: bool) -> Result<(), Failure> {
    if group_access || peer.uid == owner || peer.uid == ROOT {
        return Ok(());
    }
    let message = format!("user {} may not use this daemon, which is user {}'s", peer.uid.0, owner.0);
    Err(Failure::new(ErrorCode::NotPermitted, message, "run mlctl as that user, or start a daemon of your own"))
}

/// Refuses who may not do what its file would allow with the database: read all of it, and write it to wherever the daemon may.
pub(super) fn check_keeper(peer: Peer, owner: Uid) -> Result<(), Failure> {
    if peer.uid == owner || peer.uid == ROOT {
        return Ok(());
    }
    let message = format!("user {} may not do this with the database, which is user {}'s", peer.uid.0, owner.0);
    Err(Failure::new(ErrorCode::NotPermitted, message, "it is for that user and root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_and_root_may_and_nobody_else() {
        for (uid, owner, may) in [(7, 7, true), (0, 7, true), (8, 7, false), (7, 0, false), (u32::MAX, 7, false)] {
            let checked = check(Peer { uid: Uid(uid) }, Uid(owner), false);
            assert_eq!(checked.is_ok(), may, "{uid} at {owner}'s");
            assert!(checked.err().is_none_or(|failure| failure.code() == ErrorCode::NotPermitted));
            assert!(
                check(Peer { uid: Uid(uid) }, Uid(owner), true).is_ok(),
                "{uid} came through a socket of the group's"
            );
        }
    }

    #[test]
    fn the_database_is_for_the_owner_and_root_whoever_else_may_submit() {
        for (uid, owner, may) in [(7, 7, true), (0, 7, true), (8, 7, false)] {
            assert_eq!(check_keeper(Peer { uid: Uid(uid) }, Uid(owner)).is_ok(), may, "{uid} at {owner}'s");
        }
    }

    #[test]
    fn commands_are_for_the_owner_root_and_those_who_are_named() {
        let find = |name: &str| (name == "ann").then_some(Uid(8)).or_else(|| name.parse().ok().map(Uid));
        for (enabled, users, uid, may) in [
            (true, vec![], 7, true),
            (true, vec![], 0, true),
            (true, vec![], 8, false),
            (true, vec!["ann"], 8, true),
            (true, vec!["ann"], 9, false),
            (true, vec!["bob", "9"], 9, true),
            (true, vec!["*"], 10, true),
            (false, vec!["*"], 10, false),
            (false, vec![], 0, false),
            (false, vec![], 7, false),
        ] {
            let commands = Commands { enabled, users: users.iter().map(|user| (*user).to_owned()).collect() };
            let checked = commands.check(Peer { uid: Uid(uid) }, Uid(7), find);
            assert_eq!(checked.is_ok(), may, "{uid} with {commands:?}");
            assert!(checked.err().is_none_or(|failure| failure.code() == ErrorCode::NotPermitted));
        }
    }
}
