//! How fast a client's requests may come. Each process counts its own.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::http::problem::Problem;

/// Seconds' worth of requests that may come at once.
const BURST: Duration = Duration::from_secs(10);

/// Who may have a rate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    ApiKey(Uuid),
    /// An agent of the Data Rights Protocol, by its id.
    Agent(String),
}

/// For each client with a rate, the theoretical arrival time of the generic cell rate algorithm
/// (ITU-T I.371, virtual scheduling): each request admitted moves it on by one interval, and it
/// may run ahead of the clock by one burst.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<Client, Instant>>);

impl Rates {
    /// # Errors
    /// When the client's requests come too fast; says how long to wait.
    pub(super) fn admit(
        &self,
        client: Client,
        per_minute: Option<u32>,
        now: Instant,
    ) -> Result<(), Problem> {
        let Some(per_minute) = per_minute else { return Ok(()) };
        let interval = Duration::from_mins(1) / per_minute.max(1);
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let arrival = expected.get(&client).map_or(now, |expected| now.max(*expected));
        // A slow rate has a burst of one request.
        let allowed = BURST.saturating_sub(interval);
        let wait = arrival.duration_since(now).saturating_sub(allowed);
        if !wait.is_zero() {
            return Err(Problem::TooFast { per_minute, wait });
        }
        expected.insert(client, arrival + interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let (rates, start) = (Rates::default(), Instant::now());
        let admit = |id: &str, now| rates.admit(Client::Agent(id.into()), Some(60), now);
        let admitted = (0..100).filter(|_| admit("fast", start).is_ok()).count();
        assert_eq!(admitted, 10, "ten seconds' worth");
        assert!(admit("other", start).is_ok(), "each client has a rate of its own");
        let refused = admit("fast", start).unwrap_err();
        let Problem::TooFast { wait, .. } = refused else { panic!("{refused:?}") };
        assert_eq!(wait, Duration::from_secs(1));
        assert!(admit("fast", start + Duration::from_millis(999)).is_err());
        assert!(admit("fast", start + wait).is_ok());
        assert!(admit("fast", start + wait).is_err());
    }

    #[test]
    fn a_slow_rate_admits_one_and_none_is_no_limit() {
        let (rates, start) = (Rates::default(), Instant::now());
        let admit = |id, per_minute, after_s| {
            let client = Client::ApiKey(Uuid::from_u128(id));
            rates.admit(client, per_minute, start + Duration::from_secs(after_s)).is_ok()
        };
        assert!(admit(1, Some(2), 0));
        assert!(!admit(1, Some(2), 29));
        assert!(admit(1, Some(2), 30));
        assert!((0..1_000).all(|_| admit(2, None, 0)));
    }
}
