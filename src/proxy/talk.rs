//! Speaking in a dialog's name: BYE to both sides when the operator or a limit ends a call, OPTIONS to see whether the
//! callee still knows it.

use std::ops::Range;
use std::sync::Arc;

use super::call::{Call, Early, PART_MAX, joined};
use super::{Attempt, Proxy, Role, env, forward};
use crate::metrics::EndReason;
use crate::outbox::Hop;
use crate::pool::{Caption, PoolId, ServiceId};
use crate::route::Router;
use crate::sip::{HeaderName, Message, Method, NameAddr, Text, Uri, build};
use crate::store::Key;
use crate::time::Instant;
use crate::transaction::key::Branch;

/// The two ends of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Side {
    Caller,
    Callee,
}

impl Side {
    pub(super) const fn of(from_caller: bool) -> Self {
        if from_caller { Self::Caller } else { Self::Callee }
    }

    pub(super) const fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// What a request of our own is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Own {
    /// It is not our own.
    #[default]
    No,
    /// OPTIONS to an address of a target.
    Probe,
    /// BYE to one side of a dialog, by the callee's tag.
    Bye(Side, u32),
    /// OPTIONS within a dialog.
    Ask(u32),
}

/// What RFC 3261 §12 has both sides of a dialog remember, in one piece: From and To of the caller's requests, Contact and
/// the rest of the Route set of each side, and how far each side's CSeq came.
#[derive(Debug)]
pub(super) struct Talk {
    /// The callee's tag.
    pub(super) tag: u32,
    cseq: [u32; 2],
    ends: [u16; 8],
    /// The call's slot shows what it needs of the first dialog's.
    text: Arc<[u8]>,
    /// Another dialog of the call: a fork.
    pub(super) next: Option<Box<Self>>,
}

/// Parts of a [`Talk`], in their order: Call-ID, From, To, the caller's URI when the answer's From says another, the called
/// number, then each side's Contact and Route set. What the slot shows comes first, where it stays when a side moves.
const CALL_ID: usize = 0;
const FROM: usize = 1;
const TO: usize = 2;
const CALLER: usize = 3;
const NUMBER: usize = 4;
const CONTACT: [usize; 2] = [5, 6];
const ROUTES: [usize; 2] = [7, 8];

impl Talk {
    /// What a 2xx says, the called number and the caller's Contact.
    pub(super) fn new(
        scratch: &mut Vec<u8>,
        router: &Router,
        answer: &Message<'_>,
        (early, contact): (Option<&Early>, &[u8]),
        cseq: [u32; 2],
        tag: u32,
    ) -> Option<Box<Self>> {
        let value = |name| answer.value(name).unwrap_or_default();
        let callee = answer.value(HeaderName::Contact).and_then(NameAddr::parse);
        // Ours are in the middle: those of hops towards the callee above, towards the caller below (§12.1).
        let (mut above, mut below, mut is_below) = (Vec::new(), Vec::new(), false);
        for span in answer.list(HeaderName::RecordRoute) {
            let value = answer.slice(span);
            let is_own = router.wrote(value)
                || NameAddr::parse(value).and_then(|it| it.uri()).is_some_and(|uri| router.is_self(&uri));
            is_below |= is_own;
            match (is_own, is_below) {
                (true, _) => {}
                (false, true) => below.push(value),
                (false, false) => above.push(value),
            }
        }
        above.reverse();
        let from = NameAddr::parse(value(HeaderName::From));
        let is_other = |early: &&Early| from.as_ref().is_none_or(|from| from.uri_bytes() != early.caller());
        let caller = early.filter(is_other).map(Early::caller).unwrap_or_default();
        let number = early.map(Early::number).unwrap_or_default();
        let (to_caller, to_callee) = (below.join(&b", "[..]), above.join(&b", "[..]));
        let parts = [
            value(HeaderName::CallId),
            value(HeaderName::From),
            value(HeaderName::To),
            caller,
            number,
            contact,
            callee.as_ref().map(NameAddr::uri_bytes).unwrap_or_default(),
            &to_caller,
            &to_callee,
        ];
        Self::of(scratch, parts, cseq, tag)
    }

    fn of(scratch: &mut Vec<u8>, parts: [&[u8]; 9], cseq: [u32; 2], tag: u32) -> Option<Box<Self>> {
        if parts.iter().any(|part| part.len() > PART_MAX) {
            return None;
        }
        let (mut ends, mut end) = ([0; 8], 0);
        for (place, part) in ends.iter_mut().zip(&parts) {
            end += part.len() as u16;
            *place = end;
        }
        Some(Box::new(Self { tag, cseq, ends, text: joined(scratch, &parts), next: None }))
    }

    fn place(&self, at: usize) -> Range<usize> {
        let start = if at == 0 { 0 } else { usize::from(self.ends[at - 1]) };
        start..self.ends.get(at).map_or(self.text.len(), |end| usize::from(*end))
    }

    fn part(&self, at: usize) -> &[u8] {
        &self.text[self.place(at)]
    }

    /// Where that side said it is.
    pub(super) fn contact(&self, side: Side) -> &[u8] {
        self.part(CONTACT[side as usize])
    }

    /// What a slot shows of it: what the INVITE said.
    fn caption(&self) -> Caption {
        let (from, mut caller) = (self.place(FROM), self.place(CALLER));
        if caller.is_empty() {
            let uri = NameAddr::parse(self.part(FROM)).map(|it| it.uri_place()).unwrap_or_default();
            caller = from.start + uri.start..from.start + uri.end;
        }
        Caption::new(Arc::clone(&self.text), [self.place(CALL_ID), caller, self.place(NUMBER)])
    }

    /// That side sent a request with this CSeq.
    pub(super) fn heard(&mut self, side: Side, cseq: u32) {
        let last = &mut self.cseq[side as usize];
        *last = (*last).max(cseq);
    }

    /// That side is reached elsewhere from now on (§12.2: target refresh).
    fn moved(&mut self, side: Side, contact: &[u8]) {
        if self.part(CONTACT[side as usize]) == contact {
            return;
        }
        let mut parts: [&[u8]; 9] = std::array::from_fn(|at| self.part(at));
        parts[CONTACT[side as usize]] = contact;
        if let Some(talk) = Self::of(&mut Vec::new(), parts, self.cseq, self.tag) {
            (self.ends, self.text) = (talk.ends, talk.text);
        }
    }
}

/// The dialog with the callee's tag.
pub(super) fn dialog(talk: &mut Option<Box<Talk>>, tag: u32) -> Option<&mut Talk> {
    let mut at = talk.as_deref_mut();
    while let Some(talk) = at {
        if talk.tag == tag {
            return Some(talk);
        }
        at = talk.next.as_deref_mut();
    }
    None
}

impl Proxy {
    /// A 2xx opened a dialog of the call: what a BYE of ours will need is kept.
    pub(super) fn remember_talk(&mut self, key: Key, answer: &Message<'_>, tag: u32) -> bool {
        let router = Arc::clone(&self.router);
        let Some(call) = self.calls.get_mut(key) else { return false };
        if dialog(&mut call.talk, tag).is_some() || !call.dialogs.knows(tag) {
            return false;
        }
        // Kept once: from the first dialog on it is there.
        let early = call.early.as_ref();
        let known = call.talk.as_ref().map(|talk| talk.part(CONTACT[Side::Caller as usize]));
        let contact = known.or_else(|| early.map(Early::contact)).unwrap_or_default();
        let talk = Talk::new(&mut self.scratch, &router, answer, (early, contact), call.cseqs, tag);
        let Some(mut talk) = talk else { return false };
        if call.early.take().is_some() {
            let caption = talk.caption();
            self.slots.update(call.slot, |slot| *slot.caption_mut() = caption);
        }
        talk.next = call.talk.take();
        call.talk = Some(talk);
        true
    }

    /// A request within the dialog passed.
    pub(super) fn heard(&mut self, now: Instant, key: Key, side: Side, tag: u32, cseq: u32) {
        if let Some(call) = self.calls.get_mut(key) {
            if call.gave_sign(now) {
                self.slots.update(call.slot, |slot| slot.suspect = false);
            }
            let last = &mut call.cseqs[side as usize];
            *last = (*last).max(cseq);
            if let Some(talk) = dialog(&mut call.talk, tag) {
                talk.heard(side, cseq);
            }
        }
    }

    /// A re-INVITE or UPDATE of `side` was accepted: both may have moved.
    pub(super) fn refreshed(&mut self, key: Key, side: Side, tag: u32, request: &[u8], answer: &Message<'_>) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let Some(talk) = dialog(&mut call.talk, tag) else { return };
        let former = Arc::clone(&talk.text);
        if let Some(contact) = answer.value(HeaderName::Contact).and_then(NameAddr::parse) {
            talk.moved(side.other(), contact.uri_bytes());
        }
        if let Ok(request) = Message::parse(request)
            && let Some(contact) = request.value(HeaderName::Contact).and_then(NameAddr::parse)
        {
            talk.moved(side, contact.uri_bytes());
        }
        if !Arc::ptr_eq(&former, &talk.text) {
            self.slots.update(call.slot, |slot| slot.caption_mut().follow(&former, &talk.text));
        }
    }

    /// Ends a call: BYE to both sides of every dialog, CANCEL while it rings. It is counted until the callee has let go.
    pub(super) fn hang_up(&mut self, now: Instant, key: Key, reason: EndReason) {
        let Some(call) = self.calls.get_mut(key) else { return };
        if call.rare().ending.is_some() {
            return;
        }
        call.rare_mut().ending = Some(reason);
        // The net under the BYE.
        (call.until, call.lease, call.ask_at) = (now + self.lengths.t1 * 66, Instant::ZERO, Instant::ZERO);
        let (mut tags, mut at) = (Vec::new(), call.talk.as_deref());
        while let Some(talk) = at {
            tags.push(talk.tag);
            at = talk.next.as_deref();
        }
        let (server, pending) = (call.server, call.pending);
        if tags.is_empty() {
            if pending > 0
                && self.transactions.server(server).is_some_and(|server| server.context.role == Role::Opening)
            {
                return self.give_up(now, server, b"Reason: SIP;cause=487;text=\"ended by sipweir\"\r\n");
            }
            return self.end_call(now, key, reason);
        }
        self.watch_call(key);
        for tag in tags {
            // The callee last: should it have no place to be told at, the call ends there.
            for side in [Side::Caller, Side::Callee] {
                self.speak(now, key, Own::Bye(side, tag), Some(reason));
            }
        }
    }

    /// A call that was being ended while it rang was answered first.
    pub(super) fn end_again(&mut self, now: Instant, key: Key) {
        let reason = self.calls.get_mut(key).and_then(|call| call.rare_mut().ending.take());
        if let Some(reason) = reason {
            self.hang_up(now, key, reason);
        }
    }

    /// Asks the callee whether it still knows the dialog.
    pub(super) fn ask_callee(&mut self, now: Instant, key: Key) {
        let Some(call) = self.calls.get(key) else { return };
        let mut talk = call.talk.as_deref();
        while let Some(this) = talk.filter(|this| !call.dialogs.is_up_with(this.tag)) {
            talk = this.next.as_deref();
        }
        if let Some(tag) = talk.map(|talk| talk.tag) {
            self.speak(now, key, Own::Ask(tag), None);
        }
    }

    /// Sends a request of our own within a dialog.
    fn speak(&mut self, now: Instant, key: Key, own: Own, reason: Option<EndReason>) {
        let (side, tag, method) = match own {
            Own::Bye(side, tag) => (side, tag, Method::Bye),
            Own::Ask(tag) => (Side::Callee, tag, Method::Options),
            Own::No | Own::Probe => return,
        };
        let router = Arc::clone(&self.router);
        let Some(call) = self.calls.get_mut(key) else { return };
        let hop = if side == Side::Caller { call.caller } else { call.callee };
        let Some(talk) = dialog(&mut call.talk, tag) else { return };
        let (contact, routes) = (talk.part(CONTACT[side as usize]).to_vec(), talk.part(ROUTES[side as usize]).to_vec());
        // A BYE ends the numbering; a question must not use up the number of the other side's next request, and one that
        // repeats the last is in order (§12.2.2: only "lower than the remote sequence number" is refused).
        let cseq = talk.cseq[side.other() as usize].saturating_add(u32::from(method == Method::Bye));
        let (mut from, mut to) = (talk.part(FROM).to_vec(), talk.part(TO).to_vec());
        if side == Side::Caller {
            std::mem::swap(&mut from, &mut to);
        }
        let call_id = talk.part(CALL_ID).to_vec();
        if Uri::parse(&contact).is_none_or(|uri| uri.host().is_none()) {
            // A side that never said where it is cannot be told.
            return self.own_answered(now, (own, key, super::health::NO_PEER), None);
        }
        let hop = own_hop(&router, hop, &contact, &routes);
        let attempt = Attempt { own, ..Attempt::new((Key::NONE, key), 0, Key::NONE) };
        let client = self.transactions.open_client(method, hop, attempt);
        let branch = Branch { client, loop_hash: 0 }.write(&self.secret);
        let mut lines = Text::<128>::default();
        if let Some(reason) = reason {
            lines.push(format_args!("Reason: SIP;cause=200;text=\"{}\"\r\n", reason.words()));
        }
        let via = &router.lines(hop.listener).via;
        self.transactions.start_client(env!(self, now), client, None, |out| {
            let dialog =
                build::Dialog { uri: &contact, routes: &routes, from: &from, to: &to, call_id: &call_id, cseq };
            build::in_dialog(out, method, (via, &branch), &dialog, lines.as_bytes());
        });
        let sent = self.transactions.client(client).map(|client| client.sent.clone()).unwrap_or_default();
        if let Ok(sent) = Message::parse(&sent)
            && let Ok(found) = sent.check()
            && let Some(client) = self.transactions.client_mut(client)
        {
            client.context.identity = forward::identity(&self.secret, &found, found.cseq.method);
        }
    }

    /// A request of our own was answered; `None`: not at all.
    pub(super) fn own_answered(&mut self, now: Instant, attempt: (Own, Key, u16), status: Option<u16>) {
        let (own, key, peer) = attempt;
        if status.is_some_and(|status| status < 200) {
            return;
        }
        match own {
            Own::No => {}
            Own::Probe => self.probe_answered(now, peer, status),
            // A callee that wants to know who we are has not let go; the net under the BYE ends the call.
            Own::Bye(Side::Callee, _) if matches!(status, Some(401 | 407)) => {}
            // Whatever else the callee says, and if it says nothing: the dialog is gone (§15.1.1).
            Own::Bye(Side::Callee, tag) => {
                let reason =
                    self.calls.get(key).and_then(|call| call.rare().ending).unwrap_or(EndReason::Administrator);
                self.dialog_ended(now, key, tag, reason);
            }
            Own::Bye(Side::Caller, _) => {}
            Own::Ask(tag) => self.callee_answered(now, key, tag, status),
        }
    }

    /// What the callee says to the question whether it knows the dialog. Only a plain no ends the call; silence makes it
    /// suspect, and a suspect gives way when its pool is full.
    fn callee_answered(&mut self, now: Instant, key: Key, tag: u32, status: Option<u16>) {
        match status {
            Some(481) => self.dialog_ended(now, key, tag, EndReason::DialogLost),
            Some(status) if status != 408 => {
                if let Some(call) = self.calls.get_mut(key)
                    && call.gave_sign(now)
                {
                    self.slots.update(call.slot, |slot| slot.suspect = false);
                }
            }
            Some(_) | None => {
                let Some(call) = self.calls.get_mut(key) else { return };
                let rare = call.rare_mut();
                rare.missed = rare.missed.saturating_add(1);
                if rare.missed >= MISSED {
                    self.doubt(key);
                }
            }
        }
    }

    /// A call gives no sign of life: it is suspect from now on.
    pub(super) fn doubt(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        if std::mem::replace(&mut call.rare_mut().is_suspect, true) {
            return;
        }
        self.slots.update(call.slot, |slot| slot.suspect = true);
        if self.suspects.len() > 2 * self.calls.len() + 16 {
            let calls = &self.calls;
            self.suspects.retain(|key| calls.get(*key).is_some_and(|call| call.rare().is_suspect));
        }
        self.suspects.push_back(key);
        self.waiting.stir();
    }

    /// Ends the call that was suspect first among those that hold a channel of `pool`. Says whether there was one.
    pub(super) fn reclaim(&mut self, now: Instant, pool: PoolId, service: ServiceId) -> bool {
        // Where it would let nobody in, nobody is ended: above the capacity, and where the freed channel is kept for others.
        let Some(is_reserved) = self.gate.is_reclaimable(pool) else { return false };
        // Those that gave a sign of life since, or ended, leave the list here.
        let calls = &self.calls;
        self.suspects.retain(|key| calls.get(*key).is_some_and(|call| call.rare().is_suspect));
        let serves = |call: &Call| call.holds(pool) && (!is_reserved || call.is_of(service));
        let found = self.suspects.iter().position(|key| self.calls.get(*key).is_some_and(serves));
        let Some(key) = found.and_then(|at| self.suspects.remove(at)) else { return false };
        self.hang_up(now, key, EndReason::Reclaimed);
        self.end_call(now, key, EndReason::Reclaimed);
        true
    }
}

/// Questions in a row without an answer that make a call suspect.
const MISSED: u8 = 2;

/// The way of a request of our own: where its Route or its target says, over the side's own connection where that fits,
/// else where the side was heard last.
fn own_hop(router: &Router, peer: Hop, contact: &[u8], routes: &[u8]) -> Hop {
    let first = NameAddr::parse(routes).map(|route| route.uri_bytes());
    let Some(uri) = Uri::parse(first.unwrap_or(contact)) else { return peer };
    super::dialog::hop_to(router, &uri, Some(peer), peer.listener).unwrap_or(peer)
}
