//! What the kernel remembers of the connections to an address (conntrack).

use std::net::IpAddr;

use crate::command::{CommandError, run};
use crate::nftables::conntrack::{Connections, has_found_none};

/// Forgets the connections to an address. Those that go on are tracked anew with their next packet.
///
/// # Errors
/// If `conntrack` cannot be run, or fails.
pub(super) fn forget(address: IpAddr) -> Result<(), CommandError> {
    let arguments = Connections::To(address).deletion();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run("conntrack", &arguments, "") {
        Err(CommandError::Failed { reason, .. }) if has_found_none(&reason) => Ok(()),
        result => result.map(drop),
    }
}
