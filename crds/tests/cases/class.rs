//! The cases of SharedLBClass.

use serde_json::{Value, json};

use super::{Case, accepts, object, refuses, schema_refuses, set, unset};

/// The smallest good class.
fn class() -> Value {
    let spec = json!({ "provider": { "service": {} } });
    object("SharedLBClass", "default", spec)
}

/// The smallest good class but for one field of its spec.
fn with(field: &str, value: Value) -> Value {
    set(class(), &format!("/spec/{field}"), value)
}

/// A class with this configuration of the provider `service`.
fn service(config: Value) -> Value {
    with("provider", json!({ "service": config }))
}

/// The smallest good class of the provider `vip`.
fn vip() -> Value {
    let spec = json!({ "provider": { "vip": {} }, "addresses": [{ "min": "203.0.113.10", "max": "203.0.113.19" }] });
    object("SharedLBClass", "default", spec)
}

pub(super) fn cases() -> Vec<Case> {
    [whole(), service_provider(), vip_provider(), port_ranges(), limits(), addresses(), namespaces(), pricing()]
        .into_iter()
        .flatten()
        .collect()
}

fn whole() -> Vec<Case> {
    const ONE: &str = "give exactly one provider; there are: service, aws, vip, gcp, httpUpdater";
    vec![
        accepts("a class of just a provider", class()),
        refuses(
            "a class with a name of 64 characters",
            set(class(), "/metadata/name", json!("x".repeat(64))),
            "the name of a class has at most 63 characters",
        ),
        refuses("a class with an empty provider", with("provider", json!({})), ONE),
        refuses(
            "a class of two providers",
            with(
                "provider",
                json!({ "service": {}, "aws": { "region": "eu-central-1", "vpcId": "vpc-0123456789abcdef0", "subnets": ["subnet-0123456789abcdef0"] } }),
            ),
            ONE,
        ),
        refuses("a class of a provider that there is not", with("provider", json!({ "carrierPigeon": {} })), ONE),
        refuses(
            "a provider whose kind is changed",
            set(vip(), "/spec/provider", json!({ "service": {} })),
            "the kind of provider cannot be changed",
        )
        .after(vip()),
        refuses("a provider that is removed", with("provider", json!({})), "the kind of provider cannot be changed")
            .after(class()),
        schema_refuses(
            "a class without a provider",
            object("SharedLBClass", "default", json!({})),
            "spec.provider: Required value",
        ),
        accepts("targets that are nodes", with("targets", json!("Node"))),
        schema_refuses(
            "targets that there are not",
            with("targets", json!("Host")),
            r#"supported values: "Pod", "Node""#,
        ),
        accepts("endpoints that were written by hand", with("endpoints", json!("Any"))),
        schema_refuses(
            "endpoints that there are not",
            with("endpoints", json!("Node")),
            r#"supported values: "Pods", "Any""#,
        ),
    ]
}

fn service_provider() -> Vec<Case> {
    const NAMESPACE: &str = "the namespace of the Services cannot be changed: make a new class";
    const CLASS: &str = "loadBalancerClass cannot be set, changed or removed: make a new class";
    let in_namespace = |name: &str| service(json!({ "namespace": name }));
    let of_class = |name: &str| service(json!({ "loadBalancerClass": name }));
    vec![
        accepts(
            "a class with everything that a Service can have",
            service(json!({
                "namespace": "edge",
                "annotations": { "example.com/tier": "standard" },
                "loadBalancerClass": "example.com/nlb",
                "allocateLoadBalancerNodePorts": false,
                "ipFamilyPolicy": "RequireDualStack",
                "ipFamilies": ["IPv6", "IPv4"],
            })),
        ),
        accepts("annotations that are changed", service(json!({ "annotations": { "example.com/tier": "premium" } })))
            .after(class()),
        refuses("a namespace that is changed", in_namespace("edge"), NAMESPACE).after(class()),
        refuses("a namespace that cannot be", in_namespace("Edge"), "must be the name of a namespace"),
        refuses(
            "a loadBalancerClass that leads back to SharedLB",
            of_class("sharedlb.dev/default"),
            "must be the class of another controller",
        ),
        refuses("a loadBalancerClass that is set later", of_class("a"), CLASS).after(class()),
        refuses("a loadBalancerClass that is changed", of_class("b"), CLASS).after(of_class("a")),
        refuses("a loadBalancerClass that is removed", class(), CLASS).after(of_class("a")),
        refuses(
            "two IP families with SingleStack",
            service(json!({ "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"] })),
            "two ipFamilies need the ipFamilyPolicy PreferDualStack or RequireDualStack",
        ),
        refuses("one IP family twice", service(json!({ "ipFamilies": ["IPv4", "IPv4"] })), "name each IP family once"),
        schema_refuses(
            "an IP family that there is not",
            service(json!({ "ipFamilies": ["IPv5"] })),
            r#"supported values: "IPv4", "IPv6""#,
        ),
    ]
}

fn vip_provider() -> Vec<Case> {
    const ADDRESSES: &str = "the provider vip serves the addresses that it is given: set addresses";
    let of_both_families = json!([
        { "min": "203.0.113.10", "max": "203.0.113.19" }, { "min": "2001:db8::10", "max": "2001:db8::19" },
    ]);
    vec![
        accepts("virtual addresses of one family", vip()),
        accepts("virtual addresses of both families", set(vip(), "/spec/addresses", of_both_families)),
        refuses("virtual addresses that are not given", unset(vip(), "/spec/addresses"), ADDRESSES),
        refuses("an empty list of virtual addresses", set(vip(), "/spec/addresses", json!([])), ADDRESSES),
        refuses("virtual addresses that are removed", unset(vip(), "/spec/addresses"), ADDRESSES).after(vip()),
    ]
}

fn port_ranges() -> Vec<Case> {
    const ORDER: &str = "min must not be above max: swap them";
    let range = |kind: &str, min: u32, max: u32| with("ports", json!({ kind: [{ "min": min, "max": max }] }));
    vec![
        accepts("a range of one port", range("dynamic", 7, 7)),
        accepts("ranges that are narrowed", range("requestable", 80, 443)).after(class()),
        refuses("a dynamic range that ends before it starts", range("dynamic", 8, 7), ORDER),
        refuses("a requestable range that ends before it starts", range("requestable", 8, 7), ORDER),
        schema_refuses("a range from port 0", range("dynamic", 0, 7), "greater than or equal to 1"),
        schema_refuses("a range to port 65536", range("dynamic", 1, 65536), "less than or equal to 65535"),
        schema_refuses("no dynamic range", with("ports", json!({ "dynamic": [] })), "should have at least 1 items"),
        schema_refuses(
            "17 dynamic ranges",
            with("ports", json!({ "dynamic": vec![json!({ "min": 1, "max": 2 }); 17] })),
            "must have at most 16 items",
        ),
    ]
}

fn limits() -> Vec<Case> {
    let load_balancers = |value: Value| with("loadBalancers", value);
    vec![
        accepts("a class that has no load balancer until there is a claim", load_balancers(json!({ "min": 0 }))),
        accepts("as many load balancers as there may ever be", load_balancers(json!({ "min": 3, "max": 3 }))),
        refuses(
            "more load balancers at least than at most",
            load_balancers(json!({ "min": 11 })),
            "min must not be above max: raise max, or lower min",
        ),
        schema_refuses(
            "a class that can have no load balancer",
            load_balancers(json!({ "min": 0, "max": 0 })),
            "greater than or equal to 1",
        ),
        schema_refuses("1001 load balancers", load_balancers(json!({ "max": 1001 })), "less than or equal to 1000"),
        schema_refuses(
            "load balancers without listeners",
            load_balancers(json!({ "listenersPerLoadBalancer": 0 })),
            "greater than or equal to 1",
        ),
        accepts("load balancers that get no new ports", load_balancers(json!({ "cordoned": [0, 999] }))),
        schema_refuses(
            "a cordoned load balancer that there cannot be",
            load_balancers(json!({ "cordoned": [1000] })),
            "less than or equal to 999",
        ),
        schema_refuses("a quota of no ports", with("portsPerNamespace", json!(0)), "greater than or equal to 1"),
        schema_refuses(
            "a cool-down of more than a day",
            with("reclaimDelaySeconds", json!(86_401)),
            "less than or equal to 86400",
        ),
    ]
}

fn addresses() -> Vec<Case> {
    let range = |min: &str, max: &str| with("addresses", json!([{ "min": min, "max": max }]));
    vec![
        accepts("a range of IPv4 addresses", range("10.0.0.10", "10.0.0.60")),
        accepts("a range of IPv6 addresses", range("fd00::10", "fd00::60")),
        refuses(
            "a range of what are not addresses",
            range("10.0.0.10", "10.0.0.0/24"),
            "min and max must be IP addresses, like 10.0.0.10 or fd00::10",
        ),
        refuses(
            "a range from IPv4 to IPv6",
            range("10.0.0.10", "fd00::60"),
            "min and max must be of one IP family: make two ranges of it",
        ),
    ]
}

fn namespaces() -> Vec<Case> {
    const SELECTOR: &str = "give a selector if from is Selector, and only then";
    let allowed = |value: Value| with("allowedNamespaces", value);
    let labels = json!({ "matchLabels": { "tier": "edge" } });
    vec![
        accepts("namespaces by their labels", allowed(json!({ "from": "Selector", "selector": labels }))),
        refuses("namespaces by labels that are not given", allowed(json!({ "from": "Selector" })), SELECTOR),
        refuses("labels of namespaces if all are allowed", allowed(json!({ "selector": labels })), SELECTOR),
        schema_refuses(
            "namespaces that are chosen in no known way",
            allowed(json!({ "from": "Same" })),
            r#"supported values: "All", "Selector""#,
        ),
    ]
}

fn pricing() -> Vec<Case> {
    vec![
        accepts("prices of a preset", with("pricing", json!({ "preset": "AwsNetworkLoadBalancer" }))),
        accepts(
            "prices of one's own",
            with(
                "pricing",
                json!({ "currency": "EUR", "basePerHour": "7", "includedListeners": 5, "listenerPerHour": "0.000001" }),
            ),
        ),
        refuses("pricing without a price", with("pricing", json!({})), "set a preset, or at least one price"),
        refuses(
            "a preset with a price",
            with("pricing", json!({ "preset": "GcpForwardingRule", "listenerPerHour": "1" })),
            "a preset has all prices",
        ),
        refuses(
            "a preset in another currency",
            with("pricing", json!({ "preset": "GcpForwardingRule", "currency": "EUR" })),
            "the prices of presets are in US dollars",
        ),
        schema_refuses(
            "a preset that there is not",
            with("pricing", json!({ "preset": "Cheap" })),
            r#"supported values: "AwsNetworkLoadBalancer", "GcpForwardingRule""#,
        ),
        schema_refuses(
            "a price with seven decimals",
            with("pricing", json!({ "basePerHour": "0.0000001" })),
            "should match",
        ),
        schema_refuses(
            "a price that is less than nothing",
            with("pricing", json!({ "loadBalancerPerHour": "-1" })),
            "should match",
        ),
        schema_refuses(
            "a currency by its sign",
            with("pricing", json!({ "currency": "$", "basePerHour": "1" })),
            "should match",
        ),
    ]
}
