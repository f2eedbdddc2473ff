//! Shell: sockets. Each transport runs in the shard's own thread.

mod connection;
mod counts;
mod shares;
pub mod stream;
pub mod tls;
pub mod udp;
mod wire;
