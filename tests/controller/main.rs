//! The controller against the real API server, with the rights of `deploy/`:
//! the results for claims and classes, valid and invalid. Pods are
//! objects here, and a stand-in for a cloud gives addresses; real traffic is
//! in `tests/traffic`, and bad times are in `tests/faults`.
//!
//! There are three rounds. In the first, dry runs have the cluster for themselves. In
//! the second, one controller serves all tests, which run side by side: each has a
//! namespace and a class of its own. A bad claim must get its verdict, and a neighbour
//! of its class must not notice. In the third, with the same controller, no schema
//! holds anything back.

mod backends;
mod boundaries;
mod changes;
mod classes;
mod dry_run;
mod hostile;
mod life;
mod options;
mod refusals;
mod release;
mod scaling;
mod tampering;
mod telling;
mod unparsable;

use sharedlb_harness::{AtOnce, Program, World, add_cloud, start_installed};
use sharedlb_testbed::Parts;

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

/// How many tests of one controller run at once. They wait more than they work.
const THREADS: usize = 6;

fn main() -> anyhow::Result<()> {
    let (mut program, testbed) = Program::enter(Parts { controller_manager: true, ..Parts::API_ONLY })?;
    let cluster = program.block_on(start_installed(testbed))?;
    program.block_on(add_cloud(&cluster))?;

    let dry_runs = program.block_on(dry_run::World::start(cluster.clone()))?;
    program.round(AtOnce::One, dry_runs, dry_run::trials);

    let world = program.block_on(World::start(SHAREDLB, cluster))?;
    let world = program.round(AtOnce::UpTo(THREADS), world, |test| {
        let trials = [
            life::trials(test),
            release::trials(test),
            refusals::trials(test),
            options::trials(test),
            boundaries::trials(test),
            changes::trials(test),
            backends::trials(test),
            classes::trials(test),
            scaling::trials(test),
            tampering::trials(test),
            telling::trials(test),
            hostile::trials(test),
        ];
        trials.into_iter().flatten().collect()
    });

    program.block_on(unparsable::relax_schemas(&world.cluster))?;
    let world = program.round(AtOnce::UpTo(THREADS), world, unparsable::trials);
    program.exit(world)
}
