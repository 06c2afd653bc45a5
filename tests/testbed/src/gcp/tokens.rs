//! Who calls: tokens, and what gives them out, as Google's libraries ask for them.
//!
//! - The metadata server (`GCE_METADATA_HOST`):
//!   <https://cloud.google.com/compute/docs/access/authenticate-workloads#applications>.
//! - The token endpoint of a service account's key (`token_uri`):
//!   <https://developers.google.com/identity/protocols/oauth2/service-account#httprest>.
//! - A JWT that the library has signed itself with the key, instead of a token:
//!   <https://google.aip.dev/auth/4111>. Its claims are checked, and not its signature.
//! - The token service of workload identity federation (`token_url`), to which the program sends
//!   a token of its own platform: <https://cloud.google.com/iam/docs/reference/sts/rest>.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The account of the program under test.
pub(super) const ACCOUNT: &str = "controller@example.iam.gserviceaccount.com";
/// The token of the observer, which never expires.
pub(super) const OBSERVER: &str = "token-of-the-observer";

/// The token of the program under test on its own platform.
pub(super) const FEDERATED: &str = "token-of-the-cluster";

/// Scopes that permit all of Compute Engine.
const SCOPES: [&str; 2] = ["https://www.googleapis.com/auth/compute", "https://www.googleapis.com/auth/cloud-platform"];

/// Whose call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoogleUser {
    /// The program under test: its calls are in the log, meet faults, and need permissions.
    Controller,
    /// The test itself, or another client.
    Observer,
}

/// The tokens of a project.
pub(super) struct Tokens {
    issued: Vec<Issued>,
    /// How long a token is valid.
    pub(super) lifetime: Duration,
    /// Whether no tokens are given out.
    pub(super) are_refused: bool,
    /// JWTs that came with calls.
    signed: BTreeSet<String>,
    /// JWTs that are not accepted any more.
    revoked: BTreeSet<String>,
}

struct Issued {
    token: String,
    expires: Instant,
}

/// An answer of the metadata server or of the token endpoint.
pub(super) struct TokenAnswer {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

impl TokenAnswer {
    fn error(status: StatusCode, why: &str) -> Self {
        Self { status, body: json!({"error": why, "error_description": why}).to_string() }
    }
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self {
            issued: Vec::new(),
            lifetime: Duration::from_secs(3600),
            are_refused: false,
            signed: BTreeSet::new(),
            revoked: BTreeSet::new(),
        }
    }

    /// A new token of the program under test.
    pub(super) fn issue(&mut self) -> String {
        let token = format!("ya29.token-{}-of-the-controller", self.issued.len() + 1);
        self.issued.push(Issued { token: token.clone(), expires: Instant::now() + self.lifetime });
        token
    }

    /// All tokens of the program under test that there were.
    pub(super) fn all(&self) -> Vec<String> {
        let issued = self.issued.iter().map(|issued| issued.token.clone());
        issued.chain(self.signed.iter().cloned()).collect()
    }

    /// Ends the validity of all tokens of the program under test.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        for issued in &mut self.issued {
            issued.expires = issued.expires.min(now);
        }
        self.revoked.clone_from(&self.signed);
    }

    /// The user of a call with these headers.
    pub(super) fn user(&mut self, headers: &HeaderMap) -> Option<GoogleUser> {
        let token = headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")?;
        if token == OBSERVER {
            return Some(GoogleUser::Observer);
        }
        let is_valid = |issued: &Issued| issued.token == token && issued.expires > Instant::now();
        if self.issued.iter().any(is_valid) {
            return Some(GoogleUser::Controller);
        }
        let is_signed = is_acceptable(token) && !self.revoked.contains(token);
        if is_signed {
            self.signed.insert(token.to_owned());
        }
        is_signed.then_some(GoogleUser::Controller)
    }

    /// What the metadata server answers.
    pub(super) fn metadata(&mut self, path: &str, headers: &HeaderMap) -> TokenAnswer {
        if headers.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
            return TokenAnswer::error(
                StatusCode::FORBIDDEN,
                "Missing required header \"Metadata-Flavor\": \"Google\"",
            );
        }
        let text = |text: &str| TokenAnswer { status: StatusCode::OK, body: text.to_owned() };
        match path.trim_start_matches("/computeMetadata/v1/") {
            "universe/universe-domain" => text("googleapis.com"),
            "instance/service-accounts/default/email" => text(ACCOUNT),
            "instance/service-accounts/default/token" => self.token(),
            _ => TokenAnswer::error(StatusCode::NOT_FOUND, "there is no such metadata"),
        }
    }

    /// What the token endpoint answers to a form.
    pub(super) fn exchange(&mut self, form: &[u8]) -> TokenAnswer {
        let field = |name: &str| {
            let found = form_urlencoded::parse(form).find(|(key, _)| key == name);
            found.map(|(_, value)| value.into_owned()).unwrap_or_default()
        };
        let is_valid = match field("grant_type").as_str() {
            "urn:ietf:params:oauth:grant-type:jwt-bearer" => is_acceptable(&field("assertion")),
            "urn:ietf:params:oauth:grant-type:token-exchange" => field("subject_token") == FEDERATED,
            _ => false,
        };
        if is_valid { self.token() } else { TokenAnswer::error(StatusCode::BAD_REQUEST, "invalid_grant") }
    }

    fn token(&mut self) -> TokenAnswer {
        if self.are_refused {
            return TokenAnswer::error(StatusCode::FORBIDDEN, "access_denied");
        }
        let body = json!({
            "access_token": self.issue(),
            "expires_in": self.lifetime.as_secs(),
            "token_type": "Bearer",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        });
        TokenAnswer { status: StatusCode::OK, body: body.to_string() }
    }
}

/// Whether a JWT is of the account, valid now, and for Compute Engine.
fn is_acceptable(token: &str) -> bool {
    let claims = || {
        let payload = token.split('.').nth(1)?;
        serde_json::from_slice::<Value>(&BASE64URL.decode(payload).ok()?).ok()
    };
    let Some(claims) = claims() else { return false };
    let scopes = claims["scope"].as_str().unwrap_or_default();
    let audience = claims["aud"].as_str().unwrap_or_default();
    let has_scope = scopes.split(' ').any(|scope| SCOPES.contains(&scope));
    let is_valid_now = claims["exp"].as_i64().is_some_and(|expires| expires > Timestamp::now().as_second());
    claims["iss"] == ACCOUNT && is_valid_now && (has_scope || audience.starts_with("https://compute.googleapis.com"))
}
