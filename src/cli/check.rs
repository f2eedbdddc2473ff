//! `sipweir check`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::licence::standing_of;
use super::{read_config, say, say_json};
use crate::config::{Config, Secret};
use crate::exit::ExitError;
use crate::licence::Wanted;
use crate::transport::tls::Tls;

/// Check a configuration file and report every problem in it
#[derive(Args)]
pub(super) struct Check {
    /// The configuration file
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<(), ExitError> {
        if self.json {
            let text = std::fs::read_to_string(&self.config)
                .map_err(|error| ExitError::Config(format!("cannot read {}: {error}", self.config.display())))?;
            let parsed = Config::parse(&text);
            let problems = parsed.as_ref().err().map(Vec::as_slice).unwrap_or_default();
            let mut listed: Vec<_> = problems
                .iter()
                .map(|problem| json!({ "key": problem.key, "problem": problem.what, "cure": problem.cure }))
                .collect();
            let files =
                parsed.as_ref().map_or_else(|_| Vec::new(), |config| Tls::load(config).err().unwrap_or_default());
            listed.extend(files.iter().map(|problem| {
                let what = format!("{}: {}", problem.file, problem.what);
                json!({ "key": problem.key, "problem": what, "cure": "name a PEM file that sipweir may read" })
            }));
            say_json(&json!({ "valid": listed.is_empty(), "problems": listed }));
            return match listed.len() {
                0 => Ok(()),
                count => Err(ExitError::Config(format!("{} has {count} problems", self.config.display()))),
            };
        }
        let config = read_config(&self.config)?;
        let tls = Tls::load(&config).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
            ExitError::Config(format!(
                "{} names files that cannot be used:\n{}",
                self.config.display(),
                lines.join("\n")
            ))
        })?;
        let (wanted, standing) = (config.settings().wanted, standing_of(&config)?);
        let licensed: u64 = wanted.pools.iter().map(|pool| u64::from(Wanted::channels(pool, &standing))).sum();
        say(format_args!(
            "{}: valid; {} listeners, {} trunks, {} targets, {} pools with {} channels, {} services",
            self.config.display(),
            config.listen.len(),
            config.trunks.len(),
            config.targets.len(),
            config.pools.len(),
            config.pools.iter().map(|pool| u64::from(pool.settings.capacity)).sum::<u64>() + licensed,
            config.services.len(),
        ));
        for pool in &wanted.pools {
            let (channels, product) = (Wanted::channels(pool, &standing), &pool.product);
            say(match (standing.channels.contains_key(&**product), standing.trial_until) {
                (true, _) => format!("pool {}: {channels} channels, from licences for {product}", pool.name),
                (false, Some(_)) => format!("pool {}: {channels} channels in the trial period", pool.name),
                (false, None) => format!("pool {}: no licence for {product} is in force", pool.name),
            });
            let services = wanted.services.iter().filter(|service| service.capacity.as_ref() == Some(product));
            let reserved: u64 = services.map(|service| u64::from(service.reserve)).sum();
            if reserved > u64::from(channels) {
                say(format_args!("pool {}: its services reserve {reserved} channels, more than there are", pool.name));
            }
        }
        let now = jiff::Timestamp::now().as_second();
        for (file, ends) in tls.certificates() {
            let day =
                jiff::Timestamp::from_second(*ends).map(|at| at.strftime("%Y-%m-%d").to_string()).unwrap_or_default();
            if *ends <= now {
                say(format_args!("certificate {file}: ended on {day}; nobody takes it: renew it"));
            } else if *ends < now + 14 * 86_400 {
                say(format_args!("certificate {file}: ends on {day}; renew it"));
            }
        }
        for sink in &config.sinks {
            if let Some(Secret::File(path)) = sink.kind.secret()
                && let Err(error) = std::fs::metadata(&**path)
            {
                say(format_args!("sink {}: its secret, {path}: {error}", sink.name));
            }
        }
        for (service, lack) in wanted.services.iter().zip(wanted.lacks(&standing)) {
            if let Some(lack) = lack {
                say(format_args!(
                    "service {}: {}; its calls take the unlicensed plan",
                    service.name,
                    service.says(lack)
                ));
            }
        }
        Ok(())
    }
}
