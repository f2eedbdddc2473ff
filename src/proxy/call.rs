//! One call: what it holds, its dialogs, and when it is over.
//!
//! A call is a Call-ID and the caller's tag, whatever its forks, copies and attempts (I3). It ends in one place,
//! [`super::Proxy::end_call`], which gives back everything it holds.

use super::talk::Talk;
use super::transfer::Refer;
use crate::metrics::EndReason;
use crate::outbox::Hop;
use crate::pool::{Channel, PoolId, ServiceId, SlotId};
use crate::store::{Key, Timer};
use crate::time::Instant;
use crate::transaction::key::Fingerprint;

/// Dialogs of one call: forks that answered. One more is not followed.
const DIALOGS_MAX: usize = 16;

/// A dialog of a call, by the callee's tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Dialog {
    tag: u32,
    ended: bool,
}

/// The dialogs of a call; nearly always one, so the first needs no allocation.
#[derive(Default, Debug)]
pub(super) struct Dialogs {
    first: Option<Dialog>,
    others: Vec<Dialog>,
    /// More forks answered than are followed: only the longest call ends such a call.
    is_beyond: bool,
}

impl Dialogs {
    fn all(&mut self) -> impl Iterator<Item = &mut Dialog> {
        self.first.iter_mut().chain(self.others.iter_mut())
    }

    /// Stores a dialog, in the place of one that ended when all are taken.
    fn remember(&mut self, dialog: Dialog) {
        if self.first.is_none() {
            self.first = Some(dialog);
        } else if self.others.len() + 1 < DIALOGS_MAX {
            self.others.push(dialog);
        } else if let Some(ended) = self.all().find(|known| known.ended) {
            *ended = dialog;
        } else {
            self.is_beyond |= !dialog.ended;
        }
    }

    /// A 2xx came from the callee with this tag. One whose BYE was answered before is not up again.
    pub(super) fn confirm(&mut self, tag: u32) {
        if !self.all().any(|dialog| dialog.tag == tag) {
            self.remember(Dialog { tag, ended: false });
        }
    }

    /// The dialog is over.
    pub(super) fn end(&mut self, tag: u32) {
        if let Some(dialog) = self.all().find(|dialog| dialog.tag == tag) {
            dialog.ended = true;
            return;
        }
        // A BYE in an early dialog may overtake the 2xx it crosses (RFC 5407).
        self.remember(Dialog { tag, ended: true });
    }

    /// Whether any dialog is up.
    pub(super) fn is_up(&self) -> bool {
        self.is_beyond || self.first.iter().chain(self.others.iter()).any(|dialog| !dialog.ended)
    }

    /// Whether the dialog with this tag is up.
    pub(super) fn is_up_with(&self, tag: u32) -> bool {
        self.first.iter().chain(self.others.iter()).any(|dialog| dialog.tag == tag && !dialog.ended)
    }

    /// Whether the tag is that of a dialog known here.
    pub(super) fn knows(&self, tag: u32) -> bool {
        self.first.iter().chain(self.others.iter()).any(|dialog| dialog.tag == tag)
    }
}

/// One call in progress.
#[derive(Debug)]
pub(super) struct Call {
    /// The Call-ID.
    pub(super) id: Fingerprint,
    /// The caller's tag.
    pub(super) from_tag: u32,
    /// CSeq number of the INVITE that began it.
    pub(super) cseq: u32,
    /// How far the CSeq of caller and callee came.
    pub(super) cseqs: [u32; 2],
    /// INVITEs of it that have no final answer yet, and attempts that may still be answered.
    pub(super) pending: u32,
    /// INVITEs and attempts that use its channel. The last one to go elsewhere gives it back.
    pub(super) users: u32,
    /// Whether a 2xx came.
    pub(super) answered: bool,
    /// What it holds; more than one for a spiral through several pools.
    pub(super) channel: Option<Channel>,
    pub(super) more: Vec<Channel>,
    /// Its entry in the table of calls.
    pub(super) slot: SlotId,
    /// The dialogs of the answer.
    pub(super) dialogs: Dialogs,
    /// Whether an ACK for a 2xx came.
    pub(super) acked: bool,
    /// The timer that ends it: no ACK, or the longest call.
    pub(super) timer: Timer,
    /// When the INVITE came.
    pub(super) since: Instant,
    /// The longest it may take, in seconds.
    pub(super) longest_s: u32,
    /// How often the callee is asked whether it still knows the call, in seconds; 0: never.
    pub(super) ask_s: u32,
    /// When the longest call, or the wait for the ACK, is over.
    pub(super) until: Instant,
    /// When the session must have been refreshed; zero: never.
    pub(super) lease: Instant,
    /// When the callee is asked next; zero: never.
    pub(super) ask_at: Instant,
    /// Questions in a row it did not answer.
    pub(super) missed: u8,
    pub(super) is_suspect: bool,
    /// Another call has its channel: it has to end soon.
    pub(super) is_replaced: bool,
    /// Whether its callee transfers it.
    pub(super) refer: Refer,
    /// The call that replaces it and gets its channel.
    pub(super) heir: Key,
    /// The call it has its channel from.
    pub(super) replaced: Key,
    /// Why we end it, when we do.
    pub(super) ending: Option<EndReason>,
    /// The server transaction of the INVITE that began it.
    pub(super) server: Key,
    /// The caller's Contact, until there is a dialog.
    pub(super) contact: Box<[u8]>,
    /// What a request of our own needs, by dialog.
    pub(super) talk: Option<Box<Talk>>,
    /// The way to the caller.
    pub(super) caller: Hop,
    /// The way to the callee.
    pub(super) callee: Hop,
    /// The target's address it was sent to.
    pub(super) peer: u16,
}

impl Call {
    /// When the next of its moments comes.
    pub(super) fn due(&self) -> Instant {
        [self.lease, self.ask_at].into_iter().filter(|at| *at != Instant::ZERO).fold(self.until, Instant::min)
    }

    /// Whether it holds a channel by way of `service`.
    pub(super) fn is_of(&self, service: ServiceId) -> bool {
        self.channel.iter().chain(self.more.iter()).any(|channel| channel.service() == Some(service))
    }

    /// Whether it holds a channel of `pool`.
    pub(super) fn holds(&self, pool: PoolId) -> bool {
        self.channel.iter().chain(self.more.iter()).any(|channel| channel.pool() == Some(pool))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialog_ends_once_and_stays_ended() {
        let mut dialogs = Dialogs::default();
        dialogs.confirm(1);
        dialogs.confirm(2);
        dialogs.end(1);
        dialogs.confirm(1);
        assert!(dialogs.is_up());
        dialogs.end(2);
        assert!(!dialogs.is_up());
    }

    #[test]
    fn a_bye_that_overtakes_its_2xx_ends_the_dialog() {
        let mut dialogs = Dialogs::default();
        dialogs.end(7);
        dialogs.confirm(7);
        assert!(!dialogs.is_up());
    }

    #[test]
    fn ended_dialogs_never_keep_a_new_one_out() {
        let mut dialogs = Dialogs::default();
        for tag in 1..=100 {
            dialogs.end(tag);
        }
        dialogs.confirm(1_000);
        assert!(dialogs.is_up());
        assert_eq!(dialogs.others.len() + 1, DIALOGS_MAX);
    }

    #[test]
    fn more_forks_than_are_followed_keep_the_call_up() {
        let mut dialogs = Dialogs::default();
        (1..=100).for_each(|tag| dialogs.confirm(tag));
        (1..=100).for_each(|tag| dialogs.end(tag));
        assert!(dialogs.is_up());
    }
}
