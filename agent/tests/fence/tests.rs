//! The tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use sharedlb_harness::Tests;
use sharedlb_testbed::{eventually, in_namespace};

use crate::adverts::Packet;
use crate::announcements::{Announcement, Sniffer, announce, look_for};
use crate::segment::{
    DUAL, ELSEWHERE, LIMIT, LONG, OF_DUAL, OF_ELSEWHERE, OF_V6_ALONE, SHORT, Segment, V6_ALONE, routers,
};

/// A neighbor of each family that is not there.
const ABSENT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 99, 20, 250)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x99, 0x20, 0, 0, 0, 0, 0x250))];
/// Another one.
const ALSO_ABSENT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 99, 20, 251)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x99, 0x20, 0, 0, 0, 0, 0x251))];

pub(crate) fn trials(test: &Tests<Segment>) -> Vec<Trial> {
    vec![
        test.test("adverts of a virtual router open the fence for its addresses alone", adverts_open),
        test.test("a fence closes when adverts stop, and at once when the host gives the addresses up", it_closes),
        test.test("an update leaves a fence open, and frees the addresses that it leaves out", it_is_updated),
        test.test("what is no advert of this host opens nothing", other_packets_open_nothing),
        test.test("a host announces no address while its fence is closed", nothing_is_announced),
        test.test("a host with a closed fence hears who has an address", others_are_heard),
        test.test("a fence that another program removes is closed again", it_is_repaired),
        test.test("connections are forgotten once another host has the address", connections_are_forgotten),
    ]
}

fn nothing() -> anyhow::Result<()> {
    Ok(())
}

async fn adverts_open(segment: Arc<Segment>) -> anyhow::Result<()> {
    let _fence = segment.fence(LONG).await?;
    segment.answers_for([], nothing).await?;
    segment.answers_for(OF_DUAL, || segment.advert(Packet::advert(DUAL))).await?;
    let _closed_again = segment.fence(LONG).await?;
    segment.answers_for([OF_V6_ALONE], || segment.advert(Packet::advert_v6(V6_ALONE))).await
}

async fn it_closes(segment: Arc<Segment>) -> anyhow::Result<()> {
    let fence = segment.fence(SHORT).await?;
    segment.answers_for(OF_DUAL, || segment.advert(Packet::advert(DUAL))).await?;
    segment.answers_for([], nothing).await?;
    drop(fence);

    let _fence = segment.fence(LONG).await?;
    segment.answers_for(OF_DUAL, || segment.advert(Packet::advert(DUAL))).await?;
    segment.advert(Packet { priority: 0, ..Packet::advert(DUAL) })?;
    let answered = segment.answered().await?;
    ensure!(answered.is_empty(), "it gave them up, and answers for {answered:?}");
    Ok(())
}

async fn it_is_updated(segment: Arc<Segment>) -> anyhow::Result<()> {
    let fence = segment.fence(LONG).await?;
    segment.answers_for(OF_DUAL, || segment.advert(Packet::advert(DUAL))).await?;
    let mut routers = routers(LONG)?;
    routers.retain(|router| router.id.get() != V6_ALONE);
    fence.update(routers).await?;
    let answered = segment.answered().await?;
    ensure!(answered == OF_DUAL.into_iter().chain([OF_V6_ALONE]).collect(), "it answers for {answered:?}");
    segment.answers_for([OF_V6_ALONE], nothing).await
}

async fn other_packets_open_nothing(segment: Arc<Segment>) -> anyhow::Result<()> {
    let _fence = segment.fence(LONG).await?;
    let (advert, advert_v6) = (Packet::advert(DUAL), Packet::advert_v6(V6_ALONE));
    let [other, other_v6] = segment.other.addresses();
    for packet in [
        Packet { hops: 254, ..advert },
        Packet { hops: 254, ..advert_v6 },
        Packet { to: other, ..advert },
        Packet { to: other_v6, ..advert_v6 },
        Packet { kind: 0x21, ..advert },
        Packet { kind: 0x32, ..advert },
        Packet { id: 54, ..advert },
        // Adverts of the other family are none of this virtual router.
        Packet { id: V6_ALONE, ..advert },
    ] {
        segment.advert(packet)?;
        let answered = segment.answered().await?;
        ensure!(answered.is_empty(), "after {packet:?} it answers for {answered:?}");
    }
    segment.advert_of_container(advert)?;
    let answered = segment.answered().await?;
    ensure!(answered.is_empty(), "after the advert of a container it answers for {answered:?}");
    // It was able to.
    segment.answers_for(OF_DUAL, || segment.advert(advert)).await
}

async fn nothing_is_announced(segment: Arc<Segment>) -> anyhow::Result<()> {
    let _fence = segment.fence(LONG).await?;
    let sniffer = Sniffer::start(&segment.watcher)?;
    for ((address, own), (absent, also_absent)) in
        OF_DUAL.into_iter().zip(segment.host.addresses()).zip(ABSENT.into_iter().zip(ALSO_ABSENT))
    {
        look_for(&segment.host, absent, address)?;
        look_for(&segment.host, also_absent, own)?;
        let announced = eventually(&format!("{own} to look for {also_absent}"), LIMIT, async || {
            let announced = sniffer.announced()?;
            Ok(announced.contains(&Announcement { address: own, target: also_absent }).then_some(announced))
        })
        .await?;
        let of_closed = announced.iter().find(|announcement| announcement.address == address);
        ensure!(of_closed.is_none(), "{of_closed:?} left");
    }
    let IpAddr::V4(v4) = OF_DUAL[0] else { anyhow::bail!("the first one is of IPv4") };
    ensure!(announce(&segment.host, v4).is_err(), "the kernel took an announcement");
    eventually("an announcement to leave with an open fence", LIMIT, async || {
        segment.advert(Packet::advert(DUAL))?;
        announce(&segment.host, v4)?;
        let announcement = Announcement { address: v4.into(), target: v4.into() };
        Ok(sniffer.announced()?.contains(&announcement).then_some(()))
    })
    .await
}

async fn others_are_heard(segment: Arc<Segment>) -> anyhow::Result<()> {
    let _fence = segment.fence(LONG).await?;
    let mac = segment.other.mac();
    segment.host.ip(&format!("neighbor replace {OF_ELSEWHERE} lladdr 02:00:00:00:00:63 dev eth0 nud stale\n"))?;
    announce(&segment.other, OF_ELSEWHERE)?;
    eventually(&format!("the host to know that {mac} has the address"), LIMIT, async || {
        let neighbor = segment.run(&format!("ip neighbor show {OF_ELSEWHERE}"))?;
        ensure!(neighbor.contains(&mac.to_string()), "{ELSEWHERE} is at {neighbor}");
        Ok(Some(()))
    })
    .await
}

async fn it_is_repaired(segment: Arc<Segment>) -> anyhow::Result<()> {
    let _fence = segment.fence(LONG).await?;
    for tampering in [
        "nft flush ruleset",
        "nft flush chain netdev sharedlb-fence-eth0 announcements",
        "nft delete table netdev sharedlb-fence-eth0",
    ] {
        segment.run(tampering)?;
        segment.answers_for([], nothing).await?;
        segment.answers_for(OF_DUAL, || segment.advert(Packet::advert(DUAL))).await?;
    }
    Ok(())
}

async fn connections_are_forgotten(segment: Arc<Segment>) -> anyhow::Result<()> {
    let [address, _] = OF_DUAL;
    // The kernel remembers connections where a rule asks for them.
    segment.run("nft add table ip tracked")?;
    segment.run("nft add chain ip tracked input { type filter hook input priority 0; }")?;
    segment.run("nft add rule ip tracked input ct state new accept")?;
    let mac = segment.host.mac();
    segment.watcher.ip(&format!("neighbor replace {address} lladdr {mac} dev eth0 nud permanent\n"))?;
    in_namespace(segment.watcher.name(), || {
        UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"?", SocketAddr::new(address, 9)))
    })??;
    let Some(before) = segment.connections_to(address)? else {
        eprintln!("skipped: conntrack could not be unpacked on this machine");
        return Ok(());
    };
    ensure!(before.contains("dport=9"), "the kernel remembers it: {before}");
    let _fence = segment.fence(LONG).await?;
    eventually("the connection to be forgotten", LIMIT, async || {
        let now = segment.connections_to(address)?.unwrap_or_default();
        ensure!(!now.contains("dport=9"), "{now}");
        Ok(Some(()))
    })
    .await
}
