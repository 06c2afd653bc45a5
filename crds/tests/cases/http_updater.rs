//! The cases of a SharedLBClass with the provider `httpUpdater`.

use serde_json::{Value, json};

use super::{Case, accepts, object, refuses, schema_refuses, set, unset};

/// The smallest good class.
fn class() -> Value {
    object(
        "SharedLBClass",
        "nginx",
        json!({
            "provider": { "httpUpdater": { "url": "https://lb1.example.com/api/v1/lb", "address": "lb1.example.com" } },
            "loadBalancers": { "max": 1 },
            "targets": "Node",
        }),
    )
}

/// The smallest good class but for one field of its provider.
fn with(field: &str, value: Value) -> Value {
    set(class(), &format!("/spec/provider/httpUpdater/{field}"), value)
}

pub(super) fn cases() -> Vec<Case> {
    [whole(), url(), fields(), changes()].into_iter().flatten().collect()
}

fn whole() -> Vec<Case> {
    let all = json!({
        "url": "https://[2001:db8::1]:3000/lb",
        "address": "203.0.113.10",
        "credentials": { "secretName": "updater" },
        "caBundle": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        "reservedPorts": [22, 3000],
        "proxyTimeoutSeconds": 0,
        "proxyConnectTimeoutSeconds": 5,
        "verification": "Connect",
    });
    vec![
        accepts("a class of an updater with a URL and an address", class()),
        accepts("one with everything", set(class(), "/spec/provider/httpUpdater", all)),
        refuses(
            "several load balancers of an updater",
            set(class(), "/spec/loadBalancers/max", json!(2)),
            "a class of the provider httpUpdater has one load balancer",
        ),
        refuses(
            "addresses of a class of an updater",
            set(class(), "/spec/addresses", json!([{ "min": "203.0.113.10", "max": "203.0.113.10" }])),
            "set provider.httpUpdater.address",
        ),
        refuses("a class of an updater without targets", unset(class(), "/spec/targets"), "set targets to Node"),
        schema_refuses(
            "a class of an updater without an address",
            unset(class(), "/spec/provider/httpUpdater/address"),
            "address: Required value",
        ),
    ]
}

fn url() -> Vec<Case> {
    const URL: &str = "must be the URL of an updater";
    let mut cases: Vec<Case> = [
        ("a password", "https://user:password@lb1.example.com/api/v1/lb"),
        ("a query", "https://lb1.example.com/api/v1/lb?token=secret"),
        ("no path", "https://lb1.example.com"),
        ("a slash at the end", "https://lb1.example.com/api/v1/lb/"),
        ("another scheme", "ftp://lb1.example.com/api/v1/lb"),
    ]
    .into_iter()
    .map(|(what, url)| refuses(&format!("a URL of an updater with {what}"), with("url", json!(url)), URL))
    .collect();
    for (what, url) in [
        ("a loopback address", "http://127.0.0.1:3000/api/v1/lb"),
        ("an unspecified address", "http://0.0.0.0/api/v1/lb"),
        ("the name localhost", "https://LocalHost/api/v1/lb"),
        ("a link-local address", "http://169.254.169.254/computeMetadata/v1"),
        ("a loopback address of IPv6", "http://[::1]:3000/api/v1/lb"),
        ("a link-local address of IPv6", "http://[fe80::1]/api/v1/lb"),
    ] {
        let url = with("url", json!(url));
        cases.push(refuses(&format!("a URL of an updater with {what}"), url, "must not have a loopback or link-local"));
    }
    cases.push(accepts(
        "a URL of an updater whose name begins with a number",
        with("url", json!("https://127.example.com/lb")),
    ));
    let plain = || with("url", json!("http://10.0.0.5:3000/api/v1/lb"));
    cases.push(accepts("a URL of an updater without TLS", plain()));
    cases.push(refuses(
        "credentials without TLS",
        set(plain(), "/spec/provider/httpUpdater/credentials", json!({ "secretName": "updater" })),
        "credentials are sent with each call",
    ));
    cases.push(refuses(
        "authorities without TLS",
        set(plain(), "/spec/provider/httpUpdater/caBundle", json!("-----BEGIN CERTIFICATE-----")),
        "a caBundle is for an url that begins with https://",
    ));
    cases
}

fn fields() -> Vec<Case> {
    vec![
        refuses("an IPv6 address of an updater", with("address", json!("2001:db8::1")), "must be an IPv4 address"),
        refuses("a loopback address of an updater", with("address", json!("127.0.0.1")), "neither loopback nor"),
        refuses("a link-local address of an updater", with("address", json!("169.254.0.1")), "neither loopback nor"),
        refuses("an address of an updater with a port", with("address", json!("lb1:80")), "must be an IP address, or"),
        refuses(
            "a key for a certificate",
            with("caBundle", json!("-----BEGIN PRIVATE KEY-----")),
            "must be certificates",
        ),
        schema_refuses("a reserved port 0", with("reservedPorts", json!([0])), "should be greater than or equal to 1"),
        schema_refuses("a verification that there is not", with("verification", json!("Ping")), "supported values"),
    ]
}

fn changes() -> Vec<Case> {
    const FIXED: &str = "url and address cannot be changed";
    let mut cases: Vec<Case> =
        [("url", json!("https://lb2.example.com/api/v1/lb")), ("address", json!("lb2.example.com"))]
            .into_iter()
            .map(|(field, value)| {
                refuses(&format!("a {field} of an updater that is changed"), with(field, value), FIXED).after(class())
            })
            .collect();
    for (field, value) in [
        ("credentials", json!({ "secretName": "updater" })),
        ("reservedPorts", json!([22, 3000])),
        ("proxyTimeoutSeconds", json!(30)),
        ("verification", json!("Connect")),
    ] {
        cases.push(accepts(&format!("a change of {field} of an updater"), with(field, value)).after(class()));
    }
    cases
}
