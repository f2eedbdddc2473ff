//! Shell: the command line. One variant a command, one file with its `run`.

mod check;
mod client;
mod demo;
mod explain;
mod issue;
mod licence;
mod run;
mod show;
mod targets;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::exit::ExitError;

/// A SIP proxy that counts the calls that hold a channel and sends the surplus down the overflow route.
#[derive(Parser)]
#[command(name = "sipweir", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 success, 1 failed while running, 2 wrong command line, 3 the configuration has problems,\n\
                          4 cannot start (address, port, directory), 5 no node answers, 6 there is no such thing,\n\
                          7 a licence was refused.";

#[derive(Subcommand)]
enum Command {
    /// Run the gate, from a file or from the short form
    Run(run::Run),
    /// Check a configuration file and report every problem in it
    Check(check::Check),
    /// Run the gate on loopback with a small PBX, a voicemail and more callers than channels
    Demo(demo::Demo),
    /// Show the pools, services and trunks of a running node
    Pools(show::Pools),
    /// Show the targets of a running node, or drain one
    Targets(targets::Targets),
    /// List the calls in progress on a running node
    Calls(show::Calls),
    /// List the last events of a running node, or every event there can be
    Events(show::Events),
    /// Say what would happen to a call from TRUNK to NUMBER now, and why
    Explain(explain::Explain),
    /// Issue, install and look at licences
    #[command(subcommand)]
    Licence(licence::LicenceCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<(), ExitError> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Check(check) => check.run(),
            Command::Demo(demo) => demo.run(),
            Command::Pools(pools) => pools.run(),
            Command::Targets(targets) => targets.run(),
            Command::Calls(calls) => calls.run(),
            Command::Events(events) => events.run(),
            Command::Explain(explain) => explain.run(),
            Command::Licence(licence) => licence.run(),
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "sipweir", &mut std::io::stdout());
                Ok(())
            }
        }
    }
}

/// Prints a line. A reader who has gone (`| head`) is no error.
fn say(text: impl std::fmt::Display) {
    use std::io::Write as _;
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// Prints JSON.
fn say_json(value: &impl serde::Serialize) {
    say(serde_json::to_string_pretty(value).expect("views have string keys only"));
}

/// Reads and checks a configuration file.
fn read_config(path: &std::path::Path) -> Result<crate::config::Config, ExitError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ExitError::Config(format!("cannot read {}: {error}; name a readable file", path.display())))?;
    crate::config::Config::parse(&text).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
        let count = problems.len();
        let s = if count == 1 { "" } else { "s" };
        ExitError::Config(format!("{} has {count} problem{s}:\n{}", path.display(), lines.join("\n")))
    })
}
