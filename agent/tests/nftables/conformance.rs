//! The suite of all providers, against the real kernel.

use std::path::Path;

use async_trait::async_trait;
use sharedlb_agent::Program;
use sharedlb_agent::nftables::{Nftables, Programs, Settings, SharedEngine};
use sharedlb_providers::{FrontPort, LbName, ListenerKey, Provider};
use tempfile::TempDir;

use crate::network::{Network, VIPS};

/// Runs a program (from the third argument on), unless its input has a line of the second
/// argument's file, or it has been run as often as the first argument's file says.
const GUARD: &str = r#"
if [ -e "$1" ]; then
    read -r left < "$1"
    [ "$left" -gt 0 ] || { echo 'the process was killed' >&2; exit 1; }
    echo $((left - 1)) > "$1"
fi
if [ -e "$2" ]; then
    input=$(cat; echo .)
    if printf %s "$input" | grep -qFf "$2"; then
        echo 'it is refused on demand' >&2
        exit 1
    fi
    shift 2
    printf %s "${input%.}" | exec "$@"
else
    shift 2
    exec "$@"
fi
"#;

/// The table of another program.
const FOREIGN: &str = "table ip theirs";

/// The kernel of the host, with no tables at the start.
pub(crate) struct Peer {
    programs: Programs,
    folder: TempDir,
}

impl Peer {
    pub(crate) async fn new(network: &Network) -> Self {
        network.nft("flush ruleset").await;
        Self { programs: network.programs().clone(), folder: tempfile::tempdir().expect("a folder") }
    }

    /// The guarded programs. The first file need not be there.
    fn guarded(&self, limit: &Path) -> Programs {
        let guard = |program: &Program| {
            let files = [limit, &self.refused()].map(|path| path.display().to_string());
            let words = ["sh", "-c", GUARD, "guard", &files[0], &files[1]];
            Program::new(words.into_iter().chain(program.words()))
        };
        Programs { nft: guard(&self.programs.nft), conntrack: guard(&self.programs.conntrack) }
    }

    /// The file with what is refused.
    fn refused(&self) -> std::path::PathBuf {
        self.folder.path().join("refused")
    }

    fn provider_of(programs: Programs) -> Box<dyn Provider> {
        Box::new(Nftables::new(SharedEngine::new(programs, 7), settings()))
    }

    async fn foreign_rules(&self) -> String {
        let arguments: Vec<String> = format!("list {FOREIGN}").split(' ').map(str::to_owned).collect();
        self.programs.nft.run(&arguments, "").await.unwrap_or_default()
    }
}

/// The first load balancer has the addresses of the network.
pub(crate) fn settings() -> Settings {
    let second = ["10.99.20.101", "fd00:99:20::101"].map(|address| address.parse().expect("an address"));
    Settings { addresses: [(0, VIPS.into()), (1, second.into())].into(), ..Settings::default() }
}

#[async_trait]
impl sharedlb_providers::conformance::Peer for Peer {
    async fn provider(&self) -> Box<dyn Provider> {
        Self::provider_of(self.guarded(&self.folder.path().join("unlimited")))
    }

    async fn provider_dying_after(&self, calls: usize) -> Box<dyn Provider> {
        let limit = self.folder.path().join("left");
        std::fs::write(&limit, format!("{calls}\n")).expect("it is written");
        Self::provider_of(self.guarded(&limit))
    }

    /// Rules of another program that lead a port of the address elsewhere, or try to.
    async fn open_foreign(&self, _: &LbName, port: FrontPort) {
        let [vip, _] = VIPS;
        let rules = format!(
            "{FOREIGN} {{\n chain theirs {{\n type nat hook prerouting priority 0\n ip daddr {vip} {} dport {} dnat to \
             192.0.2.1\n }}\n }}\n",
            port.transport.lower_case(),
            port.port
        );
        let arguments = ["-f", "-"].map(str::to_owned);
        self.programs.nft.run(&arguments, &rules).await.expect("nft takes it");
    }

    fn shows_foreign(&self) -> bool {
        false
    }

    fn foreign_hold_ports(&self) -> bool {
        false
    }

    async fn has_foreign(&self, _: &LbName, port: FrontPort) -> bool {
        self.foreign_rules().await.contains(&format!("dport {} dnat to 192.0.2.1", port.port))
    }

    async fn refuse(&self, listener: ListenerKey) {
        let fronts =
            listener.front_ports().map(|front| format!(" . {} . {} ", front.transport.lower_case(), front.port));
        std::fs::write(self.refused(), fronts.map(|front| front + "\n").collect::<String>()).expect("it is written");
    }

    async fn accept_all(&self) {
        std::fs::remove_file(self.refused()).expect("something was refused");
    }
}
