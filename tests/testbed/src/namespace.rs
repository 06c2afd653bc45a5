//! Threads of this process in other network namespaces.

use anyhow::{Context, anyhow};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::network::enter_namespace;

/// A thread with a runtime. What is run on it makes its sockets in that namespace, at no more cost than that of their
/// packets. The thread ends when this is dropped.
#[derive(Debug)]
pub(crate) struct NamespaceThread {
    runtime: Handle,
    _ends: oneshot::Sender<()>,
}

impl NamespaceThread {
    /// Starts it in a network namespace that `ip netns` knows.
    pub(crate) fn start(namespace: &str) -> anyhow::Result<Self> {
        let (ends, ended) = oneshot::channel();
        let (started, start) = std::sync::mpsc::channel();
        let name = namespace.to_owned();
        std::thread::spawn(move || {
            let runtime = enter_namespace(&name).and_then(|()| {
                let runtime = Builder::new_current_thread().enable_all().build();
                runtime.with_context(|| format!("starting the runtime in {name}"))
            });
            match runtime {
                Ok(runtime) => {
                    // Both ends fail only if the other side is gone.
                    let _ = started.send(Ok(runtime.handle().clone()));
                    let _ = runtime.block_on(ended);
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
        let runtime = start.recv().map_err(|_| anyhow!("the thread in {namespace} panicked"))??;
        Ok(Self { runtime, _ends: ends })
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

/// Runs this on a thread of its own in a network namespace that `ip netns` knows. Sockets that it
/// makes stay in that namespace.
///
/// # Errors
/// If there is no such namespace.
///
/// # Panics
/// If what is run panics.
pub fn in_namespace<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let running = scope.spawn(|| enter_namespace(namespace).map(|()| work()));
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
