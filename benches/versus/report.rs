//! The whole comparison, as a table and as Markdown.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::measure::{self, Run};
use crate::side::Kind;
use crate::wire::Transport;
use crate::{Outcome, PBX, PROXY};

/// More of the machine than this used by others, in percent, and a pair of runs is done again.
const FOREIGN_MAX: f64 = 8.0;

pub(crate) fn main(arguments: &[String]) -> Outcome {
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let after = |name: &str| {
        arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1)).map(PathBuf::from)
    };
    let sipweir = after("--sipweir").ok_or("--sipweir must name the binary")?;
    let pairs = if is_quick { 3 } else { 7 };
    let only = after("--rates").map(|transport| Transport::parse(&transport.to_string_lossy())).transpose()?;
    let mut report = Report { file: after("--report").map(std::fs::File::create).transpose()?, is_whole: true };
    report.line(&format!(
        "# sipweir side by side with Kamailio and a bare relay\n\nMachine: {}. Proxy on core 0 at {}, callers and PBX on core 1 at {}.\n\
         {pairs} pairs of runs a line, in turn; a ratio is of one pair. CPU is what the kernel charged to all threads of the \
         proxy, divided by completed calls.\n",
        machine()?,
        PROXY,
        PBX,
    ))?;
    report.line("| | sipweir | other | ratio: median (range) |\n|---|---|---|---|")?;
    for (rate, other, transport) in [
        (2000.0, Kind::Kamailio, Transport::Udp),
        (2000.0, Kind::Relay, Transport::Udp),
        (500.0, Kind::Relay, Transport::Udp),
        (1000.0, Kind::Kamailio, Transport::Tcp),
        (1000.0, Kind::Kamailio, Transport::Tls),
    ] {
        if only.as_ref().is_some_and(|only| *only != transport) {
            continue;
        }
        let runs = pairs_at(&sipweir, (other, transport), rate, pairs);
        let offered = format!("{rate} calls/s over {}", transport.label());
        report.section(&offered, runs, |runs| {
            let of = |name: &str, figure: fn(&Run) -> f64| row(&format!("{name} at {offered}"), other, &runs, figure);
            let cpu = of("CPU a call", |run| run.cpu);
            let (p50, p99) = (of("INVITE to 200, p50", |run| run.p50), of("INVITE to 200, p99", |run| run.p99));
            format!("{cpu}\n{p50}\n{p99}")
        })?;
    }
    if only.is_some() {
        return if report.is_whole { Ok(()) } else { Err("not everything was measured".into()) };
    }
    let mut own = 0.0;
    for kind in [Kind::Sipweir, Kind::Kamailio, Kind::Relay] {
        let name = kind.label();
        let highest = measure::highest(kind, &sipweir);
        let rate = highest.as_ref().map_or(0.0, |(rate, _)| *rate);
        report.section(&format!("{name}: highest good rate"), highest, |(rate, is_limited)| {
            let limited = if is_limited { ", or more: the load generator had no time left" } else { "" };
            let ratio = if kind == Kind::Sipweir { String::new() } else { format!("{:.2}", own / rate) };
            format!("| {name}: highest good rate{limited} | {rate:.0} calls/s | | {ratio} |")
        })?;
        own = if kind == Kind::Sipweir { rate } else { own };
        if kind == Kind::Relay || rate == 0.0 {
            continue;
        }
        let name = format!("{name}: goodput while twice its highest rate is offered for 20 s");
        report.section(&name, measure::overload(kind, &sipweir, rate), |outcome| match outcome {
            Some((goodput, failed)) => {
                let part = goodput / rate;
                format!("| {name} | {goodput:.0} calls/s | {rate:.0} calls/s | {part:.2}; {failed:.0} of 1000 calls failed afterwards |")
            }
            None => format!("| {name} | not measured: the load generator cannot offer it | | |"),
        })?;
    }
    let calls = 50_000;
    for kind in [Kind::Sipweir, Kind::Kamailio] {
        let name = format!("{}: memory a call, {calls} held", kind.label());
        report.section(&name, measure::memory(kind, &sipweir, calls), |(held, left)| {
            format!("| {name} | {held:.0} octets | | {left:.0} octets left afterwards |")
        })?;
    }
    let few = measure::beside(&sipweir, 1_000, 2000.0, pairs).map(median);
    let both = few.and_then(|few| Ok((few, measure::beside(&sipweir, 1_000_000, 2000.0, pairs).map(median)?)));
    let name = "CPU a call at 2000 calls/s, 1,000,000 calls held besides";
    report.section(name, both, |(few, many)| {
        format!("| {name} | {many:.0} µs | {few:.0} µs (1,000 held) | {:.2} |", many / few)
    })?;
    if report.is_whole { Ok(()) } else { Err("not everything was measured".into()) }
}

struct Report {
    file: Option<std::fs::File>,
    is_whole: bool,
}

impl Report {
    /// A line for the reader and for the file, at once: the whole takes long.
    fn line(&mut self, line: &str) -> Outcome {
        println!("{line}");
        if let Some(file) = &mut self.file {
            writeln!(file, "{line}")?;
        }
        Ok(())
    }

    /// What was measured, or why it was not.
    fn section<T>(&mut self, name: &str, outcome: Outcome<T>, lines: impl FnOnce(T) -> String) -> Outcome {
        match outcome {
            Ok(figures) => self.line(&lines(figures)),
            Err(error) => {
                self.is_whole = false;
                self.line(&format!("| {name} | not measured: {error} | | |"))
            }
        }
    }
}

/// A B A B. A pair somebody else disturbed is done again, so many times in all.
fn pairs_at(
    sipweir: &Path,
    (other, transport): (Kind, Transport),
    rate: f64,
    pairs: usize,
) -> Outcome<Vec<(Run, Run)>> {
    let (mut runs, mut tries) = (Vec::new(), 2 * pairs);
    while runs.len() < pairs {
        let one = measure::at_rate(Kind::Sipweir, transport, sipweir, rate, 5.0)?;
        let two = measure::at_rate(other, transport, sipweir, rate, 5.0)?;
        let failed = one.failed + two.failed;
        if failed > 0.0 {
            eprintln!("{failed} calls failed at {rate} calls/s");
        }
        tries -= 1;
        if one.foreign.max(two.foreign) > FOREIGN_MAX {
            eprintln!("somebody else used {:.1} and {:.1} % of the machine: again", one.foreign, two.foreign);
        }
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

fn row(name: &str, other: Kind, runs: &[(Run, Run)], figure: fn(&Run) -> f64) -> String {
    let mut ratios: Vec<f64> = runs.iter().map(|(one, two)| figure(one) / figure(two)).collect();
    ratios.sort_by(f64::total_cmp);
    let own = median(runs.iter().map(|(one, _)| figure(one)).collect());
    let theirs = median(runs.iter().map(|(_, two)| figure(two)).collect());
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    let (ratio, other) = (median(ratios), other.label());
    format!("| {name} | {own:.0} µs | {theirs:.0} µs ({other}) | **{ratio:.2}** ({least:.2} to {most:.2}) |")
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
