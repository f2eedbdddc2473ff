//! One measurement of one proxy.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Outcome;
use crate::side::{Kind, Side, machine};
use crate::wire::Transport;

/// What one run at a fixed rate gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Microseconds of CPU a completed call.
    pub(crate) cpu: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Calls that failed, and messages sent again.
    pub(crate) failed: f64,
    pub(crate) copies: f64,
    /// Percent of the machine that somebody else used.
    pub(crate) foreign: f64,
    /// Percent of its core that the load generator used: near a hundred, it is what was measured.
    pub(crate) generator: f64,
}

/// More than this and a limit found may be the load generator's own.
const GENERATOR_MAX: f64 = 93.0;

fn field(line: &Value, name: &str) -> f64 {
    line.get(name).and_then(Value::as_f64).unwrap_or(0.0)
}

/// Runs the load generator on the second core.
fn load(side: &[String], arguments: &[String]) -> Outcome<Value> {
    let mut command = Command::new("taskset");
    command.args(["-c", "1", "nice", "-n", "-20"]).arg(std::env::current_exe()?).arg("load").args(arguments).args(side);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("the load generator failed".into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A proxy that has seen some calls.
fn warm(kind: Kind, transport: Transport, sipweir: &Path) -> Outcome<Side> {
    let side = Side::start(kind, transport, sipweir)?;
    load(&side.arguments(), &words("--rate 500 --seconds 1 --hold-ms 50"))?;
    Ok(side)
}

/// Warms the proxy up, then offers `rate` calls/s for `seconds`.
pub(crate) fn at_rate(kind: Kind, transport: Transport, sipweir: &Path, rate: f64, seconds: f64) -> Outcome<Run> {
    let side = warm(kind, transport, sipweir)?;
    measured(&side, rate, seconds)
}

fn measured(side: &Side, rate: f64, seconds: f64) -> Outcome<Run> {
    let (began, cpu, (busy, stolen), children) = (Instant::now(), side.cpu(), machine(), generator());
    let line = load(&side.arguments(), &words(&format!("--rate {rate} --seconds {seconds}")))?;
    let (own, (busy_after, stolen_after)) = (side.cpu() - cpu, machine());
    let loading = generator() - children;
    let foreign = busy_after - busy - own - loading + stolen_after - stolen;
    let cores = std::thread::available_parallelism()?.get() as f64;
    Ok(Run {
        cpu: own * 1e6 / field(&line, "completed").max(1.0),
        p50: field(&line, "p50_us"),
        p99: field(&line, "p99_us"),
        failed: field(&line, "failed"),
        copies: field(&line, "copies"),
        foreign: 100.0 * foreign.max(0.0) / began.elapsed().as_secs_f64() / cores,
        generator: 100.0 * loading / seconds,
    })
}

/// CPU seconds of our own finished children: the generator's.
fn generator() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    [13, 14].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The highest rate at which failures and copies stay at or below one in a thousand, to within 4 %; and whether it may be
/// the load generator's limit.
pub(crate) fn highest(kind: Kind, sipweir: &Path) -> Outcome<(f64, bool)> {
    let mut is_limited = false;
    let mut is_good = |rate: f64| -> Outcome<bool> {
        // A step that fails is tried twice: the machine may have been busy.
        for _ in 0..2 {
            let side = warm(kind, Transport::Udp, sipweir)?;
            let run = measured(&side, rate, 3.0)?;
            if (run.failed + run.copies) / (rate * 3.0) <= 0.001 {
                return Ok(true);
            }
            is_limited |= run.generator > GENERATOR_MAX;
        }
        Ok(false)
    };
    let (mut good, mut bad) = (1000.0, f64::INFINITY);
    let mut rate = 3000.0;
    while bad / good > 1.04 {
        if is_good(rate)? {
            good = rate
        } else {
            bad = rate
        }
        rate = if bad.is_finite() { f64::midpoint(good, bad) } else { good * 1.5 };
        if good > 60_000.0 {
            break;
        }
    }
    Ok((good, is_limited))
}

/// Octets a held call, and what is left a minute after they ended, a call.
pub(crate) fn memory(kind: Kind, sipweir: &Path, calls: u32) -> Outcome<(f64, f64)> {
    let side = warm(kind, Transport::Udp, sipweir)?;
    sleep(Duration::from_secs(34));
    let idle = side.memory();
    let (rate, settle) = (5000, 40);
    let ramp = f64::from(calls) / f64::from(rate);
    let hold = (ramp + f64::from(settle)) * 1000.0;
    let arguments = words(&format!("--rate {rate} --calls {calls} --hold-ms {hold}"));
    let load = std::thread::spawn(move || load(&[], &arguments).map_err(|error| error.to_string()));
    // Transactions have ended 32 s after the last call began; then what is left is the calls'.
    sleep(Duration::from_secs_f64(ramp + f64::from(settle) - 4.0));
    let held = side.memory();
    let line = load.join().map_err(|_| "the load generator's thread panicked")??;
    if field(&line, "up_most") < 0.999 * f64::from(calls) {
        return Err(format!("{}: not all calls were up: {line}", kind.label()).into());
    }
    sleep(Duration::from_secs(40));
    Ok(((held - idle) / f64::from(calls), (side.memory() - idle) / f64::from(calls)))
}

/// CPU a call at `rate` with so many calls held besides, in so many runs.
pub(crate) fn beside(sipweir: &Path, held: u32, rate: f64, runs: usize) -> Outcome<Vec<f64>> {
    let side = warm(Kind::Sipweir, Transport::Udp, sipweir)?;
    let ramp = f64::from(held) / 8000.0;
    let settle = 38.0;
    let hold = (ramp + settle + 12.0 * runs as f64) * 1000.0;
    let arguments = words(&format!("--lane 1 --rate 8000 --calls {held} --hold-ms {hold}"));
    let others = std::thread::spawn(move || load(&[], &arguments).map_err(|error| error.to_string()));
    // Until their transactions have ended.
    sleep(Duration::from_secs_f64(ramp + settle));
    let figures = (0..runs).map(|_| measured(&side, rate, 5.0).map(|run| run.cpu)).collect();
    let line = others.join().map_err(|_| "the load generator's thread panicked")??;
    if field(&line, "up_most") < 0.999 * f64::from(held) {
        return Err(format!("not all calls were up: {line}").into());
    }
    figures
}

/// Offers twice `rate` for 20 s: the goodput, and the calls of the two seconds after that failed; `None` when the load
/// generator cannot.
pub(crate) fn overload(kind: Kind, sipweir: &Path, rate: f64) -> Outcome<Option<(f64, f64)>> {
    let _side = warm(kind, Transport::Udp, sipweir)?;
    let children = generator();
    let line = load(&[], &words(&format!("--rate {} --seconds 20", rate * 2.0)))?;
    let is_limited = 100.0 * (generator() - children) / 20.0 > GENERATOR_MAX;
    let after = load(&[], &words("--rate 500 --seconds 2 --hold-ms 50"))?;
    Ok((!is_limited).then(|| (field(&line, "goodput"), field(&after, "failed"))))
}
