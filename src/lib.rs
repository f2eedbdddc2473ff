//! sipweir: a SIP proxy that counts the calls that hold a channel, lets a call in while its pool has room, and sends
//! the surplus down the called service's overflow route.
//!
//! # The map
//!
//! Two halves. The **core** does no I/O and has no clock: time, bytes and a secret go in, work comes out. It builds
//! alone (`cargo check --no-default-features`), which proves it. The **shell** is sockets, tokio, files and HTTP around
//! it, behind the feature `shell`.
//!
//! A module may use those above it in this list, never those below.
//!
//! | core | |
//! |---|---|
//! | [`time`] | the core's time |
//! | [`store`] | slab, index, timer wheel |
//! | [`sip`] | messages as bytes and as values |
//! | [`outbox`] | datagrams to send |
//! | [`transaction`] | RFC 3261 §17 as tables |
//! | [`alert`] | events, and when a pool is full and well again |
//! | [`licence`] | what licences grant, and what they allow at a moment |
//! | [`pool`] | channels, the gate, the table of calls, refusals |
//! | [`config`] | the configuration, valid by construction |
//! | [`metrics`] | plain counters |
//! | [`route`] | trunk, service and host look-ups; `explain` |
//! | [`proxy`] | the only core type the shell drives |
//!
//! | shell | |
//! |---|---|
//! | `transport` | sockets |
//! | `sinks` | telling the operators: Alertmanager, webhook, syslog, SNMP, e-mail, file |
//! | `vault` | licences on disk: signatures, installing, the clock |
//! | `server` | a running node: threads, start, reload, stop |
//! | `admin` | HTTP: metrics, views, explain |
//! | `cli` | the commands |
//! | `exit` | errors to exit codes |
//!
//! # A call's way
//!
//! 1. The shell hands a datagram to [`proxy::Proxy::handle`]; [`sip::Message`] indexes it without a copy.
//! 2. [`transaction::key`] finds its transaction: a retransmission ends here.
//! 3. `proxy::request` makes the checks of RFC 3261 §16.3 and finds trunk and service ([`route::Router`]).
//! 4. [`pool::Gate::admit`] takes a place in the trunk, in the service and a channel, all or none, or says which rung
//!    of the ladder refused ([`pool::Refusal`]).
//! 5. 100 leaves; `proxy::forward` splices Via, Record-Route and Request-URI into the received bytes.
//! 6. Admitted: to the service's target. Refused, or the target fails: along the service's overflow plan.
//! 7. Answers find their transaction by our branch, lose our Via, and go back ([`proxy`], `response`).
//! 8. 2xx: the channel is held. The dialog's requests name the call by a cookie in our Record-Route.
//! 9. The call ends in one place, which releases the channel exactly once ([`pool::Channel`] is moved, not copied).
//! 10. Counters, events and the table of calls ([`pool::Slots`]) are all that readers see; nobody locks a shard.

// The core.
pub mod alert;
pub mod config;
pub mod licence;
pub mod metrics;
pub mod outbox;
pub mod pool;
pub mod proxy;
pub mod route;
pub mod sip;
pub mod store;
pub mod time;
pub mod transaction;

// The shell.
#[cfg(feature = "shell")]
pub mod admin;
#[cfg(feature = "shell")]
pub mod cli;
#[cfg(feature = "shell")]
pub mod exit;
#[cfg(feature = "shell")]
pub mod server;
#[cfg(feature = "shell")]
pub mod sinks;
#[cfg(feature = "shell")]
pub mod transport;
#[cfg(feature = "shell")]
pub mod vault;
