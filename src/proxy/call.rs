//! One call: what it holds, its dialogs, and when it is over.
//!
//! A call is a Call-ID and the caller's tag, whatever its forks, copies and attempts (I3). It ends in one place,
//! [`super::Proxy::end_call`], which gives back everything it holds.

use std::sync::Arc;
use std::time::Duration;

use super::health::NO_PEER;
use super::talk::Talk;
use crate::metrics::EndReason;
use crate::outbox::Hop;
use crate::pool::{Caption, Channel, PoolId, ServiceId, SlotId};
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
    forks: Option<Box<Forks>>,
}

/// What more than one answer brings.
#[derive(Default, Debug)]
struct Forks {
    others: Vec<Dialog>,
    /// More forks answered than are followed: only the longest call ends such a call.
    is_beyond: bool,
}

impl Dialogs {
    fn known(&self) -> impl Iterator<Item = &Dialog> {
        self.first.iter().chain(self.forks.iter().flat_map(|forks| &forks.others))
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Dialog> {
        self.first.iter_mut().chain(self.forks.iter_mut().flat_map(|forks| &mut forks.others))
    }

    /// Stores a dialog, in the place of one that ended when all are taken.
    fn remember(&mut self, dialog: Dialog) {
        if self.first.is_none() {
            self.first = Some(dialog);
        } else if self.known().count() < DIALOGS_MAX {
            self.forks.get_or_insert_default().others.push(dialog);
        } else if let Some(ended) = self.all().find(|known| known.ended) {
            *ended = dialog;
        } else {
            self.forks.get_or_insert_default().is_beyond |= !dialog.ended;
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
        self.forks.as_ref().is_some_and(|forks| forks.is_beyond) || self.known().any(|dialog| !dialog.ended)
    }

    /// How many are up.
    pub(super) fn count(&self) -> usize {
        self.known().filter(|dialog| !dialog.ended).count()
    }

    /// Whether the dialog with this tag is up.
    pub(super) fn is_up_with(&self, tag: u32) -> bool {
        self.known().any(|dialog| dialog.tag == tag && !dialog.ended)
    }

    /// Whether the tag is that of a dialog known here.
    pub(super) fn knows(&self, tag: u32) -> bool {
        self.known().any(|dialog| dialog.tag == tag)
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
    /// What it holds; see [`Rare::more`].
    pub(super) channel: Option<Channel>,
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
    /// When a sign of life came last, in seconds of the core's time.
    heard_s: u32,
    /// How often the callee is asked whether it still knows the call, in seconds; 0: never.
    pub(super) ask_s: u32,
    /// When the longest call, or the wait for the ACK, is over.
    pub(super) until: Instant,
    /// When the session must have been refreshed; zero: never.
    pub(super) lease: Instant,
    /// When the callee is asked next; zero: never.
    pub(super) ask_at: Instant,
    /// What few calls need.
    rare: Option<Box<Rare>>,
    /// The server transaction of the INVITE that began it.
    pub(super) server: Key,
    /// What the INVITE said, until there is a dialog.
    pub(super) early: Option<Early>,
    /// What a request of our own needs, by dialog.
    pub(super) talk: Option<Box<Talk>>,
    /// The way to the caller.
    pub(super) caller: Hop,
    /// The way to the callee.
    pub(super) callee: Hop,
    /// The target's address it was sent to.
    pub(super) peer: u16,
}

/// What few calls need, kept apart so that the others do not pay for it.
#[derive(Default, Debug)]
pub(super) struct Rare {
    /// Further channels: a spiral through several pools.
    pub(super) more: Vec<Channel>,
    /// Questions in a row it did not answer.
    pub(super) missed: u8,
    pub(super) is_suspect: bool,
    /// Its session should have been refreshed by now; what is left of the lease is the margin.
    pub(super) is_overdue: bool,
    /// Another call has its channel: it has to end soon.
    pub(super) is_replaced: bool,
    /// REFERs of its callee that the caller took and has not told the end of, by CSeq.
    pub(super) refers: Vec<u32>,
    /// The call that replaces it and gets its channel.
    pub(super) heir: Key,
    /// The call it has its channel from.
    pub(super) replaced: Key,
    /// Why we end it, when we do.
    pub(super) ending: Option<EndReason>,
}

/// Of a call that has none of it.
static NOTHING_RARE: Rare = Rare {
    more: Vec::new(),
    missed: 0,
    is_suspect: false,
    is_overdue: false,
    is_replaced: false,
    refers: Vec::new(),
    heir: Key::NONE,
    replaced: Key::NONE,
    ending: None,
};

/// What an INVITE said that a dialog of it will need: Call-ID, the caller's URI, the called number and the caller's Contact,
/// one after another. Its slot shows the same text.
#[derive(Clone, Debug)]
pub(super) struct Early {
    text: Arc<[u8]>,
    caller_at: u16,
    number_at: u16,
    contact_at: u16,
}

/// A part longer than this is not kept, in octets.
pub(super) const PART_MAX: usize = 4096;

/// The parts in one piece, by way of a buffer that is used again.
pub(super) fn joined(scratch: &mut Vec<u8>, parts: &[&[u8]]) -> Arc<[u8]> {
    scratch.clear();
    parts.iter().for_each(|part| scratch.extend_from_slice(part));
    Arc::from(&**scratch)
}

impl Early {
    pub(super) fn new(scratch: &mut Vec<u8>, call_id: &[u8], caller: &[u8], number: &[u8], contact: &[u8]) -> Self {
        let [call_id, caller, number] = [call_id, caller, number].map(|part| &part[..part.len().min(PART_MAX)]);
        // Half a Contact leads nowhere.
        let contact = if contact.len() > PART_MAX { b"" } else { contact };
        let number_at = call_id.len() + caller.len();
        let contact_at = (number_at + number.len()) as u16;
        let text = joined(scratch, &[call_id, caller, number, contact]);
        Self { text, caller_at: call_id.len() as u16, number_at: number_at as u16, contact_at }
    }

    pub(super) fn caption(&self) -> Caption {
        let [caller, number, contact] = [self.caller_at, self.number_at, self.contact_at].map(usize::from);
        Caption::new(Arc::clone(&self.text), [0..caller, caller..number, number..contact])
    }

    pub(super) fn caller(&self) -> &[u8] {
        &self.text[usize::from(self.caller_at)..usize::from(self.number_at)]
    }

    pub(super) fn number(&self) -> &[u8] {
        &self.text[usize::from(self.number_at)..usize::from(self.contact_at)]
    }

    pub(super) fn contact(&self) -> &[u8] {
        &self.text[usize::from(self.contact_at)..]
    }
}

impl Call {
    /// A call of which nothing is known but its INVITE.
    pub(super) fn new(
        (id, from_tag, cseq): (Fingerprint, u32, u32),
        channel: Option<Channel>,
        now: Instant,
        (longest, ask_s): (Duration, u32),
        early: Early,
        caller: Hop,
    ) -> Self {
        let users = u32::from(channel.as_ref().is_some_and(|channel| channel.pool().is_some()));
        Self {
            id,
            from_tag,
            cseq,
            cseqs: [cseq, 0],
            pending: 1,
            users,
            answered: false,
            channel,
            slot: 0,
            dialogs: Dialogs::default(),
            acked: false,
            timer: Timer::NONE,
            since: now,
            longest_s: u32::try_from(longest.as_secs()).unwrap_or(u32::MAX),
            heard_s: seconds(now),
            ask_s,
            until: now + longest,
            lease: Instant::ZERO,
            ask_at: Instant::ZERO,
            rare: None,
            server: Key::NONE,
            early: Some(early),
            talk: None,
            caller,
            callee: caller,
            peer: NO_PEER,
        }
    }

    pub(super) fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(&NOTHING_RARE)
    }

    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// When a sign of life came last.
    pub(super) fn heard(&self) -> Instant {
        Instant::from_micros(u64::from(self.heard_s) * 1_000_000).max(self.since)
    }

    /// It gave a sign of life. Says whether it was suspect.
    pub(super) fn gave_sign(&mut self, now: Instant) -> bool {
        self.heard_s = seconds(now);
        self.rare.as_mut().is_some_and(|rare| {
            rare.missed = 0;
            std::mem::take(&mut rare.is_suspect)
        })
    }

    /// What it holds.
    pub(super) fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.channel.iter().chain(&self.rare().more)
    }

    /// What it holds.
    pub(super) fn channels_mut(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.channel.iter_mut().chain(self.rare.iter_mut().flat_map(|rare| &mut rare.more))
    }

    /// Takes out what it holds.
    pub(super) fn take_channels(&mut self) -> impl Iterator<Item = Channel> + use<> {
        self.channel.take().into_iter().chain(self.rare.take().map(|rare| rare.more).unwrap_or_default())
    }

    /// When the next of its moments comes.
    pub(super) fn due(&self) -> Instant {
        [self.lease, self.ask_at].into_iter().filter(|at| *at != Instant::ZERO).fold(self.until, Instant::min)
    }

    /// Whether it holds a channel by way of `service`.
    pub(super) fn is_of(&self, service: ServiceId) -> bool {
        self.channels().any(|channel| channel.service() == Some(service))
    }

    /// Whether it holds a channel of `pool`.
    pub(super) fn holds(&self, pool: PoolId) -> bool {
        self.channels().any(|channel| channel.pool() == Some(pool))
    }
}

fn seconds(now: Instant) -> u32 {
    u32::try_from(now.as_micros() / 1_000_000).unwrap_or(u32::MAX)
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
        assert_eq!(dialogs.known().count(), DIALOGS_MAX);
    }

    #[test]
    fn more_forks_than_are_followed_keep_the_call_up() {
        let mut dialogs = Dialogs::default();
        (1..=100).for_each(|tag| dialogs.confirm(tag));
        (1..=100).for_each(|tag| dialogs.end(tag));
        assert!(dialogs.is_up());
    }
}
