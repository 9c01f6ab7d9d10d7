//! A tool as it is to be started: its plan and its secrets, made into a program, an environment and descriptors. Again for each restart,
//! with what it may have then.

use std::{
    collections::BTreeMap,
    env,
    ffi::CString,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    Failure,
    environment::Environment,
    process::{self, Start},
};
use crate::{
    client::Secret,
    proto::v1::{LaunchPlan, OnRotation, delivered::To},
};

/// What was granted, and what became of it.
pub struct Tool {
    plan: LaunchPlan,
    inherit: bool,
    /// By name: what the tool has, or will have when it is started next.
    secrets: Mutex<BTreeMap<String, Secret>>,
}

impl Tool {
    pub fn new(plan: LaunchPlan, inherit: bool, secrets: &[Secret]) -> Self {
        let secrets = secrets.iter().map(|secret| (secret.name().into(), secret.clone())).collect();
        Self { inherit: inherit || plan.inherit, plan, secrets: Mutex::new(secrets) }
    }

    pub fn plan(&self) -> &LaunchPlan {
        &self.plan
    }

    /// What to start now.
    pub fn start(&self) -> Result<Start, Failure> {
        let mut environment = Environment::new(env::vars_os(), self.inherit, &self.plan.environment);
        let secrets = self.secrets();
        for delivered in &self.plan.secrets {
            // Everything of the plan was fetched, or nothing would be started.
            let Some((secret, to)) = secrets.get(&delivered.secret).zip(delivered.to.as_ref()) else { continue };
            match to {
                To::Env(variable) => {
                    secret.expose(|value| environment.set_secret(variable, secret.name(), value)).map_err(Failure::from)?
                }
                To::File(_) | To::Fd(_) => {}
            }
        }
        drop(secrets);
        let [program, ..] = &self.plan.command[..] else { return Err(Failure::nothing_to_run()) };
        let program = process::find(program.as_ref(), environment.path())?;
        let arguments = self.plan.command.iter().map(|word| CString::new(word.as_str()));
        let arguments = arguments.collect::<Result<_, _>>().map_err(|_| Failure::nothing_to_run())?;
        Ok(Start {
            program,
            arguments,
            environment: environment.into_variables(),
            keep: Vec::new(),
            confinement: None,
            relay_input: self.plan.redact && self.plan.on_rotation() == OnRotation::Restart,
            ends_with_input: self.plan.redact,
        })
    }

    /// Remembers a new version, for the next start.
    pub fn take(&self, secret: Secret) {
        self.secrets().insert(secret.name().into(), secret);
    }

    fn secrets(&self) -> MutexGuard<'_, BTreeMap<String, Secret>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
