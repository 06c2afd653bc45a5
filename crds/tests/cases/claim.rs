//! The cases of SharedLB.

use serde_json::{Value, json};

use super::{Case, accepts, object, refuses, schema_refuses, set, unset};

/// A good claim: one port to be assigned, for the pods of redis.
fn claim() -> Value {
    ports(json!([{ "targetPort": 6379 }]))
}

/// A good claim but for its ports, which are given.
fn ports(ports: Value) -> Value {
    let spec = json!({ "selector": { "app": "redis" }, "ports": ports });
    object("SharedLB", "redis", spec)
}

/// A claim for the pods of a Service.
fn of_service(ports: Value) -> Value {
    let spec = json!({ "serviceName": "redis", "ports": ports });
    object("SharedLB", "redis", spec)
}

fn many_ports(count: usize) -> Value {
    (0..count).map(|i| json!({ "name": format!("p{i}"), "port": 1000 + i, "protocol": "TCP_UDP" })).collect()
}

pub(super) fn cases() -> Vec<Case> {
    [backends(), class_and_address(), port_lists(), single_ports(), source_ranges(), session_affinity()]
        .into_iter()
        .flatten()
        .collect()
}

fn backends() -> Vec<Case> {
    const ONE: &str = "give exactly one of selector (with at least one label) and serviceName";
    vec![
        accepts("a claim with a selector", claim()),
        accepts("a claim with a serviceName", of_service(json!([{ "targetPort": "redis" }]))),
        accepts("a claim that goes over from a selector to a serviceName", of_service(json!([{ "targetPort": 6379 }])))
            .after(claim()),
        refuses(
            "a claim with both a selector and a serviceName",
            set(claim(), "/spec/serviceName", json!("redis")),
            ONE,
        ),
        refuses("a claim with neither a selector nor a serviceName", unset(claim(), "/spec/selector"), ONE),
        refuses("a claim with an empty selector", set(claim(), "/spec/selector", json!({})), ONE),
        refuses(
            "a selector that no label can match",
            set(claim(), "/spec/selector", json!({ "app": "two words" })),
            "a label has letters, digits",
        ),
        schema_refuses(
            "a selector with a value of more than 63 characters",
            set(claim(), "/spec/selector", json!({ "app": "x".repeat(64) })),
            "may not be more than 63",
        ),
        refuses(
            "a serviceName that no Service can have",
            set(of_service(json!([{ "port": 80 }])), "/spec/serviceName", json!("Redis.Main")),
            "must be the name of a Service",
        ),
    ]
}

fn class_and_address() -> Vec<Case> {
    const CLASS: &str = "className cannot be set, changed or removed: delete this SharedLB";
    let of_class = |name: &str| set(claim(), "/spec/className", json!(name));
    let at = |address: &str| set(claim(), "/spec/address", json!(address));
    vec![
        accepts("a claim that names its class", of_class("default")),
        refuses("a className that is set later", of_class("a"), CLASS).after(claim()),
        refuses("a className that is changed", of_class("b"), CLASS).after(of_class("a")),
        refuses("a className that is removed", claim(), CLASS).after(of_class("a")),
        accepts("a className with dots", of_class("gold.example")),
        refuses("a className that is more than a name", of_class("gold\nsilver"), "must be the name of a class"),
        schema_refuses("a className of more than 63 characters", of_class(&"x".repeat(64)), "may not be more than 63"),
        accepts("an IPv4 address", at("10.0.0.10")),
        accepts("an IPv6 address", at("fd00::10")),
        accepts("a host name as address", at("nlb-1.example.com")),
        accepts("an address that is changed", at("10.0.0.11")).after(at("10.0.0.10")),
        refuses(
            "an address with a port",
            at("10.0.0.10:80"),
            "must be the IP address or the lower-case host name of a load balancer",
        ),
    ]
}

fn port_lists() -> Vec<Case> {
    const NAMES: &str = "give each port a name, since there is more than one";
    const TWICE: &str = "two ports ask for one number with the same protocol";
    let same_number = |first: &str, second: &str| {
        ports(json!([
            { "name": "a", "port": 53, "protocol": first },
            { "name": "b", "port": 53, "protocol": second },
        ]))
    };
    vec![
        accepts("64 ports with numbers of their own", ports(many_ports(64))),
        schema_refuses("65 ports", ports(many_ports(65)), "must have at most 64 items"),
        schema_refuses("a claim without ports", ports(json!([])), "should have at least 1 items"),
        schema_refuses("a claim that leaves ports out", unset(claim(), "/spec/ports"), "Required value"),
        accepts(
            "several ports with names and without numbers",
            ports(json!([{ "name": "a", "targetPort": 1 }, { "name": "b", "targetPort": 1, "port": 0 }])),
        ),
        refuses(
            "several ports of which one has no name",
            ports(json!([{ "name": "a", "port": 1 }, { "port": 2 }])),
            NAMES,
        ),
        schema_refuses(
            "two ports of one name",
            ports(json!([{ "name": "a", "port": 1 }, { "name": "a", "port": 2 }])),
            "Duplicate value",
        ),
        accepts("one number for TCP and again for UDP", same_number("TCP", "UDP")),
        refuses("one number twice for TCP", same_number("TCP", "TCP"), TWICE),
        refuses("one number for UDP and for TCP_UDP", same_number("UDP", "TCP_UDP"), TWICE),
        refuses("one number twice for TCP_UDP", same_number("TCP_UDP", "TCP_UDP"), TWICE),
    ]
}

fn single_ports() -> Vec<Case> {
    const LABEL: &str = "must be a DNS label: lower-case letters, digits and '-'";
    const TARGET: &str = "give a targetPort (the port of the pods)";
    const NUMBER: &str = "must be a port number from 1 to 65535, or the name of a port";
    const NAME: &str = "must be the name of a port (lower-case letters, digits and '-', with at least one letter)";
    const CONTAINER: &str = "with a selector, a named targetPort is a port of the pods' containers";
    let to = |target: Value| ports(json!([{ "targetPort": target }]));
    let asking = |port: Value| ports(json!([{ "port": port, "targetPort": 1 }]));
    let named = |name: &str| ports(json!([{ "name": name, "port": 1 }]));
    vec![
        accepts("a port that is asked for, without a targetPort", ports(json!([{ "port": 6379 }]))),
        accepts("port 0 with a targetPort", asking(json!(0))),
        accepts("the highest port", asking(json!(65535))),
        accepts("a port that is asked for later", asking(json!(7))).after(claim()),
        schema_refuses("a port above 65535", asking(json!(65536)), "less than or equal to 65535"),
        schema_refuses("a port below 0", asking(json!(-1)), "greater than or equal to 0"),
        accepts("a port that is null, which is as if it were left out", asking(json!(null))),
        refuses("port 0 without a targetPort", ports(json!([{ "port": 0 }])), TARGET),
        refuses("a port with neither port nor targetPort", ports(json!([{ "name": "a" }])), TARGET),
        accepts("a port with a name of 59 characters", named(&"a".repeat(59))),
        schema_refuses("a port with a name of 60 characters", named(&"a".repeat(60)), "may not be more than 59"),
        refuses("a port whose name is not a DNS label", named("my_port"), LABEL),
        accepts("a targetPort by name", to(json!("http-alt"))),
        refuses("targetPort 0", to(json!(0)), NUMBER),
        refuses("a targetPort above 65535", to(json!(65536)), NUMBER),
        refuses("a targetPort that is a number in quotes", to(json!("8080")), NAME),
        refuses("a targetPort with capitals", to(json!("HTTP")), NAME),
        refuses("a targetPort that no container port can be named", to(json!("metrics-and-health")), CONTAINER),
        refuses("a targetPort with two hyphens, with a selector", to(json!("a--b")), CONTAINER),
        accepts(
            "a targetPort that is the long name of a Service's port",
            of_service(json!([{ "targetPort": "metrics-and-health" }])),
        ),
        schema_refuses(
            "a protocol that there is not",
            ports(json!([{ "port": 1, "protocol": "SCTP" }])),
            r#"supported values: "TCP", "UDP", "TCP_UDP""#,
        ),
    ]
}

fn source_ranges() -> Vec<Case> {
    const RANGE: &str = "a range is an IPv4 or IPv6 address with the length of its prefix";
    let with = |ranges: Value| set(claim(), "/spec/loadBalancerSourceRanges", ranges);
    let many = |count: usize| with((0..count).map(|n| json!(format!("10.0.{n}.0/24"))).collect());
    vec![
        accepts("source ranges of both IP families", with(json!(["10.0.0.0/8", "fd00::/8"]))),
        accepts("a source range with bits behind its prefix", with(json!(["10.1.2.3/8"]))),
        accepts("source ranges that are narrowed", with(json!(["10.0.0.0/24"]))).after(with(json!(["10.0.0.0/8"]))),
        accepts("source ranges that are removed", claim()).after(with(json!(["10.0.0.0/8"]))),
        accepts("64 source ranges", many(64)),
        schema_refuses("65 source ranges", many(65), "must have at most 64 items"),
        refuses("an empty list of source ranges", with(json!([])), "an empty list names no clients"),
        refuses("a source range without the length of its prefix", with(json!(["10.0.0.1"])), RANGE),
        refuses("a source range with too long a prefix", with(json!(["10.0.0.0/33"])), RANGE),
        refuses("a source range that is none", with(json!(["10.0.0.0/8", "office"])), RANGE),
        schema_refuses("a source range that is no text", with(json!([10])), r#"must be of type string"#),
    ]
}

fn session_affinity() -> Vec<Case> {
    const CONFIG: &str = "sessionAffinityConfig has no effect without session affinity";
    let affinity = |kind: &str| set(claim(), "/spec/sessionAffinity", json!(kind));
    let timeout = |kind: &str, seconds: Value| {
        set(affinity(kind), "/spec/sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": seconds } }))
    };
    vec![
        accepts("session affinity", affinity("ClientIP")),
        accepts("no session affinity, in words", affinity("None")),
        accepts("session affinity with a timeout", timeout("ClientIP", json!(86400))),
        accepts("session affinity that is added", affinity("ClientIP")).after(claim()),
        accepts(
            "session affinity with empty settings",
            set(affinity("ClientIP"), "/spec/sessionAffinityConfig", json!({ "clientIP": {} })),
        ),
        schema_refuses(
            "session affinity that there is not",
            affinity("Cookie"),
            r#"supported values: "None", "ClientIP""#,
        ),
        schema_refuses("a timeout of 0", timeout("ClientIP", json!(0)), "greater than or equal to 1"),
        schema_refuses(
            "a timeout of more than a day",
            timeout("ClientIP", json!(86401)),
            "less than or equal to 86400",
        ),
        refuses("a timeout without session affinity", timeout("None", json!(60)), CONFIG),
        refuses(
            "a timeout where session affinity is left out",
            set(claim(), "/spec/sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": 60 } })),
            CONFIG,
        ),
    ]
}
