//! What the kernel remembers of the connections to an address (conntrack).

use std::net::IpAddr;

use crate::command::{CommandError, run};

/// Forgets the connections to an address. Those that go on are tracked anew with their next packet.
///
/// # Errors
/// If `conntrack` cannot be run, or fails.
pub(super) fn forget(address: IpAddr) -> Result<(), CommandError> {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    match run("conntrack", &["--delete", "--family", family, "--orig-dst", &address.to_string()], "") {
        Ok(_) => Ok(()),
        // It fails where there is nothing to delete.
        Err(CommandError::Failed { reason, .. }) if reason.contains("0 flow entries have been deleted") => Ok(()),
        Err(error) => Err(error),
    }
}
