//! AWS' limits, each with its source. "Quotas" is the page "Quotas for your Network Load
//! Balancers" of the ELB user guide.

/// Listeners of a load balancer, of any protocol: a port number has one.
/// (Quotas: "Listeners per Network Load Balancer", 50, not adjustable.)
pub(super) const LISTENERS: u32 = 50;

/// Targets of a load balancer in each of its zones. One counts once for every
/// target group that it is in. (Quotas: "Targets per Availability Zone per
/// Network Load Balancer", 500.)
pub(super) const TARGETS_PER_ZONE: u32 = 500;

/// Targets of a load balancer in all its zones. (Quotas: "Targets per Network
/// Load Balancer", 3,000.)
pub(super) const TARGETS: u32 = 3000;

/// Targets of a load balancer in all its zones where each zone sends to all of
/// them. (Quotas, note on cross-zone load balancing: "500 targets per load
/// balancer, regardless of the zone".)
pub(super) const TARGETS_CROSS_ZONE: u32 = 500;

/// Targets of a target group. (Quotas: "Targets per target group (instances or
/// IP addresses)", 1,000.)
pub(super) const TARGETS_PER_GROUP: u32 = 1000;

/// Targets that one call registers or deregisters. The API reference names no
/// limit; it is the number that the AWS Load Balancer Controller keeps to.
pub(super) const TARGETS_PER_CALL: usize = 200;

/// Resources whose tags one call returns. (API reference, DescribeTags: "up to 20".)
pub(super) const RESOURCES_PER_CALL: usize = 20;

/// The largest page of a list. (API reference, `PageSize` of DescribeListeners,
/// DescribeTargetGroups and DescribeAccountLimits.)
pub(super) const PAGE: i32 = 400;

/// Pages after which a list counts as endless: 40,000 target groups. (Quotas: "Target groups
/// per Region", 3,000, which can be raised.)
pub(super) const PAGES_MAX: usize = 100;

/// The quotas of the account in a region, which may be higher than the documented ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) listeners: u32,
    pub(super) targets_per_zone: u32,
    pub(super) targets: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { listeners: LISTENERS, targets_per_zone: TARGETS_PER_ZONE, targets: TARGETS }
    }
}

impl Limits {
    /// Takes in a quota from the answer of DescribeAccountLimits.
    pub(super) fn set(&mut self, name: &str, max: u32) {
        match name {
            "listeners-per-network-load-balancer" => self.listeners = max,
            "targets-per-availability-zone-per-network-load-balancer" => self.targets_per_zone = max,
            "targets-per-network-load-balancer" => self.targets = max,
            _ => {}
        }
    }

    /// The targets that fit on a load balancer in this many zones.
    pub(super) fn targets_of(self, zones: usize, cross_zone: bool) -> u32 {
        let zones = u32::try_from(zones.max(1)).unwrap_or(u32::MAX);
        let all = self.targets_per_zone.saturating_mul(zones).min(self.targets);
        if cross_zone { all.min(TARGETS_CROSS_ZONE.max(self.targets_per_zone)) } else { all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_add_up_to_the_limit_of_the_load_balancer_unless_each_reaches_all_targets() {
        let targets = |zones, cross_zone| Limits::default().targets_of(zones, cross_zone);
        assert_eq!([1, 3, 6, 9].map(|zones| targets(zones, false)), [500, 1500, 3000, 3000]);
        assert_eq!([1, 3, 6].map(|zones| targets(zones, true)), [500; 3]);
    }

    #[test]
    fn the_accounts_own_quotas_count() {
        let mut limits = Limits::default();
        limits.set("targets-per-network-load-balancer", 1000);
        limits.set("targets-per-application-load-balancer", 1);
        assert_eq!([1, 3].map(|zones| limits.targets_of(zones, false)), [500, 1000]);
    }
}
