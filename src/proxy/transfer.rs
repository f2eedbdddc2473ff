//! Calls that leave the PBX: a call transferred away uses none of its channels any more, and goes on.
//!
//! Seed 000 frees a channel when a call is "dropped or successfully transferred to the destination". What says so: the NOTIFY
//! that ends a REFER well, an INVITE that replaces the call, a sign the PBX was configured to give, or the operator.

use std::net::SocketAddr;

use super::Proxy;
use crate::config::Target;
use crate::pool::{Channel, PoolId};
use crate::route::Router;
use crate::sip::{HeaderName, Message, Method, NameAddr, trim};
use crate::store::Key;
use crate::time::Instant;

/// REFERs of one call that wait for their end; the oldest makes room.
const REFERS_MAX: usize = 4;

impl Proxy {
    /// The call uses no channel from now on. What it holds of its trunk stays.
    pub(super) fn release_channels(&mut self, now: Instant, key: Key) {
        if self.calls.get(key).is_some_and(|call| call.answered && !call.rare().heir.is_none()) {
            // Whoever is to have its channel has it now.
            return self.inherit(key);
        }
        let Some(call) = self.calls.get_mut(key).filter(|call| call.answered) else { return };
        call.users = 0;
        if !call.rare().refers.is_empty() {
            call.rare_mut().refers.clear();
        }
        let mut channels = call.channels_mut().filter(|it| it.pool().is_some()).peekable();
        if channels.peek().is_some() {
            self.counters.transfers += 1;
        }
        for channel in channels {
            self.gate.release_channel(now, channel, &mut self.events);
        }
        self.slots.update(call.slot, |slot| slot.pool = None);
    }

    /// A request of the callee within the dialog: does it bear the sign its target was configured to give?
    pub(super) fn look_for_sign(&mut self, now: Instant, router: &Router, key: Key, message: &Message<'_>) {
        let target = self.calls.get(key).and_then(|call| target_of(router, call.callee.address));
        let Some(sign) = target.and_then(|target| target.released_by.as_ref()) else { return };
        let has_it = message.named(&sign.name).is_some_and(|value| match &sign.value {
            Some(wanted) => value.eq_ignore_ascii_case(wanted.as_bytes()),
            None => true,
        });
        if has_it {
            self.release_channels(now, key);
        }
    }

    /// The caller accepted a re-INVITE or UPDATE of the callee that names another place.
    pub(super) fn callee_moved(&mut self, now: Instant, key: Key, request: &[u8]) {
        let router = std::sync::Arc::clone(&self.router);
        let target = self.calls.get(key).and_then(|call| target_of(&router, call.callee.address));
        if !target.is_some_and(|target| target.released_by_contact) {
            return;
        }
        let Ok(request) = Message::parse(request) else { return };
        let contact = request.value(HeaderName::Contact).and_then(NameAddr::parse).and_then(|contact| contact.uri());
        // A name may be anybody's, the PBX' own too: only an address says for certain that it is another.
        let address = contact.and_then(|uri| uri.socket_addr());
        let is_away = address.is_some_and(|address| !router.takes_channel(address));
        if is_away {
            self.release_channels(now, key);
        }
    }

    /// A REFER or NOTIFY within the dialog was accepted. `request` is what was accepted, `source` where it came from.
    pub(super) fn transfer_answered(
        &mut self,
        now: Instant,
        (key, from_caller): (Key, bool),
        (request, source): (&[u8], SocketAddr),
        answer: &Message<'_>,
    ) {
        let Ok(request) = Message::parse(request) else { return };
        let sender = self.router.trunk(source.ip()).map(|trunk| self.router.trunk_id(trunk));
        let Some(call) = self.calls.get_mut(key) else { return };
        match (request.method(), from_caller) {
            // RFC 4488 §4: with `Refer-Sub: false` no NOTIFY will come, so that nothing says it went well but the PBX' BYE.
            (Method::Refer, false) => {
                let is_silent = answer.named("Refer-Sub").is_some_and(|value| value.eq_ignore_ascii_case(b"false"));
                let Some(cseq) = request.check().ok().map(|found| found.cseq.number).filter(|_| !is_silent) else {
                    return;
                };
                let refers = &mut call.rare_mut().refers;
                if refers.len() == REFERS_MAX {
                    refers.remove(0);
                }
                refers.push(cseq);
            }
            (Method::Notify, true) => {
                // RFC 3515 §2.4.6: which REFER it is about; the first one when it does not say.
                let about = refer_of(&request);
                let is_it = |cseq: &u32| about.is_some_and(|about| about.is_none_or(|about| about == *cseq));
                let Some(at) = call.rare().refers.iter().position(is_it) else { return };
                // Whoever else knows the tags says nothing that frees a channel; a carrier may have several addresses.
                let trunk = call.channels().next().map(|channel| channel.trunk());
                if source.ip() != call.caller.address.ip() && (sender.is_none() || sender != trunk) {
                    return;
                }
                match sipfrag_status(&request) {
                    Some(200..300) => self.release_channels(now, key),
                    Some(300..) => drop(call.rare_mut().refers.remove(at)),
                    Some(_) | None => {}
                }
            }
            _ => {}
        }
    }

    /// The call an INVITE replaces (RFC 3891), when it holds a channel of `pool`: the new call gets that.
    pub(super) fn replaced(&self, message: &Message<'_>, pool: PoolId) -> Option<Key> {
        let value = message.value(HeaderName::Replaces)?;
        let mut parts = value.split(|octet| *octet == b';').map(trim);
        let call_id = parts.next()?;
        let (mut to, mut from) = (None, None);
        for part in parts {
            let (name, value) = crate::sip::uri::split_parameter(part);
            if name.eq_ignore_ascii_case(b"to-tag") {
                to = Some(self.secret.tag(value));
            } else if name.eq_ignore_ascii_case(b"from-tag") {
                from = Some(self.secret.tag(value));
            }
        }
        let (to, from) = to.zip(from)?;
        let id = self.secret.call(call_id);
        self.find_call(id, |call| {
            let is_dialog = |caller: u32, callee: u32| {
                call.from_tag == caller && call.dialogs.knows(callee) && call.dialogs.is_up()
            };
            // One whose own predecessor is still up cannot be replaced in turn, or a channel would carry a whole chain.
            let is_settled = self.calls.get(call.rare().replaced).is_none();
            call.holds(pool) && call.rare().heir.is_none() && is_settled && (is_dialog(from, to) || is_dialog(to, from))
        })
    }

    /// What the replaced call holds of a pool goes to the call that replaces it.
    pub(super) fn inherit(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let heir_key = call.rare().heir;
        if heir_key.is_none() {
            return;
        }
        call.rare_mut().heir = Key::NONE;
        let has_pool = |channel: &&mut Channel| channel.pool().is_some();
        let has_nothing = |channel: &&mut Channel| channel.pool().is_none() && channel.service().is_none();
        let heir_has_place =
            self.calls.get_mut(heir_key).is_some_and(|heir| heir.channels_mut().any(|channel| has_nothing(&channel)));
        let Some(call) = self.calls.get_mut(key).filter(|_| heir_has_place) else { return };
        let Some(share) = call.channels_mut().find(has_pool).map(Channel::take_share) else { return };
        call.users = call.users.saturating_sub(1);
        self.slots.update(call.slot, |slot| slot.pool = None);
        let Some(heir) = self.calls.get_mut(heir_key) else { return };
        let slot = heir.slot;
        heir.users += 1;
        heir.rare_mut().replaced = key;
        if let Some(place) = heir.channels_mut().find(has_nothing) {
            place.put_share(share);
            let pool = place.pool();
            self.slots.update(slot, |slot| slot.pool = pool);
        }
    }

    /// An INVITE goes elsewhere than to the PBX whose call it was to replace.
    pub(super) fn no_heir(&mut self, server: Key) {
        let Some(transaction) = self.transactions.server_mut(server) else { return };
        let replaces = std::mem::take(&mut transaction.context.replaces);
        if !replaces.is_none() {
            self.replacement_answered(Instant::ZERO, replaces, false);
        }
    }

    /// An INVITE that replaces a call was answered, or failed.
    pub(super) fn replacement_answered(&mut self, now: Instant, replaces: Key, is_accepted: bool) {
        if is_accepted {
            self.inherit(replaces);
            // Who was replaced hangs up (§3). A PBX that does not know Replaces leaves both up: one of them has to go.
            if let Some(call) = self.calls.get_mut(replaces).filter(|call| call.rare().ending.is_none()) {
                call.until = now + self.lengths.t1 * 64;
                call.rare_mut().is_replaced = true;
                self.watch_call(replaces);
            }
        } else if let Some(call) = self.calls.get_mut(replaces) {
            call.rare_mut().heir = Key::NONE;
        }
    }
}

/// The target that has this address.
fn target_of(router: &Router, address: SocketAddr) -> Option<&Target> {
    let found = (0..router.config.targets.len()).find(|at| router.is_at(*at, address.ip()))?;
    Some(&router.config.targets[found])
}

/// The REFER a NOTIFY is about, by the number its Event says; `None` when it is about none.
fn refer_of(request: &Message<'_>) -> Option<Option<u32>> {
    let event = request.named("Event").or_else(|| request.named("o"))?;
    let mut parts = event.split(|octet| *octet == b';').map(trim);
    parts.next().filter(|package| package.eq_ignore_ascii_case(b"refer"))?;
    let id = parts.map(crate::sip::uri::split_parameter).find(|(name, _)| name.eq_ignore_ascii_case(b"id"));
    match id {
        None => Some(None),
        Some((_, value)) => crate::sip::decimal(value).map(Some),
    }
}

/// The status in the body of a NOTIFY that tells what became of a REFER (RFC 3515 §2.4.5).
fn sipfrag_status(request: &Message<'_>) -> Option<u16> {
    let body = request.body();
    let rest = body.get(..8).filter(|start| start.eq_ignore_ascii_case(b"SIP/2.0 ")).map(|_| &body[8..])?;
    crate::sip::decimal(rest.get(..3)?).map(|status| status as u16)
}
