//! What only tests ask of `vm`, through its environment: transfers that are broken on purpose, and short deadlines.
//!
//! | variable | value |
//! | --- | --- |
//! | `TERN_FAULTS` | a plan of faults as [`Plan`] reads it |
//! | `TERN_HIDDEN_FEATURES` | features of the host's processor that it is to do without, as `popcnt,aes` |
//! | `TERN_DEADLINES` | how long a peer may take, as `hello=500ms,silence=2s`; the fields of [`Deadlines`] |
//!
//! Each fault of a phase is told on stderr as it strikes, and at the end of a transfer each fault of the plan with how
//! often it has struck so far: a test whose fault never struck has tested nothing.

use std::{env, sync::Arc, time::Duration};

use hw::i386::cpu_feature::CpuFeature;
use migration::{
    fault::{FaultAction, Faults, NoFaults, PageFault, Plan, phase_name},
    phases::{Phase, Side},
    precopy::Deadlines,
};
use serde_json::json;
use vmstate::state::{Schema, Section};

use super::{error::CliError, messages::Messages, values::duration};
use crate::control::{Event, EventSink};

/// The variable with the plan of faults.
const FAULTS: &str = "TERN_FAULTS";
/// The variable with the deadlines.
const DEADLINES: &str = "TERN_DEADLINES";

/// The variable with the features that this host is to lack.
const HIDDEN_FEATURES: &str = "TERN_HIDDEN_FEATURES";

/// What the environment asks for.
pub(super) struct Trial {
    pub(super) deadlines: Deadlines,
    pub(super) hidden_features: Vec<&'static CpuFeature>,
    told: Option<Arc<ToldFaults>>,
}

impl Trial {
    /// Reads the environment.
    pub(super) fn from_environment(messages: Messages) -> Result<Self, CliError> {
        let wrong = |variable, why: String| CliError::Start(format!("{variable}: {why}"));
        let told = match env::var(FAULTS) {
            Ok(text) => {
                let plan = text.parse().map_err(|error| wrong(FAULTS, format!("{error}")))?;
                Some(Arc::new(ToldFaults { plan, messages }))
            }
            Err(_) => None,
        };
        let deadlines = match env::var(DEADLINES) {
            Ok(text) => parse_deadlines(&text).map_err(|why| wrong(DEADLINES, why))?,
            Err(_) => Deadlines::default(),
        };
        let hidden = env::var(HIDDEN_FEATURES).unwrap_or_default();
        let names = hidden.split(',').filter(|name| !name.is_empty());
        let hidden_features = names
            .map(CpuFeature::called)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong(HIDDEN_FEATURES, error.to_string()))?;
        Ok(Self {
            deadlines,
            hidden_features,
            told,
        })
    }

    /// The faults for the engine.
    pub(super) fn faults(&self) -> Arc<dyn Faults> {
        match &self.told {
            Some(told) => told.clone(),
            None => Arc::new(NoFaults),
        }
    }

    /// Who is to be told of the VM's events, so that the faults of a transfer are told at its end.
    pub(super) fn subscriber(&self) -> Option<Arc<dyn EventSink>> {
        self.told.clone().map(|told| -> Arc<dyn EventSink> { told })
    }
}

/// A plan that says what it does.
struct ToldFaults {
    plan: Plan,
    messages: Messages,
}

impl Faults for ToldFaults {
    fn on_phase(&self, side: Side, phase: Phase) -> Option<FaultAction> {
        let action = self.plan.on_phase(side, phase)?;
        let side = match side {
            Side::Source => "source",
            Side::Destination => "destination",
        };
        let fault = format!("{side}:{}:{}", phase_name(phase), action.name());
        self.messages.news(
            "fault",
            format_args!("the fault {fault} strikes"),
            json!({ "fault": fault }),
        );
        Some(action)
    }

    fn on_page(&self, block: &str, page: u64) -> Option<PageFault> {
        self.plan.on_page(block, page)
    }

    fn lose_dirty(&self, block: &str, page: u64) -> bool {
        self.plan.lose_dirty(block, page)
    }

    fn on_section(&self, section: &mut Section, schema: &Schema) {
        self.plan.on_section(section, schema);
    }
}

impl EventSink for ToldFaults {
    fn event(&self, event: &Event) {
        if let Event::Migration(account) = event
            && account.status.is_final()
        {
            for (fault, count) in self.plan.fired() {
                let fields = json!({ "fault": fault, "count": count });
                let text = format_args!("the fault {fault} has struck {count} times");
                self.messages.news("faults", text, fields);
            }
        }
    }
}

fn parse_deadlines(text: &str) -> Result<Deadlines, String> {
    let mut deadlines = Deadlines::default();
    for part in text.split(',') {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| format!("{part:?} is no NAME=TIME"))?;
        let value = duration(value).map_err(|error| format!("{part:?}: {error}"))?;
        *field(&mut deadlines, name).ok_or_else(|| format!("there is no deadline {name:?}"))? = value;
    }
    Ok(deadlines)
}

fn field<'a>(deadlines: &'a mut Deadlines, name: &str) -> Option<&'a mut Duration> {
    Some(match name {
        "connect" => &mut deadlines.connect,
        "hello" => &mut deadlines.hello,
        "silence" => &mut deadlines.silence,
        "heartbeat" => &mut deadlines.heartbeat,
        "blackout" => &mut deadlines.blackout,
        "running" => &mut deadlines.running,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_set_by_name_and_the_others_stay() {
        assert_eq!(
            parse_deadlines("hello=500ms,silence=2s"),
            Ok(Deadlines {
                hello: Duration::from_millis(500),
                silence: Duration::from_secs(2),
                ..Deadlines::default()
            })
        );
        for text in ["", "hello", "hello=5", "goodbye=1s"] {
            parse_deadlines(text).expect_err(text);
        }
    }
}
