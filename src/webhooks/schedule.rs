//! When a message that was not delivered is tried again.

use std::time::Duration;

use crate::{domain::timestamp::Timestamp, outbound::RetryAfter};

/// Pauses after each failed attempt, as Standard Webhooks recommends them; after the last there is
/// no other. In all about three days.
const PAUSES: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];

/// A receiver may ask for a longer pause, but for none that looks like the end.
const PAUSE_MAX: Duration = Duration::from_hours(24);

/// A pause is drawn out by up to this share of it, so that what failed together does not come back
/// together.
const JITTER: f64 = 0.1;

/// When to try again after the attempt of this number, from 1, failed `now`; `None` after the last.
/// `draw` is random, from 0 to 1.
pub fn retry_at(
    attempt: u32,
    retry_after: Option<RetryAfter>,
    draw: f64,
    now: Timestamp,
) -> Option<Timestamp> {
    let pause = PAUSES.get(usize::try_from(attempt).ok()?.checked_sub(1)?)?;
    let asked_for = match retry_after {
        Some(RetryAfter::Pause(pause)) => pause,
        Some(RetryAfter::At(at)) => at.since(now),
        None => Duration::ZERO,
    };
    Some(now.plus(pause.mul_f64(1.0 + JITTER * draw).max(asked_for.min(PAUSE_MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    #[test]
    fn retries_take_three_days() {
        let pauses: Vec<_> = (1..).map_while(|attempt| retry_at(attempt, None, 0.0, NOW)).collect();
        assert_eq!(pauses.len(), 9, "ten attempts in all");
        assert_eq!(pauses[0], NOW.plus(Duration::from_secs(5)));
        let all: Duration = pauses.iter().map(|at| at.since(NOW)).sum();
        assert_eq!(all.as_secs() / 3_600, 75);
        assert_eq!(retry_at(1, None, 1.0, NOW), Some(NOW.plus(Duration::from_millis(5_500))));
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_but_not_for_ever() {
        let after = |retry_after| retry_at(2, Some(retry_after), 0.0, NOW).unwrap().since(NOW);
        let five_minutes = Duration::from_mins(5);
        assert_eq!(after(RetryAfter::Pause(Duration::from_secs(1))), five_minutes);
        assert_eq!(after(RetryAfter::Pause(Duration::from_hours(1))), Duration::from_hours(1));
        assert_eq!(after(RetryAfter::Pause(Duration::MAX)), PAUSE_MAX);
        assert_eq!(after(RetryAfter::At(NOW.plus(PAUSE_MAX / 2))), PAUSE_MAX / 2);
        assert_eq!(after(RetryAfter::At(NOW.minus(PAUSE_MAX))), five_minutes);
        assert_eq!(retry_at(10, Some(RetryAfter::Pause(PAUSE_MAX)), 0.0, NOW), None);
    }
}
