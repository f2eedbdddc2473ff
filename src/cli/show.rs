//! `sipweir pools`, `calls` and `events`

use clap::{Args, Subcommand};
use serde::Serialize;

use super::client::{NodeArgs, escaped};
use super::{say, say_json};
use crate::admin::view::{CallsView, View};
use crate::alert::EventKind;
use crate::exit::ExitError;
use crate::proxy::Story;

/// Show the pools, services and trunks of a running node
#[derive(Args)]
pub(super) struct Pools {
    #[command(flatten)]
    node: NodeArgs,
}

impl Pools {
    pub(super) fn run(self) -> Result<(), ExitError> {
        let view: View = self.node.get("/api/v1/pools", &[])?;
        if self.node.json {
            say_json(&view);
            return Ok(());
        }
        let mut pools =
            Table::new(&["POOL", "IN USE", "OF", "RESERVED", "HELD", "SET ASIDE", "PEAK", "CONDITION", "REFUSED"]);
        for pool in &view.pools {
            let numbers = [pool.in_use, pool.capacity, pool.reserved, pool.held, pool.set_aside, pool.peak]
                .map(|n| n.to_string());
            let mut row = vec![pool.name.clone()];
            row.extend(numbers);
            row.extend([pool.condition.clone(), pool.refused.to_string()]);
            pools.row(row);
        }
        let mut services = Table::new(&["SERVICE", "CALLS", "WAITING", "ADMITTED", "REFUSED"]);
        for service in &view.services {
            let numbers = [service.calls.into(), service.waiting.into(), service.admitted, service.refused];
            let mut row = vec![service.name.clone()];
            row.extend(numbers.map(|number: u64| number.to_string()));
            services.row(row);
        }
        let mut trunks = Table::new(&["TRUNK", "CALLS", "OF"]);
        for trunk in &view.trunks {
            let max = trunk.max_calls.map_or_else(|| "any".into(), |max| max.to_string());
            trunks.row(vec![trunk.name.clone(), trunk.calls.to_string(), max]);
        }
        say(format_args!("{}\n\n{}\n\n{}", pools.text(), services.text(), trunks.text()));
        Ok(())
    }
}

/// List the calls in progress on a running node, or end some
#[derive(Args)]
pub(super) struct Calls {
    #[command(subcommand)]
    command: Option<CallsCommand>,
    /// Only calls that hold a channel of this pool
    #[arg(long)]
    pool: Option<String>,
    /// Only calls to this service
    #[arg(long)]
    service: Option<String>,
    /// Only calls of this trunk
    #[arg(long)]
    trunk: Option<String>,
    /// List at most this many, oldest first
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Subcommand)]
enum CallsCommand {
    /// End calls: BYE to both sides, CANCEL while it rings; each is counted until the PBX has let go
    End(CallsEnd),
    /// Say why calls are there, what they hold and when they were heard last
    Explain(CallsEnd),
    /// Give the channels of calls back that the PBX has transferred away; the calls go on
    Release(CallsEnd),
}

#[derive(Args)]
struct CallsEnd {
    /// Numbers of the calls, as `sipweir calls` lists them
    #[arg(required = true, value_name = "SLOT")]
    slots: Vec<u64>,
    #[command(flatten)]
    node: NodeArgs,
}

impl CallsEnd {
    fn explain(self) -> Result<(), ExitError> {
        for slot in self.slots {
            let story: Story = self.node.get(&format!("/api/v1/calls/{slot}"), &[])?;
            if self.node.json {
                say_json(&story);
                continue;
            }
            let (age, heard) = (story.age_s, story.heard_s);
            say(format_args!("call {slot}: {age} s old, heard {heard} s ago\n  {}", story.lines.join("\n  ")));
        }
        Ok(())
    }

    fn run(self, verb: &str, done: &str) -> Result<(), ExitError> {
        for slot in self.slots {
            let answer: serde_json::Value = self.node.post(&format!("/api/v1/calls/{slot}/{verb}"))?;
            if self.node.json {
                say_json(&answer);
            } else {
                say(format_args!("call {slot} {done}"));
            }
        }
        Ok(())
    }
}

impl Calls {
    pub(super) fn run(self) -> Result<(), ExitError> {
        match self.command {
            Some(CallsCommand::End(end)) => return end.run("end", "is being ended"),
            Some(CallsCommand::Explain(these)) => return these.explain(),
            Some(CallsCommand::Release(end)) => return end.run("release", "holds no channel any more"),
            None => {}
        }
        let limit = self.limit.to_string();
        let query = [
            ("pool", self.pool.as_deref()),
            ("service", self.service.as_deref()),
            ("trunk", self.trunk.as_deref()),
            ("limit", Some(limit.as_str())),
        ];
        let view: CallsView = self.node.get("/api/v1/calls", &query)?;
        if self.node.json {
            say_json(&view);
            return Ok(());
        }
        let mut table =
            Table::new(&["SLOT", "STATE", "SECONDS", "TRUNK", "SERVICE", "POOL", "CALLER", "NUMBER", "CALL-ID"]);
        for call in &view.calls {
            let or_dash = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".into());
            table.row(vec![
                call.slot.to_string(),
                call.state.clone(),
                call.seconds.to_string(),
                call.trunk.clone(),
                or_dash(&call.service),
                or_dash(&call.pool),
                call.caller.clone(),
                call.number.clone(),
                call.call_id.clone(),
            ]);
        }
        say(table.text());
        say(format_args!("{} of {} calls", view.calls.len(), view.total));
        Ok(())
    }
}

/// Events: those of a running node, and the catalogue of all there are
#[derive(Args)]
pub(super) struct Events {
    #[command(subcommand)]
    command: Option<EventsCommand>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Subcommand)]
enum EventsCommand {
    /// List the last events of a running node; what happens without a command, too
    List(EventsList),
    /// Send a test to a sink of a running node, and say what the other side answered
    Test(EventsTest),
}

#[derive(Args)]
struct EventsTest {
    /// The sink's name
    sink: String,
    #[command(flatten)]
    node: NodeArgs,
}

impl EventsTest {
    fn run(self) -> Result<(), ExitError> {
        let tested: serde_json::Value = self.node.post(&format!("/api/v1/sinks/{}/test", escaped(&self.sink)))?;
        let answer = tested["answer"].as_str().unwrap_or_default();
        if self.node.json {
            say_json(&tested);
        } else if tested["delivered"] == true {
            say(format_args!("delivered: {answer}"));
        }
        if tested["delivered"] == true { Ok(()) } else { Err(ExitError::Failed(format!("not delivered: {answer}"))) }
    }
}

#[derive(Args)]
struct EventsList {
    /// List every event there can be, what it means and what to do about it; asks no node
    #[arg(long)]
    catalogue: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// One entry of the catalogue.
#[derive(Serialize)]
struct Entry {
    event: &'static str,
    severity: &'static str,
    meaning: &'static str,
    remedy: &'static str,
}

fn print_catalogue(json: bool) {
    if !json {
        let mut table = Table::new(&["EVENT", "SEVERITY", "MEANING", "WHAT TO DO"]);
        for kind in EventKind::ALL {
            let cells = [kind.label(), kind.severity().label(), kind.meaning(), kind.remedy()];
            table.row(cells.map(str::to_owned).to_vec());
        }
        return say(table.text());
    }
    let entry = |kind: EventKind| Entry {
        event: kind.label(),
        severity: kind.severity().label(),
        meaning: kind.meaning(),
        remedy: kind.remedy(),
    };
    say_json(&EventKind::ALL.map(entry).as_slice());
}

impl Events {
    pub(super) fn run(self) -> Result<(), ExitError> {
        match self.command {
            Some(EventsCommand::List(EventsList { catalogue: true, node })) => {
                print_catalogue(node.json);
                Ok(())
            }
            Some(EventsCommand::List(EventsList { catalogue: false, node })) => Self { command: None, node }.list(),
            Some(EventsCommand::Test(test)) => test.run(),
            None => self.list(),
        }
    }

    fn list(self) -> Result<(), ExitError> {
        let events: Vec<serde_json::Value> = self.node.get("/api/v1/events", &[])?;
        if self.node.json {
            say_json(&events);
            return Ok(());
        }
        let mut table = Table::new(&["AT", "SEVERITY", "EVENT", "MESSAGE"]);
        for event in &events {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            table.row(vec![text("at"), text("severity"), text("event"), text("message")]);
        }
        say(table.text());
        Ok(())
    }
}

/// Columns as wide as their widest cell.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        // What a peer chose to call itself must not drive the terminal.
        let clean = |cell: String| cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    pub(super) fn text(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
