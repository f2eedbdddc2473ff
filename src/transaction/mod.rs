//! Transactions: RFC 3261 §17 as amended by RFC 6026.
//!
//! The four machines are tables (`invite_client`, `invite_server`, `client`, `server`); this file stores the
//! transactions, carries out what the tables say, and removes them. There is one removal path for each side: reaching
//! `Terminated` by any arrow.
//!
//! The store knows nothing of the proxy: `S` and `C` are what it keeps with a server and a client transaction.

pub mod client;
pub mod invite_client;
pub mod invite_server;
pub mod key;
pub mod server;
pub mod timer;

use std::net::SocketAddr;

use bytes::Bytes;

use crate::outbox::{Hop, Outbox};
use crate::sip::{Message, Method, build};
use crate::store::{self, Index, Key, Slab, Wheel};
use crate::time::Instant;
use key::Fingerprint;
use timer::{Lengths, Place, Timer};

/// What can happen to a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The request came again.
    Request,
    /// Its ACK came.
    Ack,
    /// A 1xx, from the network or from above.
    Provisional,
    /// A 2xx.
    Success,
    /// A 3xx to 6xx.
    Failure,
    /// A timer ran out.
    Fired(Timer),
    /// The transport could not send.
    SendFailed,
}

impl Event {
    /// The event a response's status is.
    pub const fn response(status: u16) -> Self {
        match status {
            0..200 => Self::Provisional,
            200..300 => Self::Success,
            _ => Self::Failure,
        }
    }

    /// Every event, for the tests of the tables.
    pub fn all() -> impl Iterator<Item = Self> {
        use Timer::{A, B, C, D, E, F, G, H, I, J, K, L, M, Trying};
        [Self::Request, Self::Ack, Self::Provisional, Self::Success, Self::Failure, Self::SendFailed]
            .into_iter()
            .chain([A, B, C, D, E, F, G, H, I, J, K, L, M, Trying].map(Self::Fired))
    }
}

/// What an arrow asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send the response given with the event.
    Send,
    /// Send the last message again.
    Resend,
    /// Acknowledge the response given with the event.
    Ack,
    /// Give the message to the proxy.
    PassUp,
    /// Start a timer.
    Start(Timer),
    /// Stop a timer.
    Stop(Timer),
    /// Tell the proxy that nobody answered.
    Timeout,
    /// Tell the proxy that nobody can be reached.
    Unreachable,
    /// Tell the proxy that an answer did not arrive; the call goes its way.
    Report,
}

/// What the proxy has to do after an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Outcome {
    /// Nothing: absorbed, or handled here.
    #[default]
    Nothing,
    /// Treat the message.
    PassUp,
    /// Nobody answered.
    Timeout,
    /// Nobody can be reached.
    Unreachable,
    /// An answer was not acknowledged or could not be sent.
    Report,
}

/// Whose timer it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// A server transaction's.
    Server(Key, Timer),
    /// A client transaction's.
    Client(Key, Timer),
    /// A call's.
    Call(Key),
    /// That of a target's address, by its number.
    Peer(u16),
    /// That of a name, by its number.
    Name(u16),
    /// That of a call that waits for a channel, by the server transaction of its INVITE; of none, that of all of them.
    Waiting(Key),
}

/// What a step needs around it.
pub struct Env<'a> {
    /// The time.
    pub now: Instant,
    /// Every timer.
    pub wheel: &'a mut Wheel<Due>,
    /// Every datagram to send.
    pub outbox: &'a mut Outbox,
    /// How long timers run.
    pub lengths: &'a Lengths,
}

/// Which of the two server machines, and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerState {
    /// INVITE
    Invite(invite_server::State),
    /// Any other method
    Other(server::State),
}

impl ServerState {
    /// Whether a final answer was given.
    pub const fn is_final(self) -> bool {
        !matches!(
            self,
            Self::Invite(invite_server::State::Proceeding)
                | Self::Other(server::State::Trying | server::State::Proceeding)
        )
    }
}

/// Which of the two client machines, and where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientState {
    /// INVITE
    Invite(invite_client::State),
    /// Any other method
    Other(client::State),
}

impl ClientState {
    /// Whether a final answer came.
    pub const fn is_final(self) -> bool {
        !matches!(
            self,
            Self::Invite(invite_client::State::Calling | invite_client::State::Proceeding)
                | Self::Other(client::State::Trying | client::State::Proceeding)
        )
    }
}

/// Timer E comes to T2 when it was started so often: 500 ms, 1 s and 2 s have passed.
const SLOW_ROUND: u8 = 3;
/// The same in T1.
const SLOW: u32 = (1 << SLOW_ROUND) - 1;

/// A server transaction.
pub struct Server<S> {
    /// The machine.
    pub state: ServerState,
    /// The request's method.
    pub method: Method,
    fingerprint: Fingerprint,
    /// Where the request came from.
    pub source: SocketAddr,
    /// Where answers go: back by the listener it came in by.
    pub reply: Hop,
    /// The request, in bytes of its own, as long as an answer or another attempt may need it.
    pub request: Bytes,
    response: Bytes,
    timers: [store::Timer; 2],
    round: u8,
    /// What the proxy keeps with it.
    pub context: S,
}

/// A client transaction.
pub struct Client<C> {
    /// The machine.
    pub state: ClientState,
    /// The request's method.
    pub method: Method,
    /// Where the request went, and by which listener.
    pub hop: Hop,
    /// The request as sent, in bytes of its own, as long as it may be sent again, acknowledged or cancelled.
    pub sent: Bytes,
    timers: [store::Timer; 2],
    round: u8,
    /// What the proxy keeps with it.
    pub context: C,
}

/// The transactions of one shard.
pub struct Transactions<S, C> {
    servers: Slab<Server<S>>,
    clients: Slab<Client<C>>,
    index: Index,
    max: usize,
}

impl<S, C> Transactions<S, C> {
    /// An empty store that holds at most `max` transactions of each side.
    pub fn new(max: usize) -> Self {
        Self { servers: Slab::default(), clients: Slab::default(), index: Index::default(), max }
    }

    /// Changes the bound; what is stored stays.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Whether a request can open new transactions. Those within a dialog may use a quarter more: a BYE frees more than
    /// it takes.
    pub fn has_room(&self, is_in_dialog: bool) -> bool {
        let max = if is_in_dialog { self.max + self.max.div_ceil(4) } else { self.max };
        self.servers.len() < max && self.clients.len() < max
    }

    /// Server and client transactions alive.
    pub fn len(&self) -> (usize, usize) {
        (self.servers.len(), self.clients.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.clients.is_empty() && self.index.is_empty()
    }

    /// The server transaction a request belongs to.
    pub fn find(&self, fingerprint: Fingerprint) -> Option<Key> {
        self.index
            .find(fingerprint.hash, |key| self.servers.get(key).is_some_and(|server| server.fingerprint == fingerprint))
    }

    /// A server transaction.
    pub fn server(&self, key: Key) -> Option<&Server<S>> {
        self.servers.get(key)
    }

    /// A server transaction.
    pub fn server_mut(&mut self, key: Key) -> Option<&mut Server<S>> {
        self.servers.get_mut(key)
    }

    /// A client transaction.
    pub fn client(&self, key: Key) -> Option<&Client<C>> {
        self.clients.get(key)
    }

    /// A client transaction.
    pub fn client_mut(&mut self, key: Key) -> Option<&mut Client<C>> {
        self.clients.get_mut(key)
    }

    /// Opens a server transaction for a request that belongs to none.
    pub fn open_server(
        &mut self,
        fingerprint: Fingerprint,
        method: Method,
        (source, reply): (SocketAddr, Hop),
        request: Bytes,
        context: S,
    ) -> Key {
        let state = if method == Method::Invite {
            ServerState::Invite(invite_server::State::Proceeding)
        } else {
            ServerState::Other(server::State::Trying)
        };
        let key = self.servers.insert(Server {
            state,
            method,
            fingerprint,
            source,
            reply,
            request,
            response: Bytes::new(),
            timers: [store::Timer::NONE; 2],
            round: 0,
            context,
        });
        self.index.insert(fingerprint.hash, key);
        key
    }

    /// Opens a client transaction; [`Transactions::start_client`] sends its request.
    pub fn open_client(&mut self, method: Method, hop: Hop, context: C) -> Key {
        let state = if method == Method::Invite {
            ClientState::Invite(invite_client::State::Calling)
        } else {
            ClientState::Other(client::State::Trying)
        };
        self.clients.insert(Client {
            state,
            method,
            hop,
            sent: Bytes::new(),
            timers: [store::Timer::NONE; 2],
            round: 0,
            context,
        })
    }

    /// Sends the request of a client transaction just opened. When `silence` is given and shorter than timer B, timer C
    /// fires after it if nothing was heard: the proxy then goes elsewhere, and [`Transactions::fall_silent`] keeps the
    /// transaction for what may still come.
    pub fn start_client(
        &mut self,
        env: &mut Env<'_>,
        key: Key,
        silence: Option<std::time::Duration>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let sent = env.outbox.send(client.hop, client.method, key, write);
        client.sent = Bytes::copy_from_slice(sent);
        let (again, end) = match client.state {
            ClientState::Invite(_) => (Timer::A, Timer::B),
            ClientState::Other(_) => (Timer::E, Timer::F),
        };
        if !client.hop.is_reliable {
            client.timers[Place::Again as usize] =
                env.wheel.arm(env.now + env.lengths.of(again, 0), Due::Client(key, again));
        } else if again == Timer::E {
            // It does not run, but a 100 is due when it would have come to T2 (RFC 4320 §4.1: "Without regard to transport").
            let due = env.now + env.lengths.t1 * SLOW;
            client.timers[Place::Again as usize] = env.wheel.arm(due, Due::Client(key, again));
        }
        // Only an INVITE can fall silent: what else is left unanswered ends with timer F.
        let is_invite = matches!(client.state, ClientState::Invite(_));
        let (end, wait) = match silence.filter(|silence| is_invite && *silence < env.lengths.of(end, 0)) {
            Some(silence) => (Timer::C, silence),
            None => (end, env.lengths.of(end, 0)),
        };
        client.timers[Place::End as usize] = env.wheel.arm(env.now + wait, Due::Client(key, end));
    }

    /// The proxy waits no longer for an INVITE client transaction that heard nothing: no more copies are sent, and it
    /// ends when timer B would have.
    pub fn fall_silent(&mut self, env: &mut Env<'_>, key: Key, waited: std::time::Duration) {
        let Some(client) = self.clients.get_mut(key) else { return };
        env.wheel.stop(std::mem::take(&mut client.timers[Place::Again as usize]));
        let left = env.lengths.of(Timer::B, 0).saturating_sub(waited);
        env.wheel.stop(client.timers[Place::End as usize]);
        client.timers[Place::End as usize] = env.wheel.arm(env.now + left, Due::Client(key, Timer::B));
    }

    /// Starts or restarts timer C of an INVITE client transaction that waits for its final answer.
    pub fn restart_timer_c(&mut self, env: &mut Env<'_>, key: Key, length: std::time::Duration) {
        if let Some(client) = self.clients.get_mut(key)
            && client.state == ClientState::Invite(invite_client::State::Proceeding)
        {
            env.wheel.stop(client.timers[Place::End as usize]);
            client.timers[Place::End as usize] = env.wheel.arm(env.now + length, Due::Client(key, Timer::C));
        }
    }

    /// The caller of an INVITE just opened gets its 100 when this long nothing else was sent.
    pub fn hold_trying(&mut self, env: &mut Env<'_>, key: Key) {
        if let Some(server) = self.servers.get_mut(key) {
            let due = env.now + env.lengths.of(Timer::Trying, 0);
            server.timers[Timer::Trying.place() as usize] = env.wheel.arm(due, Due::Server(key, Timer::Trying));
        }
    }

    /// Whether timer E of a non-INVITE client transaction has just been set to T2 for the first time, or would have been over
    /// a transport that loses nothing, and no final answer came.
    pub fn is_slow(&self, key: Key) -> bool {
        self.clients.get(key).is_some_and(|client| match client.state {
            ClientState::Other(client::State::Trying) => client.round == SLOW_ROUND || client.hop.is_reliable,
            // The next hop has said 100, to us; over UDP it may not before that time either.
            ClientState::Other(client::State::Proceeding) => client.hop.is_reliable,
            ClientState::Invite(_) | ClientState::Other(_) => false,
        })
    }

    /// Whether a client transaction sends its request only once.
    pub fn sends_once(&self, key: Key) -> bool {
        self.clients.get(key).is_some_and(|client| client.hop.is_reliable)
    }

    /// Whether nothing was answered yet to an INVITE.
    pub fn is_unanswered(&self, key: Key) -> bool {
        self.servers.get(key).is_some_and(|server| {
            server.response.is_empty() && server.state == ServerState::Invite(invite_server::State::Proceeding)
        })
    }

    /// Something happened to a server transaction. `write` writes the response of a `Send`.
    pub fn server_event(
        &mut self,
        env: &mut Env<'_>,
        key: Key,
        event: Event,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Outcome {
        let Some(server) = self.servers.get_mut(key) else { return Outcome::Nothing };
        let (actions, terminated) = match server.state {
            ServerState::Invite(state) => {
                let Some((next, actions)) = invite_server::step(state, event) else { return Outcome::Nothing };
                server.state = ServerState::Invite(next);
                (actions, next == invite_server::State::Terminated)
            }
            ServerState::Other(state) => {
                let Some((next, actions)) = server::step(state, event) else { return Outcome::Nothing };
                server.state = ServerState::Other(next);
                (actions, next == server::State::Terminated)
            }
        };
        if let Event::Fired(timer) = event {
            server.timers[timer.place() as usize] = store::Timer::NONE;
        }
        let mut outcome = Outcome::Nothing;
        let mut write = Some(write);
        for action in actions {
            match *action {
                Action::Send => {
                    let Some(write) = write.take() else { continue };
                    let sent = env.outbox.send(server.reply, server.method, Key::NONE, write);
                    if server.state == ServerState::Invite(invite_server::State::Accepted) {
                        // 2xx are never sent again from here, and no other answer will be made.
                        (server.response, server.request) = (Bytes::new(), Bytes::new());
                    } else {
                        server.response = Bytes::copy_from_slice(sent);
                        if server.state.is_final() {
                            server.request = Bytes::new();
                        }
                    }
                }
                Action::Resend => {
                    if !server.response.is_empty() {
                        env.outbox.send_again(server.reply, server.method, Key::NONE, &server.response);
                    }
                }
                Action::Start(timer) => {
                    if timer.place() == Place::Again {
                        server.round = server.round.saturating_add(u8::from(event == Event::Fired(timer)));
                    }
                    let Some(wait) = env.lengths.over(server.reply.is_reliable, timer, server.round) else { continue };
                    env.wheel.stop(server.timers[timer.place() as usize]);
                    server.timers[timer.place() as usize] = env.wheel.arm(env.now + wait, Due::Server(key, timer));
                }
                Action::Stop(timer) => env.wheel.stop(std::mem::take(&mut server.timers[timer.place() as usize])),
                Action::PassUp => outcome = Outcome::PassUp,
                Action::Timeout => outcome = Outcome::Timeout,
                Action::Unreachable => outcome = Outcome::Unreachable,
                Action::Report => outcome = Outcome::Report,
                Action::Ack => unreachable!("servers do not acknowledge"),
            }
        }
        if terminated {
            self.remove_server(env, key);
        }
        outcome
    }

    /// Something happened to a client transaction; `response` is the response of an `Ack`. A transaction that
    /// terminates stays for the proxy to read; it must call [`Transactions::close_client`] when done.
    pub fn client_event(
        &mut self,
        env: &mut Env<'_>,
        key: Key,
        event: Event,
        response: Option<&Message<'_>>,
    ) -> Outcome {
        let Some(client) = self.clients.get_mut(key) else { return Outcome::Nothing };
        let actions = match client.state {
            ClientState::Invite(state) => {
                let Some((next, actions)) = invite_client::step(state, event) else { return Outcome::Nothing };
                client.state = ClientState::Invite(next);
                actions
            }
            ClientState::Other(state) => {
                let Some((next, actions)) = client::step(state, event) else { return Outcome::Nothing };
                client.state = ClientState::Other(next);
                actions
            }
        };
        if let Event::Fired(timer) = event {
            client.timers[timer.place() as usize] = store::Timer::NONE;
        }
        let mut outcome = Outcome::Nothing;
        for action in actions {
            match *action {
                Action::Resend => {
                    env.outbox.send_again(client.hop, client.method, key, &client.sent);
                }
                Action::Ack => {
                    if let (Some(response), Ok(sent)) = (response, Message::parse(&client.sent)) {
                        env.outbox.send(client.hop, Method::Ack, Key::NONE, |out| {
                            build::ack(out, &sent, response);
                        });
                    }
                }
                Action::Start(timer) => {
                    if timer.place() == Place::Again {
                        client.round = client.round.saturating_add(u8::from(event == Event::Fired(timer)));
                    }
                    // §17.1.2.2: in "Proceeding" "Timer E MUST be reset with a value of T2 seconds".
                    let wait = match client.state {
                        ClientState::Other(client::State::Proceeding) if timer == Timer::E => Some(env.lengths.t2),
                        ClientState::Other(_) | ClientState::Invite(_) => {
                            env.lengths.over(client.hop.is_reliable, timer, client.round)
                        }
                    };
                    let Some(wait) = wait else { continue };
                    env.wheel.stop(client.timers[timer.place() as usize]);
                    client.timers[timer.place() as usize] = env.wheel.arm(env.now + wait, Due::Client(key, timer));
                }
                Action::Stop(timer) => env.wheel.stop(std::mem::take(&mut client.timers[timer.place() as usize])),
                Action::PassUp => outcome = Outcome::PassUp,
                Action::Timeout => outcome = Outcome::Timeout,
                Action::Unreachable => outcome = Outcome::Unreachable,
                Action::Report => outcome = Outcome::Report,
                Action::Send => unreachable!("clients send their request once, when they start"),
            }
        }
        if matches!(
            client.state,
            ClientState::Invite(invite_client::State::Accepted) | ClientState::Other(client::State::Completed)
        ) {
            client.sent = Bytes::new();
        }
        outcome
    }

    /// Removes a client transaction that reached `Terminated`, and returns what the proxy kept with it.
    pub fn close_client(&mut self, env: &mut Env<'_>, key: Key) -> Option<C> {
        let client = self.clients.get(key)?;
        let terminated = matches!(
            client.state,
            ClientState::Invite(invite_client::State::Terminated) | ClientState::Other(client::State::Terminated)
        );
        terminated.then(|| self.give_up_client(env, key)).flatten()
    }

    /// Removes a client transaction in whatever state: the proxy knows that no answer is worth waiting for.
    pub fn give_up_client(&mut self, env: &mut Env<'_>, key: Key) -> Option<C> {
        let client = self.clients.remove(key)?;
        for timer in client.timers {
            env.wheel.stop(timer);
        }
        Some(client.context)
    }

    /// Removes a server transaction without an answer: a non-INVITE request whose next hop is silent gets none
    /// (RFC 4320 §4.2).
    pub fn abandon_server(&mut self, env: &mut Env<'_>, key: Key) {
        self.remove_server(env, key);
    }

    fn remove_server(&mut self, env: &mut Env<'_>, key: Key) {
        if let Some(server) = self.servers.remove(key) {
            self.index.remove(server.fingerprint.hash, key);
            for timer in server.timers {
                env.wheel.stop(timer);
            }
        }
    }
}
