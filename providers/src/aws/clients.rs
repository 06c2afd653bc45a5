//! The clients of AWS: one client and one budget for each region, whatever the number of
//! classes and load balancers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region as RegionName, SdkConfig};
use aws_sdk_elasticloadbalancingv2::Client;
use aws_sdk_elasticloadbalancingv2::config::http::HttpResponse;
use aws_sdk_elasticloadbalancingv2::config::{HttpClient, SharedHttpClient};
use aws_sdk_elasticloadbalancingv2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls::{Provider as Tls, rustls_provider::CryptoMode};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::failure::{Failure, Kind};
use super::limits::Limits;
use super::rates::{Budget, Rates};
use crate::Gate;
use crate::budget::Turn;

/// A call that takes longer than this is given up, and its answer counts as lost.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that is not established within this time is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most attempts of one call, where AWS throttles it or a read gets no answer. After
/// the last one the caller gets the error, so that the claim's status reports it.
const ATTEMPTS: u32 = 3;

/// The clients of all regions; one per process, since AWS counts calls by account
/// and region. Clones are the same clients.
#[derive(Clone)]
pub struct Clients(Arc<Inner>);

struct Inner {
    /// `None`: that of the default chain
    config: Option<SdkConfig>,
    rates: Rates,
    gate: Option<Gate>,
    regions: Mutex<BTreeMap<String, Arc<Region>>>,
}

/// One region.
pub(super) struct Region {
    pub(super) name: String,
    config: Option<SdkConfig>,
    client: OnceCell<Client>,
    budget: Budget,
    gate: Option<Gate>,
    observations: AtomicU64,
    /// The account's quotas, once they were read
    pub(super) limits: tokio::sync::Mutex<Option<Limits>>,
}

impl Clients {
    /// Clients with this configuration. `None`: that of the default chain, whose credentials
    /// are those of the environment, a web identity (IRSA), the container (pod identity) or
    /// the instance, and are read at the first call; `AWS_ENDPOINT_URL` is respected. Without
    /// a gate, every call passes.
    #[must_use]
    pub fn new(config: Option<SdkConfig>, rates: Rates, gate: Option<Gate>) -> Self {
        Self(Arc::new(Inner { config, rates, gate, regions: Mutex::default() }))
    }

    /// The state that all load balancers of a region share.
    pub(super) fn region(&self, name: &str) -> Arc<Region> {
        let mut regions = self.0.regions.lock();
        let new = || {
            let config = self.0.config.clone();
            let budget = Budget::new(self.0.rates);
            Arc::new(Region {
                name: name.to_owned(),
                config,
                client: OnceCell::new(),
                budget,
                gate: self.0.gate.clone(),
                observations: AtomicU64::new(0),
                limits: tokio::sync::Mutex::default(),
            })
        };
        regions.entry(name.to_owned()).or_insert_with(new).clone()
    }
}

impl Region {
    /// The place of the next observation among all observations.
    pub(super) fn next_observation(&self) -> u64 {
        self.observations.fetch_add(1, Ordering::Relaxed)
    }

    /// The client, which is created at the first call.
    pub(super) async fn client(&self) -> &Client {
        let new = || async {
            let config = match &self.config {
                Some(config) => config.clone(),
                None => load(&self.name).await,
            };
            let http = config.http_client().unwrap_or_else(|| SharedHttpClient::new(https()));
            // Every attempt costs a token of the budget, so `call` retries.
            let config = aws_sdk_elasticloadbalancingv2::config::Builder::from(&config)
                .region(RegionName::new(self.name.clone()))
                .http_client(http)
                .timeout_config(timeouts())
                .retry_config(RetryConfig::disabled())
                .build();
            Client::from_conf(config)
        };
        self.client.get_or_init(new).await
    }

    /// Makes a call within the budget. Once a turn has begun, its further calls precede
    /// others. A call that AWS throttles is repeated, and so is a read without an answer; a
    /// change without an answer is not, since it may have been carried out.
    pub(super) async fn call<T, E, F>(
        &self,
        action: &'static str,
        turn: &mut Turn,
        send: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let bucket = self.budget.of(action);
        let mut attempts = 0;
        loop {
            bucket.take(turn).await.map_err(|late| Failure::late(action, late))?;
            turn.begun();
            attempts += 1;
            // After all waits.
            let _passed = match &self.gate {
                Some(gate) if !action.starts_with("Describe") => Some(gate().await),
                _ => None,
            };
            let error = match send().await {
                Ok(reply) => {
                    bucket.fine();
                    return Ok(reply);
                }
                Err(error) => error,
            };
            let mut failure = Failure::of(action, &error);
            let again = match &mut failure.kind {
                Kind::Throttled(pause) => {
                    *pause = bucket.throttled(Duration::ZERO);
                    true
                }
                Kind::Unreachable => action.starts_with("Describe"),
                _ => false,
            };
            if !again || attempts == ATTEMPTS {
                return Err(failure);
            }
        }
    }
}

/// The configuration of the default chain. (Credentials are requested over HTTPS too.)
async fn load(region: &str) -> SdkConfig {
    let region = RegionName::new(region.to_owned());
    let defaults = aws_config::defaults(BehaviorVersion::latest()).region(region);
    defaults.http_client(https()).timeout_config(timeouts()).load().await
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder().operation_attempt_timeout(CALL_TIMEOUT).connect_timeout(CONNECT_TIMEOUT).build()
}

/// An HTTPS client without C code, as in the rest of the controller.
fn https() -> impl HttpClient + Clone + 'static {
    aws_smithy_http_client::Builder::new().tls_provider(Tls::Rustls(CryptoMode::Ring)).build_https()
}
