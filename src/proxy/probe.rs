//! OPTIONS to the addresses of targets, to learn whether they live (RFC 3261 §11).

use super::talk::Own;
use super::{Attempt, Proxy, env, forward};
use crate::outbox::Hop;
use crate::sip::{Message, Method, Text, build};
use crate::store::{Key, Timer};
use crate::time::Instant;
use crate::transaction::Due;
use crate::transaction::key::{Branch, Domain};

impl Proxy {
    /// Every place of a new router gets its peer; those that are to be probed begin soon, one after another.
    pub(super) fn number(&mut self, now: Instant, router: &mut crate::route::Router) {
        let config = std::sync::Arc::clone(&router.config);
        let fresh = self.health.number(now, &config, router.places_mut());
        for (at, peer) in fresh.into_iter().enumerate() {
            let soon = now + std::time::Duration::from_millis(20 * (at as u64 % 50));
            let timer = self.wheel.arm(soon, Due::Peer(peer));
            if let Some(peer) = self.health.peer(peer) {
                peer.timer = timer;
            }
        }
    }

    /// A probe is due, or the answer to one is overdue.
    pub(super) fn probe_due(&mut self, now: Instant, number: u16) {
        let Some(peer) = self.health.peer(number) else { return };
        peer.timer = Timer::NONE;
        let asked = std::mem::take(&mut peer.asked);
        let Some(probe) = peer.probe.clone() else {
            if !asked.is_none() {
                self.transactions.give_up_client(env!(self, now), asked);
            }
            return;
        };
        let (next, asked_at) = (peer.asked_at + probe.interval, peer.asked_at);
        if asked.is_none() {
            self.ask(now, number);
            self.await_peer(now, number, now + probe.timeout);
        } else {
            self.transactions.give_up_client(env!(self, now), asked);
            let why = format!("OPTIONS not answered within {} ms", (now - asked_at).as_millis());
            self.health.failed(now, number, &why, None, &mut self.events);
            self.await_peer(now, number, next);
        }
    }

    fn await_peer(&mut self, now: Instant, number: u16, due: Instant) {
        let timer = self.wheel.arm(due.max(now), Due::Peer(number));
        if let Some(peer) = self.health.peer(number) {
            self.wheel.stop(std::mem::replace(&mut peer.timer, timer));
        }
    }

    /// An answer to a probe came; `None`: it could not be sent.
    pub(super) fn probe_answered(&mut self, now: Instant, number: u16, status: Option<u16>) {
        if status.is_some_and(|status| status < 200) {
            return;
        }
        let Some(peer) = self.health.peer(number).filter(|peer| !peer.asked.is_none()) else { return };
        peer.asked = Key::NONE;
        let Some(probe) = peer.probe.clone() else { return };
        let next = peer.asked_at + probe.interval;
        match status {
            Some(status) if probe.accepts(status) => {
                self.health.answered(now, number, true, &mut self.events);
                // Who waits may have waited for it.
                self.waiting.stir();
            }
            Some(status) => {
                let why = format!("OPTIONS answered with {status}");
                self.health.failed(now, number, &why, None, &mut self.events);
            }
            None => self.health.failed(now, number, "nobody listens there", None, &mut self.events),
        }
        self.await_peer(now, number, next);
    }

    fn ask(&mut self, now: Instant, number: u16) {
        let router = std::sync::Arc::clone(&self.router);
        let Some(peer) = self.health.peer(number) else { return };
        peer.asked_at = now;
        let (transport, address, domain) = peer.way();
        let Some(hop) = router.hop(0, transport, address).map(|hop| Hop { domain, ..hop }) else { return };
        let attempt = Attempt { peer: number, own: Own::Probe, ..Attempt::new((Key::NONE, Key::NONE), 0, Key::NONE) };
        let client = self.transactions.open_client(Method::Options, hop, attempt);
        let branch = Branch { client, loop_hash: 0 }.write(&self.secret);
        let mut id = Text::<40>::default();
        let parts = [&client.index.to_le_bytes()[..], &client.generation.to_le_bytes()];
        id.push(format_args!("{:016x}", self.secret.sign(Domain::LocalTag, &parts)));
        let lines = router.lines(hop.listener);
        let uri = format!("sip:{address}{}", transport.uri_parameter());
        self.transactions.start_client(env!(self, now), client, None, |out| {
            build::options(out, &lines.via, &branch, uri.as_bytes(), &lines.advertise, id.as_bytes());
        });
        let Some(sent) = self.transactions.client(client).map(|client| client.sent.clone()) else { return };
        let identity = Message::parse(&sent)
            .ok()
            .and_then(|sent| sent.check().ok().map(|found| forward::identity(&self.secret, &found, b"OPTIONS")));
        if let (Some(identity), Some(client)) = (identity, self.transactions.client_mut(client)) {
            client.context.identity = identity;
        }
        if let Some(peer) = self.health.peer(number) {
            peer.asked = client;
        }
    }

    /// Drains every address of a target's URI, or lets calls go there again. Says whether there is any.
    pub(super) fn drain_peers(&mut self, target: &str, uri: &str, is_drained: bool) {
        let router = std::sync::Arc::clone(&self.router);
        for (at, known) in router.config.targets.iter().enumerate().filter(|(_, known)| *known.name == *target) {
            for place in router.places(at).iter().filter(|place| *known.uris[place.uri].text == *uri) {
                self.health.drain(place.peer, is_drained);
            }
        }
    }
}
