//! Stories: what the caller, the PBX, the pool and the operators saw.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "the world serves several test programs")]

#[path = "../world/mod.rs"]
mod world;

mod basic;
mod borrow;
mod cancel;
mod counting;
mod dialogs;
mod emergency;
mod endings;
mod hostile;
mod licences;
mod names;
mod overflow;
mod overload;
mod peers;
mod rates;
mod rules;
mod targets;
mod threads;
mod transfers;
mod waiting;
mod weather;
