//! Keeps the gate in line with the licences: looks every second whether something was installed or removed, whether a
//! term began or ended, and what the clock says.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Node;
use crate::alert::{Event, EventKind};
use crate::config::Config;
use crate::licence::{Licence, Standing, Wall, Watch};
use crate::vault::{Held, Vault, VaultError, wall_now};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

/// What is known of the licences of a running node.
pub(crate) struct Licensing {
    /// Opened when the configuration first depends on licences.
    vault: Option<Vault>,
    watch: Watch,
    /// With which configuration, and after how much history, the licences were last read.
    read: Option<(Arc<Config>, u64)>,
    licences: Vec<Licence>,
    /// Files that hold none, told of.
    bad: BTreeSet<String>,
    standing: Standing,
    clock_is_back: bool,
    /// The last failure said, so that it is said once.
    failure: Option<String>,
    /// What was found before there was anybody to tell.
    untold: Vec<Event>,
}

impl Licensing {
    fn new() -> Self {
        Self {
            vault: None,
            watch: Watch::default(),
            read: None,
            licences: Vec::new(),
            bad: BTreeSet::new(),
            standing: Standing::default(),
            clock_is_back: false,
            failure: None,
            untold: Vec::new(),
        }
    }

    /// Opens the licences, if the configuration depends on any, and works out what they allow.
    ///
    /// Files that cannot be read keep no node from starting: calls then take the unlicensed plan, and it looks again.
    pub(super) fn start(config: &Arc<Config>) -> Self {
        let mut licensing = Self::new();
        let mut events = Vec::new();
        if let Err(error) = licensing.refresh(config, wall_now(), &mut events) {
            licensing.fail(&error, &mut events);
        }
        licensing.untold = events;
        licensing
    }

    /// What is allowed now.
    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Looks once; what changed is brought into force and told of.
    pub(crate) fn look(&mut self, node: &Node) {
        let config = node.config();
        self.bring_into_force(node, &config);
        let mut events = std::mem::take(&mut self.untold);
        events.extend(self.watch.look(node.now(), &self.standing, &config.settings().wanted));
        for mut event in events {
            event.at = node.now();
            node.raise(&event);
        }
    }

    /// The same for a configuration that is about to come into force, so that no call finds the gate without channels.
    pub(crate) fn bring_into_force(&mut self, node: &Node, config: &Arc<Config>) {
        let mut events = std::mem::take(&mut self.untold);
        match self.refresh(config, wall_now(), &mut events) {
            Ok(changed) => {
                self.failure = None;
                if changed {
                    node.gate.license(self.standing.clone(), node.now(), &mut events);
                }
            }
            // The licences known go on counting.
            Err(error) => self.fail(&error, &mut events),
        }
        self.untold = events;
    }

    /// Says a failure once.
    fn fail(&mut self, error: &VaultError, events: &mut Vec<Event>) {
        let error = error.to_string();
        if self.failure.as_ref() != Some(&error) {
            tracing::error!(event = "licences_unreadable", "{error}");
            events.push(about(EventKind::LicenceRefused, "folder", error.clone()));
            self.failure = Some(error);
        }
    }

    /// Reads again what changed. Whether the standing is another one.
    fn refresh(&mut self, config: &Arc<Config>, now: Wall, events: &mut Vec<Event>) -> Result<bool, VaultError> {
        if self.vault.is_none() {
            if config.settings().wanted.is_nothing() {
                return Ok(false);
            }
            let vault = self.vault.insert(Vault::open(config, now)?);
            vault.begin()?;
        }
        let Some(vault) = &mut self.vault else { return Ok(false) };
        let clock = vault.clock(now)?;
        let was_back = std::mem::replace(&mut self.clock_is_back, clock.set_back_to.is_some());
        if let Some(now) = clock.set_back_to.filter(|_| !was_back) {
            let detail = format!("it says {now}, and {} was seen before; licences are judged by that", clock.counts);
            events.push(about(EventKind::LicenceClock, "clock", detail));
        }
        let length = vault.history_len();
        let is_read = self.read.as_ref().is_some_and(|(read, seen)| Arc::ptr_eq(read, config) && *seen == length);
        // A clock that ran ahead and was set right leads back to a standing of before.
        let holds = clock.counts >= self.standing.at && self.standing.next.is_none_or(|next| clock.counts < next);
        if is_read && holds {
            return Ok(false);
        }
        if !is_read {
            let Held { good, bad } = vault.licences(&config.licensing)?;
            for (file, rejection) in bad {
                let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                if self.bad.insert(name.clone()) {
                    events.push(about(EventKind::LicenceRefused, &name, rejection.to_string()));
                }
            }
            self.licences = good.into_iter().map(|installed| installed.licence).collect();
            // What was done before the node started is no news.
            if let Some((_, seen)) = &self.read {
                for record in vault.history(*seen)?.0 {
                    let is_refused = record.action == "refused";
                    let kind = if is_refused { EventKind::LicenceRefused } else { EventKind::LicenceChanged };
                    let code = if record.code.is_empty() { "unreadable" } else { &record.code };
                    let detail = match (is_refused, record.why.is_empty()) {
                        (true, _) => record.why.replace('\n', " "),
                        (false, true) => record.action,
                        (false, false) => format!("{}: {}", record.action, record.why),
                    };
                    events.push(about(kind, code, detail));
                }
            }
            self.read = Some((Arc::clone(config), length));
        }
        self.standing = vault.standing(&self.licences, &config.licensing, clock.counts);
        Ok(true)
    }
}

fn about(kind: EventKind, subject: &str, detail: String) -> Event {
    Event { detail: detail.into(), ..Event::about(kind, crate::time::Instant::ZERO, subject) }
}

/// Looks every second until the runtime ends.
pub(crate) async fn keep(licensing: Arc<Mutex<Licensing>>, node: Arc<Node>) {
    let mut every = tokio::time::interval(EVERY);
    loop {
        every.tick().await;
        licensing.lock().unwrap_or_else(PoisonError::into_inner).look(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::licence::DAY;

    #[test]
    fn a_clock_set_right_again_gives_back_what_its_wrong_year_took() {
        let folder = std::env::temp_dir().join(format!("sipweir-licensing-{}", std::process::id()));
        let text = format!(
            "[node]\ndata_dir = {folder:?}\n[[listen]]\nuri = \"udp:192.0.2.1:5060\"\n[[trunk]]\nname = \"a\"\n\
             from = [\"198.51.100.0/24\"]\n[[target]]\nname = \"pbx\"\nuri = [\"sip:10.0.0.10\"]\n\
             [[pool]]\nname = \"p\"\nlicence = \"q\"\n[[licence.issuer]]\nname = \"vendor\"\n\
             key = \"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"\n\
             [[service]]\nname = \"menu\"\nkind = \"ivr\"\nnumbers = [\"100\"]\npool = \"p\"\ntarget = \"pbx\"\n"
        );
        let config = Arc::new(Config::parse(&text).expect("valid"));
        let mut licensing = Licensing::new();
        let mut has_trial = |day: i64| {
            licensing.refresh(&config, Wall(20_000 * DAY).plus_days(day), &mut Vec::new()).expect("readable");
            licensing.standing.trial_until.is_some()
        };
        assert_eq!([has_trial(0), has_trial(20_000), has_trial(1)], [true, false, true]);
        std::fs::write(folder.join("licences/000001.jws"), "nonsense").expect("written");
        let mut events = Vec::new();
        for _ in 0..2 {
            licensing.read = None;
            licensing.refresh(&config, Wall(20_001 * DAY), &mut events).expect("readable");
        }
        assert_eq!(events.len(), 1, "a bad file is told of once: {events:?}");
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
