//! An observer of its own: it shares no code with the controller, and reads
//! nothing but etcd's own log, which has every version of every object in the
//! order in which they were written, and which goes on where it broke off; and
//! the feed of AWS' stand-in, which has every call and what there was after it. So
//! it misses nothing while the API server is away, and judges every state that
//! there ever was, where watches of several kinds would show mixed ones.

mod book;
mod claims;
mod cloud;
mod continuity;
mod etcd;
mod listeners;
mod objects;
mod stints;
mod traffic;

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use sharedlb_testbed::{AwsFeed, AwsState, eventually};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use book::Book;
use etcd::{Clock, Etcd, Event};

pub(crate) use continuity::try_rule;
pub(crate) use traffic::{Asked, Question};

/// How long it may lag behind.
const LAG: Duration = Duration::from_secs(30);
/// How long it waits for a call at AWS before it goes on without one.
const PATIENCE: Duration = Duration::from_millis(50);

/// Follows everything that is written, until it is dropped.
pub(crate) struct Observer {
    etcd: Etcd,
    book: Arc<Mutex<Book>>,
    /// The last revision that it has entered, and the time up to which all of AWS.
    seen: watch::Receiver<(u64, Instant)>,
    tasks: [AbortHandle; 3],
}

/// What there is in the end, as the observer has it.
pub(crate) struct Seen {
    /// Listeners that are open, and are no claim's.
    pub(crate) unheld: Vec<String>,
    /// Slots of claims that no listener is open for.
    pub(crate) closed: Vec<String>,
    /// Endpoints that were added by hand.
    pub(crate) by_hand: Vec<String>,
}

impl Observer {
    /// Begins with the first version of the first object, and the first call at AWS,
    /// and writes everything that it judges into a file.
    pub(crate) fn start(etcd_url: &str, feed: AwsFeed, log: &Path) -> anyhow::Result<Self> {
        let etcd = Etcd::new(etcd_url)?;
        let clock = Arc::<Clock>::default();
        let book = Arc::new(Mutex::new(Book::new(clock.clone(), File::create(log)?)));
        let (seen_up_to, seen) = watch::channel((0, Instant::now()));
        let (told, events) = mpsc::unbounded_channel();
        let following = etcd::follow(etcd.clone(), move |event| _ = told.send(event));
        let tasks = [
            tokio::spawn(following).abort_handle(),
            tokio::spawn(clock.run(etcd.clone())).abort_handle(),
            tokio::spawn(enter_all(book.clone(), events, feed, seen_up_to)).abort_handle(),
        ];
        Ok(Self { etcd, book, seen, tasks })
    }

    /// The last revision that it has seen.
    pub(crate) fn revision(&self) -> u64 {
        self.seen.borrow().0
    }

    /// Waits until it has seen all that there is now.
    pub(crate) async fn catch_up(&self) -> anyhow::Result<()> {
        let asked = Instant::now();
        let now = eventually("etcd to tell its revision", LAG, async || Ok(Some(self.etcd.revision().await?))).await?;
        eventually(&format!("the observer to see revision {now}, and AWS as it is"), LAG, async || {
            let (revision, until) = *self.seen.borrow();
            Ok((revision >= now && until >= asked).then_some(()))
        })
        .await
    }

    /// Who leads, or did last, as the Lease says.
    pub(crate) fn leader(&self) -> String {
        lock(&self.book).leader.clone()
    }

    /// How often another one began to lead.
    pub(crate) fn leaders(&self) -> u64 {
        lock(&self.book).leaders
    }

    /// Compacts etcd's log up to what was seen.
    pub(crate) async fn compact(&self) -> anyhow::Result<()> {
        self.etcd.compact(self.revision()).await
    }

    /// From now on, what is marked as foreign must not change.
    pub(crate) async fn seal(&self) -> anyhow::Result<usize> {
        self.catch_up().await?;
        Ok(lock(&self.book).seal())
    }

    /// The owner is about to remove its ports from this Service, so that this
    /// is not judged.
    pub(crate) fn expect_removal(&self, service: &str) {
        lock(&self.book).expected.insert(service.to_owned());
    }

    /// The owner has done so, and none is left.
    pub(crate) async fn removed(&self, service: &str) -> anyhow::Result<()> {
        self.catch_up().await?;
        lock(&self.book).expected.remove(service);
        Ok(())
    }

    /// The owner is about to alter this load balancer by hand, and may close
    /// listeners.
    pub(crate) fn expect_by_hand(&self, service: &str) {
        lock(&self.book).by_hand.insert(service.to_owned());
    }

    /// The owner has done so.
    pub(crate) async fn altered_by_hand(&self, service: &str) -> anyhow::Result<()> {
        self.catch_up().await?;
        lock(&self.book).by_hand.remove(service);
        Ok(())
    }

    /// All ports that can be asked now.
    pub(crate) fn questions(&self) -> Vec<Question> {
        lock(&self.book).questions()
    }

    /// What became of a question: the name of the pod that answered, if any did.
    pub(crate) fn asked(&self, question: Question, pod: Option<String>) {
        lock(&self.book).asked(question, pod);
    }

    /// kube-proxy was seen to know everything up to this revision.
    pub(crate) fn kube_proxy_knows(&self, revision: u64) {
        lock(&self.book).kube_proxy_knows(revision);
    }

    /// How many questions there were.
    pub(crate) fn questions_asked(&self) -> Asked {
        lock(&self.book).traffic.count
    }

    /// How often the ports of a claim that was open were renamed or reordered, and
    /// had to stay.
    pub(crate) fn continued(&self) -> u64 {
        lock(&self.book).continued
    }

    /// What there is at AWS.
    pub(crate) fn at_aws(&self) -> AwsState {
        lock(&self.book).cloud.state.clone()
    }

    /// How many events it has judged, and what was wrong.
    pub(crate) async fn judgement(&self) -> anyhow::Result<(u64, Vec<String>)> {
        self.catch_up().await?;
        let book = lock(&self.book);
        Ok((book.events, book.wrongs.clone()))
    }

    /// What there is now.
    pub(crate) async fn seen(&self) -> anyhow::Result<Seen> {
        self.catch_up().await.context("looking at what there is in the end")?;
        Ok(lock(&self.book).compare())
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Enters the events of etcd and the calls at AWS in the order of time: each event
/// only once all is known that was at AWS before it was received, so that
/// a reaction to something there is judged with it.
async fn enter_all(
    book: Arc<Mutex<Book>>,
    mut events: mpsc::UnboundedReceiver<Event>,
    mut feed: AwsFeed,
    seen_up_to: watch::Sender<(u64, Instant)>,
) {
    let mut waiting = VecDeque::new();
    loop {
        let news = match feed.next(PATIENCE).await {
            Ok(news) => news,
            Err(error) => {
                eprintln!("chaos: the observer, of AWS: {error:#}");
                tokio::time::sleep(PATIENCE).await;
                continue;
            }
        };
        while let Ok(event) = events.try_recv() {
            waiting.push_back(event);
        }
        let mut book = lock(&book);
        let mut enter_until = |book: &mut Book, time: Instant| {
            while let Some(event) = waiting.pop_front_if(|event: &mut Event| event.received.into_std() <= time) {
                book.enter(event);
            }
        };
        for call in news.calls {
            enter_until(&mut book, call.ended);
            book.call_of_aws(call);
        }
        enter_until(&mut book, news.until);
        book.judge_aws(news.until.into());
        book.judge_answers();
        seen_up_to.send_replace((book.revision, news.until));
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
