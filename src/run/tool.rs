//! A tool as it is to be started: its plan and its secrets, made into a program, an environment and descriptors. Again for each restart,
//! with what it may have then.

use std::{
    collections::BTreeMap,
    env,
    ffi::CString,
    io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    Failure,
    deliver::Delivery,
    environment::Environment,
    process::{self, Confinement, Start},
    sandbox::Sandbox,
    session,
};
use crate::{
    client::Secret,
    proto::v1::{LaunchPlan, OnRotation, delivered::To},
};

/// What was granted, and what is made of it.
pub struct Tool {
    plan: LaunchPlan,
    inherit: bool,
    keep_running: bool,
    /// By name: what the tool has, or will have when it is started next.
    secrets: Mutex<BTreeMap<String, Secret>>,
    /// The same over all restarts.
    delivery: Delivery,
    sandbox: Option<Sandbox>,
}

impl Tool {
    /// Makes everything ready that needs no value, before there is one in this process. What this host cannot give is said here.
    pub fn prepare(plan: LaunchPlan, inherit: bool, keep_running: bool) -> Result<Self, Failure> {
        let rewritable = plan.on_rotation() != OnRotation::NotifyOnly;
        let delivery = Delivery::prepare(&plan.secrets, rewritable, session::home().as_deref())?;
        let sandbox = plan.sandbox.as_ref().map(Sandbox::prepare).transpose()?;
        if let (Some(sandbox), Some(directory)) = (&sandbox, delivery.directory()) {
            sandbox.also_read(directory).map_err(io::Error::from)?;
        }
        Ok(Self { inherit: inherit || plan.inherit, plan, keep_running, secrets: Mutex::default(), delivery, sandbox })
    }

    pub fn plan(&self) -> &LaunchPlan {
        &self.plan
    }

    /// Takes a version of a secret: what is delivered as a file has it at once, all else at the next start.
    pub fn take(&self, secret: &Secret) -> Result<(), Failure> {
        secret.expose(|value| self.delivery.write(secret.name(), value))?;
        self.secrets().insert(secret.name().into(), secret.clone());
        Ok(())
    }

    /// Does the tool find a new version of this where it found the old one?
    pub fn reads_anew(&self, secret: &Secret) -> bool {
        let of_it = self.plan.secrets.iter().filter(|delivered| delivered.secret == secret.name());
        of_it.into_iter().all(|delivered| matches!(delivered.to, Some(To::File(_) | To::Fd(_))))
    }

    /// What to start now.
    pub fn start(&self) -> Result<Start, Failure> {
        let mut environment = Environment::new(env::vars_os(), self.inherit, &self.plan.environment);
        self.put_values(&mut environment)?;
        self.delivery.variables().for_each(|(variable, path)| environment.set(variable, path));
        let [program, ..] = &self.plan.command[..] else { return Err(Failure::nothing_to_run()) };
        let program = process::find(program.as_ref(), environment.path())?;
        if let Some(sandbox) = &self.sandbox {
            sandbox.admits(Path::new(std::ffi::OsStr::from_bytes(program.as_bytes())))?;
        }
        let arguments = self.plan.command.iter().map(|word| CString::new(word.as_str()));
        let arguments = arguments.collect::<Result<_, _>>().map_err(|_| Failure::nothing_to_run())?;
        let keep = self.delivery.keep().map(|fd| Ok((fd.try_clone_to_owned()?, fd.as_raw_fd())));
        let keep = keep.collect::<io::Result<_>>()?;
        Ok(Start {
            program,
            arguments,
            environment: environment.into_variables(),
            keep,
            confinement: self.confinement()?,
            relay_input: self.plan.redact && self.plan.on_rotation() == OnRotation::Restart,
            ends_with_input: !self.keep_running,
        })
    }

    fn put_values(&self, environment: &mut Environment) -> Result<(), Failure> {
        let secrets = self.secrets();
        for delivered in &self.plan.secrets {
            let (Some(To::Env(variable)), Some(secret)) = (&delivered.to, secrets.get(&delivered.secret)) else { continue };
            secret.expose(|value| environment.set_secret(variable, secret.name(), value))?;
        }
        Ok(())
    }

    fn confinement(&self) -> io::Result<Option<Confinement>> {
        let mut confinement = self.sandbox.as_ref().map(Sandbox::confinement).transpose()?.unwrap_or_default();
        self.delivery.confine(&mut confinement)?;
        Ok(Some(confinement))
    }

    fn secrets(&self) -> MutexGuard<'_, BTreeMap<String, Secret>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
