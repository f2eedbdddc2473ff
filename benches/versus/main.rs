//! sipweir against Kamailio and a bare relay, side by side on this machine. `benches/compare` builds and runs it.
//!
//! ```text
//! versus compare [--quick] [--rates udp|tcp|tls] [--report FILE]
//!                          every measurement, or those at a fixed rate over one transport; a table, a Markdown report
//! versus load …                              the load generator alone (see `load`)
//! versus relay …                             the bare relay alone (see `relay`)
//! ```

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench reads the clock and prints"
)]
#![allow(missing_docs, reason = "a bench")]

mod load;
mod measure;
mod relay;
mod report;
mod side;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("load") => load::main(&arguments[1..]),
        Some("relay") => relay::main(),
        Some("compare") => report::main(&arguments[1..]),
        // `cargo bench` runs every bench: this one takes minutes and wants the machine for itself.
        None => {
            println!("run benches/compare");
            Ok(())
        }
        Some(other) => Err(format!("no such command: {other}; there are compare, load and relay").into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("versus: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where everything listens: the proxy under test, the caller, the PBX.
const PROXY: &str = "127.0.0.1:15060";
const CALLER: &str = "127.0.0.1:15070";
const PBX: &str = "127.0.0.1:15080";

/// Caller, PBX and called number of a lane.
fn lane(number: u16) -> [String; 3] {
    let port = |first: u16| format!("127.0.0.1:{}", first + number);
    [port(15070), port(15080), (100 + number).to_string()]
}

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;
