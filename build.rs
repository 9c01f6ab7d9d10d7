//! Compiles the protos without an installed protoc: protox is a protobuf compiler in Rust.

use std::{env, error::Error, path::PathBuf};

/// Messages that carry a secret's value. prost derives `Debug` for every message unless told to skip it.
const VALUE_MESSAGES: [&str; 3] = ["valetkey.v1.Secret", "valetkey.v1.GetSecretsResponse", "valetkey.v1.SessionResponse"];

fn main() -> Result<(), Box<dyn Error>> {
    let protos = ["proto/valetkey/v1/broker.proto", "proto/valetkey/v1/admin.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(protos, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .server_mod_attribute(".", "#[cfg(feature = \"daemon\")]")
        .skip_debug(VALUE_MESSAGES.map(|m| format!(".{m}")).iter().chain([&".valetkey.v1.SessionResponse.response".to_owned()]))
        .file_descriptor_set_path(out.join("valetkey.v1.descriptors"))
        .compile_fds(descriptors.clone())?;
    std::fs::write(out.join("valetkey.v1.descriptors"), prost_bytes(&descriptors))?;
    Ok(())
}

fn prost_bytes(descriptors: &impl protox::prost::Message) -> Vec<u8> {
    descriptors.encode_to_vec()
}
