//! The clients of Compute Engine: one client and one budget for each project and Secret, whatever
//! the number of classes and load balancers.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::credentials::{GoogleCredentials, Source};
use super::failure;
use super::settings::Settings;
use crate::Gate;
use crate::budget::Rate;
use crate::http::{self, Credentials, Failure, Http, Secrets};

/// The API of Compute Engine.
const COMPUTE: &str = "https://compute.googleapis.com/compute/v1";
/// Overrides it, as for gcloud: the URL before `projects/`.
const ENDPOINT_VARIABLE: &str = "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE";

/// The rates of calls about one project.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// The rate of calls that read
    pub reads: Rate,
    /// The rate of calls that change something
    pub writes: Rate,
}

impl Rates {
    /// Less than the quotas that a project has by default, which its other clients use too.
    pub const DEFAULT: Self =
        Self { reads: Rate { size: 40.0, per_second: 20.0 }, writes: Rate { size: 20.0, per_second: 10.0 } };

    /// Fractions of these rates.
    #[must_use]
    pub fn times(self, share: f64) -> Self {
        Self { reads: self.reads.times(share), writes: self.writes.times(share) }
    }
}

/// The clients of all projects; one per process, since Google Cloud counts calls by project.
/// Clones are the same clients.
#[derive(Clone)]
pub struct Clients(Arc<Inner>);

struct Inner {
    endpoint: String,
    rates: Rates,
    gate: Option<Gate>,
    credentials: Box<MakeCredentials>,
    projects: Mutex<BTreeMap<Project, Arc<Http>>>,
}

/// Makes the credentials from the Secret of this name, or, without a name, from the environment.
type MakeCredentials = dyn Fn(Option<&str>) -> Arc<dyn Credentials> + Send + Sync;

/// A project, and the name of the Secret with the credentials for it.
type Project = (String, Option<String>);

impl Clients {
    /// Clients of this URL (`None`: that of Google Cloud, or of the environment variable
    /// `CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE`). Credentials are made at the first call, from the
    /// environment or a Secret. Without a gate, every call passes.
    #[must_use]
    pub fn new(endpoint: Option<String>, rates: Rates, gate: Option<Gate>, secrets: Arc<dyn Secrets>) -> Self {
        let endpoint = endpoint.or_else(|| std::env::var(ENDPOINT_VARIABLE).ok());
        let endpoint = endpoint.unwrap_or_else(|| COMPUTE.to_owned());
        let source = move |name: Option<&str>| match name {
            None => Source::Environment,
            Some(name) => Source::Secret { secrets: secrets.clone(), name: name.to_owned() },
        };
        Self::with(endpoint, rates, gate, move |name| Arc::new(GoogleCredentials::new(source(name))))
    }

    /// Clients of this URL with these credentials.
    pub(super) fn with(
        endpoint: String,
        rates: Rates,
        gate: Option<Gate>,
        credentials: impl Fn(Option<&str>) -> Arc<dyn Credentials> + Send + Sync + 'static,
    ) -> Self {
        let credentials = Box::new(credentials);
        Self(Arc::new(Inner { endpoint, rates, gate, credentials, projects: Mutex::default() }))
    }

    /// The client of a class.
    pub(super) fn of(&self, settings: &Settings) -> Result<Arc<Http>, Failure> {
        let key = (settings.project.clone(), settings.secret_name.clone());
        let mut projects = self.0.projects.lock();
        if let Some(http) = projects.get(&key) {
            return Ok(http.clone());
        }
        let http = Http::new(http::Settings {
            base: self.0.endpoint.clone(),
            admits: None,
            authorities: Vec::new(),
            reads: self.0.rates.reads,
            writes: self.0.rates.writes,
            gate: self.0.gate.clone(),
            credentials: (self.0.credentials)(settings.secret_name.as_deref()),
            is_throttled: failure::is_throttled,
        })?;
        Ok(projects.entry(key).or_insert(Arc::new(http)).clone())
    }
}
