//! Who may do what. Until there is access control: the daemon's own user and root may do everything, everybody else nothing (the socket's folder keeps them out
//! already). Called for every connection, before a byte of it is read.

use super::{error::Failure, types::ErrorCode};
use crate::domain::Uid;

/// Who is at the other end, as the kernel says (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: Uid,
}

const ROOT: Uid = Uid(0);

/// Refuses who may do nothing.
pub(super) fn check(peer: Peer, owner: Uid) -> Result<(), Failure> {
    if peer.uid == owner || peer.uid == ROOT {
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
            let checked = check(Peer { uid: Uid(uid) }, Uid(owner));
            assert_eq!(checked.is_ok(), may, "{uid} at {owner}'s");
            assert!(checked.err().is_none_or(|failure| failure.code() == ErrorCode::NotPermitted));
        }
    }
}
