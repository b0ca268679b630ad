//! Who may do what. Until there is access control: the daemon's own user and root may do everything, and so may its group where the settings say so; everybody
//! else nothing (the kernel keeps them from the socket already). Called for every connection, before a byte of it is read.

use super::{error::Failure, types::ErrorCode};
use crate::domain::Uid;

/// Who is at the other end, as the kernel says (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: Uid,
}

const ROOT: Uid = Uid(0);

/// Refuses who may do nothing. With `group_access`, whom the kernel let through to the socket is a member of the group: it knows all of a process's groups, and the peer's
/// credentials tell but one.
pub(super) fn check(peer: Peer, owner: Uid, group_access: bool) -> Result<(), Failure> {
    if group_access || peer.uid == owner || peer.uid == ROOT {
        return Ok(());
    }
    let message = format!("user {} may not use this daemon, which is user {}'s", peer.uid.0, owner.0);
    Err(Failure::new(ErrorCode::NotPermitted, message, "run mlctl as that user, or start a daemon of your own"))
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
}
