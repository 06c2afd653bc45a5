//! AWS' answers: whatever the world of a test has, as XML. It carries nothing out, and records
//! the calls.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_elasticloadbalancingv2::config::http::{HttpRequest, HttpResponse};
use aws_sdk_elasticloadbalancingv2::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::result::ConnectorError;
use serde_json::{Value, json};

use super::super::{Clients, Rates};

/// More calls than anything needs.
const CALLS_MAX: usize = 1500;

/// How lists are cut into pages.
#[derive(Debug, Clone)]
pub(in super::super) enum Paging {
    Whole,
    /// This many items on a page
    Of(usize),
    /// Every page is followed by itself
    Circle,
    /// Every page is followed by another one
    Endless,
}

/// A malformed answer.
#[derive(Debug, Clone)]
pub(in super::super) enum Fault {
    Refused {
        status: u16,
        code: String,
        message: String,
    },
    /// Not what AWS' API speaks
    Nonsense(u16, String),
    /// An answer with nothing in it
    Empty,
    Unreached,
}

/// A call with its parameters.
#[derive(Debug, Clone)]
pub(in super::super) struct Call {
    pub(in super::super) action: String,
    pub(in super::super) parameters: Vec<(String, String)>,
}

impl Call {
    /// The objects of the call, by the names of the parameters.
    pub(super) fn arns(&self) -> impl Iterator<Item = (&str, &str)> {
        let arns = self.parameters.iter().filter(|(key, _)| key.ends_with("Arn") || key.starts_with("ResourceArns."));
        arns.map(|(key, arn)| (key.as_str(), arn.as_str()))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}

/// The log of calls, for the test.
#[derive(Debug, Clone)]
pub(in super::super) struct Cloud(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    world: Value,
    paging: Paging,
    /// By the number of the call
    faults: Vec<(usize, Fault)>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    calls: Vec<Call>,
    made: BTreeSet<String>,
}

impl Cloud {
    /// The world by actions: what each of them answers.
    pub(in super::super) fn new(world: Value, paging: Paging, faults: Vec<(usize, Fault)>) -> Self {
        Self(Arc::new(Inner { world, paging, faults, log: Mutex::default() }))
    }

    pub(in super::super) fn clients(&self) -> Clients {
        let credentials = Credentials::builder().access_key_id("id").secret_access_key("secret").provider_name("test");
        let connector = SharedHttpConnector::new(self.clone());
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(SharedCredentialsProvider::new(credentials.build()))
            .http_client(http_client_fn(move |_, _| connector.clone()));
        Clients::new(Some(config.build()), Rates::DOCUMENTED, None)
    }

    /// The calls so far.
    pub(in super::super) fn calls(&self) -> Vec<Call> {
        self.log().calls.clone()
    }

    /// Whether this was made by one of the calls.
    pub(super) fn made(&self, arn: &str) -> bool {
        self.log().made.contains(arn)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.log.lock().unwrap()
    }

    fn answer(&self, call: &Call) -> Value {
        let told = self.0.world.get(&call.action).cloned().unwrap_or_else(|| json!({}));
        match call.action.as_str() {
            "DescribeListeners" => self.page(call, "Listeners", told),
            "DescribeTargetGroups" => self.page(call, "TargetGroups", told),
            "DescribeAccountLimits" => self.page(call, "Limits", told),
            "DescribeTags" => {
                let asked: BTreeSet<&str> = call.arns().map(|(_, arn)| arn).collect();
                only(told, "TagDescriptions", |of| asked.contains(text(&of["ResourceArn"]).as_str()))
            }
            "DescribeTargetHealth" => {
                let mut groups = list(&self.0.world, "DescribeTargetGroups", "TargetGroups");
                let arn = call.get("TargetGroupArn").unwrap_or_default();
                let group = groups.find(|group| text(&group["TargetGroupArn"]) == arn);
                json!({"TargetHealthDescriptions": group.map(|group| group["Targets"].clone())})
            }
            "CreateLoadBalancer" => self.create(call, "DescribeLoadBalancers", "LoadBalancer"),
            "CreateListener" => self.create(call, "DescribeListeners", "Listener"),
            "CreateTargetGroup" => self.create(call, "DescribeTargetGroups", "TargetGroup"),
            _ => told,
        }
    }

    /// The ARN of an existing object with this name, or a new one.
    fn create(&self, call: &Call, among: &str, what: &str) -> Value {
        let (all, arn) = (format!("{what}s"), format!("{what}Arn"));
        let named = |found: &&Value| call.get("Name").is_some_and(|name| text(&found[format!("{what}Name")]) == name);
        let mut log = self.log();
        if let Some(found) = list(&self.0.world, among, &all).find(named) {
            if !self.0.faults.is_empty() {
                // Who was told that there is none can't know that it was not made now.
                log.made.insert(text(&found[arn]));
            }
            return json!({all: [found]});
        }
        let new = format!("arn:made/{}", log.made.len());
        log.made.insert(new.clone());
        json!({all: [{arn: new}]})
    }

    fn page(&self, call: &Call, of: &str, mut told: Value) -> Value {
        let Some(Value::Array(all)) = told.get_mut(of).map(Value::take) else { return told };
        let marker = call.get("Marker");
        let number = |marker: &str| marker.parse::<usize>().unwrap_or_default();
        let at = marker.map_or(0, number);
        let (page, next) = match self.0.paging {
            Paging::Whole => (all, None),
            Paging::Of(size) => {
                let next = (at + size < all.len()).then_some(at + size);
                (all.into_iter().skip(at).take(size).collect(), next)
            }
            Paging::Circle => (all, Some(0)),
            Paging::Endless => (all, Some(at + 1)),
        };
        json!({of: page, "NextMarker": next})
    }
}

impl HttpConnector for Cloud {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let body = request.body().bytes().unwrap_or_default();
        let mut parameters: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
        let action = parameters.remove(0).1;
        let call = Call { action, parameters };
        let number = {
            let mut log = self.log();
            log.calls.push(call.clone());
            log.calls.len() - 1
        };
        assert!(number < CALLS_MAX, "there is no end of calls: {call:?}");
        let fault = self.0.faults.iter().find(|(at, _)| *at == number).map(|(_, fault)| fault);
        let (status, body) = match fault {
            None => (200, response(&call.action, &self.answer(&call))),
            Some(Fault::Empty) => (200, response(&call.action, &Value::Null)),
            Some(Fault::Refused { status, code, message }) => {
                (*status, xml(&json!({"ErrorResponse": {"Error": {"Code": code, "Message": message}}})))
            }
            Some(Fault::Nonsense(status, body)) => (*status, body.clone()),
            Some(Fault::Unreached) => return HttpConnectorFuture::ready(Err(ConnectorError::io("cut off".into()))),
        };
        let response = http::Response::builder().status(status).body(body).unwrap();
        let response: HttpResponse = HttpResponse::try_from(response.map(Into::into)).unwrap();
        HttpConnectorFuture::ready(Ok(response))
    }
}

fn response(action: &str, result: &Value) -> String {
    xml(&json!({format!("{action}Response"): {format!("{action}Result"): result}}))
}

fn only(mut told: Value, of: &str, which: impl Fn(&Value) -> bool) -> Value {
    if let Some(all) = told.get_mut(of).and_then(Value::as_array_mut) {
        all.retain(which);
    }
    told
}

/// The kind of object that an action lists.
pub(super) fn list<'a>(world: &'a Value, action: &str, of: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    world.get(action).and_then(|told| told.get(of)?.as_array()).into_iter().flatten()
}

/// A value as text.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => String::new(),
    }
}

/// In AWS' form: items of lists are members, and missing values are left out.
fn xml(value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(|item| format!("<member>{}</member>", xml(item))).collect(),
        Value::Object(fields) => {
            let named =
                |key: &str| key.starts_with(char::is_alphabetic) && key.chars().all(|c| c.is_ascii_alphanumeric());
            let told = fields.iter().filter(|(key, value)| named(key) && !value.is_null());
            told.map(|(key, value)| format!("<{key}>{}</{key}>", xml(value))).collect()
        }
        scalar => text(scalar).chars().map(escaped).collect(),
    }
}

fn escaped(c: char) -> String {
    if c.is_control() || "&<>".contains(c) { format!("&#{};", u32::from(c)) } else { c.into() }
}
