//! How fast a caller's requests may come. Each process counts its own.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::http::problem::Problem;

/// Seconds' worth of requests that may come at once.
const BURST: Duration = Duration::from_secs(10);

/// For each caller with a rate, known by a `C`, the theoretical arrival time of the generic cell
/// rate algorithm (ITU-T I.371, virtual scheduling): each request admitted moves it on by one
/// interval, and it may run ahead of the clock by one burst.
pub struct Rates<C>(Mutex<HashMap<C, Instant>>);

impl<C> Default for Rates<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: Eq + Hash> Rates<C> {
    /// # Errors
    /// When the caller's requests come too fast; says how long to wait.
    pub(super) fn admit<Q>(
        &self,
        caller: &Q,
        per_minute: Option<u32>,
        now: Instant,
    ) -> Result<(), Problem>
    where
        C: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = C> + ?Sized,
    {
        let Some(per_minute) = per_minute else { return Ok(()) };
        let interval = Duration::from_mins(1) / per_minute.max(1);
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let arrival = expected.get(caller).map_or(now, |expected| now.max(*expected));
        // A slow rate has a burst of one request.
        let allowed = BURST.saturating_sub(interval);
        let wait = arrival.duration_since(now).saturating_sub(allowed);
        if !wait.is_zero() {
            return Err(Problem::TooFast { per_minute, wait });
        }
        expected.insert(caller.to_owned(), arrival + interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let (rates, start) = (Rates::<String>::default(), Instant::now());
        let admit = |caller, now| rates.admit(caller, Some(60), now);
        let admitted = (0..100).filter(|_| admit("fast", start).is_ok()).count();
        assert_eq!(admitted, 10, "ten seconds' worth");
        assert!(admit("other", start).is_ok(), "each caller has a rate of its own");
        let refused = admit("fast", start).unwrap_err();
        let Problem::TooFast { wait, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(wait, Duration::from_secs(1));
        assert!(admit("fast", start + Duration::from_millis(999)).is_err());
        assert!(admit("fast", start + wait).is_ok());
        assert!(admit("fast", start + wait).is_err());
    }

    #[test]
    fn a_slow_rate_admits_one_and_none_is_no_limit() {
        let (rates, start) = (Rates::<u8>::default(), Instant::now());
        assert!(rates.admit(&1, Some(2), start).is_ok());
        assert!(rates.admit(&1, Some(2), start + Duration::from_secs(29)).is_err());
        assert!(rates.admit(&1, Some(2), start + Duration::from_secs(30)).is_ok());
        assert!((0..1_000).all(|_| rates.admit(&2, None, start).is_ok()));
    }
}
