//! What a claim may ask of its listeners.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_with::{DurationSeconds, serde_as, skip_serializing_none};

use super::address::IpFamily;
use super::capabilities::{AffinitySupport, Capabilities};

/// The options of a listener. The default ones are those of a Service that sets none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ListenerOptions {
    /// The addresses of the clients that are served, without host bits
    /// ([`IpNet::trunc`]); empty: all clients. If there is no range of an IP family, no client
    /// of that family is served
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub source_ranges: BTreeSet<IpNet>,
    /// Session affinity; `None`: each connection goes to any backend
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinity>,
}

/// Session affinity by the address of the client: all its connections to a listener go to one
/// backend.
#[serde_as]
#[skip_serializing_none]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinity {
    /// How long after a client's last connection it goes to the same backend, in whole
    /// seconds from 1 to 86400 (`timeoutSeconds` of a Service); `None`: as the load balancer
    /// has it
    #[serde_as(as = "Option<DurationSeconds<u64>>")]
    #[serde(rename = "timeoutSeconds")]
    pub timeout: Option<Duration>,
}

impl ListenerOptions {
    /// These options. Ranges lose their host bits; none: all clients.
    #[must_use]
    pub fn new(source_ranges: impl IntoIterator<Item = IpNet>, session_affinity: Option<SessionAffinity>) -> Self {
        Self { source_ranges: source_ranges.into_iter().map(|range| range.trunc()).collect(), session_affinity }
    }

    /// Whether they are those of a listener for which nothing is requested.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether clients of this family are served.
    #[must_use]
    pub fn admits(&self, family: IpFamily) -> bool {
        let ranges = &self.source_ranges;
        ranges.is_empty() || ranges.iter().any(|range| IpFamily::of(range.addr()) == family)
    }

    /// Whether a client is served that `other` excludes.
    #[must_use]
    pub fn admits_more_than(&self, other: &Self) -> bool {
        let (these, those) = (self.admitted(), other.admitted());
        !these.iter().all(|range| those.iter().any(|other| other.contains(range)))
    }

    /// The addresses of the clients that are served, in as few ranges as possible: a range
    /// that is covered by several others is part of one of these.
    fn admitted(&self) -> Vec<IpNet> {
        if self.source_ranges.is_empty() {
            return vec![Ipv4Net::default().into(), Ipv6Net::default().into()];
        }
        IpNet::aggregate(&self.source_ranges.iter().copied().collect())
    }

    /// The options that load balancers with these capabilities have if these are requested:
    /// without session affinity where they have none, without its timeout where that cannot
    /// be set. Source ranges stay: a listener must not open without them, and the caller
    /// opens none where [`Capabilities::source_ranges`] is not set.
    #[must_use]
    pub fn offered_by(&self, can: &Capabilities) -> Self {
        let session_affinity = match can.session_affinity {
            AffinitySupport::None => None,
            AffinitySupport::FixedTimeout => self.session_affinity.map(|_| SessionAffinity { timeout: None }),
            AffinitySupport::Timeout => self.session_affinity,
        };
        Self { source_ranges: self.source_ranges.clone(), session_affinity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_ranges(ranges: &[&str]) -> ListenerOptions {
        ListenerOptions::new(ranges.iter().map(|range| range.parse().unwrap()), None)
    }

    #[test]
    fn ranges_are_compared_by_the_clients_that_they_admit() {
        let admits_more = |these: &[&str], those: &[&str]| with_ranges(these).admits_more_than(&with_ranges(those));
        assert!(admits_more(&[], &["10.0.0.0/8"]));
        assert!(!admits_more(&["10.0.0.0/8"], &[]));
        assert!(!admits_more(&[], &["0.0.0.0/0", "::/0"]));
        assert!(admits_more(&[], &["0.0.0.0/0"]), "clients of IPv6");
        assert!(admits_more(&["10.0.0.0/8"], &["10.0.0.0/9"]));
        assert!(!admits_more(&["10.0.0.0/8"], &["10.0.0.0/9", "10.128.0.0/9"]), "both halves");
        assert!(!admits_more(&["10.0.0.0/9", "10.1.0.0/16"], &["10.0.0.0/8"]));
        assert!(admits_more(&["fd00::/8"], &["10.0.0.0/8"]));
    }

    #[test]
    fn clients_of_a_family_without_a_range_are_not_served() {
        assert!(with_ranges(&[]).admits(IpFamily::V6));
        let v4 = with_ranges(&["10.0.0.0/8"]);
        assert!(v4.admits(IpFamily::V4) && !v4.admits(IpFamily::V6));
    }

    #[test]
    fn a_load_balancer_without_source_ranges_is_not_offered_fewer() {
        let asked = ListenerOptions { session_affinity: Some(SessionAffinity::default()), ..with_ranges(&["::/0"]) };
        let offered = asked.offered_by(&Capabilities::new(1));
        assert_eq!(offered, with_ranges(&["::/0"]));
    }
}
