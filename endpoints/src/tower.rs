//! The endpoints as `tower` discovers services.

use std::convert::Infallible;
use std::net::SocketAddr;

use futures::StreamExt as _;
use tower::discover::{self, Discover};

use crate::{Change, Endpoint, LoadBalancer};

impl LoadBalancer {
    /// The endpoints for a balancer of `tower`, such as `tower::balance::p2c::Balance`, which
    /// chooses among them itself. `service` makes the service that sends requests to an endpoint.
    ///
    /// It ends as [`changes`](Self::changes) does.
    pub fn discover<S, F>(
        &self,
        mut service: F,
    ) -> impl Discover<Key = SocketAddr, Service = S, Error = Infallible> + Send + Unpin + use<S, F>
    where
        F: FnMut(&Endpoint) -> S + Send + 'static,
    {
        self.changes().map(move |change| {
            Ok::<_, Infallible>(match change {
                Change::Added(endpoint) => discover::Change::Insert(endpoint.address, service(&endpoint)),
                Change::Removed(endpoint) => discover::Change::Remove(endpoint.address),
            })
        })
    }
}
