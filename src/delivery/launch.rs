//! A launcher's plan and its reports, between policy's words and the contract's.

use tonic::Status;

use super::status;
use crate::{
    broker::{Channel, Report},
    policy::{Delivered, Delivery, OnRedaction, OnRotation, Plan, Sandbox},
    proto::v1::{self, delivered::To},
};

/// What a launcher is told.
pub fn plan(plan: &Plan) -> v1::LaunchPlan {
    let launch = &plan.launch;
    let (on_rotation, signal) = on_rotation(launch.on_rotation);
    v1::LaunchPlan {
        command: plan.command.clone(),
        secrets: plan.secrets.iter().filter_map(delivered).collect(),
        environment: launch.environment.clone(),
        inherit: launch.inherit,
        redact: launch.redact,
        redact_shapes: launch.redact_shapes,
        on_redaction: match launch.on_redaction {
            OnRedaction::Report => v1::OnRedaction::Report,
            OnRedaction::Stop => v1::OnRedaction::Stop,
        }
        .into(),
        on_rotation: on_rotation.into(),
        rotation_signal: signal,
        sandbox: launch.sandbox.as_ref().map(sandbox),
    }
}

fn on_rotation(does: OnRotation) -> (v1::OnRotation, i32) {
    match does {
        // A launcher cannot do what is systemd's to do, and configuration refuses that.
        OnRotation::NotifyOnly | OnRotation::Reload => (v1::OnRotation::NotifyOnly, 0),
        OnRotation::Restart => (v1::OnRotation::Restart, 0),
        OnRotation::Rewrite => (v1::OnRotation::Rewrite, 0),
        OnRotation::Signal(number) => (v1::OnRotation::Signal, number),
    }
}

/// What a tool asks for itself is no launcher's business.
fn delivered(one: &Delivered) -> Option<v1::Delivered> {
    let to = match &one.to {
        Delivery::Rpc | Delivery::Credential(_) => return None,
        Delivery::Env(variable) => To::Env(variable.clone()),
        Delivery::File(variable) => To::File(variable.clone()),
        Delivery::Fd(variable) => To::Fd(variable.clone()),
    };
    Some(v1::Delivered { secret: one.secret.to_string(), to: Some(to), canary: one.canary })
}

fn sandbox(sandbox: &Sandbox) -> v1::Sandbox {
    // Configuration is UTF-8, and so are the paths in it.
    let paths = |paths: &[std::path::PathBuf]| paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    v1::Sandbox {
        read: paths(&sandbox.read),
        write: paths(&sandbox.write),
        connect: sandbox.connect.iter().map(|port| u32::from(*port)).collect(),
        unix_sockets: sandbox.unix_sockets,
        max_memory: sandbox.memory.unwrap_or(0),
        max_processes: sandbox.processes.unwrap_or(0),
        max_files: sandbox.files.unwrap_or(0),
        max_cpu_seconds: sandbox.cpu.map_or(0, |cpu| cpu.as_secs()),
    }
}

/// What a launcher says.
pub fn report(found: &v1::Redacted) -> Result<Report<'_>, Status> {
    let channel = match found.channel() {
        v1::Channel::Stdout => Channel::Stdout,
        v1::Channel::Stderr => Channel::Stderr,
        v1::Channel::Terminal => Channel::Terminal,
        v1::Channel::Unspecified => return Err(status::bad_request("a report says where the value was written")),
    };
    Ok(Report {
        secret: &found.name,
        version: &found.version,
        channel,
        encoding: &found.encoding,
        count: found.count,
        stopped: found.stopped,
    })
}
