//! Many claims of a site at once.

use std::ops::Range;
use std::time::Duration;

use anyhow::ensure;
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use sharedlb_crds::{ConditionType, SharedLB};
use sharedlb_testbed::eventually;

use crate::{Site, condition};

/// How many requests are made at once.
const CONNECTIONS: usize = 8;

/// How long a burst may take, with everything that is done to it.
pub const BURST_LIMIT: Duration = Duration::from_secs(90);

impl Site {
    /// Creates claims `web-<number>` with one TCP port each, by several connections at
    /// once.
    pub async fn create_burst(&self, numbers: Range<usize>) -> anyhow::Result<()> {
        stream::iter(numbers)
            .map(async |number| self.claim(&format!("web-{number}"), json!([{"targetPort": "http"}])).await)
            .buffer_unordered(CONNECTIONS)
            .try_for_each(async |_| Ok(()))
            .await
    }

    /// How many claims are ready.
    pub async fn count_ready(&self) -> anyhow::Result<usize> {
        let claims = self.claims.list(&ListParams::default()).await?;
        Ok(claims.iter().filter(|claim| is_ready(claim)).count())
    }

    /// Waits until so many claims are ready, for at most [`BURST_LIMIT`].
    pub async fn all_ready(&self, count: usize) -> anyhow::Result<()> {
        eventually(&format!("{count} claims to be ready"), BURST_LIMIT, async || {
            let claims = self.claims.list(&ListParams::default()).await?.items;
            let ready = claims.iter().filter(|claim| is_ready(claim)).count();
            let other = claims.iter().find(|claim| !is_ready(claim)).map(|claim| &claim.status);
            ensure!(ready == count, "{ready} are, and one of the others says {other:?}");
            Ok(Some(()))
        })
        .await
    }

    /// Removes all claims and the class, and waits until they are gone: claims for at
    /// most [`BURST_LIMIT`].
    pub async fn clear(&self) -> anyhow::Result<()> {
        self.claims.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        eventually("all claims to be gone", BURST_LIMIT, async || {
            Ok(self.claims.list(&ListParams::default()).await?.items.is_empty().then_some(()))
        })
        .await?;
        self.delete_class().await?;
        self.class_gone().await
    }
}

/// Whether a claim says that all of it is ready.
pub fn is_ready(claim: &SharedLB) -> bool {
    condition(claim, ConditionType::Ready).is_some_and(|found| found.status == "True")
}
