//! The `aws` provider: Network Load Balancers.
//!
//! A load balancer of a class is one NLB. Each front port is a listener with a
//! target group of its own, and its backends are that group's targets: pods by
//! their addresses, or nodes by their instance ids.

mod budget;
mod clients;
pub mod limits;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::budget::{Rate, Rates};
pub use self::clients::Clients;
use self::clients::Region;
pub use self::settings::{HealthCheck, IpAddressType, IpFamily, Scheme, Settings, SubnetMapping, TargetKind};
use crate::diff::Change;
use crate::model::{Attributes, Capabilities, LbName, LoadBalancer, Observed, Protocol};
use crate::{Applied, Error, Provider};

/// How long changes of backends are gathered, to go out as one call to register
/// and one to deregister: a rollout replaces its pods one after another, and
/// those calls are refilled at 4 a second for all load balancers together.
const GATHER: Duration = Duration::from_secs(1);

/// The provider of a class.
pub struct Aws {
    settings: Settings,
    region: Arc<Region>,
}

impl Aws {
    /// A provider that shares client and budget with all others of its region.
    /// Nothing is called before the first look.
    #[must_use]
    pub fn new(settings: Settings, clients: &Clients) -> Self {
        let region = clients.region(&settings.region);
        Self { settings, region }
    }

    /// Targets that surely fit on a load balancer that nobody has looked at yet.
    fn targets_unseen(&self) -> u32 {
        match &self.settings.load_balancer_arn {
            // Its zones, and whether each reaches all targets, are not known.
            Some(_) => limits::TARGETS_CROSS_ZONE,
            None => limits::targets(self.settings.subnet_mappings.len(), self.settings.cross_zone),
        }
    }
}

#[async_trait]
impl Provider for Aws {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            protocols: &[Protocol::Tcp, Protocol::Udp, Protocol::TcpUdp],
            // A port number has one listener, whatever it accepts.
            tcp_and_udp_share_a_number: false,
            listeners_for_tcp_udp: 1,
            isolates_failures: true,
            pod_targets: true,
            node_targets: true,
            reserved: Vec::new(),
            default_listeners: limits::LISTENERS,
            max_listeners: limits::LISTENERS,
            default_targets: Some(self.targets_unseen()),
            max_targets_per_listener: Some(limits::TARGETS_PER_GROUP),
            gather: GATHER,
        }
    }

    fn attributes(&self, _: u32) -> Attributes {
        Attributes::new()
    }

    async fn observe(&self, _: &LbName) -> Result<Option<Observed>, Error> {
        let _ = self.region.client().await;
        Err(unfinished())
    }

    async fn apply(&self, _: &LbName, _: &LoadBalancer, _: &[Change]) -> Result<Applied, Error> {
        Err(unfinished())
    }

    async fn delete(&self, _: &LbName) -> Result<(), Error> {
        Err(unfinished())
    }
}

fn unfinished() -> Error {
    Error::Refused("the provider aws is not finished in this version: use another provider".into())
}
