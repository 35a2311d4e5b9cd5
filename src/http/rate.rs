//! How fast a key's requests may come. Each process counts its own.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::{domain::access::ApiKey, http::problem::Problem};

/// Seconds' worth of requests that may come at once.
const BURST: Duration = Duration::from_secs(10);

/// For each key with a rate, the theoretical arrival time of the generic cell rate algorithm (ITU-T
/// I.371, virtual scheduling): each request admitted moves it on by one interval, and it may run
/// ahead of the clock by one burst.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<Uuid, Instant>>);

impl Rates {
    /// # Errors
    /// When the key's requests come too fast; says how long to wait.
    pub(super) fn admit(&self, key: &ApiKey, now: Instant) -> Result<(), Problem> {
        let Some(per_minute) = key.limits.requests_per_minute else { return Ok(()) };
        let interval = Duration::from_mins(1) / per_minute.max(1);
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let arrival = expected.get(&key.id).map_or(now, |expected| now.max(*expected));
        // A slow rate has a burst of one request.
        let allowed = BURST.saturating_sub(interval);
        let wait = arrival.duration_since(now).saturating_sub(allowed);
        if !wait.is_zero() {
            return Err(Problem::TooFast { per_minute, wait });
        }
        expected.insert(key.id, arrival + interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        access::{KeyLimits, Scope, hash_secret},
        timestamp::Timestamp,
    };

    fn key(id: u128, requests_per_minute: Option<u32>) -> ApiKey {
        ApiKey {
            id: Uuid::from_u128(id),
            name: "test".into(),
            hash: hash_secret("x"),
            scopes: vec![Scope::Predict],
            limits: KeyLimits { requests_per_minute, samples_per_day: None },
            created_at: Timestamp::from_micros(0),
            revoked_at: None,
        }
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let (rates, start) = (Rates::default(), Instant::now());
        let (fast, other) = (key(1, Some(60)), key(2, Some(60)));
        let admitted = (0..100).filter(|_| rates.admit(&fast, start).is_ok()).count();
        assert_eq!(admitted, 10, "ten seconds' worth");
        assert!(rates.admit(&other, start).is_ok(), "each key has a rate of its own");
        let refused = rates.admit(&fast, start).unwrap_err();
        let Problem::TooFast { wait, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(wait, Duration::from_secs(1));
        assert!(rates.admit(&fast, start + Duration::from_millis(999)).is_err());
        assert!(rates.admit(&fast, start + wait).is_ok());
        assert!(rates.admit(&fast, start + wait).is_err());
    }

    #[test]
    fn a_slow_rate_admits_one_and_none_is_no_limit() {
        let (rates, start) = (Rates::default(), Instant::now());
        let slow = key(1, Some(2));
        assert!(rates.admit(&slow, start).is_ok());
        assert!(rates.admit(&slow, start + Duration::from_secs(29)).is_err());
        assert!(rates.admit(&slow, start + Duration::from_secs(30)).is_ok());
        let free = key(2, None);
        assert!((0..1_000).all(|_| rates.admit(&free, start).is_ok()));
    }
}
