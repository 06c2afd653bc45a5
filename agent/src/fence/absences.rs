//! For how long the addresses of virtual routers have been elsewhere: pure.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use crate::virtual_router::VirtualRouter;

/// For how long a fence is closed before another host is taken to have the addresses. It takes over
/// within 4 seconds, with the longest interval of adverts (RFC 9568, `Active_Down_Interval`). Where
/// there is no other host, this one has the addresses again within 6 seconds after keepalived has
/// ended by itself, and its connections have to go on.
const ELSEWHERE_AFTER: Duration = Duration::from_secs(10);

/// The virtual routers that the fence is closed for.
#[derive(Debug, Default)]
pub(super) struct Absences(HashMap<NonZeroU8, Absence>);

#[derive(Debug)]
struct Absence {
    /// When the fence was first found closed
    since: Instant,
    /// Whether the connections to the addresses are forgotten
    is_forgotten: bool,
}

impl Absences {
    /// Takes in which virtual routers the fence is open for, and returns those whose connections are
    /// to be forgotten now, since another host has the addresses.
    pub(super) fn due<'a>(
        &mut self,
        routers: &'a [VirtualRouter],
        open: &HashSet<NonZeroU8>,
        now: Instant,
    ) -> Vec<&'a VirtualRouter> {
        let closed = || routers.iter().filter(|router| !open.contains(&router.id));
        self.0.retain(|id, _| closed().any(|router| router.id == *id));
        let is_due = |router: &&VirtualRouter| {
            let absence = self.0.entry(router.id).or_insert(Absence { since: now, is_forgotten: false });
            !absence.is_forgotten && now.duration_since(absence.since) >= ELSEWHERE_AFTER
        };
        closed().filter(is_due).collect()
    }

    /// Takes in that the connections to the addresses of a virtual router are forgotten.
    pub(super) fn set_forgotten(&mut self, id: NonZeroU8) {
        if let Some(absence) = self.0.get_mut(&id) {
            absence.is_forgotten = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtual_router::{AdvertInterval, Interface, Priority, VirtualAddresses};

    const TICK: Duration = Duration::from_millis(100);

    fn router(id: u8) -> VirtualRouter {
        VirtualRouter {
            id: NonZeroU8::new(id).unwrap(),
            interface: Interface::new("eth0").unwrap(),
            addresses: VirtualAddresses::V4("192.0.2.8".parse().unwrap()),
            priority: Priority::new(150).unwrap(),
            advert_interval: AdvertInterval::DEFAULT,
        }
    }

    /// What is due while the fence is open for these virtual routers for a time.
    fn due_while(absences: &mut Absences, now: &mut Instant, open: &[u8], duration: Duration) -> Vec<u8> {
        let routers = [router(51), router(52)];
        let open = open.iter().filter_map(|id| NonZeroU8::new(*id)).collect();
        let mut all = Vec::new();
        let end = *now + duration;
        while *now < end {
            for router in absences.due(&routers, &open, *now) {
                all.push(router.id.get());
                absences.set_forgotten(router.id);
            }
            *now += TICK;
        }
        all
    }

    #[test]
    fn connections_are_forgotten_once_for_each_time_that_the_addresses_are_elsewhere() {
        let (mut absences, mut now) = (Absences::default(), Instant::now());
        let long = ELSEWHERE_AFTER * 3;
        assert_eq!(due_while(&mut absences, &mut now, &[51], long), [52]);
        assert_eq!(due_while(&mut absences, &mut now, &[52], long), [51]);
        assert_eq!(due_while(&mut absences, &mut now, &[51], long), [52]);
    }

    #[test]
    fn nothing_is_forgotten_before_another_host_has_the_addresses() {
        let (mut absences, mut now) = (Absences::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(due_while(&mut absences, &mut now, &[], ELSEWHERE_AFTER), [0; 0]);
            assert_eq!(due_while(&mut absences, &mut now, &[51, 52], TICK), [0; 0]);
        }
    }

    #[test]
    fn what_fails_is_tried_again() {
        let (mut absences, now) = (Absences::default(), Instant::now());
        let routers = [router(51)];
        let later = now + ELSEWHERE_AFTER;
        assert_eq!(absences.due(&routers, &HashSet::new(), now), [&routers[0]; 0]);
        assert_eq!(absences.due(&routers, &HashSet::new(), later), [&routers[0]]);
        assert_eq!(absences.due(&routers, &HashSet::new(), later), [&routers[0]]);
    }
}
