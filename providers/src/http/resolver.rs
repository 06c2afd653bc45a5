//! Names of hosts that may not lead everywhere.

use std::net::{IpAddr, SocketAddr};

use futures::FutureExt as _;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::lookup_host;

/// Resolves names as the system does, to those addresses alone that a host may have.
pub(super) struct Resolver {
    /// Whether a host may have an address
    pub(super) admits: fn(IpAddr) -> bool,
}

/// A name that leads to no address that a host may have.
#[derive(Debug, thiserror::Error)]
#[error("{0} has only addresses that are not permitted, such as loopback and link-local ones")]
struct NotPermitted(String);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let admits = self.admits;
        async move {
            let all = lookup_host((name.as_str(), 0)).await?;
            let permitted: Vec<SocketAddr> = all.filter(|address| admits(address.ip())).collect();
            if permitted.is_empty() {
                return Err(NotPermitted(name.as_str().to_owned()).into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        }
        .boxed()
    }
}
