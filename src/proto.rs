//! The messages of `proto`, generated at build time.
#![allow(clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]

/// Version 1 of the contracts.
pub mod v1 {
    tonic::include_proto!("valetkey.v1");

    /// The compiled `.proto` files, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/valetkey.v1.descriptors"));
}

/// What is called of the SPIFFE Workload API.
#[cfg(feature = "daemon")]
pub(crate) mod spiffe {
    // Of no package.
    tonic::include_proto!("_");
}
