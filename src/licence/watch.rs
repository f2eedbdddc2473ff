//! What the operators are told about licences: once for each thing, and again when it is over.

use std::collections::{BTreeMap, BTreeSet};

use super::standing::{TRIAL_CODE, WARNINGS};
use super::{DAY, Standing, State, Wall, Wanted};
use crate::alert::{Event, EventKind};
use crate::time::Instant;

/// Remembers what was said.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// By licence: the nearest warning given, in days.
    warned: BTreeMap<String, i64>,
    /// By licence in grace: the day of it last told of.
    grace: BTreeMap<String, i64>,
    /// Licences seen in force or in grace, and until when.
    alive: BTreeMap<String, Wall>,
    missing: BTreeSet<Box<str>>,
}

impl Watch {
    /// Compares with what was said before.
    pub fn look(&mut self, now: Instant, standing: &Standing, wanted: &Wanted) -> Vec<Event> {
        let mut events = Vec::new();
        let mut say = |kind, subject: &str, detail: String| {
            events.push(Event { detail: detail.into(), ..Event::about(kind, now, subject) });
        };
        let mut alive = BTreeMap::new();
        let rows = standing.rows.iter().filter_map(|row| Some((row.code.as_str(), &row.state, row.term?)));
        let trial = standing
            .trial_until
            .filter(|_| wanted.leans_on_trial(standing))
            .map(|until| (TRIAL_CODE, &State::InForce, until));
        for (code, state, term) in rows.chain(trial) {
            if !state.counts() || alive.insert(code.to_owned(), term).is_some() {
                continue;
            }
            if let State::Grace(until) = state {
                let day = (standing.at.0 - term.0) / DAY;
                if self.grace.insert(code.to_owned(), day) != Some(day) {
                    say(
                        EventKind::LicenceExpired,
                        code,
                        format!("its last day was {}; it counts up to {}", term.last_day(), until.last_day()),
                    );
                }
                continue;
            }
            let days = term.days_after(standing.at);
            let Some(warning) = WARNINGS.into_iter().filter(|warning| days <= *warning).min() else { continue };
            // Thirty days is all a trial has.
            if code == TRIAL_CODE && warning == WARNINGS[0] {
                continue;
            }
            if self.warned.get(code).is_none_or(|said| warning < *said) {
                self.warned.insert(code.to_owned(), warning);
                let days = if days == 1 { "1 day".into() } else { format!("{days} days") };
                say(EventKind::LicenceExpiring, code, format!("last day {}, {days} left", term.last_day()));
            }
        }
        // What is gone for another reason (removed, replaced) was done by somebody who knows.
        for (code, term) in &self.alive {
            if !alive.contains_key(code) && *term <= standing.at {
                say(EventKind::LicenceExpired, code, format!("its last day was {}", term.last_day()));
            }
        }
        self.warned.retain(|code, _| alive.contains_key(code));
        self.grace.retain(|code, _| alive.contains_key(code));
        self.alive = alive;
        let missing = wanted.missing(standing);
        for product in missing.difference(&self.missing) {
            let without = "its calls take the unlicensed plan".to_owned();
            say(EventKind::LicenceMissing, product, without);
        }
        for product in self.missing.difference(&missing) {
            say(EventKind::LicenceInForce, product, String::new());
        }
        self.missing = missing;
        events
    }
}
