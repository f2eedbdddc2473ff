//! `sipweir run`

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{read_config, say};
use crate::config::Config;
use crate::exit::ExitError;
use crate::server::Server;

/// Run the gate, from a file or from the short form
#[derive(Args)]
pub(super) struct Run {
    /// The configuration file; reloaded on SIGHUP
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["listen", "pbx", "channels"], required_unless_present = "listen")]
    config: Option<PathBuf>,
    /// Short form: where to receive SIP, such as udp:127.0.0.1:5060
    #[arg(long, value_name = "URI", requires_all = ["pbx", "channels"])]
    listen: Option<String>,
    /// Short form: the PBX, such as sip:127.0.0.1:5080
    #[arg(long, value_name = "URI", requires = "listen")]
    pbx: Option<String>,
    /// Short form: the channels its calls share
    #[arg(long, value_name = "N", requires = "listen")]
    channels: Option<u32>,
    /// Short form: where calls go when no channel is free; without it they get 486
    #[arg(long, value_name = "URI", requires = "listen")]
    overflow: Option<String>,
    /// Short form: address of the admin interface
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8060")]
    admin: SocketAddr,
    /// Print the short form as a configuration file and stop
    #[arg(long, requires = "listen")]
    print_config: bool,
    /// How to write the log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// The configuration the short form stands for.
fn short_form(listen: &str, pbx: &str, channels: u32, overflow: Option<&str>, admin: SocketAddr) -> String {
    let quote = |text: &str| toml::Value::String(text.into()).to_string();
    let target = |name: &str, uri: &str| format!("\n[[target]]\nname = \"{name}\"\nuri = [{}]\n", quote(uri));
    let mut text = format!(
        "[[listen]]\nuri = {}\n\n[admin]\nlisten = \"{admin}\"\n\n[[trunk]]\nname = \"any\"\nfrom = [\"0.0.0.0/0\", \"::/0\"]\n",
        quote(listen)
    );
    text += &target("pbx", pbx);
    let mut plan = String::from("{ reject = 486 }");
    if let Some(overflow) = overflow {
        text += &target("overflow", overflow);
        plan = "{ route = \"overflow\" }, { reject = 486 }".into();
    }
    text += &format!(
        "\n[[pool]]\nname = \"channels\"\nchannels = {channels}\n\n[[service]]\nname = \"all\"\nkind = \"ivr\"\nnumbers = [\"*\"]\n\
         pool = \"channels\"\ntarget = \"pbx\"\noverflow = [{plan}]\n"
    );
    text
}

impl Run {
    pub(super) fn run(self) -> Result<(), ExitError> {
        let config = match (&self.config, &self.listen, &self.pbx, self.channels) {
            (Some(path), ..) => read_config(path)?,
            (None, Some(listen), Some(pbx), Some(channels)) => {
                let text = short_form(listen, pbx, channels, self.overflow.as_deref(), self.admin);
                if self.print_config {
                    say(text.trim_end());
                    return Ok(());
                }
                Config::parse(&text).map_err(|problems| {
                    let lines: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
                    ExitError::Config(format!(
                        "the short form stands for a configuration with problems:\n{}",
                        lines.join("\n")
                    ))
                })?
            }
            (None, ..) => {
                return Err(ExitError::Config("name --config FILE, or --listen, --pbx and --channels".into()));
            }
        };
        start_log(self.log_format);
        let needed = u64::from(config.limits.connections) + DESCRIPTORS;
        if config.listen.iter().any(|listen| listen.transport.is_reliable()) {
            raise_descriptors(needed);
        }
        let server = Server::start(config, self.config.as_deref())?;
        for listen in &server.node().config().listen {
            tracing::info!(event = "listening", "{}:{}", listen.transport, listen.address);
        }
        if let Some(admin) = server.admin() {
            tracing::info!(event = "listening", "admin interface http://{admin}/");
        }
        wait(&server)?;
        server.stop();
        tracing::info!(event = "stopped", "stopped");
        Ok(())
    }
}

/// Descriptors besides those of connections: sockets, files, the admin interface, sinks.
const DESCRIPTORS: u64 = 256;

/// The system's soft limit is a thousand where nobody asked for more.
fn raise_descriptors(needed: u64) {
    // As far as it goes: a reload may ask for more.
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(given) if given >= needed => {}
        Ok(given) => tracing::warn!(
            event = "few_descriptors",
            "limits.connections needs {needed} open files and the system gives {given}: connections above that are not \
             accepted; set LimitNOFILE={needed} in the unit, or a lower limits.connections"
        ),
        Err(error) => tracing::warn!(event = "few_descriptors", "the limit of open files cannot be raised: {error}"),
    }
}

fn start_log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SIPWEIR_LOG").unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Until SIGINT or SIGTERM; SIGHUP reloads.
fn wait(server: &Server) -> Result<(), ExitError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| ExitError::Failed(format!("cannot wait for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let mut hang_up = signal(SignalKind::hangup()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut look = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = hang_up.recv() => {
                    // The handle has logged a refusal; the old configuration stays.
                    drop(server.handle().reload());
                }
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = look.tick() => {
                    if !server.is_alive() {
                        return Err(ExitError::Failed("the worker ended; see the log above".into()));
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_is_a_valid_configuration() {
        let admin = "127.0.0.1:8060".parse().expect("an address");
        for overflow in [None, Some("sip:127.0.0.1:5090")] {
            let text = short_form("udp:127.0.0.1:5060", "sip:127.0.0.1:5080", 30, overflow, admin);
            let config = Config::parse(&text).expect("valid");
            assert_eq!(config.pools[0].settings.capacity, 30);
            assert_eq!(config.services[0].overflow.len(), 1 + usize::from(overflow.is_some()));
        }
    }
}
