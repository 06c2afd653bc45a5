//! Changes of the nftables of this host, as the kernel reports them.

use std::fmt;
use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rustix::io::Errno;

/// The multicast group that the kernel reports changes of nftables to: `NFNLGRP_NFTABLES` of
/// linux/netfilter/nfnetlink.h, as a bit.
const NFTABLES_GROUP: u32 = 1 << (7 - 1);

/// A socket that gets a report of each change.
pub(super) struct Changes(TokioSocket);

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Changes {
    /// Opens it, in a runtime of tokio. Changes from now on are reported.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, NFTABLES_GROUP))?;
        Ok(Self(socket))
    }

    /// Waits for a change that may be one of a table with this name.
    pub(super) async fn of_table(&self, name: &str) -> io::Result<()> {
        loop {
            match self.0.recv_from_full().await {
                Ok((report, _)) if !mentions(&report, name) => {}
                Ok(_) => return Ok(()),
                // There were too many reports, and some were lost.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a report has a name in it. Every report of a table, or of something in it, does.
fn mentions(report: &[u8], name: &str) -> bool {
    report.windows(name.len()).any(|part| part == name.as_bytes())
}
