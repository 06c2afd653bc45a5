//! The `main` of a test program, and the tests in it.

use std::sync::Arc;

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use sharedlb_testbed::{Parts, Testbed, enter};
use tokio::runtime::{Handle, Runtime};

/// How many tests run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtOnce {
    /// One, whatever the command line says
    One,
    /// So many, unless the command line says otherwise
    UpTo(usize),
}

/// A test program inside of the testbed. Its tests run in one round or more, one
/// round after another.
pub struct Program {
    arguments: Arguments,
    runtime: Runtime,
    rounds: Vec<Conclusion>,
}

impl Program {
    /// Enters the testbed, and so must be the first call of `main`: see
    /// [`enter`].
    ///
    /// # Errors
    /// If the testbed cannot be entered.
    pub fn enter(parts: Parts) -> anyhow::Result<(Self, Testbed)> {
        let testbed = enter(parts)?;
        Ok((Self { arguments: Arguments::from_args(), runtime: Runtime::new()?, rounds: Vec::new() }, testbed))
    }

    /// Does what is to be done before a round, or after it.
    pub fn block_on<T>(&self, act: impl Future<Output = T>) -> T {
        self.runtime.block_on(act)
    }

    /// Runs the tests of one thing, and returns it once all of them have ended. (Those
    /// that failed count at the [`exit`](Self::exit).)
    pub fn round<W: Send + Sync + 'static>(
        &mut self,
        at_once: AtOnce,
        world: impl Into<Arc<W>>,
        trials: impl FnOnce(&Tests<W>) -> Vec<Trial>,
    ) -> Arc<W> {
        let mut arguments = self.arguments.clone();
        match at_once {
            AtOnce::One => arguments.test_threads = Some(1),
            AtOnce::UpTo(threads) => _ = arguments.test_threads.get_or_insert(threads),
        }
        let test = Tests { world: world.into(), handle: self.runtime.handle().clone() };
        self.rounds.push(libtest_mimic::run(&arguments, trials(&test)));
        test.world
    }

    /// Ends the process, with the exit code that the tests deserve. `last` is dropped
    /// before, and with it the cluster.
    pub fn exit<W>(self, last: W) -> ! {
        let Self { runtime, rounds, .. } = self;
        drop(last);
        drop(runtime);
        rounds.iter().for_each(Conclusion::exit_if_failed);
        std::process::exit(0)
    }
}

/// The `main` of a test program with one round: enters the testbed, starts the world
/// in it, and runs the tests of it.
///
/// # Errors
/// If the world does not start. Tests that fail end the process.
pub fn run_tests<W, A, F>(
    at_once: AtOnce,
    parts: Parts,
    start: impl FnOnce(Testbed) -> F,
    trials: impl FnOnce(&Tests<W>) -> Vec<Trial>,
) -> anyhow::Result<()>
where
    W: Send + Sync + 'static,
    A: Into<Arc<W>>,
    F: Future<Output = anyhow::Result<A>>,
{
    let (mut program, testbed) = Program::enter(parts)?;
    let world = program.block_on(start(testbed))?;
    let world = program.round(at_once, world, trials);
    program.exit(world)
}

/// Makes tests that all work on one thing.
pub struct Tests<W> {
    world: Arc<W>,
    handle: Handle,
}

impl<W: Send + Sync + 'static> Tests<W> {
    /// A test named by a sentence.
    pub fn test<F>(&self, name: &str, run: impl FnOnce(Arc<W>) -> F + Send + 'static) -> Trial
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let (world, handle) = (self.world.clone(), self.handle.clone());
        Trial::test(name, move || {
            let result = handle.block_on(run(world));
            result.map_err(|error| Failed::from(format!("{error:#}")))
        })
    }
}
