//! Time and randomness: the only place that asks the machine for either.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use uuid::{Builder, Uuid};

use crate::domain::timestamp::Timestamp;

/// Tells the time; clones tell the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<Mutex<Hands>>),
}

#[derive(Debug)]
struct Hands {
    wall: Timestamp,
    monotonic: Instant,
}

impl Clock {
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until it is told to move.
    pub fn manual(now: Timestamp) -> Self {
        let hands = Hands { wall: now, monotonic: Instant::now() };
        Self(Source::Manual(Arc::new(Mutex::new(hands))))
    }

    /// What the calendar says; may jump either way between two calls.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let micros = |duration: Duration| i64::try_from(duration.as_micros());
                #[expect(clippy::disallowed_methods, reason = "this is where time comes in")]
                let now = match SystemTime::now().duration_since(UNIX_EPOCH) {
                    Ok(after) => micros(after).unwrap_or(i64::MAX),
                    Err(before) => micros(before.duration()).map_or(i64::MIN, |micros| -micros),
                };
                Timestamp::from_micros(now)
            }
            Source::Manual(hands) => locked(hands).wall,
        }
    }

    /// Never runs backwards, but may stand still while the machine is suspended.
    pub fn monotonic(&self) -> Instant {
        match &self.0 {
            Source::System => Instant::now(),
            Source::Manual(hands) => locked(hands).monotonic,
        }
    }

    /// Lets time pass on a manual clock; the system's passes by itself.
    pub fn advance(&self, duration: Duration) {
        if let Source::Manual(hands) = &self.0 {
            let mut hands = locked(hands);
            hands.wall = hands.wall.plus(duration);
            hands.monotonic += duration;
        }
    }

    /// Makes a manual clock's calendar jump; its monotonic time stays.
    pub fn set(&self, now: Timestamp) {
        if let Source::Manual(hands) = &self.0 {
            locked(hands).wall = now;
        }
    }
}

/// Makes identifiers and tokens; clones draw from the same stream.
#[derive(Clone)]
pub struct Ids(Arc<Mutex<ChaCha20Rng>>);

impl Ids {
    /// Seeded by the operating system.
    pub fn system() -> Self {
        Self(Arc::new(Mutex::new(rand::make_rng())))
    }

    /// The same ids at each run, for tests.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(ChaCha20Rng::seed_from_u64(seed))))
    }

    /// A `UUIDv7`: sorts by the millisecond in which it was made.
    pub fn next(&self, now: Timestamp) -> Uuid {
        let millis = u64::try_from(now.as_micros() / 1_000).unwrap_or(0);
        Builder::from_unix_timestamp_millis(millis, &self.bytes()).into_uuid()
    }

    /// A `UUIDv4`, of which nothing can be guessed: for lease tokens.
    pub fn token(&self) -> Uuid {
        Builder::from_random_bytes(self.bytes()).into_uuid()
    }

    /// Unpredictable bytes, for secrets.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        locked(&self.0).fill_bytes(&mut bytes);
        bytes
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}

/// Both kinds of state here are whole between any two instructions, so that a thread that
/// panicked elsewhere spoils nothing.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp::from_micros(7));
        let (twin, start) = (clock.clone(), clock.monotonic());
        clock.advance(Duration::from_micros(5));
        assert_eq!(twin.now(), Timestamp::from_micros(12));
        clock.set(Timestamp::from_micros(1));
        assert_eq!(twin.now(), Timestamp::from_micros(1));
        assert_eq!(twin.monotonic(), start + Duration::from_micros(5));
    }

    #[test]
    fn ids_are_version_7_in_the_order_of_time_and_repeat_with_the_seed() {
        let times = [0, 1_000, 1_764_000_000_000_000].map(Timestamp::from_micros);
        let draw = |seed| {
            let ids = Ids::seeded(seed);
            times.map(|time| ids.next(time))
        };
        let ids = draw(1);
        assert!(ids.is_sorted());
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        assert_eq!(ids, draw(1));
        assert_ne!(ids, draw(2));
        assert_eq!(Ids::seeded(1).token().get_version_num(), 4);
    }
}
