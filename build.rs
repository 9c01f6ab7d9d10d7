//! Compiles the protos without an installed protoc: protox is a protobuf compiler in Rust.

use std::{env, error::Error, path::PathBuf};

use protox::prost::Message;

/// Messages that carry a secret's value. prost derives `Debug` for every message unless told to skip it.
const VALUE_MESSAGES: [&str; 8] = [
    ".valetkey.v1.Secret",
    ".valetkey.v1.GetSecretsResponse",
    ".valetkey.v1.SessionResponse",
    ".valetkey.v1.SessionResponse.response",
    ".valetkey.v1.RedactRequest",
    ".valetkey.v1.RotateRequest",
    ".X509SVID",
    ".X509SVIDResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    let protos = ["proto/valetkey/v1/broker.proto", "proto/valetkey/v1/admin.proto"];
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(protos, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // For gRPC reflection.
    std::fs::write(out.join("valetkey.v1.descriptors"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .server_mod_attribute(".", "#[cfg(feature = \"daemon\")]")
        .skip_debug(VALUE_MESSAGES)
        .compile_fds(descriptors)?;
    // Another's contract: the daemon calls it, and serves none of it.
    let descriptors = protox::compile(["proto/spiffe/workload.proto"], ["proto"])?;
    tonic_prost_build::configure().build_server(false).skip_debug(VALUE_MESSAGES).compile_fds(descriptors)?;
    Ok(())
}
