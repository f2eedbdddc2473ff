//! RFC 3261 §16.7 for responses: match, forward, or try the next address.

use bytes::Bytes;

use super::health::NO_PEER;
use super::session::{self, is_refresh};
use super::talk::{Own, Side};
use super::{Attempt, Cancel, EARLY_MAX, Proxy, Role, env, forward};
use crate::metrics::{Drop, EndReason};
use crate::sip::edit::Edit;
use crate::sip::message::Essentials;
use crate::sip::{HeaderName, Message, Method, build, typed};
use crate::store::Key;
use crate::time::Instant;
use crate::transaction::key::Branch;
use crate::transaction::{Event, Outcome};

/// How an attempt ended without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failed {
    /// Nothing came.
    Silent,
    /// The transport could not send.
    Unreachable,
    /// A provisional answer came, and nothing after it, not even after CANCEL.
    NoFinal,
}

impl Proxy {
    /// A response came.
    pub(super) fn response(&mut self, now: Instant, message: &Message<'_>, status: u16) {
        let found = match message.check() {
            Ok(found) => found,
            Err(fault) => return self.counters.drop(fault.into()),
        };
        let Some(branch) = found.via.branch().and_then(|branch| Branch::verify(&self.secret, branch)) else {
            return self.counters.drop(Drop::StrayResponse);
        };
        let mut key = branch.client;
        let method = found.cseq.method();
        // A CANCEL has the branch of its INVITE (§9.1): CSeq says which of the two is answered (§17.1.3).
        if method == Method::Cancel {
            key = match self.transactions.client(key).map(|client| client.context.cancel) {
                Some(Cancel::Sent(cancel)) => cancel,
                Some(Cancel::No | Cancel::Wanted) | None => Key::NONE,
            };
        }
        let Some(client) = self.transactions.client_mut(key) else {
            return self.counters.drop(Drop::StrayResponse);
        };
        if client.context.identity != forward::identity(&self.secret, &found, found.cseq.method) {
            return self.counters.drop(Drop::AlteredResponse);
        }
        // §16.7 step 3: without a further Via nothing can be forwarded. It must not move the transaction either, or the
        // caller would wait for ever; a refusal alone says all there is to say (see `send_back`).
        let is_cancel = !client.context.cancels.is_none();
        if status < 300 && !is_cancel && client.context.own == Own::No && !has_next_via(message, &found) {
            return self.counters.drop(Drop::NoNextVia);
        }
        let first_provisional = status < 200 && !std::mem::replace(&mut client.context.provisional, true);
        let (server, call, own) = (client.context.server, client.context.call, client.context.own);
        let peer = client.context.peer;
        let outcome = self.transactions.client_event(env!(self, now), key, Event::response(status), Some(message));
        if own != Own::No {
            if outcome == Outcome::PassUp {
                self.own_answered(now, (own, call, peer), Some(status));
            }
        } else if outcome == Outcome::PassUp && !is_cancel {
            if peer != NO_PEER && (first_provisional || status >= 200) {
                self.peer_answered(now, peer, status, message);
            }
            self.passed_up(now, (key, server), message, &found, status, method, first_provisional);
        }
        if let Some(attempt) = self.transactions.close_client(env!(self, now), key) {
            self.attempt_over(now, attempt);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what was found in one response")]
    fn passed_up(
        &mut self,
        now: Instant,
        (client, server): (Key, Key),
        message: &Message<'_>,
        found: &Essentials<'_>,
        status: u16,
        method: Method,
        first_provisional: bool,
    ) {
        if status < 200 {
            if method == Method::Invite {
                // §16.7 step 2: any provisional answer but 100 restarts timer C; the first one starts it.
                if first_provisional || status > 100 {
                    let wanted = self.transactions.client(client).map(|client| client.context.cancel);
                    if !matches!(wanted, Some(Cancel::Sent(_))) {
                        let length = self.lengths.timer_c;
                        self.transactions.restart_timer_c(env!(self, now), client, length);
                    }
                    if wanted == Some(Cancel::Wanted) {
                        self.send_cancel(now, client, b"");
                    }
                }
            }
            let is_silent = self.transactions.client(client).is_some_and(|client| client.context.is_silent);
            // RFC 4320 §4.1: no provisional answer but 100 to a non-INVITE request.
            if status > 100 && !is_silent && method == Method::Invite {
                self.remember_early(server, found, status);
                self.send_back(now, server, message, found, status);
            }
            return;
        }
        if self.silent_answered(now, client, status) {
            return;
        }
        let Some(transaction) = self.transactions.server(server) else { return };
        let context = &transaction.context;
        let (role, call, dialog, cancelled) = (context.role, context.call, context.dialog, context.cancelled);
        let (has_plan, hops_tried) = (context.plan.is_some(), context.hops_tried);
        if status == 408 && method != Method::Invite {
            // RFC 4320 §4.2: no 408 either; the sender's own timer says the same.
            self.transactions.abandon_server(env!(self, now), server);
            if let Role::InDialog { from_caller } = role {
                self.in_dialog_answered(now, (call, dialog), method, status, from_caller);
            }
            return;
        }
        match role {
            Role::Opening if status < 300 => {
                let tag = self.secret.tag(found.to_tag.unwrap_or_default());
                if let Some(transaction) = self.transactions.server_mut(server) {
                    transaction.context.is_answered = true;
                }
                self.answered(now, call, tag);
                let is_new = self.remember_talk(call, message, tag);
                self.refresh(now, server, call, message);
                self.send_back(now, server, message, found, status);
                if is_new && self.calls.get(call).is_some_and(|call| call.rare().ending.is_some()) {
                    // It was being ended while it rang, and the answer came first.
                    self.end_again(now, call);
                }
                self.settle(now, server);
                // An attempt we had left was answered after all: what it may have held, it holds.
                let client = self.transactions.client_mut(client);
                if client.is_some_and(|client| std::mem::take(&mut client.context.is_silent)) {
                    self.no_longer_pending(now, call);
                }
            }
            _ if status == 503
                && !cancelled
                && (self.next_of_name(now, server, true) || self.refused_aside(now, server)) => {}
            // A busy or failing target is not the end while the plan has another; what the PBX decided is.
            Role::Opening if status == 503 && !cancelled && has_plan => {
                self.remember_best(server, status, message.detach());
                if let Some(plan) = self.transactions.server_mut(server).and_then(|server| server.context.plan.as_mut())
                {
                    // It was reached: UDP would bring the same.
                    plan.again = None;
                }
                let early = self.take_early(server);
                self.advance(now, server);
                self.end_early(now, server, early, status);
            }
            Role::Opening if (300..400).contains(&status) && !cancelled && self.follows(server) => {
                let early = self.take_early(server);
                if self.follow(now, server, message) || self.next_contact(now, server, message, status) {
                    self.end_early(now, server, early, status);
                } else {
                    self.send_back(now, server, message, found, status);
                    self.settle(now, server);
                }
            }
            Role::Opening if !cancelled && self.is_followed(server) => {
                let early = self.take_early(server);
                if self.next_contact(now, server, message, status) {
                    return self.end_early(now, server, early, status);
                }
                let plan = self.transactions.server_mut(server).and_then(|server| server.context.plan.as_mut());
                match plan.and_then(|plan| plan.best.take()) {
                    Some((best, answer)) if best / 100 < status / 100 && status < 600 && !answer.is_empty() => {
                        self.answer_best(now, server, Some((best, answer)));
                    }
                    _ => {
                        self.send_back(now, server, message, found, status);
                        self.settle(now, server);
                    }
                }
            }
            Role::Opening => {
                self.send_back(now, server, message, found, status);
                self.settle(now, server);
            }
            Role::InDialog { from_caller } => {
                if status < 300 {
                    if hops_tried > 0 {
                        self.found_by_name(server, client);
                    }
                    self.refresh(now, server, call, message);
                    let context = self.transactions.server(server).filter(|server| is_refresh(&server.context));
                    if let Some(request) = context.map(|server| server.request.clone()) {
                        self.refreshed(call, Side::of(from_caller), dialog, &request, message);
                        if !from_caller {
                            self.callee_moved(now, call, &request);
                        }
                    }
                    if matches!(method, Method::Refer | Method::Notify)
                        && let Some(server) = self.transactions.server(server)
                    {
                        let (request, source) = (server.request.clone(), server.source);
                        self.transfer_answered(now, (call, from_caller), (&request, source), message);
                    }
                }
                self.send_back(now, server, message, found, status);
                self.in_dialog_answered(now, (call, dialog), method, status, from_caller);
            }
            Role::Other => self.send_back(now, server, message, found, status),
        }
    }

    /// A provisional answer opened an early dialog, or says itself that one has ended.
    fn remember_early(&mut self, server: Key, found: &Essentials<'_>, status: u16) {
        let plan = self.transactions.server_mut(server).and_then(|server| server.context.plan.as_mut());
        let Some(early) = plan.and_then(|plan| plan.early.as_mut()) else { return };
        let Some(tag) = found.to_tag else { return };
        let known = early.iter().position(|known| **known == *tag);
        match (known, status) {
            (Some(at), 199) => drop(early.swap_remove(at)),
            (None, 101..199) if early.len() < EARLY_MAX => early.push(tag.into()),
            _ => {}
        }
    }

    fn take_early(&mut self, server: Key) -> Vec<Box<[u8]>> {
        let plan = self.transactions.server_mut(server).and_then(|server| server.context.plan.as_mut());
        plan.and_then(|plan| plan.early.as_mut()).map(std::mem::take).unwrap_or_default()
    }

    /// The attempt that had these early dialogs ended with `status`, and the call goes on elsewhere: the caller is told to let
    /// them go (RFC 6228 §6).
    fn end_early(&mut self, now: Instant, server: Key, tags: Vec<Box<[u8]>>, status: u16) {
        if tags.is_empty() {
            return;
        }
        let Some(transaction) = self.transactions.server(server).filter(|it| !it.state.is_final()) else { return };
        let (request, source) = (transaction.request.clone(), transaction.source);
        let Ok(request) = Message::parse(&request) else { return };
        let mut reason = crate::sip::Text::<32>::default();
        reason.push(format_args!("Reason: SIP;cause={status}\r\n"));
        for tag in tags {
            self.transactions.server_event(env!(self, now), server, Event::Provisional, |out| {
                build::response(out, &request, source, 199, &tag, reason.as_bytes());
            });
        }
    }

    /// What an answer to a call says of the address it was sent to.
    fn peer_answered(&mut self, now: Instant, peer: u16, status: u16, message: &Message<'_>) {
        if status != 503 {
            return self.health.answered(now, peer, false, &mut self.events);
        }
        // §20.33: seconds, perhaps with a comment or parameters behind.
        let wait = message.named("Retry-After").and_then(|value| {
            let digits = value.iter().take_while(|octet| octet.is_ascii_digit()).count();
            crate::sip::decimal(&value[..digits])
        });
        let wait = wait.map(|seconds| std::time::Duration::from_secs(u64::from(seconds)));
        self.health.failed(now, peer, "a call was answered with 503", wait, &mut self.events);
    }

    /// Whether a 3xx of the target an INVITE went to is followed here.
    fn follows(&self, server: Key) -> bool {
        let plan = self.transactions.server(server).and_then(|server| server.context.plan.as_ref());
        plan.is_some_and(|plan| plan.router.config.targets[plan.target].follows)
    }

    /// Whether the INVITE went where a 3xx sent it.
    fn is_followed(&self, server: Key) -> bool {
        let plan = self.transactions.server(server).and_then(|server| server.context.plan.as_ref());
        plan.is_some_and(|plan| plan.followed > 0)
    }

    /// A Contact that was followed refused the call: the next one gets its chance, if there is one, but after a 6xx (§16.7 step
    /// 5), or a challenge, which is the caller's to answer. Says whether there is.
    fn next_contact(&mut self, now: Instant, server: Key, message: &Message<'_>, status: u16) -> bool {
        let plan = self.transactions.server_mut(server).and_then(|server| server.context.plan.as_mut());
        let Some(plan) = plan.filter(|_| status < 600 && !matches!(status, 401 | 407)) else { return false };
        // Another address of the same name would say the same.
        plan.contacts.pop_if(|contact| contact.tried > 0);
        if plan.contacts.is_empty() {
            return false;
        }
        self.remember_best(server, status, message.detach());
        self.advance(now, server);
        true
    }

    /// A 2xx to an INVITE or UPDATE says until when the session may go on.
    fn refresh(&mut self, now: Instant, server: Key, call: Key, message: &Message<'_>) {
        let Some(transaction) = self.transactions.server(server).filter(|it| is_refresh(&it.context)) else { return };
        let session = transaction.context.session;
        // RFC 4028 §7.2: an answer without an interval ends the one there was.
        let is_watched = || self.calls.get(call).is_some_and(|call| call.lease != Instant::ZERO);
        if session.expires == 0 && message.header(HeaderName::SessionExpires).is_none() && !is_watched() {
            return;
        }
        let added = self.session_answered(now, call, session, message);
        if let Some(transaction) = self.transactions.server_mut(server) {
            transaction.context.session.expires = added.unwrap_or(0);
        }
    }

    /// A final answer to an attempt the proxy had left: a refusal frees what it may have held; a 2xx is one of a fork, and
    /// goes to the caller while that is possible (§16.7 step 5). Says whether nothing is left to do.
    fn silent_answered(&mut self, now: Instant, client: Key, status: u16) -> bool {
        let Some(client) = self.transactions.client_mut(client).filter(|client| client.context.is_silent) else {
            return false;
        };
        if status < 300 {
            return false;
        }
        client.context.is_silent = false;
        let (call, holds) = (client.context.call, client.context.holds.take());
        if let Some(pool) = holds {
            self.leave_channel(now, call, pool);
        }
        self.no_longer_pending(now, call);
        true
    }

    /// What the final answer to a request within a dialog means for the call.
    pub(super) fn in_dialog_answered(
        &mut self,
        now: Instant,
        (call, dialog): (Key, u32),
        method: Method,
        status: u16,
        from_caller: bool,
    ) {
        let is_over = match (method, status) {
            // A challenged BYE comes again; any other answer to it means that the dialog is gone (§15.1.1).
            (Method::Bye, 401 | 407) => None,
            (Method::Bye, _) if from_caller => Some(EndReason::CallerBye),
            (Method::Bye, _) => Some(EndReason::CalleeBye),
            (method, 481 | 408) if method.is_invite_usage() => Some(EndReason::DialogLost),
            _ => None,
        };
        if let Some(reason) = is_over {
            let knows = self.calls.get(call).is_some_and(|call| call.dialogs.knows(dialog));
            // A BYE in an early dialog says something of it only if it was accepted.
            if knows || (method == Method::Bye && status < 300) {
                self.dialog_ended(now, call, dialog, reason);
            }
        }
    }

    /// Forwards a response: our Via comes off, everything else stays as it came (§16.7 steps 3 and 9).
    fn send_back(&mut self, now: Instant, server: Key, message: &Message<'_>, found: &Essentials<'_>, status: u16) {
        let Some(header) = message.header(HeaderName::Via) else { return };
        let value = message.slice(header.value);
        let end = found.via.end();
        if !has_next_via(message, found) {
            // A callee that answers with the Via of its CANCEL: the same refusal, in our words.
            self.counters.drop(Drop::NoNextVia);
            return self.answer(now, server, if status == 503 { 500 } else { status }, b"");
        }
        let mut edit = Edit::new(message);
        let range = if end < value.len() {
            let start = header.value.start();
            let blanks = value[end + 1..].iter().take_while(|octet| crate::sip::is_space(**octet)).count();
            start..start + end + 1 + blanks
        } else {
            header.line.range()
        };
        let mut fits = edit.remove(range);
        // §16.7 step 6: a 503 would keep the caller away from every other service behind us; it becomes a 500.
        if status == 503 {
            fits &= edit.replace(0..message.headers_start(), typed::status_line(500).as_bytes());
        }
        // What few answers need: a length over a stream, a session timer.
        let mut lines = None;
        if let Some(server) = self.transactions.server(server) {
            let added = server.context.session.expires;
            if server.reply.is_reliable || (added > 0 && (200..300).contains(&status)) {
                let lines = lines.insert(crate::sip::Text::<120>::default());
                forward::push_length(lines, message, server.reply);
                if added > 0 && (200..300).contains(&status) {
                    let require = message.header(HeaderName::Require);
                    session::push_lines(lines, added, require.is_some());
                    if let Some(require) = require {
                        fits &= edit.insert(require.value.end(), b", timer");
                    }
                }
            }
        }
        if let Some(lines) = &lines {
            fits &= edit.insert(message.headers_start(), lines.as_bytes());
        }
        debug_assert!(fits, "four splices fit");
        self.transactions.server_event(env!(self, now), server, Event::response(status), |out| edit.write(out));
    }

    fn remember_best(&mut self, server: Key, status: u16, answer: Bytes) {
        let Some(transaction) = self.transactions.server_mut(server) else { return };
        if let Some(plan) = &mut transaction.context.plan
            && plan.best.as_ref().is_none_or(|(best, _)| status / 100 < best / 100)
        {
            plan.best = Some((status, answer));
        }
    }

    /// Every address was tried: the caller gets the best answer there was (§16.7 step 6).
    pub(super) fn answer_best(&mut self, now: Instant, server: Key, best: Option<(u16, Bytes)>) {
        match best {
            Some((status, answer)) if !answer.is_empty() => {
                if let Ok(message) = Message::parse(&answer)
                    && let Ok(found) = message.check()
                {
                    self.send_back(now, server, &message, &found, status);
                }
                self.settle(now, server);
            }
            Some((status, _)) => self.answer(now, server, status, b"Reason: Q.850;cause=27\r\n"),
            None => self.answer(now, server, 480, b"Reason: Q.850;cause=27\r\n"),
        }
    }

    /// An attempt ended without an answer.
    pub(super) fn attempt_failed(&mut self, now: Instant, attempt: Attempt, failed: Failed) {
        if !attempt.cancels.is_none() {
            return;
        }
        if attempt.is_silent {
            return self.attempt_over(now, attempt);
        }
        if attempt.own != Own::No {
            return self.own_answered(now, (attempt.own, attempt.call, attempt.peer), None);
        }
        let server = attempt.server;
        let Some(transaction) = self.transactions.server(server) else { return };
        let context = &transaction.context;
        let (role, method, call, dialog) = (context.role, context.method, context.call, context.dialog);
        if transaction.state.is_final() {
            return;
        }
        // §16.7 step 6: 408 stands for silence; a transport error is as good as a 503, which we do not pass on.
        let status = match failed {
            Failed::Silent | Failed::NoFinal => 408,
            Failed::Unreachable => 500,
        };
        match failed {
            Failed::Silent => self.health.failed(now, attempt.peer, "a call was not answered", None, &mut self.events),
            Failed::Unreachable => {
                self.health.failed(now, attempt.peer, "nobody listens there", None, &mut self.events);
            }
            Failed::NoFinal => {}
        }
        if let Some((address, since)) = attempt.widened {
            self.large.failed(now, since, address);
        }
        let Some(transaction) = self.transactions.server(server) else { return };
        let context = &transaction.context;
        if context.cancelled && method == Method::Invite {
            return self.answer(now, server, 487, b"");
        }
        if attempt.widened.is_some()
            && failed == Failed::Unreachable
            && context.plan.is_none()
            && context.aside.is_none()
        {
            // Over UDP, then: TCP is not tried there again.
            return self.resume(now, server);
        }
        if role == Role::Opening && context.plan.is_some() && failed != Failed::NoFinal {
            self.remember_best(server, status, Bytes::new());
            let early = self.take_early(server);
            self.advance(now, server);
            return self.end_early(now, server, early, status);
        }
        // Who sent another request than INVITE has given up when its silence is known (RFC 4320).
        let is_late = failed == Failed::Silent && method != Method::Invite;
        if failed != Failed::NoFinal
            && !is_late
            && (self.next_of_name(now, server, false) || self.next_aside(now, server))
        {
            return;
        }
        if method == Method::Invite || failed == Failed::Unreachable {
            self.answer(now, server, status, b"");
        } else {
            // RFC 4320 §4.2: no 408 to a non-INVITE request; its sender has given up by now.
            self.transactions.abandon_server(env!(self, now), server);
        }
        if let Role::InDialog { from_caller } = role {
            self.in_dialog_answered(now, (call, dialog), method, 408, from_caller);
        }
    }
}

/// Whether a Via remains when ours comes off.
fn has_next_via(message: &Message<'_>, found: &Essentials<'_>) -> bool {
    if !found.has_more_vias {
        return false;
    }
    let is_alone = message.value(HeaderName::Via).is_some_and(|value| found.via.end() == value.len());
    if is_alone && let Some(next) = message.all(HeaderName::Via).nth(1) {
        return message.slice(next.value).first().is_some_and(|octet| *octet != b',');
    }
    message.list(HeaderName::Via).nth(1).is_some_and(|span| !message.slice(span).is_empty())
}
