//! What AWS allows, each number with its source. "Quotas" is the page "Quotas
//! for your Network Load Balancers" of the ELB user guide.

/// Listeners of a load balancer, whatever they accept: a port number has one.
/// (Quotas: "Listeners per Network Load Balancer", 50, not adjustable.)
pub const LISTENERS: u32 = 50;

/// Targets of a load balancer in each of its zones. One counts once for every
/// target group that it is in. (Quotas: "Targets per Availability Zone per
/// Network Load Balancer", 500.)
pub const TARGETS_PER_ZONE: u32 = 500;

/// Targets of a load balancer in all its zones. (Quotas: "Targets per Network
/// Load Balancer", 3,000.)
pub const TARGETS: u32 = 3000;

/// Targets of a load balancer in all its zones where each zone sends to all of
/// them. (Quotas, note on cross-zone load balancing: "500 targets per load
/// balancer, regardless of the zone".)
pub const TARGETS_CROSS_ZONE: u32 = 500;

/// Targets of a target group. (Quotas: "Targets per target group (instances or
/// IP addresses)", 1,000.)
pub const TARGETS_PER_GROUP: u32 = 1000;

/// What fits on a load balancer in this many zones, by the documented quotas.
#[must_use]
pub fn targets(zones: usize, cross_zone: bool) -> u32 {
    if cross_zone {
        return TARGETS_CROSS_ZONE;
    }
    let zones = u32::try_from(zones.max(1)).unwrap_or(u32::MAX);
    TARGETS_PER_ZONE.saturating_mul(zones).min(TARGETS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_add_up_to_the_limit_of_the_load_balancer_unless_each_reaches_all_targets() {
        assert_eq!([1, 3, 6, 9].map(|zones| targets(zones, false)), [500, 1500, 3000, 3000]);
        assert_eq!([1, 3, 6].map(|zones| targets(zones, true)), [500; 3]);
    }
}
