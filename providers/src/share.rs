//! Which ones are chosen where there are more than a load balancer takes. Pure.

use crate::model::fnv1a;

/// How many targets a load balancer takes; `None`: as many as there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetLimits {
    /// Of one listener, or of another part that shares the room with others
    pub of_listener: Option<u32>,
    /// Of all together, one that is in two of them counted twice
    pub in_all: Option<u32>,
}

/// How many targets each listener gets, of which there are so many: all that it
/// has, or else an equal share, and what some don't need is shared by the others.
///
/// Few of the shares change when one count does, and each by little, so that few
/// backends are exchanged: what can't be shared equally stays unused.
#[must_use]
pub fn shares(counts: &[u32], limits: TargetLimits) -> Vec<u32> {
    let most = limits.of_listener.unwrap_or(u32::MAX);
    let mut shares: Vec<u32> = counts.iter().map(|count| (*count).min(most)).collect();
    let Some(in_all) = limits.in_all else { return shares };
    let used = |share: u32| shares.iter().map(|count| u64::from((*count).min(share))).sum::<u64>();
    let fits = |share: u32| used(share) <= u64::from(in_all);
    let highest = shares.iter().copied().max().unwrap_or(0);
    if fits(highest) {
        return shares;
    }
    // The highest share that fits: all above do not, all below do.
    let (mut low, mut high) = (0, highest);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    let mut left = if low == 0 { in_all } else { 0 };
    for share in shares.iter_mut().filter(|share| **share > 0) {
        // More listeners than backends fit: the first ones get one each.
        let one = u32::from(left > 0);
        left = left.saturating_sub(1);
        *share = (*share).min(low.max(one));
    }
    shares
}

/// So many of the items, always the same ones as far as they are there: when one comes or goes,
/// at most one other changes (rendezvous hashing). `rank` must depend on the item alone.
pub fn chosen<T: Ord>(items: impl IntoIterator<Item = T>, most: usize, rank: impl Fn(&T) -> u64) -> Vec<T> {
    let mut ranked: Vec<(u64, T)> = items.into_iter().map(|item| (rank(&item), item)).collect();
    ranked.sort_unstable();
    ranked.into_iter().take(most).map(|(_, item)| item).collect()
}

/// A rank for [`chosen`], of an item that is identified by these parts.
#[must_use]
pub fn rank<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    // Twice, or what differs in its last bytes alone would keep close together.
    fnv1a([fnv1a(parts).to_be_bytes().as_slice()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_all(limit: u32) -> TargetLimits {
        TargetLimits { of_listener: None, in_all: Some(limit) }
    }

    #[test]
    fn each_gets_an_equal_share_and_what_some_do_not_need_goes_to_the_others() {
        assert_eq!(shares(&[3, 4], TargetLimits::default()), [3, 4]);
        assert_eq!(shares(&[3, 4], in_all(7)), [3, 4]);
        assert_eq!(shares(&[2, 100, 100], in_all(20)), [2, 9, 9]);
        assert_eq!(shares(&[2, 100, 100], TargetLimits { of_listener: Some(8), in_all: Some(20) }), [2, 8, 8]);
        assert_eq!(shares(&[100], TargetLimits { of_listener: Some(8), in_all: None }), [8]);
    }

    #[test]
    fn more_listeners_than_backends_fit_leave_the_last_ones_without() {
        assert_eq!(shares(&[5, 0, 5, 5], in_all(2)), [1, 0, 1, 0]);
        assert_eq!(shares(&[5, 5], in_all(0)), [0, 0]);
    }

    proptest! {
        #[test]
        fn shares_fit_and_one_backend_more_changes_none_by_more_than_one(
            counts in prop::collection::vec(0u32..50, 1..20), which in any::<prop::sample::Index>(), limit in 0u32..500,
        ) {
            let before = shares(&counts, in_all(limit));
            prop_assert!(before.iter().sum::<u32>() <= limit);
            prop_assert!(before.iter().zip(&counts).all(|(share, count)| share <= count));
            let mut grown = counts.clone();
            let which = which.index(counts.len());
            grown[which] += 1;
            for (n, (before, after)) in before.iter().zip(shares(&grown, in_all(limit))).enumerate() {
                prop_assert!(after <= *before || n == which, "a neighbour that grows leaves no more for the others");
                prop_assert!(before.abs_diff(after) <= 1);
            }
        }
    }
}
