//! The program as its users meet it: the binary, its commands, HTTP, SIPp.

#![expect(clippy::disallowed_methods, reason = "processes and real sockets take real time; every wait is bounded")]
#![allow(missing_docs, reason = "tests")]

mod alerts;
mod commands;
mod gate;
mod licences;
mod phone;
mod sipp;
mod targets;
