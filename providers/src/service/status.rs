//! The addresses in the status of a Service of which we write the status.
//!
//! They are an attribute, so that a status that another client has altered or wiped is found
//! by the comparison, as any other setting.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use serde_json::{Value, json};
use sharedlb_kubernetes::ObjectMeta;

/// The mode of an address of which the packets arrive at nodes unchanged, so that kube-proxy
/// must serve it.
const VIP: &str = "VIP";

/// The value of the attribute for these addresses: `203.0.113.10,2001:db8::10`.
pub(crate) fn text(addresses: impl IntoIterator<Item = IpAddr>) -> String {
    addresses.into_iter().map(|address| address.to_string()).collect::<Vec<_>>().join(",")
}

/// The addresses of a value that kube-proxy serves.
pub(crate) fn addresses(text: &str) -> impl Iterator<Item = IpAddr> {
    text.split(',').filter_map(|address| address.parse().ok())
}

/// The entries in the status of a Service.
pub(super) fn ingress(service: &Service) -> impl Iterator<Item = &LoadBalancerIngress> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.as_ref()).into_iter().flatten()
}

/// The value of the attribute. What we would not write is in it too, in words that are no
/// address.
pub(super) fn read(service: &Service) -> String {
    let found = ingress(service).map(|LoadBalancerIngress { ip, ip_mode, hostname, .. }| match (ip, hostname) {
        (Some(ip), None) if ip_mode.as_deref().is_none_or(|mode| mode == VIP) => ip.clone(),
        (ip, hostname) => {
            let words = [ip.as_deref(), ip_mode.as_deref(), hostname.as_deref()];
            words.into_iter().flatten().collect::<Vec<_>>().join(" ")
        }
    });
    found.collect::<Vec<_>>().join(",")
}

/// The merge patch of the status of the Service that was observed.
pub(super) fn merge_patch(there: &ObjectMeta, addresses: &[IpAddr]) -> Value {
    let ObjectMeta { key, uid, version, .. } = there;
    let ingress = addresses.iter().map(|address| json!({"ip": address, "ipMode": VIP})).collect::<Vec<_>>();
    json!({
        "metadata": {"name": key.name, "uid": uid, "resourceVersion": version.to_string()},
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(ingress: Value) -> Service {
        serde_json::from_value(json!({"metadata": {}, "status": {"loadBalancer": {"ingress": ingress}}})).unwrap()
    }

    #[test]
    fn only_an_address_that_kube_proxy_serves_reads_back_as_one() {
        let ours: [IpAddr; 2] = ["203.0.113.10".parse().unwrap(), "2001:db8::10".parse().unwrap()];
        let read_back = |ingress| -> Vec<IpAddr> { addresses(&read(&with(ingress))).collect() };
        let vip = |ip: &str| json!({"ip": ip, "ipMode": "VIP"});
        assert_eq!(read_back(json!([vip("203.0.113.10"), vip("2001:db8::10")])), ours);
        assert_eq!(read(&with(json!([vip("203.0.113.10"), vip("2001:db8::10")]))), text(ours));
        assert_eq!(read_back(json!([{"ip": "203.0.113.10", "ipMode": "Proxy"}, vip("2001:db8::10")])), ours[1..]);
        assert_eq!(
            read_back(json!([{"ip": "203.0.113.10", "hostname": "lb.example.com", "ipMode": "VIP"}])),
            [] as [IpAddr; 0]
        );
        assert_eq!(read_back(json!([{"hostname": "lb.example.com"}])), [] as [IpAddr; 0]);
    }

    #[test]
    fn a_wiped_status_differs_from_every_address() {
        assert_eq!(read(&Service::default()), "");
        assert_eq!(read(&with(json!([]))), "");
    }
}
