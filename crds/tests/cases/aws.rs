//! The cases of a SharedLBClass with the provider `aws`.

use serde_json::{Value, json};

use super::{Case, accepts, object, refuses, schema_refuses, set, unset};

const ARN: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/net/edge/0123456789abcdef";

/// The smallest good class.
fn class() -> Value {
    object(
        "SharedLBClass",
        "nlb",
        json!({ "provider": { "aws": {
        "region": "eu-central-1",
        "vpcId": "vpc-0123456789abcdef0",
        "subnets": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
    } } }),
    )
}

/// The smallest good class but for one field of its provider.
fn with(field: &str, value: Value) -> Value {
    set(class(), &format!("/spec/provider/aws/{field}"), value)
}

fn without(field: &str) -> Value {
    unset(class(), &format!("/spec/provider/aws/{field}"))
}

/// A class of one load balancer that is there already.
fn adopting(arn: &str) -> Value {
    let class = set(without("subnets"), "/spec/provider/aws/loadBalancerArn", json!(arn));
    set(class, "/spec/loadBalancers", json!({ "max": 1 }))
}

/// A class with subnets that are mapped: here is one of them.
fn mapping(mapping: Value) -> Value {
    let class = set(without("subnets"), "/spec/provider/aws/subnetMappings", json!([mapping]));
    set(class, "/spec/loadBalancers", json!({ "max": 1 }))
}

fn scheme(class: Value, scheme: &str) -> Value {
    set(class, "/spec/provider/aws/scheme", json!(scheme))
}

pub(super) fn cases() -> Vec<Case> {
    [whole(), identity(), adopted(), mappings(), health_check(), tags_and_attributes(), changes()]
        .into_iter()
        .flatten()
        .collect()
}

fn whole() -> Vec<Case> {
    let all = json!({
        "region": "us-gov-west-1",
        "vpcId": "vpc-01234567",
        "scheme": "internal",
        "subnetMappings": [
            { "subnetId": "subnet-01234567", "privateIPv4Address": "10.0.0.10", "iPv6Address": "fd00::10" },
            { "subnetId": "subnet-01234568" },
        ],
        "securityGroups": ["sg-0123456789abcdef0"],
        "ipAddressType": "dualstack",
        "targetGroupIpAddressType": "ipv6",
        "crossZone": true,
        "attributes": { "access_logs.s3.enabled": "true" },
        "tags": { "cost-centre": "42" },
        "healthCheck": {
            "protocol": "HTTPS", "port": 8443, "path": "/healthz",
            "intervalSeconds": 10, "timeoutSeconds": 10, "healthyThresholdCount": 2, "unhealthyThresholdCount": 10,
        },
        "deregistrationDelaySeconds": 0,
        "preserveClientIP": true,
        "proxyProtocolV2": true,
    });
    let provider = |aws: Value| set(class(), "/spec/provider/aws", aws);
    vec![
        accepts("a class of just a region, a VPC and its subnets", class()),
        accepts(
            "a class with everything that a Network Load Balancer can have",
            set(provider(all), "/spec/loadBalancers", json!({ "max": 1 })),
        ),
        schema_refuses("a class without a region", without("region"), "spec.provider.aws.region: Required value"),
        schema_refuses("a class without a VPC", without("vpcId"), "spec.provider.aws.vpcId: Required value"),
        refuses(
            "addresses beside those that AWS gives",
            set(class(), "/spec/addresses", json!([{ "min": "10.0.0.1", "max": "10.0.0.2" }])),
            "AWS gives its load balancers their addresses: leave addresses out",
        ),
        schema_refuses(
            "connections that go on for more than an hour",
            with("deregistrationDelaySeconds", json!(3601)),
            "less than or equal to 3600",
        ),
    ]
}

fn identity() -> Vec<Case> {
    const REGION: &str = "must be the name of a region, such as eu-central-1";
    vec![
        refuses("a region that is a zone", with("region", json!("eu-central-1a")), REGION),
        accepts("a region of a partition of its own", with("region", json!("eusc-de-east-1"))),
        refuses("a VPC that is a subnet", with("vpcId", json!("subnet-01234567")), "must be the id of a VPC"),
        refuses("a subnet that is a zone", with("subnets", json!(["eu-central-1a"])), "must be ids of subnets"),
        schema_refuses(
            "one subnet twice",
            with("subnets", json!(["subnet-01234567", "subnet-01234567"])),
            "Duplicate value",
        ),
        refuses(
            "a security group by its name",
            with("securityGroups", json!(["default"])),
            "must be ids of security groups",
        ),
        schema_refuses(
            "a scheme that there is not",
            with("scheme", json!("public")),
            r#"supported values: "internet-facing", "internal""#,
        ),
        refuses(
            "targets of IPv6 behind IPv4",
            with("targetGroupIpAddressType", json!("ipv6")),
            "the targetGroupIpAddressType ipv6 needs the ipAddressType dualstack",
        ),
        schema_refuses(
            "an IP address type that a Network Load Balancer has not",
            with("ipAddressType", json!("ipv6")),
            r#"supported values: "ipv4", "dualstack""#,
        ),
    ]
}

fn adopted() -> Vec<Case> {
    const ONE: &str = "give exactly one of subnets and subnetMappings, or the loadBalancerArn";
    const STAYS: &str = "a load balancer that is adopted by loadBalancerArn stays as it is";
    const NOT_AN_ARN: &str = "must be the ARN of a Network Load Balancer";
    let mapped = set(class(), "/spec/provider/aws/subnetMappings", json!([{ "subnetId": "subnet-01234567" }]));
    let mut cases = vec![
        accepts("a load balancer that is there already", adopting(ARN)),
        accepts("one in China", {
            let arn = "arn:aws-cn:elasticloadbalancing:cn-north-1:123456789012:loadbalancer/net/edge/0123456789abcdef";
            set(adopting(arn), "/spec/provider/aws/region", json!("cn-north-1"))
        }),
        refuses("a class without subnets", without("subnets"), ONE),
        refuses("a class with subnets and subnetMappings", mapped, ONE),
        refuses(
            "an adopted load balancer beside others",
            set(adopting(ARN), "/spec/loadBalancers", json!({ "max": 2 })),
            "a class that adopts a load balancer has just that one",
        ),
        refuses("an Application Load Balancer", adopting(&ARN.replace("/net/", "/app/")), NOT_AN_ARN),
        refuses("a load balancer by its name", adopting("edge"), NOT_AN_ARN),
        refuses(
            "a load balancer of another region",
            adopting(&ARN.replace("eu-central-1", "eu-central-2")),
            "loadBalancerArn is of another region than region",
        ),
    ];
    for (field, value) in [
        ("scheme", json!("internal")),
        ("subnets", json!(["subnet-01234567"])),
        ("subnetMappings", json!([{ "subnetId": "subnet-01234567" }])),
        ("securityGroups", json!(["sg-01234567"])),
        ("ipAddressType", json!("ipv4")),
        ("crossZone", json!(true)),
        ("attributes", json!({ "deletion_protection.enabled": "true" })),
    ] {
        let class = set(adopting(ARN), &format!("/spec/provider/aws/{field}"), value);
        cases.push(refuses(&format!("{field} for a load balancer that is adopted"), class, STAYS));
    }
    cases
}

fn mappings() -> Vec<Case> {
    let elastic = || json!({ "subnetId": "subnet-01234567", "allocationId": "eipalloc-01234567" });
    let private = || json!({ "subnetId": "subnet-01234567", "privateIPv4Address": "10.0.0.10" });
    let six = || json!({ "subnetId": "subnet-01234567", "iPv6Address": "fd00::10" });
    let plain = json!({ "subnetId": "subnet-01234567" });
    let many = |class: Value| set(class, "/spec/loadBalancers", json!({ "max": 2 }));
    const ONE: &str = "addresses in subnetMappings are for one load balancer: set loadBalancers.max to 1";
    vec![
        accepts("a subnet with an Elastic IP address", mapping(elastic())),
        accepts("a private address of an internal load balancer", scheme(mapping(private()), "internal")),
        accepts("subnets without addresses for many load balancers", many(mapping(plain))),
        refuses("an Elastic IP address for two load balancers", many(mapping(elastic())), ONE),
        refuses(
            "an Elastic IP address for an internal load balancer",
            scheme(mapping(elastic()), "internal"),
            "an allocationId is for a load balancer with the scheme internet-facing",
        ),
        refuses(
            "a private address for a load balancer that is internet-facing",
            mapping(private()),
            "a privateIPv4Address is for a load balancer with the scheme internal",
        ),
        refuses(
            "an IPv6 address without dualstack",
            mapping(six()),
            "an iPv6Address needs the ipAddressType dualstack",
        ),
        refuses(
            "an Elastic IP address by the address",
            mapping(json!({ "subnetId": "subnet-01234567", "allocationId": "198.51.100.1" })),
            "must be the allocation id of an Elastic IP address",
        ),
        refuses("a mapping of a zone", mapping(json!({ "subnetId": "eu-central-1a" })), "must be the id of a subnet"),
        refuses(
            "a private address that is none",
            scheme(mapping(json!({ "subnetId": "subnet-01234567", "privateIPv4Address": "10.0.0" })), "internal"),
            "must be an IPv4 address, like 10.0.0.10",
        ),
        refuses(
            "an IPv6 address that is of IPv4",
            mapping(json!({ "subnetId": "subnet-01234567", "iPv6Address": "10.0.0.10" })),
            "must be an IPv6 address, like fd00::10",
        ),
    ]
}

fn health_check() -> Vec<Case> {
    const HTTP: &str = "a path is for the protocols HTTP and HTTPS";
    let check = |check: Value| with("healthCheck", check);
    vec![
        accepts(
            "a health check by TCP",
            check(json!({ "protocol": "TCP", "intervalSeconds": 5, "timeoutSeconds": 5 })),
        ),
        refuses("a path without a protocol", check(json!({ "path": "/" })), HTTP),
        refuses(
            "a path that begins with no slash",
            check(json!({ "protocol": "HTTP", "path": "healthz" })),
            "must begin with a slash",
        ),
        refuses(
            "a check that takes longer than until the next one",
            check(json!({ "intervalSeconds": 5, "timeoutSeconds": 6 })),
            "timeoutSeconds must not be above intervalSeconds",
        ),
        schema_refuses("a check every second", check(json!({ "intervalSeconds": 1 })), "greater than or equal to 5"),
        schema_refuses("a check every hour", check(json!({ "intervalSeconds": 3600 })), "less than or equal to 300"),
        schema_refuses(
            "a target that is healthy by one check",
            check(json!({ "healthyThresholdCount": 1 })),
            "greater than or equal to 2",
        ),
        schema_refuses(
            "a target that is unhealthy by eleven checks",
            check(json!({ "unhealthyThresholdCount": 11 })),
            "less than or equal to 10",
        ),
    ]
}

fn tags_and_attributes() -> Vec<Case> {
    const KEY: &str = "a tag's key has 1 to 128 characters, and begins neither with aws:";
    let tag = |key: &str| with("tags", json!({ key: "x" }));
    let many: serde_json::Map<String, Value> = (0..41).map(|n| (format!("tag-{n}"), json!("x"))).collect();
    vec![
        accepts("a tag with an empty value", with("tags", json!({ "Team:net/edge": "" }))),
        refuses("a tag of AWS' own", tag("aws:name"), KEY),
        refuses("a tag of ours", tag("sharedlb.dev/cluster-id"), KEY),
        refuses("a tag with a key of 129 characters", tag(&"x".repeat(129)), KEY),
        schema_refuses("41 tags", with("tags", Value::Object(many)), "must have at most 40 items"),
        refuses(
            "an attribute that has a field of its own",
            with("attributes", json!({ "load_balancing.cross_zone.enabled": "true" })),
            "load_balancing.cross_zone.enabled has a field of its own: crossZone",
        ),
    ]
}

fn changes() -> Vec<Case> {
    const ADDRESSING: &str = "scheme, ipAddressType and targetGroupIpAddressType cannot be set, changed or removed";
    const SUBNETS: &str = "subnets and subnetMappings cannot be changed";
    const ADOPTED: &str = "loadBalancerArn cannot be set, changed or removed";
    const GROUPS: &str = "AWS lets a load balancer have security groups only if it was made with one";
    let groups = |id: &str| with("securityGroups", json!([id]));
    let other = ARN.replace("/edge/", "/other/");
    vec![
        accepts("settings that are changed", with("deregistrationDelaySeconds", json!(60))).after(class()),
        accepts("a security group that is exchanged for another", groups("sg-01234567")).after(groups("sg-01234568")),
        refuses("security groups that are added", groups("sg-01234567"), GROUPS).after(class()),
        refuses("security groups that are removed", class(), GROUPS).after(groups("sg-01234567")),
        refuses(
            "a region that is changed",
            with("region", json!("eu-central-2")),
            "the region cannot be changed: make a new class",
        )
        .after(class()),
        refuses("a VPC that is changed", with("vpcId", json!("vpc-01234567")), "the VPC cannot be changed")
            .after(class()),
        refuses("a scheme that is set", scheme(class(), "internal"), ADDRESSING).after(class()),
        refuses("a scheme that is changed", scheme(class(), "internal"), ADDRESSING)
            .after(scheme(class(), "internet-facing")),
        refuses("a family of target groups that is set", with("targetGroupIpAddressType", json!("ipv4")), ADDRESSING)
            .after(class()),
        refuses("an IP address type that is removed", class(), ADDRESSING)
            .after(with("ipAddressType", json!("dualstack"))),
        refuses("subnets that are changed", with("subnets", json!(["subnet-01234567"])), SUBNETS).after(class()),
        refuses("subnets that become mappings", mapping(json!({ "subnetId": "subnet-01234567" })), SUBNETS)
            .after(class()),
        refuses("an adopted load balancer that is changed", adopting(&other), ADOPTED).after(adopting(ARN)),
        refuses("a load balancer that is adopted later", adopting(ARN), ADOPTED).after(class()),
    ]
}
