//! `sipweir explain`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::Value;

use super::client::NodeArgs;
use super::licence::standing_of;
use super::{read_config, say, say_json};
use crate::admin::view::Problem;
use crate::exit::ExitError;
use crate::pool::Gate;
use crate::route::{Router, explain};

/// Say what would happen to a call from TRUNK to NUMBER now, and why
#[derive(Args)]
pub(super) struct Explain {
    /// The trunk the call would come by
    trunk: String,
    /// The number it would call
    number: String,
    /// Ask this file instead of a running node, as if no call were in progress
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
}

impl Explain {
    pub(super) fn run(self) -> Result<(), ExitError> {
        let explanation = match &self.config {
            Some(path) => {
                let config = Arc::new(read_config(path)?);
                let gate = Gate::licensed(&config.settings(), standing_of(&config)?);
                let router = Router::new(Arc::clone(&config), &gate);
                let found = explain(&router, &gate, (&self.trunk, &self.number), None)
                    .ok_or_else(|| ExitError::NotFound(Problem::no_trunk(&config, &self.trunk).problem))?;
                serde_json::to_value(found).expect("an explanation has string keys only")
            }
            None => {
                let query = [("trunk", Some(self.trunk.as_str())), ("number", Some(self.number.as_str()))];
                self.node.get::<Value>("/api/v1/explain", &query)?
            }
        };
        if self.node.json {
            say_json(&explanation);
            return Ok(());
        }
        say(explanation["verdict"].as_str().unwrap_or_default());
        for step in explanation["steps"].as_array().into_iter().flatten() {
            say(format_args!("  {}", step.as_str().unwrap_or_default()));
        }
        Ok(())
    }
}
