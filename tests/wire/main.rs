//! Messages as they come: RFC 4475 and RFC 5118, the corpora of other stacks, and whatever a generator thinks of.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "the world serves several test programs")]

#[path = "../world/mod.rs"]
mod world;

mod properties;
mod torture;
