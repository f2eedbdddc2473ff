//! `sipweir licence keygen`, `issue` and `inspect`: the issuer's side.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::licence::read_text;
use super::{read_config, say, say_json};
use crate::exit::ExitError;
use crate::licence::{Entitlement, EntitlementKind, Kind, Licence, Rejection, Wall};
use crate::vault::{KeyFile, peek, sign, verify, wall_now};

#[derive(Args)]
pub(super) struct Keygen {
    /// Where the private key is written; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Keygen {
    pub(super) fn run(self) -> Result<(), ExitError> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let key = KeyFile::generate().map_err(|error| ExitError::Failed(format!("no randomness: {error}")))?;
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.out);
        file.and_then(|mut file| file.write_all(key.to_pem().as_bytes())).map_err(|error| {
            let file = self.out.display();
            ExitError::Failed(format!("cannot write {file}: {error}; a key is never overwritten, name another file"))
        })?;
        say(format_args!(
            "the private key is in {}; keep it secret. Nodes that accept its licences need:\n\n\
             [[licence.issuer]]\nname = \"…\"\nkey = \"{}\"",
            self.out.display(),
            key.public_key()
        ));
        Ok(())
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum KindArg {
    Permanent,
    Subscription,
    Temporary,
    Trial,
}

#[derive(Args)]
pub(super) struct Issue {
    /// The issuer's private key, as keygen made it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// All claims from a JSON file, as inspect --json prints them; for suites and other special lines
    #[arg(long, value_name = "FILE", conflicts_with_all = ["issuer", "code", "customer", "kind", "first_day", "last_day", "server", "capacity", "feature", "count", "requires", "redundancy", "replaces", "revokes"])]
    claims: Option<PathBuf>,
    /// The issuer's name, as nodes have it in [[licence.issuer]]
    #[arg(long, required_unless_present = "claims")]
    issuer: Option<String>,
    /// The licence's code
    #[arg(long, required_unless_present = "claims")]
    code: Option<String>,
    /// For whom it is
    #[arg(long, required_unless_present = "claims")]
    customer: Option<String>,
    /// How long it holds
    #[arg(long, value_enum, default_value = "permanent")]
    kind: KindArg,
    /// The first day it holds, such as 2026-12-01 (UTC); today without it
    #[arg(long, value_name = "DATE")]
    first_day: Option<jiff::civil::Date>,
    /// The last day it holds (UTC)
    #[arg(long, value_name = "DATE")]
    last_day: Option<jiff::civil::Date>,
    /// The token of the server it is for; any server without it, but a trial needs it
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    server: Option<String>,
    /// So many channels of a product; may be repeated, as may feature, count, replaces and revokes
    #[arg(long, value_name = "PRODUCT=CHANNELS", value_parser = quantity)]
    capacity: Vec<(String, u32)>,
    /// A feature, such as ivr
    #[arg(long, value_name = "FEATURE")]
    feature: Vec<String>,
    /// So many things that count when they are configured, such as services
    #[arg(long, value_name = "PRODUCT=NUMBER", value_parser = quantity)]
    count: Vec<(String, u32)>,
    /// The features count only where this product has capacity, too; may be repeated
    #[arg(long, value_name = "PRODUCT", requires = "feature")]
    requires: Vec<String>,
    /// It counts on a standby node, and only there
    #[arg(long)]
    redundancy: bool,
    /// The code of a licence it takes the place of
    #[arg(long, value_name = "CODE")]
    replaces: Vec<String>,
    /// The code of a licence that no longer holds
    #[arg(long, value_name = "CODE")]
    revokes: Vec<String>,
}

fn token(text: &str) -> Result<String, String> {
    let groups: Vec<&str> = text.split('-').collect();
    let is_group =
        |group: &&str| group.len() == 4 && group.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase());
    match groups[..] {
        ["SW", ref rest @ ..] if rest.len() == 4 && rest.iter().all(is_group) => Ok(text.to_owned()),
        _ => Err("write it as sipweir licence token prints it: SW-XXXX-XXXX-XXXX-XXXX".into()),
    }
}

fn quantity(text: &str) -> Result<(String, u32), String> {
    let parts = text.rsplit_once('=').and_then(|(product, number)| Some((product, number.parse().ok()?)));
    let (product, number) = parts.filter(|(product, _)| !product.is_empty()).ok_or("write it as PRODUCT=20")?;
    Ok((product.to_owned(), number))
}

/// Midnight, UTC, at the beginning of a day.
fn midnight(date: jiff::civil::Date) -> Result<Wall, ExitError> {
    let at = date.to_zoned(jiff::tz::TimeZone::UTC);
    at.map(|at| Wall(at.timestamp().as_second())).map_err(|error| ExitError::Failed(format!("{date}: {error}")))
}

impl Issue {
    pub(super) fn run(self) -> Result<(), ExitError> {
        let pem = read_text(&self.key)?;
        let key = KeyFile::from_pem(&pem).ok_or_else(|| {
            ExitError::Failed(format!("{} is no private key of sipweir licence keygen", self.key.display()))
        })?;
        let licence = match &self.claims {
            Some(file) => serde_json::from_str(&read_text(file)?)
                .map_err(|error| ExitError::Failed(format!("{}: {error}", file.display())))?,
            None => self.claims_of_arguments()?,
        };
        if let Err(Rejection::Claims(what)) = licence.check() {
            return Err(ExitError::Failed(format!("{what}: nothing was signed")));
        }
        say(sign(&licence, &key).map_err(|error| ExitError::Failed(format!("cannot sign: {error}")))?);
        Ok(())
    }

    fn claims_of_arguments(self) -> Result<Licence, ExitError> {
        let mut entitlements = Vec::new();
        let counted = |kind| move |(product, number)| Entitlement::new(kind, product, Some(number));
        entitlements.extend(self.capacity.into_iter().map(counted(EntitlementKind::Capacity)));
        entitlements.extend(self.feature.into_iter().map(|product| Entitlement {
            requires: self.requires.clone(),
            ..Entitlement::new(EntitlementKind::Feature, product, None)
        }));
        entitlements.extend(self.count.into_iter().map(counted(EntitlementKind::Count)));
        for line in &mut entitlements {
            line.redundancy = self.redundancy;
        }
        let tomorrow = |day: jiff::civil::Date| {
            day.tomorrow().map_err(|error| ExitError::Failed(format!("{day}: {error}"))).and_then(midnight)
        };
        Ok(Licence {
            code: self.code.unwrap_or_default(),
            issuer: self.issuer.unwrap_or_default(),
            customer: self.customer.unwrap_or_default(),
            kind: match self.kind {
                KindArg::Permanent => Kind::Permanent,
                KindArg::Subscription => Kind::Subscription,
                KindArg::Temporary => Kind::Temporary,
                KindArg::Trial => Kind::Trial,
            },
            issued: wall_now(),
            not_before: self.first_day.map(midnight).transpose()?,
            expires: self.last_day.map(tomorrow).transpose()?,
            server: self.server,
            entitlements,
            replaces: self.replaces,
            revokes: self.revokes,
        })
    }
}

#[derive(Args)]
pub(super) struct Inspect {
    /// The file; - reads what is pasted, up to its end (Ctrl-D)
    #[arg(default_value = "-")]
    file: PathBuf,
    /// A configuration whose issuers the signature is checked against
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> Result<(), ExitError> {
        let text = read_text(&self.file)?;
        let licence = peek(&text)?;
        let verdict = match &self.config {
            Some(path) => Some(verify(&text, &read_config(path)?.licensing)),
            None => None,
        };
        if self.json {
            say_json(&licence);
        } else {
            print(&licence);
            match &verdict {
                None => say("signature   not checked (--config FILE names the issuers)"),
                Some(Ok(())) => say("signature   good"),
                Some(Err(rejection)) => say(format_args!("signature   {rejection}")),
            }
        }
        match verdict {
            Some(Err(rejection)) => Err(rejection.into()),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

fn print(licence: &Licence) {
    say(format_args!("code        {}", licence.code));
    say(format_args!("issuer      {}, on {}", licence.issuer, licence.issued));
    say(format_args!("customer    {}", licence.customer));
    say(format_args!("kind        {}", licence.kind.label()));
    say(format_args!("first day   {}", licence.start()));
    say(format_args!("last day    {}", licence.expires.map_or_else(|| "never".into(), Wall::last_day)));
    say(format_args!("server      {}", licence.server.as_deref().unwrap_or("any")));
    for line in &licence.entitlements {
        say(format_args!("grants      {}", words(line)));
        for part in &line.includes {
            say(format_args!("              {}", words(part)));
        }
    }
    for (name, codes) in [("replaces", &licence.replaces), ("revokes", &licence.revokes)] {
        if !codes.is_empty() {
            say(format_args!("{name:<11} {}", codes.join(", ")));
        }
    }
}

fn words(line: &Entitlement) -> String {
    let product = &line.product;
    let mut words = match (line.kind, line.quantity) {
        (EntitlementKind::Capacity, Some(channels)) => format!("{channels} channels of {product}"),
        (EntitlementKind::Count, Some(number)) => format!("{number} of {product}"),
        (EntitlementKind::Suite, times) => format!("suite {product}, {} times:", times.unwrap_or(1)),
        (EntitlementKind::Feature | EntitlementKind::Capacity | EntitlementKind::Count, _) => {
            format!("{} {product}", line.kind.label())
        }
    };
    if !line.requires.is_empty() {
        words += &format!(", needs {}", line.requires.join(" and "));
    }
    if line.redundancy {
        words += ", on a standby node";
    }
    words
}
