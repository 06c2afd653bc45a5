//! The stand-in for AWS does what AWS does, as far as others rely on it: its
//! own tests, in Python and with boto3, are run here one file after another.
//! What Rust adds to it is tried with them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use libtest_mimic::{Arguments, Trial};
use serde_json::json;
use sharedlb_testbed::{AwsFault, AwsPeer, FaultKind, Parts, enter};
use tokio::runtime::Runtime;

/// How long it may take until a call is told.
const LIMIT: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts::AWS_ONLY)?;
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let runtime = Arc::new(Runtime::new()?);
    let peer = Arc::new(runtime.block_on(AwsPeer::start(&testbed))?);

    let python = peer.python().to_owned();
    let (of_feed, runtime_of_feed) = (peer.clone(), runtime.clone());
    let mut tests = vec![
        Trial::test("faults_affect_only_the_selected_calls", move || {
            Ok(runtime.block_on(faults(&peer)).map_err(|error| format!("{error:#}"))?)
        }),
        Trial::test("the_feed_reports_calls_and_times", move || {
            Ok(runtime_of_feed.block_on(feed(&of_feed)).map_err(|error| format!("{error:#}"))?)
        }),
    ];
    for file in python_tests()? {
        let python = python.clone();
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let test = move || Ok(pytest(&python, &file).map_err(|error| format!("{error:#}"))?);
        tests.push(Trial::test(name, test).with_kind("pytest"));
    }
    libtest_mimic::run(&arguments, tests).exit()
}

/// The files with tests of the stand-in.
fn python_tests() -> anyhow::Result<Vec<PathBuf>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../aws-peer/tests"));
    let files = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let paths = files.map(|file| Ok(file?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    let is_test = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("test_"));
    let mut found: Vec<_> = paths.into_iter().filter(is_test).collect();
    found.sort();
    Ok(found)
}

/// Runs the tests of one file. What they print is told if one fails.
fn pytest(python: &Path, file: &Path) -> anyhow::Result<()> {
    let output = Command::new(python)
        .args(["-m", "pytest", "--quiet", "--tb=short", "-p", "no:cacheprovider"])
        .arg(file)
        .envs([("PYTHONDONTWRITEBYTECODE", "yes"), ("AWS_EC2_METADATA_DISABLED", "true")])
        .envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Faults are for the one who is tried, and this test is a stranger: so all it
/// can see is that a stranger is left alone, and that the log holds only the
/// calls of the other.
async fn faults(peer: &AwsPeer) -> anyhow::Result<()> {
    let region = peer.region(2).await?;
    ensure!(region.subnets.len() == 2, "{region:?}");
    region.fault(&AwsFault::new("all", FaultKind::Lost, &["*"]).times(None)).await?;
    region.call("describe_load_balancers", json!({})).await?;
    ensure!(region.hits("all").await? == 0);
    ensure!(region.log().await?.is_empty());
    let unknown = region.call("describe_listeners", json!({"ListenerArns": ["arn:none"]})).await;
    let error = format!("{:#}", unknown.err().context("an unknown listener was described")?);
    ensure!(error.contains("ListenerNotFound"), "{error}");
    region.release("all").await
}

/// Every call is told once, and its time is right.
async fn feed(peer: &AwsPeer) -> anyhow::Result<()> {
    let region = peer.region(1).await?;
    let mut feed = region.follow().await?;
    ensure!(feed.next(Duration::ZERO).await?.calls.is_empty());
    let before = Instant::now();
    let group = json!({"Name": "theirs", "Protocol": "UDP", "Port": 53, "VpcId": region.vpc, "TargetType": "ip"});
    region.call("create_target_group", group).await?;
    let after = Instant::now();
    let news = feed.next(LIMIT).await?;
    let [done] = &news.calls[..] else { bail!("{news:?}") };
    ensure!(done.action == "CreateTargetGroup" && done.parameters["Port"] == "53" && !done.of_controller, "{done:?}");
    ensure!(before < done.began && done.began < done.ended && done.ended < after, "{before:?} {done:?} {after:?}");
    ensure!(after < news.until, "{after:?} {news:?}");
    let state = done.state.as_ref().context("nothing has changed")?;
    ensure!(state.balancers.is_empty() && state.groups.len() == 1 && state.groups[0].name == "theirs", "{state:?}");
    ensure!(feed.next(Duration::ZERO).await?.calls.is_empty(), "it is told twice");
    Ok(())
}
