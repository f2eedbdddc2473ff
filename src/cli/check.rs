//! `sipweir check`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{read_config, say, say_json};
use crate::config::Config;
use crate::exit::ExitError;

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
            let problems = Config::parse(&text).err().unwrap_or_default();
            let listed: Vec<_> = problems
                .iter()
                .map(|problem| json!({ "key": problem.key, "problem": problem.what, "cure": problem.cure }))
                .collect();
            say_json(&json!({ "valid": problems.is_empty(), "problems": listed }));
            return match problems.len() {
                0 => Ok(()),
                count => Err(ExitError::Config(format!("{} has {count} problems", self.config.display()))),
            };
        }
        let config = read_config(&self.config)?;
        say(format_args!(
            "{}: valid; {} listeners, {} trunks, {} targets, {} pools with {} channels, {} services",
            self.config.display(),
            config.listen.len(),
            config.trunks.len(),
            config.targets.len(),
            config.pools.len(),
            config.pools.iter().map(|pool| u64::from(pool.settings.capacity)).sum::<u64>(),
            config.services.len(),
        ));
        Ok(())
    }
}
