//! Shell: sockets. Addresses and bytes, nothing of SIP.

pub mod udp;
