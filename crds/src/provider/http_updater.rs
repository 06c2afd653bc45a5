//! The provider `httpUpdater`: the load balancer of the class is a host with
//! NGINX, whose configuration an updater writes, a program with the HTTP API of
//! nginx-lb-updater.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The provider `httpUpdater`: a host with NGINX, whose configuration an updater
/// writes that the controller calls. Its class has one load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.url == oldSelf.url && self.address == oldSelf.address",
        "url and address cannot be changed: make a new class, and move the claims to it",
    ),
    validation = (
        "!has(self.credentials) || self.url.startsWith('https://')",
        "credentials are sent with each call: use an url that begins with https://",
    ),
    validation = (
        "!has(self.caBundle) || self.url.startsWith('https://')",
        "a caBundle is for an url that begins with https://: leave it out",
    )
)]
pub struct HttpUpdaterProvider {
    /// The URL of the updater with its path, such as
    /// `https://lb1.example.com/api/v1/lb`. Its host may have no loopback or
    /// link-local address. Cannot be changed.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = (
        r"!self.matches('^https?://([Ll][Oo][Cc][Aa][Ll][Hh][Oo][Ss][Tt]|0|127|0[.][0-9.]*|127[.][0-9.]*|169[.]254[.][0-9.]*|\\[(::1?|[Ff][Ee][89AaBb][0-9A-Fa-f]:[0-9A-Fa-f:.]*|::[Ff]{4}:.*)\\])[.]?(:[0-9]+)?/')",
        "must not have a loopback or link-local address: no updater is on the machine of the controller",
    ))]
    #[x_kube(validation = (
        r"self.matches('^https?://([A-Za-z0-9.-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)+$')",
        "must be the URL of an updater with its path and without user, query and slash at the end, such as https://lb1.example.com/api/v1/lb",
    ))]
    pub url: String,
    /// Where clients reach the ports of the load balancer: an IPv4 address, or a
    /// host name that has one, since the updater has NGINX listen on IPv4 alone;
    /// no loopback or link-local address. Cannot be changed.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = (
        "!isIP(self) || (ip(self).family() == 4 && !ip(self).isLoopback() && !ip(self).isLinkLocalUnicast() && !ip(self).isUnspecified())",
        "must be an IPv4 address that is neither loopback nor link-local: the updater has NGINX listen on IPv4 alone",
    ))]
    #[x_kube(validation = (
        "isIP(self) || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
        "must be an IP address, or a host name in lower case",
    ))]
    pub address: String,
    /// The credentials of calls, for an updater behind a reverse proxy that
    /// wants some. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HttpUpdaterSecret")]
    pub credentials: Option<HttpUpdaterSecret>,
    /// Certificates of authorities in PEM, which are trusted besides those of
    /// the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 65536))]
    #[x_kube(validation = (
        "self.contains('-----BEGIN CERTIFICATE-----')",
        "must be certificates in PEM, which begin with -----BEGIN CERTIFICATE-----",
    ))]
    pub ca_bundle: Option<String>,
    /// Ports of the host that no claim gets, at most 64: those of SSH, the
    /// updater, and anything else that listens there. Default: 22.
    #[serde(default = "default_reserved_ports")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub reserved_ports: BTreeSet<NonZeroU16>,
    /// How many seconds may pass between two reads or writes of an open
    /// connection, 0 to 86400; 0 is the default of the updater, which is 5.
    /// Default: 600, as NGINX has it.
    #[serde(default = "default_proxy_timeout_seconds")]
    #[schemars(range(min = 0, max = 86_400))]
    pub proxy_timeout_seconds: u32,
    /// How many seconds a connection to a backend may take, 0 to 3600; 0 is the
    /// default of the updater, which is 2. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3_600))]
    pub proxy_connect_timeout_seconds: u32,
    /// How it is found out whether a TCP port is open: None, or Connect, by a
    /// connection of the controller to it. With Connect, a port on which
    /// something listens already is refused, one that NGINX has not opened is
    /// not Programmed, and one that was deleted goes to no other claim before
    /// NGINX has closed it. With None, a port that NGINX has not closed, since
    /// it refuses to reload, leads to its former pods also when another claim
    /// has it: for claims that do not trust each other use Connect. Ports of UDP
    /// cannot be connected to. Default: None.
    #[serde(default)]
    pub verification: HttpUpdaterVerification,
}

/// A Secret in the namespace of the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpUpdaterSecret {
    /// The name of the Secret. Its key `token` has a bearer token; or its keys
    /// `username` and `password` are those of HTTP basic authentication. It is
    /// sent only if its annotation `sharedlb.dev/allowed-hosts` has the host of
    /// the url, and its port unless that is 443.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// How it is found out whether a port is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HttpUpdaterVerification {
    /// It is not.
    #[default]
    None,
    /// By a connection to it.
    Connect,
}

fn default_reserved_ports() -> BTreeSet<NonZeroU16> {
    const SSH: NonZeroU16 = NonZeroU16::new(22).expect("it is not zero");
    [SSH].into()
}

fn default_proxy_timeout_seconds() -> u32 {
    600
}
