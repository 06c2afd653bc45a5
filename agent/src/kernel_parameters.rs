//! The parameters of the kernel (sysctl) that a host needs so that connections outlive another host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::virtual_router::Interface;

/// Where the kernel has its parameters.
const ROOT: &str = "/proc/sys";

/// Sets the parameters in this network namespace that have other values:
///
/// - `net.netfilter.nf_conntrack_tcp_loose=1`: packets of a connection that the host has never seen
///   are led to a pod.
/// - `net.netfilter.nf_conntrack_tcp_be_liberal=1`: so are those of a connection that has gone on
///   elsewhere since the host last saw it. Without that, they are out of the TCP window that the
///   host remembers, and dropped.
/// - `net.ipv4.conf.INTERFACE.arp_announce=2`: a host that looks for a neighbor names an address of
///   its own, and not the one of the load balancer that is the packet's source. That would announce
///   the load balancer to be here, and is what a closed fence drops.
///
/// The kernel has the first two once there are rules that need to track connections, so the data
/// path comes before.
///
/// # Errors
/// If a parameter has another value and cannot be written, as in a container whose `/proc/sys` is
/// read-only. Then the host has to be configured with it.
pub fn set(interface: &Interface) -> Result<(), KernelParameterError> {
    set_below(Path::new(ROOT), interface)
}

fn set_below(root: &Path, interface: &Interface) -> Result<(), KernelParameterError> {
    let announce = format!("net/ipv4/conf/{}/arp_announce", interface.as_str());
    let parameters = [
        ("net/netfilter/nf_conntrack_tcp_loose", "1"),
        ("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),
        (&announce, "2"),
    ];
    for (name, value) in parameters {
        let path = root.join(name);
        write_if_different(&path, value).map_err(|source| KernelParameterError { path, value, source })?;
    }
    Ok(())
}

fn write_if_different(path: &Path, value: &str) -> io::Result<()> {
    if fs::read_to_string(path)?.trim() == value { Ok(()) } else { fs::write(path, value) }
}

/// A parameter does not have the value that the host needs.
#[derive(Debug, Error)]
#[error("{} has to be {value}", path.display())]
pub struct KernelParameterError {
    /// Its file
    path: PathBuf,
    /// The value
    value: &'static str,
    /// Why it cannot be read, or written
    #[source]
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_has_its_value_is_not_written() {
        let root = tempfile::tempdir().unwrap();
        let interface = Interface::new("eth0").unwrap();
        let files = ["net/netfilter/nf_conntrack_tcp_loose", "net/netfilter/nf_conntrack_tcp_be_liberal"];
        let announce = "net/ipv4/conf/eth0/arp_announce";
        for (file, value) in files.map(|file| (file, "1")).into_iter().chain([(announce, "0")]) {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // The kernel ends a value with a newline.
            fs::write(path, format!("{value}\n")).unwrap();
        }
        set_below(root.path(), &interface).unwrap();
        assert_eq!(fs::read_to_string(root.path().join(files[0])).unwrap(), "1\n", "as it was");
        assert_eq!(fs::read_to_string(root.path().join(announce)).unwrap(), "2");
    }

    #[test]
    fn a_parameter_that_is_not_there_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = set_below(root.path(), &Interface::new("eth0").unwrap()).unwrap_err();
        assert!(error.to_string().ends_with("/net/netfilter/nf_conntrack_tcp_loose has to be 1"), "{error}");
    }
}
