//! Credentials that an engine makes for us, and their leases.
