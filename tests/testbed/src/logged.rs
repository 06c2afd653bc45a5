//! What is logged while something runs, for tests of what no log may show.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::MakeWriter;

/// Runs this, and returns all that is logged meanwhile, by every crate and at every level. It runs
/// on a thread and a runtime of its own, whose tasks are all on that thread: others log elsewhere.
///
/// # Panics
/// If what is run panics.
pub fn logged_by(work: impl AsyncFnOnce() + Send) -> String {
    let log = Log::default();
    let subscriber = || tracing_subscriber::fmt().with_max_level(Level::TRACE);
    // With one subscriber alone, tracing asks that of the present thread whether an event is of
    // interest to any, and the threads of other tests have none.
    let _second = Dispatch::new(subscriber().finish());
    let subscriber = subscriber().with_writer(log.clone()).finish();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let _subscriber = tracing::subscriber::set_default(subscriber);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("there is a runtime").block_on(work());
        });
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    String::from_utf8_lossy(&log.0.lock()).into_owned()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
