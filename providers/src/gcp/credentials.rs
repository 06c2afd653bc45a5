//! The credentials of calls to Google Cloud: those of the environment, or of a Secret.

use std::sync::Arc;

use async_trait::async_trait;
use google_cloud_auth::credentials::{self, CacheableResource, external_account, impersonated, service_account};
use google_cloud_auth::errors::CredentialsError;
use http::{Extensions, HeaderMap};
use secrecy::ExposeSecret as _;
use tokio::sync::Mutex;

use crate::http::{Credentials, Secrets, Unavailable};
use crate::text::chain;

/// What the credentials are for.
const SCOPE: &str = "https://www.googleapis.com/auth/compute";
/// The key of the credentials in a Secret.
const SECRET_KEY: &str = "credentials.json";

/// Where credentials come from.
pub(super) enum Source {
    /// The environment: a file that `GOOGLE_APPLICATION_CREDENTIALS` names, or the metadata server
    /// (Workload Identity)
    Environment,
    /// A Secret: the key of a service account, or a configuration of workload identity federation
    Secret {
        /// Reads it
        secrets: Arc<dyn Secrets>,
        /// Its name
        name: String,
    },
}

/// Credentials, which are made at the first call, and again when Google Cloud refuses them.
pub(super) struct GoogleCredentials {
    source: Source,
    current: Mutex<Option<credentials::Credentials>>,
}

impl GoogleCredentials {
    /// Credentials from this source.
    pub(super) fn new(source: Source) -> Self {
        Self { source, current: Mutex::default() }
    }

    async fn build(&self) -> Result<credentials::Credentials, Unavailable> {
        let (secrets, name) = match &self.source {
            Source::Environment => {
                let built = credentials::Builder::default().with_scopes([SCOPE]).build();
                return built.map_err(|error| lasting(error.to_string()));
            }
            Source::Secret { secrets, name } => (secrets, name),
        };
        let data = secrets
            .read(name)
            .await
            .map_err(|error| Unavailable { transient: !error.is_refusal(), why: format!("{error:#}") })?;
        let json =
            data.values.get(SECRET_KEY).ok_or_else(|| lasting(format!("the Secret {name} has no key {SECRET_KEY}")))?;
        // The message of the parser would have parts of the Secret in it.
        let json = serde_json::from_str(json.expose_secret())
            .map_err(|_| lasting(format!("{SECRET_KEY} in the Secret {name} is no JSON")))?;
        of_json(json).map_err(|why| lasting(format!("{SECRET_KEY} in the Secret {name}: {why}")))
    }
}

#[async_trait]
impl Credentials for GoogleCredentials {
    async fn headers(&self) -> Result<HeaderMap, Unavailable> {
        let mut current = self.current.lock().await;
        let credentials = match &*current {
            Some(credentials) => credentials.clone(),
            None => current.insert(self.build().await?).clone(),
        };
        drop(current);
        match credentials.headers(Extensions::new()).await {
            Ok(CacheableResource::New { data, .. }) => Ok(sensitive(data)),
            // Only an answer to a known version.
            Ok(CacheableResource::NotModified) => Ok(HeaderMap::new()),
            Err(error) => {
                let unavailable = unavailable(&error);
                if !unavailable.transient {
                    // They would give this error for ever, also once its cause is mended.
                    self.renew().await;
                }
                Err(unavailable)
            }
        }
    }

    async fn renew(&self) {
        *self.current.lock().await = None;
    }
}

/// The credentials that a file describes.
fn of_json(json: serde_json::Value) -> Result<credentials::Credentials, String> {
    let kind = json.get("type").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let built = match kind.as_str() {
        "service_account" => service_account::Builder::new(json)
            .with_access_specifier(service_account::AccessSpecifier::from_scopes([SCOPE]))
            .build(),
        "external_account" => external_account::Builder::new(json).with_scopes([SCOPE]).build(),
        "impersonated_service_account" => impersonated::Builder::new(json).with_scopes([SCOPE]).build(),
        _ => {
            return Err("its type is none of service_account, external_account and impersonated_service_account".into());
        }
    };
    built.map_err(|error| error.to_string())
}

/// Marked so that no log shows them.
fn sensitive(mut headers: HeaderMap) -> HeaderMap {
    headers.values_mut().for_each(|value| value.set_sensitive(true));
    headers
}

fn unavailable(error: &CredentialsError) -> Unavailable {
    // The answer that names what is missing is a cause.
    Unavailable { transient: error.is_transient(), why: chain(error) }
}

fn lasting(why: String) -> Unavailable {
    Unavailable { why, transient: false }
}
