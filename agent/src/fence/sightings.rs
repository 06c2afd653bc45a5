//! Which adverts were seen, and when: pure.

use std::collections::HashMap;
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use etherparse::LaxIpSlice;

/// The IP protocol number of VRRP.
pub(super) const VRRP: u8 = 112;

/// Reads an IP packet as an advert by which a host keeps its addresses, and returns the number of
/// its virtual router. `None`: it is no advert, or gives the addresses up.
pub(super) fn virtual_router_of(packet: &[u8]) -> Option<NonZeroU8> {
    let (ip, _) = LaxIpSlice::from_slice(packet).ok()?;
    let payload = ip.payload();
    // RFC 9568: version and type, VRID, priority.
    let [_, id, priority, ..] = *payload.payload else { return None };
    let keeps = payload.ip_number.0 == VRRP && priority != 0;
    NonZeroU8::new(id).filter(|_| keeps)
}

/// An advert by which a host keeps the addresses of a virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Advert {
    pub(super) id: NonZeroU8,
    pub(super) sender: Sender,
}

/// Which host has sent an advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    ThisHost,
    AnotherHost,
}

/// What an advert means to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// All is as it was.
    Nothing,
    /// This host has the addresses, and the fence may have closed since its advert before.
    AfterGap,
    /// Both hosts have had the addresses, each on its side of a cut of the segment.
    Contested,
}

/// When the last advert of each virtual router was seen, of this host and of another one.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    own: HashMap<NonZeroU8, Instant>,
    foreign: HashMap<NonZeroU8, Instant>,
}

impl Sightings {
    /// Records an advert of a virtual router with this fence.
    pub(super) fn record(&mut self, advert: Advert, now: Instant, fence: Duration) -> Meaning {
        let is_recent = |seen: Option<Instant>| seen.is_some_and(|seen| now.duration_since(seen) < fence);
        match advert.sender {
            Sender::ThisHost => {
                let goes_on = is_recent(self.own.insert(advert.id, now));
                if goes_on { Meaning::Nothing } else { Meaning::AfterGap }
            }
            Sender::AnotherHost => {
                let went_on = is_recent(self.foreign.insert(advert.id, now));
                let is_contested = !went_on && is_recent(self.own.get(&advert.id).copied());
                if is_contested { Meaning::Contested } else { Meaning::Nothing }
            }
        }
    }

    /// Has the next advert of this host count as the first one.
    pub(super) fn forget(&mut self, id: NonZeroU8) {
        self.own.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, PacketBuilder};

    use super::*;

    const FENCE: Duration = Duration::from_millis(500);

    fn id(number: u8) -> NonZeroU8 {
        NonZeroU8::new(number).unwrap()
    }

    fn vrrp(id: u8, priority: u8) -> [u8; 12] {
        [0x31, id, priority, 1, 0, 20, 0, 0, 192, 0, 2, 8]
    }

    fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([192, 0, 2, 11], [224, 0, 0, 18], 255);
        builder.write(&mut packet, IpNumber(protocol), payload).unwrap();
        packet
    }

    #[test]
    fn an_advert_of_either_family_names_its_virtual_router() {
        assert_eq!(virtual_router_of(&ipv4(VRRP, &vrrp(51, 150))), Some(id(51)));
        let mut ipv6 = Vec::new();
        let builder = PacketBuilder::ipv6([0xfe; 16], [0xff; 16], 255);
        builder.write(&mut ipv6, IpNumber(VRRP), &vrrp(52, 150)).unwrap();
        assert_eq!(virtual_router_of(&ipv6), Some(id(52)));
    }

    #[test]
    fn an_advert_that_gives_the_addresses_up_does_not_count() {
        assert_eq!(virtual_router_of(&ipv4(VRRP, &vrrp(51, 0))), None);
    }

    #[test]
    fn other_packets_are_no_adverts() {
        assert_eq!(virtual_router_of(&ipv4(17, &vrrp(51, 150))), None);
        assert_eq!(virtual_router_of(&ipv4(VRRP, &[0x31, 51])), None, "cut short");
        assert_eq!(virtual_router_of(&[]), None);
        assert_eq!(virtual_router_of(&[0x45; 3]), None);
    }

    fn own(id: u8) -> Advert {
        Advert { id: self::id(id), sender: Sender::ThisHost }
    }

    fn foreign(id: u8) -> Advert {
        Advert { id: self::id(id), sender: Sender::AnotherHost }
    }

    const INTERVAL: Duration = Duration::from_millis(200);

    #[test]
    fn an_advert_after_a_gap_is_noticed_and_those_in_time_are_not() {
        let start = Instant::now();
        let mut sightings = Sightings::default();
        assert_eq!(sightings.record(own(51), start, FENCE), Meaning::AfterGap, "the first one");
        let mut now = start;
        for _ in 0..10 {
            now += FENCE - Duration::from_millis(1);
            assert_eq!(sightings.record(own(51), now, FENCE), Meaning::Nothing);
        }
        assert_eq!(sightings.record(own(51), now + FENCE, FENCE), Meaning::AfterGap, "after a freeze");
    }

    #[test]
    fn adverts_of_another_virtual_router_hide_no_gap() {
        let start = Instant::now();
        let mut sightings = Sightings::default();
        sightings.record(own(51), start, FENCE);
        for number in 1..=3 {
            sightings.record(own(52), start + INTERVAL * number, FENCE);
        }
        assert_eq!(sightings.record(own(51), start + INTERVAL * 4, FENCE), Meaning::AfterGap);
    }

    #[test]
    fn what_is_forgotten_is_noticed_again() {
        let now = Instant::now();
        let mut sightings = Sightings::default();
        sightings.record(own(51), now, FENCE);
        sightings.forget(id(51));
        assert_eq!(sightings.record(own(51), now, FENCE), Meaning::AfterGap);
    }

    #[test]
    fn another_owner_that_turns_up_is_noticed_once() {
        let start = Instant::now();
        let mut sightings = Sightings::default();
        for number in 0..10 {
            sightings.record(own(51), start + INTERVAL * number, FENCE);
        }
        let healed = start + INTERVAL * 10;
        assert_eq!(sightings.record(foreign(51), healed, FENCE), Meaning::Contested);
        assert_eq!(sightings.record(foreign(51), healed + INTERVAL, FENCE), Meaning::Nothing);
    }

    #[test]
    fn a_takeover_from_a_known_owner_is_not_contested() {
        let start = Instant::now();
        let mut sightings = Sightings::default();
        for number in 0..10 {
            assert_eq!(sightings.record(foreign(51), start + INTERVAL * number, FENCE), Meaning::Nothing);
        }
        let taken_over = start + INTERVAL * 10;
        assert_eq!(sightings.record(own(51), taken_over, FENCE), Meaning::AfterGap);
        assert_eq!(sightings.record(foreign(51), taken_over, FENCE), Meaning::Nothing, "an advert that was on its way");
    }
}
