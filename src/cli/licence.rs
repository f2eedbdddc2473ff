//! `sipweir licence`: the licences of a node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::client::NodeArgs;
use super::issue::{Inspect, Issue, Keygen};
use super::show::Table;
use super::{read_config, say, say_json};
use crate::admin::view::View;
use crate::config::Config;
use crate::exit::ExitError;
use crate::licence::{EntitlementKind, Licence, Standing, Wall};
use crate::vault::{Done, Held, Vault, VaultError, wall_now};

/// Issue, install and look at licences
#[derive(Subcommand)]
pub(super) enum LicenceCommand {
    /// Show what is licensed, until when, and how much of it is used
    Status(Status),
    /// Install a licence: paste it, or name a file
    Install(Install),
    /// Show what installing a licence would change
    Diff(Install),
    /// Remove a licence
    Remove(Remove),
    /// Print this server's token, which licences are bound to
    Token(Token),
    /// Show what a licence says
    Inspect(Inspect),
    /// For issuers: make a key
    Keygen(Keygen),
    /// For issuers: sign a licence
    Issue(Box<Issue>),
}

impl LicenceCommand {
    pub(super) fn run(self) -> Result<(), ExitError> {
        match self {
            Self::Status(status) => status.run(),
            Self::Install(install) => install.run(false),
            Self::Diff(install) => install.run(true),
            Self::Remove(remove) => remove.run(),
            Self::Token(token) => token.run(),
            Self::Inspect(inspect) => inspect.run(),
            Self::Keygen(keygen) => keygen.run(),
            Self::Issue(issue) => issue.run(),
        }
    }
}

/// The licences are found through the node's configuration.
#[derive(Args)]
struct Where {
    /// The node's configuration file
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Where {
    fn open(&self) -> Result<(Config, Vault), ExitError> {
        let config = read_config(&self.config)?;
        let vault = Vault::open(&config, wall_now())?;
        Ok((config, vault))
    }
}

impl From<VaultError> for ExitError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Rejected(crate::licence::Rejection::Unknown(code)) => {
                Self::NotFound(format!("no licence {code:?} is installed; sipweir licence status lists them"))
            }
            VaultError::Rejected(rejection) => Self::Licence(rejection),
            VaultError::Files { .. } | VaultError::Damaged { .. } => Self::Failed(error.to_string()),
            VaultError::NoDataDir => Self::Config(error.to_string()),
        }
    }
}

/// What `check` and `explain` know of licences without a running node. Nothing is written: a node that was never started
/// has no licences yet, and its trial period begins when it is.
pub(super) fn standing_of(config: &Config) -> Result<Standing, ExitError> {
    let wanted = config.settings().wanted;
    let begins = Standing { trial_until: Some(wall_now()), ..Standing::default() };
    match config.data_dir.as_deref().map(|dir| Path::new(dir).join("licences")) {
        Some(folder) if !wanted.is_nothing() && folder.join("state.json").exists() => {
            let mut vault = Vault::open(config, wall_now())?;
            Ok(read(&mut vault, config)?.2)
        }
        _ => Ok(begins),
    }
}

fn read(vault: &mut Vault, config: &Config) -> Result<(Held, Vec<Licence>, Standing), VaultError> {
    let at = vault.clock(wall_now())?.counts;
    let held = vault.licences(&config.licensing)?;
    let licences: Vec<Licence> = held.good.iter().map(|installed| installed.licence.clone()).collect();
    let standing = vault.standing(&licences, &config.licensing, at);
    Ok((held, licences, standing))
}

/// The text of a file, or of standard input for `-`.
pub(super) fn read_text(file: &Path) -> Result<String, ExitError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|error| ExitError::Failed(format!("cannot read {}: {error}", file.display())))?;
    // Some editors save every character as two octets; what else is no text is no licence either.
    Ok(String::from_utf8_lossy(&bytes).replace('\0', ""))
}

#[derive(Args)]
pub(super) struct Install {
    /// The file; - reads what is pasted, up to its end (Ctrl-D)
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Serialize)]
struct Outcome {
    code: String,
    dry_run: bool,
    changes: Vec<OneChange>,
}

#[derive(Serialize)]
struct OneChange {
    what: String,
    before: String,
    after: String,
}

/// Products of a licence nothing configured asks for: a slip of the pen in the one or the other.
fn unused(licence: &Licence, config: &Config) -> Vec<String> {
    let wanted = config.settings().wanted;
    let asks = |product: &str| {
        wanted.pools.iter().any(|pool| &*pool.product == product)
            || wanted.services.iter().any(|service| {
                [&service.feature, &service.counted].into_iter().any(|name| name.as_deref() == Some(product))
            })
    };
    licence.lines().into_iter().map(|line| line.product).filter(|product| !asks(product)).collect()
}

fn tell(done: &Done, config: &Config, verb: &str, is_dry: bool, json: bool) {
    let unused = unused(&done.licence, config);
    if json {
        let change = |change: &crate::licence::Change| OneChange {
            what: change.what.clone(),
            before: change.before.clone(),
            after: change.after.clone(),
        };
        say_json(&Outcome {
            code: done.licence.code.clone(),
            dry_run: is_dry,
            changes: done.changes.iter().map(change).collect(),
        });
        return;
    }
    let would = if is_dry { "would be " } else { "" };
    say(format_args!("{} {would}{verb}", done.licence.code));
    if done.changes.is_empty() {
        say("  nothing changes today");
        let known = unused.iter().map(|product| format!("{product:?}")).collect::<Vec<_>>().join(", ");
        if !known.is_empty() {
            say(format_args!("  no pool or service of the configuration asks for {known}"));
        }
    }
    let mut table = Table::new(&["", "BEFORE", "AFTER"]);
    for change in &done.changes {
        table.row(vec![format!("  {}", change.what), change.before.clone(), change.after.clone()]);
    }
    if !done.changes.is_empty() {
        say(table.text());
    }
    let starts = done.licence.start();
    if starts > wall_now() && verb == "installed" {
        say(format_args!("  it begins on {starts}"));
    }
}

impl Install {
    fn run(self, is_diff: bool) -> Result<(), ExitError> {
        let is_dry = self.dry_run || is_diff;
        let (config, mut vault) = self.place.open()?;
        let text = read_text(&self.file)?;
        let done = vault.install(&text, &config, wall_now(), is_dry)?;
        tell(&done, &config, "installed", is_dry, self.place.json);
        Ok(())
    }
}

#[derive(Args)]
pub(super) struct Remove {
    /// The licence's code
    code: String,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Where,
}

impl Remove {
    fn run(self) -> Result<(), ExitError> {
        let (config, mut vault) = self.place.open()?;
        let done = vault.remove(&self.code, &config, wall_now(), self.dry_run)?;
        tell(&done, &config, "removed", self.dry_run, self.place.json);
        Ok(())
    }
}

#[derive(Args)]
pub(super) struct Token {
    #[command(flatten)]
    place: Where,
}

impl Token {
    fn run(self) -> Result<(), ExitError> {
        let token = self.place.open()?.1.token().to_owned();
        if self.place.json {
            say_json(&BTreeMap::from([("token", token)]));
        } else {
            say(token);
        }
        Ok(())
    }
}

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    place: Where,
}

/// The licence page.
#[derive(Serialize)]
struct Page {
    token: String,
    at: Wall,
    trial_until: Option<Wall>,
    leans_on_trial: bool,
    applications: Vec<Application>,
    licences: Vec<Line>,
}

/// A product, all its licences together.
#[derive(Serialize)]
struct Application {
    product: String,
    entitlement: &'static str,
    /// In use, when a node answers or configuring is using.
    used: Option<u32>,
    total: u32,
    state: String,
}

/// One line of one licence.
#[derive(Serialize)]
struct Line {
    code: String,
    product: String,
    entitlement: &'static str,
    kind: &'static str,
    quantity: u32,
    working: u32,
    start: Wall,
    last_day: Option<String>,
    days_left: Option<i64>,
    state: &'static str,
    why: String,
}

impl Status {
    fn run(self) -> Result<(), ExitError> {
        let (config, mut vault) = self.place.open()?;
        let clock = vault.clock(wall_now())?;
        let (held, licences, standing) = read(&mut vault, &config)?;
        // Without a running node nothing is used.
        let view: Option<View> = config
            .admin
            .map(|admin| NodeArgs { admin: format!("http://{admin}"), json: false })
            .and_then(|node| node.get("/api/v1/pools", &[]).ok());
        let page = page(&config, vault.token(), &standing, view.as_ref());
        if self.place.json {
            say_json(&page);
        } else {
            print_page(&page);
            for licence in licences.iter().filter(|licence| licence.entitlements.is_empty()) {
                say(format_args!("{}: revokes {}", licence.code, licence.revokes.join(", ")));
            }
            for (file, why) in &held.bad {
                say(format_args!("{}: {why}", file.display()));
            }
            if let Some(now) = clock.set_back_to {
                say(format_args!(
                    "the clock says {now}, and {} was seen before: licences are judged by that",
                    clock.counts
                ));
            }
        }
        Ok(())
    }
}

fn page(config: &Config, token: &str, standing: &Standing, view: Option<&View>) -> Page {
    let wanted = config.settings().wanted;
    let mut applications = Vec::new();
    let state = |is_there: bool| match (is_there, standing.trial_until) {
        (true, _) => "in force",
        (false, Some(_)) => "trial period",
        (false, None) => "missing",
    };
    let mut products: Vec<String> = wanted.pools.iter().map(|pool| pool.product.to_string()).collect();
    products.extend(standing.channels.keys().cloned());
    products.sort();
    products.dedup();
    for product in products {
        let pools: Vec<_> = wanted.pools.iter().filter(|pool| *pool.product == *product).collect();
        let used = view.map(|view| {
            let of_product = view.pools.iter().filter(|seen| pools.iter().any(|pool| *pool.name == *seen.name));
            of_product.map(|pool| pool.in_use).sum()
        });
        let total = match standing.channels.get(&product) {
            Some(channels) => *channels,
            None => pools.iter().map(|pool| crate::licence::Wanted::channels(pool, standing)).sum(),
        };
        let state = state(standing.channels.contains_key(&product)).into();
        applications.push(Application { product, entitlement: "capacity", used, total, state });
    }
    let mut features: Vec<String> =
        wanted.services.iter().filter_map(|service| service.feature.as_deref().map(str::to_owned)).collect();
    features.extend(standing.features.iter().cloned());
    features.sort();
    features.dedup();
    for product in features {
        let state = state(standing.features.contains(&product)).into();
        applications.push(Application { product, entitlement: "feature", used: None, total: 0, state });
    }
    let mut counts: BTreeMap<String, u32> = standing.counts.keys().map(|product| (product.clone(), 0)).collect();
    for product in wanted.services.iter().filter_map(|service| service.counted.as_deref()) {
        *counts.entry(product.to_owned()).or_default() += 1;
    }
    for (product, used) in counts {
        let total = standing.counts.get(&product).copied().unwrap_or(0);
        let state = state(total >= used).into();
        applications.push(Application { product, entitlement: "count", used: Some(used), total, state });
    }
    let line = |row: &crate::licence::Row| {
        let above = row.state.counts() && row.working < row.quantity;
        let above = above.then(|| format!("{} above what this platform can do", row.quantity - row.working));
        Line {
            code: row.code.clone(),
            product: row.product.clone(),
            entitlement: row.entitlement.label(),
            kind: row.kind.label(),
            quantity: row.quantity,
            working: row.working,
            start: row.start,
            last_day: row.term.map(Wall::last_day),
            days_left: row.term.map(|term| term.days_after(standing.at)),
            state: row.state.label(),
            why: above.unwrap_or_else(|| row.state.why()),
        }
    };
    Page {
        token: token.into(),
        at: standing.at,
        trial_until: standing.trial_until,
        leans_on_trial: wanted.leans_on_trial(standing),
        applications,
        licences: standing.rows.iter().map(line).collect(),
    }
}

fn print_page(page: &Page) {
    say(format_args!("server token  {}", page.token));
    if let Some(until) = page.trial_until.filter(|_| page.leans_on_trial) {
        let (last_day, days) = (until.last_day(), until.days_after(page.at));
        say(format_args!("trial period  full function up to {last_day}, {days} days left"));
    }
    let mut table = Table::new(&["APPLICATION", "USED / TOTAL", "STATE"]);
    for application in &page.applications {
        let used = application.used.map_or_else(|| "-".into(), |used| used.to_string());
        let is_feature = application.entitlement == EntitlementKind::Feature.label();
        let numbers = if is_feature { "feature".into() } else { format!("{used} / {}", application.total) };
        table.row(vec![application.product.clone(), numbers, application.state.clone()]);
    }
    say(format_args!("\n{}\n", table.text()));
    if page.licences.is_empty() {
        return say("no licence is installed; sipweir licence install loads one");
    }
    let mut table =
        Table::new(&["CODE", "APPLICATION", "KIND", "WORKING", "START", "LAST DAY", "DAYS LEFT", "STATE", "WHY"]);
    for line in &page.licences {
        let is_feature = line.entitlement == EntitlementKind::Feature.label();
        table.row(vec![
            line.code.clone(),
            line.product.clone(),
            line.kind.into(),
            if is_feature { "-".into() } else { format!("{} of {}", line.working, line.quantity) },
            line.start.to_string(),
            line.last_day.clone().unwrap_or_else(|| "never".into()),
            line.days_left.map_or_else(|| "-".into(), |days| days.to_string()),
            line.state.into(),
            line.why.clone(),
        ]);
    }
    say(table.text());
}
