//! The long-lived tasks of the controller, each with a name: whether they make progress,
//! and which of them panicked.
//!
//! A task that computes without end, or waits for a lock that is never released, looks like
//! an idle one. So each poll of a task is timed. The time that a task awaits is not: the API
//! server and load balancers may be unreachable for any length of time.

use crate::kubernetes::ObjectKey;
use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The longest that one poll of a task may take. The slowest are those of the
/// class loop: about 10 ms for 10,000 claims.
pub(crate) const POLL_MAX: Duration = Duration::from_secs(30);

thread_local! {
    /// The task that this thread polls, and the object that it works on.
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

struct Current {
    task: Arc<Task>,
    object: Option<(&'static str, ObjectKey)>,
}

struct Task {
    name: String,
    /// Since when it is polled; `None`: it waits
    polled_since: Mutex<Option<Instant>>,
    /// When it wakes even without an event
    wakes_at: Mutex<Option<tokio::time::Instant>>,
}

/// The register of tasks.
#[derive(Default)]
pub(crate) struct Tasks(Mutex<Vec<Weak<Task>>>);

impl Tasks {
    /// Registers a future as a task of this name.
    pub(crate) fn named<F: Future>(&self, name: String, future: F) -> impl Future<Output = F::Output> + use<F> {
        let task = Arc::new(Task { name, polled_since: Mutex::default(), wakes_at: Mutex::default() });
        let mut tasks = self.0.lock();
        tasks.retain(|known| known.strong_count() > 0);
        tasks.push(Arc::downgrade(&task));
        let mut future = Box::pin(future);
        poll_fn(move |context| {
            let _polling = Polling::begin(&task);
            future.as_mut().poll(context)
        })
    }

    /// The task that has been polled for longer than `limit`, for the log; `None`: none.
    pub(crate) fn stuck(&self, limit: Duration) -> Option<String> {
        self.0.lock().iter().filter_map(Weak::upgrade).find_map(|task| {
            let polled_for = task.polled_since.lock().map(|since| since.elapsed())?;
            (polled_for > limit).then(|| format!("{} has not yielded for {} s", task.name, polled_for.as_secs()))
        })
    }

    /// The task that wakes first even without an event, and when; `None`: none does.
    pub(crate) fn next_wake(&self) -> Option<(String, tokio::time::Instant)> {
        let tasks = self.0.lock();
        let waking = tasks.iter().filter_map(Weak::upgrade).filter_map(|task| {
            let wakes_at = (*task.wakes_at.lock())?;
            Some((task.name.clone(), wakes_at))
        });
        waking.min_by_key(|(_, wakes_at)| *wakes_at)
    }
}

/// Registers that the current task wakes at this time even without an event, until the
/// returned value is dropped.
pub(super) fn wakes_at(time: tokio::time::Instant) -> WakesAt {
    let task = CURRENT.with_borrow(|current| current.as_ref().map(|current| current.task.clone()));
    if let Some(task) = &task {
        *task.wakes_at.lock() = Some(time);
    }
    WakesAt(task)
}

/// A task that waits for a time.
pub(super) struct WakesAt(Option<Arc<Task>>);

impl Drop for WakesAt {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            *task.wakes_at.lock() = None;
        }
    }
}

/// Marks a task as being polled by this thread, until it is dropped.
struct Polling<'a>(&'a Arc<Task>);

impl<'a> Polling<'a> {
    fn begin(task: &'a Arc<Task>) -> Self {
        *task.polled_since.lock() = Some(Instant::now());
        CURRENT.set(Some(Current { task: task.clone(), object: None }));
        Self(task)
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        *self.0.polled_since.lock() = None;
        CURRENT.set(None);
    }
}

/// Registers the object that the current task works on: a panic names it.
pub(crate) fn at(kind: &'static str, key: &ObjectKey) {
    CURRENT.with_borrow_mut(|current| {
        if let Some(current) = current {
            current.object = Some((kind, key.clone()));
        }
    });
}

/// The task and object that this thread works on, for the log: "load balancer slb-… of class
/// c".
fn current() -> String {
    let words = |Current { task, object }: &Current| match object {
        Some((kind, key)) if key.namespace.is_empty() => format!("{}, at {kind} {}", task.name, key.name),
        Some((kind, key)) => format!("{}, at {kind} {key}", task.name),
        None => task.name.clone(),
    };
    CURRENT.with_borrow(|current| current.as_ref().map_or_else(|| "the process".to_owned(), words))
}

/// Has every panic end the process, with a last line in the log that names the task and the
/// object. Otherwise only tasks that wait for the one that panicked would notice.
pub fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!(at = current(), %panic, "a panic ends the process: please report it with the lines above");
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;
    use crate::process::due::wait_until;

    const SIGABRT: i32 = 6;

    #[tokio::test]
    async fn a_task_that_waits_is_not_stuck_however_long_that_takes() {
        let tasks = Tasks::default();
        let mut waiting = Box::pin(tasks.named("it".into(), std::future::pending::<()>()));
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(tasks.stuck(Duration::ZERO), None);
    }

    #[test]
    fn a_task_that_never_yields_is_named() {
        let tasks = Tasks::default();
        let (begun, wait_begun) = std::sync::mpsc::channel();
        let (end, wait_end) = std::sync::mpsc::channel::<()>();
        let busy = tasks.named("the class loop".into(), async move {
            begun.send(()).unwrap();
            wait_end.recv().ok();
        });
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let polling = std::thread::spawn(move || runtime().block_on(busy));
        wait_begun.recv().unwrap();
        assert_eq!(tasks.stuck(Duration::ZERO).as_deref(), Some("the class loop has not yielded for 0 s"));
        assert_eq!(tasks.stuck(Duration::from_secs(30)), None, "not for that long");
        drop(end);
        polling.join().unwrap();
        assert_eq!(tasks.stuck(Duration::ZERO), None, "it has ended");
    }

    #[tokio::test]
    async fn it_is_known_when_a_task_goes_on_by_itself_for_as_long_as_it_waits() {
        let tasks = Tasks::default();
        let time = tokio::time::Instant::now() + Duration::from_secs(60);
        let mut later = Box::pin(tasks.named("later".into(), wait_until(Some(time + Duration::from_secs(1)))));
        let mut first = Box::pin(tasks.named("first".into(), wait_until(Some(time))));
        let mut never = Box::pin(tasks.named("never".into(), wait_until(None)));
        assert!(futures::poll!(&mut later).is_pending());
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut never).is_pending());
        assert_eq!(tasks.next_wake(), Some(("first".into(), time)));
        drop((first, later));
        assert_eq!(tasks.next_wake(), None);
    }

    #[tokio::test]
    async fn what_is_worked_on_is_known_while_it_is_polled() {
        let tasks = Tasks::default();
        let work = async {
            at("SharedLB", &ObjectKey { namespace: "team".into(), name: "redis".into() });
            current()
        };
        assert_eq!(tasks.named("the class loop".into(), work).await, "the class loop, at SharedLB team/redis");
        assert_eq!(current(), "the process");
    }

    #[test]
    fn a_panic_ends_the_process_and_the_log_says_at_what() {
        let mut process = std::process::Command::new(std::env::current_exe().unwrap());
        let output =
            process.args(["--exact", "--ignored", "--nocapture", "process::tasks::tests::panicking"]).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(SIGABRT), "{log}");
        assert!(log.contains("load balancer slb-c-0 of class c, at SharedLB team/redis"), "{log}");
    }

    #[test]
    #[ignore = "a_panic_ends_the_process_and_the_log_says_at_what runs it in a process of its own"]
    fn panicking() {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
        end_on_panic();
        let work = async {
            at("SharedLB", &ObjectKey { namespace: "team".into(), name: "redis".into() });
            panic!("an index out of bounds, for example");
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let task = runtime.spawn(Tasks::default().named("load balancer slb-c-0 of class c".into(), work));
        // Without the hook, the panic ends the task alone.
        runtime.block_on(task).unwrap_err();
    }
}
