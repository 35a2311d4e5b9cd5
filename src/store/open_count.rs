//! How many requests wait, without counting them for every group of new ones.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What other processes accept meanwhile is not in the count, nor what comes by other protocols.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// The last count, with what this process has accepted since.
#[derive(Default)]
pub(super) struct OpenCount(Mutex<Option<Counted>>);

struct Counted {
    open: u64,
    at: Instant,
}

impl OpenCount {
    /// About how many wait, where that is so far below the limit that it need not be known better.
    pub(super) fn far_below(&self, limit: u64) -> Option<u64> {
        let last = self.last();
        let good = last.as_ref().filter(|it| it.at.elapsed() < GOOD_FOR && it.open < limit / 2);
        good.map(|it| it.open)
    }

    /// So many do.
    pub(super) fn set(&self, open: u64) {
        *self.last() = Some(Counted { open, at: Instant::now() });
    }

    /// So many more do.
    pub(super) fn add(&self, accepted: u64) {
        if let Some(last) = self.last().as_mut() {
            last.open += accepted;
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_asked_for_near_the_limit_and_when_it_is_old() {
        let count = OpenCount::default();
        assert_eq!(count.far_below(100), None, "nobody has counted");
        count.set(40);
        assert_eq!((count.far_below(100), count.far_below(80)), (Some(40), None));
        count.add(9);
        assert_eq!(count.far_below(100), Some(49));
        count.add(1);
        assert_eq!(count.far_below(100), None);
        count.set(7);
        let long_ago = Instant::now().checked_sub(GOOD_FOR).unwrap();
        count.last().as_mut().unwrap().at = long_ago;
        assert_eq!(count.far_below(100), None);
    }
}
