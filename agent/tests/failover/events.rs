//! What happens to the host that has a load balancer.

use std::sync::Arc;
use std::time::Instant;

use libtest_mimic::Trial;
use sharedlb_harness::Tests;

use crate::diagnosis;
use crate::load::{Load, Move};
use crate::scenario::Segment;

pub(crate) fn trials(test: &Tests<Option<Segment>>) -> Vec<Trial> {
    vec![
        test.test("a host is cut off, and connected again", |segment| moves(segment, Event::Cut)),
        test.test("the agent and keepalived are killed, and started again", |segment| moves(segment, Event::Killed)),
        test.test("the agent and keepalived freeze, and go on", |segment| moves(segment, Event::Frozen)),
        test.test("keepalived freezes alone, and goes on", |segment| moves(segment, Event::KeepalivedFrozen)),
        test.test("the agent is asked to end, and started again", |segment| moves(segment, Event::Terminated)),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Cut,
    Killed,
    Frozen,
    KeepalivedFrozen,
    Terminated,
}

/// The load balancer moves to the second host, and back. Connections live on, and no two hosts
/// answer for an address.
async fn moves(segment: Arc<Option<Segment>>, event: Event) -> anyhow::Result<()> {
    let Some(segment) = segment.as_ref() else {
        eprintln!("skipped: keepalived or conntrack could not be unpacked on this machine");
        return Ok(());
    };
    let outcome = there_and_back(segment, event).await;
    if outcome.is_err() {
        diagnosis::print(segment);
        // What is left of the event would make the next test fail too.
        segment.hosts[0].restore()?;
    }
    outcome
}

async fn there_and_back(segment: &Segment, event: Event) -> anyhow::Result<()> {
    let [first, second] = &segment.hosts;
    let load = Load::start(segment).await?;

    let from = Instant::now();
    match event {
        Event::Cut => first.machine().cut()?,
        Event::Killed => first.kill().await?,
        Event::Frozen => first.processes()?.freeze()?,
        Event::KeepalivedFrozen => first.keepalived()?.freeze()?,
        Event::Terminated => first.terminate().await?,
    }
    load.moved_to(second).await?;
    let over = Move { what: "over", from, to: Instant::now(), is_handed_over: false };

    let from = Instant::now();
    match event {
        Event::Cut => first.machine().heal()?,
        Event::Frozen | Event::KeepalivedFrozen => first.processes()?.thaw()?,
        Event::Killed | Event::Terminated => first.start_agent()?,
    }
    load.moved_to(first).await?;
    let back = Move { what: "back", from, to: Instant::now(), is_handed_over: true };

    println!("{event:?}:");
    load.judge(&[over, back], segment).await
}
