//! The whole comparison, as a table and as Markdown.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::measure::{self, Run};
use crate::side::{Kind, addresses};

/// More of the machine than this used by others, in percent, and a pair of runs is done again.
const FOREIGN_MAX: f64 = 8.0;

pub(crate) fn main(arguments: &[String]) -> Outcome {
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let after = |name: &str| {
        arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1)).map(PathBuf::from)
    };
    let sipweir = after("--sipweir").ok_or("--sipweir must name the binary")?;
    let mut report = Report::default();
    report.line(&format!(
        "# sipweir side by side with Kamailio and a bare relay\n\nMachine: {}. Proxy on core 0 at {}, callers and PBX on core 1 at {}.\n\
         {} pairs of runs a line, in turn; a ratio is of one pair. CPU is what the kernel charged to all threads of the \
         proxy, divided by completed calls.\n",
        machine()?,
        addresses()[0],
        addresses()[1],
        if is_quick { 3 } else { 7 },
    ));
    report.line("| | sipweir | other | ratio: median (range) |\n|---|---|---|---|");
    let pairs = if is_quick { 3 } else { 7 };
    for (rate, other) in [(2000.0, Kind::Kamailio), (2000.0, Kind::Relay), (500.0, Kind::Relay)] {
        let runs = pairs_at(&sipweir, other, rate, pairs)?;
        let of = |name: &str, figure: fn(&Run) -> f64, unit: &str| row(name, other, &runs, figure, unit);
        report.line(&of(&format!("CPU a call at {rate} calls/s"), |run| run.cpu, "µs"));
        report.line(&of(&format!("INVITE to 200 at {rate} calls/s, p50"), |run| run.p50, "µs"));
        report.line(&of(&format!("INVITE to 200 at {rate} calls/s, p99"), |run| run.p99, "µs"));
    }
    let mut highest = Vec::new();
    for kind in [Kind::Sipweir, Kind::Kamailio, Kind::Relay] {
        let (rate, is_limited) = measure::highest(kind, &sipweir)?;
        let limited = if is_limited { ", or more: the load generator had no time left" } else { "" };
        let name = kind.label();
        let ratio = highest.first().map_or_else(String::new, |(_, own)| format!("{:.2}", own / rate));
        report.line(&format!("| {name}: highest good rate{limited} | {rate:.0} calls/s | | {ratio} |"));
        highest.push((kind, rate));
    }
    for (kind, rate) in &highest[..2] {
        let name = format!("{}: goodput while twice its highest rate is offered for 20 s", kind.label());
        report.line(&match measure::overload(*kind, &sipweir, *rate)? {
            Some((goodput, failed)) => format!(
                "| {name} | {goodput:.0} calls/s | {rate:.0} calls/s | {:.2}; {failed:.0} of 1000 calls failed afterwards |",
                goodput / rate,
            ),
            None => format!("| {name} | not measured: the load generator cannot offer it | | |"),
        });
    }
    let calls = 50_000;
    for kind in [Kind::Sipweir, Kind::Kamailio] {
        let (held, left) = measure::memory(kind, &sipweir, calls)?;
        let name = kind.label();
        report.line(&format!(
            "| {name}: memory a call, {calls} held | {held:.0} octets | | {left:.0} octets left afterwards |"
        ));
    }
    let [few, many] = [1_000, 1_000_000].map(|held| measure::beside(&sipweir, held, 2000.0, pairs).map(median));
    let (few, many) = (few?, many?);
    report.line(&format!(
        "| CPU a call at 2000 calls/s, 1,000,000 calls held besides | {many:.0} µs | {few:.0} µs (1,000 held) | {:.2} |",
        many / few
    ));
    if let Some(file) = after("--report") {
        std::fs::write(&file, &report.text)?;
        println!("\nwritten to {}", file.display());
    }
    Ok(())
}

#[derive(Default)]
struct Report {
    text: String,
}

impl Report {
    /// A line for the reader now, and for the file later.
    fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// A B A B. A pair somebody else disturbed is done again, so many times in all.
fn pairs_at(sipweir: &Path, other: Kind, rate: f64, pairs: usize) -> Outcome<Vec<(Run, Run)>> {
    let (mut runs, mut tries) = (Vec::new(), 2 * pairs);
    while runs.len() < pairs {
        let one = measure::at_rate(Kind::Sipweir, sipweir, rate, 5.0)?;
        let two = measure::at_rate(other, sipweir, rate, 5.0)?;
        let failed = one.failed + two.failed;
        if failed > 0.0 {
            eprintln!("{failed} calls failed at {rate} calls/s");
        }
        tries -= 1;
        if one.foreign.max(two.foreign) <= FOREIGN_MAX && failed == 0.0 {
            runs.push((one, two));
        } else if tries == 0 {
            return Err("the machine is too busy to measure".into());
        }
    }
    Ok(runs)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(name: &str, other: Kind, runs: &[(Run, Run)], figure: fn(&Run) -> f64, unit: &str) -> String {
    let mut ratios: Vec<f64> = runs.iter().map(|(one, two)| figure(one) / figure(two)).collect();
    ratios.sort_by(f64::total_cmp);
    let own = median(runs.iter().map(|(one, _)| figure(one)).collect());
    let theirs = median(runs.iter().map(|(_, two)| figure(two)).collect());
    let mut line = String::new();
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    let ratio = median(ratios);
    write!(
        line,
        "| {name} | {own:.0} {unit} | {theirs:.0} {unit} ({}) | **{ratio:.2}** ({least:.2} to {most:.2}) |",
        other.label()
    )
    .expect("a String takes everything");
    line
}

/// What this was measured on.
fn machine() -> Outcome<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        return Err("two cores are needed: one for the proxy, one for the load".into());
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let (model, kernel) = (model.trim_start_matches([' ', '\t', ':']), kernel.trim());
    Ok(format!("{cores} cores, {model}, Linux {kernel}"))
}
