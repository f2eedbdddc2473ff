//! The overflow plan: what becomes of a call that gets no channel, step by step.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "TOML's value types are not ours; what is not the one wanted is a problem"
)]

use std::time::Duration;

use toml::Value;

use super::check::{names, position};
use super::file::{Problems, Section};
use super::{Pool, Target};
use crate::pool::Refusal;
use crate::sip::{Uri, typed};

/// How a call waits for a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    /// The longest it waits.
    pub longest: Duration,
    /// The most calls of the service that wait at a time.
    pub length: u32,
    /// Who is likely to wait longer than this goes on at once.
    pub expected: Option<Duration>,
    /// Each one is worth so much waiting as [`WaitRules::ageing`] says.
    pub priority: u8,
}

/// What all calls that wait have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitRules {
    /// What one priority is worth: a call that waited that long is level with one that just came and has one more.
    pub ageing: Duration,
    /// How often a caller is told where he stands.
    pub repeat: Duration,
}

impl Default for WaitRules {
    fn default() -> Self {
        Self { ageing: Duration::from_secs(60), repeat: Duration::from_secs(20) }
    }
}

pub(super) fn read_waiting(root: &mut Section, problems: &mut Problems) -> WaitRules {
    let mut rules = WaitRules::default();
    if let Some(mut section) = root.section(problems, "waiting") {
        let mut seconds = |key, range, into: &mut Duration| {
            if let Some(number) = section.number(problems, key, range) {
                *into = Duration::from_secs(u64::from(number));
            }
        };
        seconds("ageing_s", 1..=86_400, &mut rules.ageing);
        // RFC 3261 §13.3.1.1: at least every minute, or a proxy before us gives up.
        seconds("repeat_s", 1..=60, &mut rules.repeat);
        section.finish(problems);
    }
    rules
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A channel of another pool, when that has one to spare. Comes before every other step: the call then goes where it
    /// would have gone.
    Borrow {
        /// The pool, as a position.
        pool: usize,
    },
    /// At the gate, for a channel: the call then goes where it would have gone.
    Wait(Wait),
    /// To another target, as a position, under another user part when given.
    Route {
        /// The target.
        target: usize,
        /// The new user part of the Request-URI.
        user: Option<Box<str>>,
    },
    /// 302 with these contacts.
    Redirect {
        /// Whole Contact lines.
        lines: Box<str>,
    },
    /// A final answer.
    Reject {
        /// Its status, 400 to 699.
        status: u16,
        /// The Reason value, when one was written.
        reason: Option<Box<str>>,
        /// Whole lines besides: Retry-After.
        lines: Box<str>,
    },
}

impl Step {
    /// The labels of all steps.
    pub const LABELS: [&'static str; 5] = ["route", "redirect", "reject", "borrow", "wait"];

    /// The position of its label.
    pub const fn position(&self) -> usize {
        match self {
            Self::Route { .. } => 0,
            Self::Redirect { .. } => 1,
            Self::Reject { .. } => 2,
            Self::Borrow { .. } => 3,
            Self::Wait(_) => 4,
        }
    }

    /// The value of the metric's `step` label.
    pub const fn label(&self) -> &'static str {
        Self::LABELS[self.position()]
    }

    /// Whether the call stays where it is and may still get a channel.
    pub const fn stays(&self) -> bool {
        matches!(self, Self::Borrow { .. } | Self::Wait(_))
    }

    /// Whether nothing can follow it.
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Redirect { .. } | Self::Reject { .. })
    }
}

/// 486, with the Reason of the refusal: `Q.850;cause=34` (no circuit or channel available) for a full pool.
pub(super) fn default_reject() -> Step {
    Step::Reject { status: Refusal::PoolFull.status(), reason: None, lines: "".into() }
}

pub(super) fn read_overflow(
    section: &mut Section,
    problems: &mut Problems,
    name: &'static str,
    (targets, pools): (&[Target], &[Pool]),
) -> Option<Vec<Step>> {
    let key = section.key(name);
    let values = match section.take(name)? {
        Value::Array(values) => values,
        other => {
            problems.add(
                key,
                format!("{other} is no list of steps"),
                format!("write {name} = [{{ route = \"voicemail\" }}, {{ reject = 486 }}]"),
            );
            return None;
        }
    };
    if values.is_empty() || values.len() > 16 {
        problems.add(&*key, format!("{} steps", values.len()), format!("write 1 to 16 steps, or leave {name} out"));
    }
    let last = values.len().saturating_sub(1);
    let mut steps = Vec::new();
    for (at, value) in values.into_iter().enumerate() {
        let path = format!("{key}[{at}]");
        let Value::Table(table) = value else {
            problems.add(
                path,
                format!("{value} is no step"),
                "write { borrow = \"…\" }, { wait = 60 }, { route = \"…\" }, { redirect = \"sip:…\" } or { reject = 486 }",
            );
            continue;
        };
        let mut step = Section::new(path.clone(), table);
        let read = read_step(&mut step, problems, (targets, pools));
        step.finish(problems);
        if matches!(read, Some(Step::Wait(_))) && name == "unlicensed" {
            problems.add(&*path, "what has no licence waits for no channel either", "remove it");
        }
        if let Some(Step::Borrow { .. }) = read {
            if name == "unlicensed" {
                problems.add(&*path, "what has no licence borrows no channel either", "remove it");
            } else if steps.iter().any(|step| !matches!(step, Step::Borrow { .. })) {
                problems.add(&*path, "comes too late: the call has gone elsewhere", "move it before the other steps");
            } else if read.as_ref().is_some_and(|step| steps.contains(step)) {
                problems.add(&*path, "is in the plan already", "name each pool once");
            }
        }
        if read.as_ref().is_some_and(Step::is_last) && at < last {
            problems.add(path, "ends the plan, and more steps follow", "move it to the end");
        }
        steps.extend(read);
    }
    Some(steps)
}

fn read_step(step: &mut Section, problems: &mut Problems, (targets, pools): (&[Target], &[Pool])) -> Option<Step> {
    let kinds = ["borrow", "wait", "route", "redirect", "reject"].into_iter().filter(|kind| step.has(kind)).count();
    if kinds != 1 {
        problems.add(
            step.path().to_owned(),
            format!("names {kinds} of borrow, wait, route, redirect and reject"),
            "name one of them in each step",
        );
    }
    if let Some(name) = step.string(problems, "borrow") {
        let found = position(pools, &name, |pool| &pool.settings.name);
        if found.is_none() {
            problems.add(
                step.key("borrow"),
                format!("{name:?} is no pool"),
                format!("add [[pool]] with this name; {}", names(pools.iter().map(|pool| &*pool.settings.name))),
            );
        }
        return found.map(|pool| Step::Borrow { pool });
    }
    if step.has("wait") {
        let seconds = |seconds| Duration::from_secs(u64::from(seconds));
        let longest = step.number(problems, "wait", 1..=3_600).map(seconds);
        let length = step.number(problems, "length", 1..=10_000).unwrap_or(100);
        let expected = step.number(problems, "expected_s", 1..=3_600).map(seconds);
        let priority = step.number(problems, "priority", 0..=9).unwrap_or(0) as u8;
        if expected.zip(longest).is_some_and(|(expected, longest)| expected >= longest) {
            problems.add(
                step.key("expected_s"),
                "is not less than wait",
                "make it less, or remove it: nobody waits longer",
            );
        }
        if kinds == 1 {
            return longest.map(|longest| Step::Wait(Wait { longest, length, expected, priority }));
        }
    }
    let route = step.string(problems, "route");
    let redirect = step.strings(problems, "redirect");
    let reject = step.number(problems, "reject", 400..=699);
    if let Some(name) = route {
        let user = step.string(problems, "user");
        if user.as_deref().is_some_and(|user| {
            Uri::parse(format!("sip:{user}@h").as_bytes())
                .is_none_or(|uri| uri.user() != user.as_bytes() || user.is_empty())
        }) {
            problems.add(
                step.key("user"),
                format!("{:?} is no user part", user.as_deref().unwrap_or_default()),
                "write a number such as \"9000\"",
            );
        }
        let Some(target) = position(targets, &name, |target| &target.name) else {
            problems.add(
                step.key("route"),
                format!("{name:?} is no target"),
                format!("add [[target]] with this name; {}", names(targets.iter().map(|target| &*target.name))),
            );
            return None;
        };
        return Some(Step::Route { target, user: user.map(String::into_boxed_str) });
    }
    if let Some(contacts) = redirect {
        let mut lines = String::new();
        if contacts.is_empty() {
            problems.add(step.key("redirect"), "is empty", "write at least one URI");
        }
        for contact in &contacts {
            match Uri::parse(contact.as_bytes()) {
                Some(_) => {
                    lines.push_str(&typed::contact_line(contact).unwrap_or_else(|| format!("Contact: <{contact}>\r\n")))
                }
                None => problems.add(
                    step.key("redirect"),
                    format!("{contact:?} is no URI"),
                    "write it as \"sip:100@192.0.2.1\"",
                ),
            }
        }
        return Some(Step::Redirect { lines: lines.into() });
    }
    let status = reject? as u16;
    let mut lines = String::new();
    let reason = step.string(problems, "reason");
    if let Some(reason) =
        reason.as_deref().filter(|reason| reason.contains(['\r', '\n']) || !reason.contains(";cause="))
    {
        problems.add(
            step.key("reason"),
            format!("{reason:?} is no Reason value"),
            "write it as \"Q.850;cause=34\" (RFC 3326)",
        );
    }
    if let Some(seconds) = step.number(problems, "retry_after_s", 1..=86_400) {
        lines.push_str(&format!("Retry-After: {seconds}\r\n"));
    }
    Some(Step::Reject { status, reason: reason.map(String::into_boxed_str), lines: lines.into() })
}
