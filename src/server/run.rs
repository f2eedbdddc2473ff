//! The loop of a shard: sleep until something is ready or due, take a batch, decide, send.
//!
//! The thread waits in the kernel's readiness queue itself (`mio`, what tokio is made on). A runtime between the two
//! would cost more than the proxy's own work on most datagrams, and nothing here ever waits for anything else.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use mio::{Poll, Token, Waker};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Node, Published, Request};
use crate::config::Config;
use crate::proxy::{Answer, Input, Output, Proxy};
use crate::route::Question;
use crate::time::Instant;
use crate::transport::stream::Streams;
use crate::transport::tls::Tls;
use crate::transport::udp::{Sent, Sockets};

/// Bound sockets of the listeners, in their order.
#[derive(Default)]
pub(super) struct Bound {
    pub(super) datagrams: Vec<Option<UdpSocket>>,
    pub(super) streams: Vec<Option<TcpListener>>,
}

/// How often counters are copied to the control side.
const PUBLISH: Duration = Duration::from_secs(1);
/// Readiness notices taken at a time.
const NOTICES: usize = 128;
/// The notice that a request waits; sockets count from 0.
const REQUEST: Token = Token(usize::MAX);

/// A shard whose sockets are registered.
pub(super) struct Shard {
    poll: Poll,
    sockets: Sockets,
    streams: Streams,
    waker: Arc<Waker>,
}

impl Shard {
    /// Registers bound sockets.
    pub(super) fn new(bound: Bound, config: &Config, tls: Arc<Tls>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), REQUEST)?);
        let sockets = Sockets::new(poll.registry().try_clone()?, bound.datagrams)?;
        let streams = Streams::new(poll.registry().try_clone()?, bound.streams, config, tls)?;
        Ok(Self { poll, sockets, streams, waker })
    }

    /// Wakes the shard after a request was sent to it, or when it has to stop.
    pub(super) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Carries out what the proxy wants done.
    fn drain(&mut self, node: &Node, now: Instant, proxy: &mut Proxy, to_names: &mpsc::Sender<Question>) {
        loop {
            while let Some(output) = proxy.poll_output() {
                match output {
                    Output::Transmit(transmit) => {
                        let client = transmit.client;
                        let is_stream = self.streams.has(transmit.listener);
                        let sent =
                            if is_stream { self.streams.send(now, &transmit) } else { self.sockets.send(&transmit) };
                        match sent {
                            Sent::Yes => {}
                            Sent::Later => proxy.count_unsent(),
                            Sent::Never => proxy.handle(node.now(), Input::SendFailed { client }),
                        }
                    }
                    Output::Event(event) => node.raise(&event),
                    Output::Resolve(question) => {
                        if let Err(error) = to_names.try_send(question) {
                            let (TrySendError::Full(question) | TrySendError::Closed(question)) = error;
                            let (answer, ttl) = (Answer::Failed, Duration::ZERO);
                            proxy.handle(now, Input::Resolved { question: &question, answer, ttl });
                        }
                    }
                }
            }
            self.streams.flush(now);
            let Some(client) = self.streams.pop_failed() else { return };
            proxy.handle(now, Input::SendFailed { client });
        }
    }

    /// Runs on the current thread until told to stop.
    pub(super) fn run(
        mut self,
        node: &Node,
        mut proxy: Proxy,
        requests: &Receiver<Request>,
        (published, to_names): (&mpsc::Sender<Published>, &mpsc::Sender<Question>),
    ) {
        let mut notices = mio::Events::with_capacity(NOTICES);
        let mut now = node.now();
        let mut publish_at = now + PUBLISH;
        while !node.is_stopping() {
            let dues = [proxy.poll_timeout(), self.streams.poll_timeout()];
            let due = dues.into_iter().flatten().fold(publish_at, Instant::min);
            let has_more = self.sockets.has_more() || self.streams.has_more();
            let wait = if has_more { Duration::ZERO } else { due - now };
            // An error is a signal, or one of ours; both are survived by looking again.
            if self.poll.poll(&mut notices, Some(wait)).is_err() {
                notices.clear();
            }
            now = node.now();
            let began = now;
            for notice in &notices {
                match notice.token() {
                    REQUEST => serve(node, &mut proxy, &mut self.streams, requests),
                    Token(socket) => {
                        if !self.streams.take(now, notice) {
                            self.sockets.mark(socket);
                        }
                    }
                }
            }
            self.sockets.receive(|listener, source, payload| {
                proxy.handle(now, Input::Datagram { listener, source, payload });
            });
            self.streams.receive(now, |(listener, source, domain), identities, payload| {
                proxy.handle(now, Input::Stream { listener, source, identities, domain, payload });
            });
            proxy.handle_timeout(now);
            self.streams.handle_timeout(now);
            self.drain(node, now, &mut proxy, to_names);
            now = node.now();
            proxy.end_round(began, now, !(self.sockets.has_more() || self.streams.has_more()));
            self.drain(node, now, &mut proxy, to_names);
            if now >= publish_at {
                publish_at = now + PUBLISH;
                // When the control side is behind, the next copy brings everything.
                if let Ok(place) = published.try_reserve() {
                    place.send(Published {
                        counters: proxy.counters().clone(),
                        load: proxy.load(),
                        streams: self.streams.counts(),
                        peers: proxy.peers(now),
                        certificates: self.streams.certificates().to_vec(),
                    });
                }
                node.slots.shrink();
                proxy.tick(now);
                self.drain(node, now, &mut proxy, to_names);
            }
        }
    }
}

fn serve(node: &Node, proxy: &mut Proxy, streams: &mut Streams, requests: &Receiver<Request>) {
    while let Ok(request) = requests.try_recv() {
        match request {
            Request::Reload(config, tls) => {
                streams.reload(&config, tls);
                proxy.handle(node.now(), Input::Reload(config));
                node.set_router(Arc::clone(proxy.router()));
                node.raise_reloaded();
            }
            Request::Resolved { question, answer, ttl } => {
                proxy.handle(node.now(), Input::Resolved { question: &question, answer, ttl });
                node.set_router(Arc::clone(proxy.router()));
            }
            Request::EndCall { slot, keeps_call } => {
                let input = if keeps_call { Input::Release { slot } } else { Input::EndCall { slot } };
                proxy.handle(node.now(), input);
            }
            Request::Story { slot, to } => {
                // Who asked may have gone.
                to.send(proxy.story(node.now(), slot)).unwrap_or_default();
            }
            Request::Drain { target, uri, is_drained } => {
                proxy.handle(node.now(), Input::Drain { target: &target, uri: &uri, is_drained });
            }
        }
    }
}

/// Starts the thread of a shard.
pub(super) fn spawn(
    shard: Shard,
    node: Arc<Node>,
    proxy: Proxy,
    requests: Receiver<Request>,
    (published, to_names): (mpsc::Sender<Published>, mpsc::Sender<Question>),
) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("sipweir-shard-0".into())
        .spawn(move || shard.run(&node, proxy, &requests, (&published, &to_names)))
}
