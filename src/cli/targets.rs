//! `sipweir targets`

use clap::{Args, Subcommand};

use super::client::{NodeArgs, escaped};
use super::show::Table;
use super::{say, say_json};
use crate::admin::view::Peer;
use crate::exit::ExitError;

/// Show the targets of a running node: which addresses live, and how many calls each has
#[derive(Args)]
pub(super) struct Targets {
    #[command(subcommand)]
    command: Option<TargetsCommand>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Subcommand)]
enum TargetsCommand {
    /// Send no new calls to a URI of a target; calls in progress go on
    Drain(Drain),
    /// Send calls there again
    Undrain(Drain),
}

#[derive(Args)]
struct Drain {
    /// The target's name
    target: String,
    /// The URI as the configuration writes it
    uri: String,
    #[command(flatten)]
    node: NodeArgs,
}

impl Targets {
    pub(super) fn run(self) -> Result<(), ExitError> {
        match self.command {
            Some(TargetsCommand::Drain(drain)) => drain.run(true),
            Some(TargetsCommand::Undrain(drain)) => drain.run(false),
            None => show(&self.node),
        }
    }
}

impl Drain {
    fn run(self, on: bool) -> Result<(), ExitError> {
        let path = format!("/api/v1/targets/{}/drain?uri={}&on={on}", escaped(&self.target), escaped(&self.uri));
        let answer: serde_json::Value = self.node.post(&path)?;
        if self.node.json {
            say_json(&answer);
        } else if on {
            say(format_args!("{} {} gets no new calls", self.target, self.uri));
        } else {
            say(format_args!("{} {} gets calls again, as far as the configuration lets it", self.target, self.uri));
        }
        Ok(())
    }
}

fn show(node: &NodeArgs) -> Result<(), ExitError> {
    let peers: Vec<Peer> = node.get("/api/v1/targets", &[])?;
    if node.json {
        say_json(&peers);
        return Ok(());
    }
    let mut table = Table::new(&["TARGET", "URI", "ADDRESS", "STATE", "CALLS", "FAILURES"]);
    for peer in peers {
        let numbers = [peer.calls.to_string(), peer.failures.to_string()];
        let mut row = vec![peer.target, peer.uri, peer.address, peer.state];
        row.extend(numbers);
        table.row(row);
    }
    say(table.text());
    Ok(())
}
