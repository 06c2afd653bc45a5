//! What talks to AWS: for each region one client and one budget, whatever the
//! number of classes and load balancers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region as RegionName, SdkConfig};
use aws_sdk_elasticloadbalancingv2::Client;
use aws_smithy_http_client::tls::{Provider as Tls, rustls_provider::CryptoMode};
use tokio::sync::OnceCell;

use super::budget::Rates;

/// A call that takes longer than this is given up, and its answer counts as lost.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that takes longer than this to be made is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The clients of all regions; one per process, since AWS counts calls by account
/// and region. Clones are the same clients.
#[derive(Clone)]
pub struct Clients(Arc<Inner>);

struct Inner {
    /// `None`: by the default chain
    config: Option<SdkConfig>,
    #[expect(dead_code, reason = "what uses it comes next")]
    rates: Rates,
    regions: Mutex<BTreeMap<String, Arc<Region>>>,
}

/// One region.
pub(super) struct Region {
    name: String,
    config: Option<SdkConfig>,
    client: OnceCell<Client>,
}

impl Clients {
    /// Clients with the credentials of the default chain: environment, web
    /// identity (IRSA), container (pod identity), instance. Nothing is looked up
    /// before the first call. `AWS_ENDPOINT_URL` is heeded.
    #[must_use]
    pub fn new(rates: Rates) -> Self {
        Self::build(None, rates)
    }

    /// Clients with this configuration, for tests.
    #[must_use]
    pub fn with_config(config: SdkConfig, rates: Rates) -> Self {
        Self::build(Some(config), rates)
    }

    fn build(config: Option<SdkConfig>, rates: Rates) -> Self {
        Self(Arc::new(Inner { config, rates, regions: Mutex::default() }))
    }

    /// What all load balancers of a region share.
    pub(super) fn region(&self, name: &str) -> Arc<Region> {
        let mut regions = self.0.regions.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let config = self.0.config.clone();
            Arc::new(Region { name: name.to_owned(), config, client: OnceCell::new() })
        };
        regions.entry(name.to_owned()).or_insert_with(new).clone()
    }
}

impl Region {
    /// The client, made at the first call.
    pub(super) async fn client(&self) -> &Client {
        let new = || async {
            let config = match &self.config {
                Some(config) => config.clone(),
                None => load(&self.name).await,
            };
            // Every try costs a token of the budget, so tries are made there.
            let config = aws_sdk_elasticloadbalancingv2::config::Builder::from(&config)
                .region(RegionName::new(self.name.clone()))
                .retry_config(RetryConfig::disabled())
                .build();
            Client::from_conf(config)
        };
        self.client.get_or_init(new).await
    }
}

async fn load(region: &str) -> SdkConfig {
    let timeouts =
        TimeoutConfig::builder().operation_attempt_timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).build();
    aws_config::defaults(BehaviorVersion::latest())
        .region(RegionName::new(region.to_owned()))
        // An HTTPS client without C code in it, as the rest of the controller has it.
        .http_client(aws_smithy_http_client::Builder::new().tls_provider(Tls::Rustls(CryptoMode::Ring)).build_https())
        .timeout_config(timeouts)
        .load()
        .await
}
