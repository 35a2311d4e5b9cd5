//! Which version of each model this process answers from.
//!
//! Readers take one atomic snapshot and wait for nobody. A version gives way only to one of a
//! newer epoch, however late a slow publisher comes. What is reported to the ledger is the oldest
//! epoch that anybody still holds, so that an answer in the making counts as served.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    clock::Clock,
    domain::{model::ModelName, timestamp::Timestamp},
    serving::version::ServedVersion,
    store::Served,
};

/// A version while it is answered from; the last holder to drop it lets the registry know.
pub struct Held {
    version: ServedVersion,
    /// The ledger may have passed it over: what was computed from it is not answered.
    is_withheld: AtomicBool,
    departures: Arc<Notify>,
}

impl Deref for Held {
    type Target = ServedVersion;

    fn deref(&self) -> &ServedVersion {
        &self.version
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.departures.notify_one();
    }
}

/// Whether a version became the one that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    Now,
    /// This epoch or a newer one answers already.
    Stale,
}

/// Why nothing answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unserved {
    #[error("no version of the model is loaded")]
    NotLoaded,
    #[error("this replica has lost its lease and must not answer until it renews it")]
    Fenced,
}

type Snapshot = HashMap<ModelName, Arc<Held>>;

pub struct Registry {
    clock: Clock,
    current: ArcSwap<Snapshot>,
    /// Models that answer again once a version of theirs is published.
    withheld: Mutex<HashMap<ModelName, Uuid>>,
    /// Versions that answer no more, but that somebody may still hold.
    superseded: Mutex<Vec<(Served, Weak<Held>)>>,
    lease: ArcSwapOption<Lease>,
    departures: Arc<Notify>,
}

/// Until when the ledger counts this replica as live, by both kinds of time: monotonic time
/// stands still while a machine is suspended, and the calendar can jump back.
struct Lease {
    until: Instant,
    until_wall: Timestamp,
}

/// When a report to the ledger began; its lease counts from there.
#[derive(Clone, Copy, Debug)]
pub struct ReportStart {
    pub monotonic: Instant,
    pub wall: Timestamp,
}

impl Registry {
    /// Fenced until its first lease.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            current: ArcSwap::default(),
            withheld: Mutex::default(),
            superseded: Mutex::default(),
            lease: ArcSwapOption::empty(),
            departures: Arc::default(),
        }
    }

    /// Makes `version` the one that answers, unless a newer one does already.
    pub fn publish(&self, version: ServedVersion) -> Published {
        self.publish_through(version, || ())
    }

    /// `gate` runs between reading the current snapshot and trying to replace it.
    fn publish_through(&self, version: ServedVersion, mut gate: impl FnMut()) -> Published {
        let departures = Arc::clone(&self.departures);
        let held = Arc::new(Held { version, is_withheld: AtomicBool::new(false), departures });
        let name = &held.model.name;
        loop {
            let seen = self.current.load();
            let old = seen.get(name).cloned();
            let serves_newer =
                |old: &Arc<Held>| old.model.id == held.model.id && old.epoch >= held.epoch;
            if old.as_ref().is_some_and(serves_newer) {
                return Published::Stale;
            }
            let mut next = Snapshot::clone(&seen);
            next.insert(name.clone(), Arc::clone(&held));
            gate();
            // Listed before it is replaced, so that no report passes over it; should another
            // publisher come first, the entry is one of the version that still answers.
            if let Some(old) = &old {
                self.superseded().push(leaving(old));
            }
            if Arc::ptr_eq(&self.current.compare_and_swap(&*seen, Arc::new(next)), &seen) {
                self.withheld().remove(name);
                return Published::Now;
            }
        }
    }

    /// The version that answers for a model.
    ///
    /// # Errors
    /// When there is none, or this replica must not answer.
    pub fn get(&self, name: &ModelName) -> Result<Arc<Held>, Unserved> {
        if self.is_fenced() {
            return Err(Unserved::Fenced);
        }
        match self.current.load().get(name) {
            Some(held) => Ok(Arc::clone(held)),
            None if self.withheld().contains_key(name) => Err(Unserved::Fenced),
            None => Err(Unserved::NotLoaded),
        }
    }

    /// Whether what was computed from a version may be answered. This process may have stood still
    /// meanwhile, been counted as dead, and be back.
    ///
    /// # Errors
    /// When it may not.
    pub fn confirm(&self, held: &Held) -> Result<(), Unserved> {
        // In this order: versions are withheld before the lease is renewed.
        if self.is_fenced() || held.is_withheld.load(Ordering::Acquire) {
            return Err(Unserved::Fenced);
        }
        Ok(())
    }

    /// Epoch of the version that answers for a model, fenced or not.
    pub fn epoch(&self, model_id: Uuid) -> Option<u64> {
        let current = self.current.load();
        current.values().find(|held| held.model.id == model_id).map(|held| held.epoch)
    }

    /// Whether any version is loaded.
    pub fn is_empty(&self) -> bool {
        self.current.load().is_empty()
    }

    /// Lets go of what answers for these models; they answer again once a version is published.
    /// What is being computed from it is not answered any more, nor what is from any version that
    /// was superseded before.
    pub fn withhold(&self, is_outdated: impl Fn(Uuid) -> bool) {
        let outdated = self.current.load();
        let outdated = outdated.values().filter(|held| is_outdated(held.model.id));
        self.withheld().extend(outdated.map(|held| (held.model.name.clone(), held.model.id)));
        self.remove(|model_id| !is_outdated(model_id));
        let current = self.current.load();
        let answers = |held: &Arc<Held>| current.values().any(|other| Arc::ptr_eq(other, held));
        for held in self.superseded().iter().filter_map(|(_, held)| held.upgrade()) {
            if !answers(&held) {
                held.is_withheld.store(true, Ordering::Release);
            }
        }
    }

    /// Answers no more for the other models.
    pub fn retain(&self, keeps: impl Fn(Uuid) -> bool) {
        self.withheld().retain(|_, model_id| keeps(*model_id));
        self.remove(keeps);
    }

    /// All but those that it keeps.
    fn remove(&self, keeps: impl Fn(Uuid) -> bool) {
        if self.current.load().values().all(|held| keeps(held.model.id)) {
            return;
        }
        self.current.rcu(|current| {
            let (kept, gone): (Snapshot, Snapshot) =
                Snapshot::clone(current).into_iter().partition(|(_, held)| keeps(held.model.id));
            // Listed first, as where they are replaced.
            self.superseded().extend(gone.values().map(leaving));
            kept
        });
    }

    /// For each model the oldest epoch that an answer may still come from.
    pub fn served(&self) -> Vec<Served> {
        let mut oldest: HashMap<Uuid, u64> =
            self.current.load().values().map(|held| (held.model.id, held.epoch)).collect();
        let mut superseded = self.superseded();
        superseded.retain(|(_, version)| version.strong_count() > 0);
        for (served, _) in superseded.iter() {
            oldest
                .entry(served.model_id)
                .and_modify(|epoch| *epoch = served.epoch.min(*epoch))
                .or_insert(served.epoch);
        }
        oldest.into_iter().map(|(model_id, epoch)| Served { model_id, epoch }).collect()
    }

    /// Waits until the last holder of some version has dropped it.
    pub async fn departed(&self) {
        self.departures.notified().await;
    }

    /// The ledger took a report that began at `start`: this replica may answer for `duration`
    /// from then.
    pub fn renew_lease(&self, start: ReportStart, duration: Duration) {
        self.lease.store(Some(Arc::new(Lease {
            until: start.monotonic + duration,
            until_wall: start.wall.plus(duration),
        })));
    }

    /// Answers nothing until the next lease.
    pub fn fence(&self) {
        self.lease.store(None);
    }

    pub fn is_fenced(&self) -> bool {
        let lease = self.lease.load();
        let valid = |lease: &Arc<Lease>| {
            self.clock.monotonic() < lease.until && self.clock.now() < lease.until_wall
        };
        !lease.as_ref().is_some_and(valid)
    }

    fn withheld(&self) -> MutexGuard<'_, HashMap<ModelName, Uuid>> {
        self.withheld.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn superseded(&self) -> MutexGuard<'_, Vec<(Served, Weak<Held>)>> {
        self.superseded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the list of those that somebody may still hold.
fn leaving(held: &Arc<Held>) -> (Served, Weak<Held>) {
    (Served { model_id: held.model.id, epoch: held.epoch }, Arc::downgrade(held))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::serving::version::tests::version;

    const LEASE: Duration = Duration::from_secs(10);

    fn leased() -> (Clock, Registry) {
        let clock = Clock::manual(Timestamp::from_micros(1_000_000));
        let registry = Registry::new(clock.clone());
        registry.renew_lease(start(&clock), LEASE);
        (clock, registry)
    }

    fn start(clock: &Clock) -> ReportStart {
        ReportStart { monotonic: clock.monotonic(), wall: clock.now() }
    }

    fn answering(registry: &Registry) -> Result<u64, Unserved> {
        registry.get(&version(1).model.name).map(|held| held.epoch)
    }

    #[test]
    fn only_a_newer_epoch_is_published() {
        let (_, registry) = leased();
        assert_eq!(answering(&registry), Err(Unserved::NotLoaded));
        assert_eq!(registry.publish(version(2)), Published::Now);
        assert_eq!(registry.publish(version(2)), Published::Stale);
        assert_eq!(registry.publish(version(1)), Published::Stale);
        assert_eq!(registry.publish(version(5)), Published::Now);
        assert_eq!(answering(&registry), Ok(5));
    }

    #[test]
    fn a_stale_publisher_held_at_the_gate_does_not_win() {
        let (_, registry) = leased();
        let (read, swap) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| {
                let mut first = true;
                registry.publish_through(version(1), || {
                    if std::mem::take(&mut first) {
                        read.wait();
                        swap.wait();
                    }
                })
            });
            read.wait();
            assert_eq!(registry.publish(version(2)), Published::Now);
            swap.wait();
            assert_eq!(slow.join().unwrap(), Published::Stale);
        });
        assert_eq!(answering(&registry), Ok(2));
    }

    #[tokio::test]
    async fn a_superseded_version_counts_until_its_last_holder_drops_it() {
        let (_, registry) = leased();
        registry.publish(version(1));
        let holder = registry.get(&version(1).model.name).unwrap();
        registry.publish(version(2));
        assert_eq!(registry.served()[0].epoch, 1);
        drop(holder);
        registry.departed().await;
        assert_eq!(registry.served()[0].epoch, 2);
    }

    #[test]
    fn a_lost_lease_fences_by_either_time() {
        let (clock, registry) = leased();
        registry.publish(version(1));
        clock.advance(LEASE / 2);
        assert_eq!(answering(&registry), Ok(1));
        clock.advance(LEASE / 2);
        assert_eq!(answering(&registry), Err(Unserved::Fenced));
        // A calendar that jumps back does not bring the lease back.
        clock.set(Timestamp::from_micros(0));
        assert_eq!(answering(&registry), Err(Unserved::Fenced));
        registry.renew_lease(start(&clock), LEASE);
        assert_eq!(answering(&registry), Ok(1));
        // Time that monotonic time did not see, as after a suspension.
        clock.set(clock.now().plus(LEASE));
        assert_eq!(answering(&registry), Err(Unserved::Fenced));
        registry.renew_lease(start(&clock), LEASE);
        registry.fence();
        assert_eq!(answering(&registry), Err(Unserved::Fenced));
    }

    #[test]
    fn a_model_that_is_withheld_answers_again_once_it_is_published() {
        let (_, registry) = leased();
        registry.publish(version(1));
        let id = version(1).model.id;
        registry.withhold(|model_id| model_id == id);
        assert_eq!(answering(&registry), Err(Unserved::Fenced));
        registry.publish(version(2));
        assert_eq!(answering(&registry), Ok(2));
        registry.withhold(|model_id| model_id == id);
        registry.retain(|_| false);
        assert_eq!(answering(&registry), Err(Unserved::NotLoaded));
    }

    #[test]
    fn what_is_withheld_counts_until_its_last_holder_drops_it_and_is_not_answered() {
        let (clock, registry) = leased();
        let id = version(1).model.id;
        let held = || registry.get(&version(1).model.name).unwrap();
        registry.publish(version(1));
        let oldest = held();
        registry.publish(version(2));
        let old = held();
        assert_eq!((registry.confirm(&oldest), registry.confirm(&old)), (Ok(()), Ok(())));

        clock.advance(LEASE);
        assert_eq!(registry.confirm(&old), Err(Unserved::Fenced));
        registry.withhold(|_| false);
        registry.renew_lease(start(&clock), LEASE);
        assert_eq!(registry.confirm(&oldest), Err(Unserved::Fenced), "it was superseded before");
        assert_eq!(registry.confirm(&old), Ok(()), "it is current still");

        registry.withhold(|model_id| model_id == id);
        registry.publish(version(3));
        assert_eq!(registry.confirm(&old), Err(Unserved::Fenced));
        assert_eq!(registry.confirm(&held()), Ok(()));
        for (holder, epoch) in [(oldest, 1), (old, 2)] {
            assert_eq!(registry.served(), [Served { model_id: id, epoch }]);
            drop(holder);
        }
        assert_eq!(registry.served(), [Served { model_id: id, epoch: 3 }]);
    }

    #[test]
    fn models_that_are_gone_are_forgotten() {
        let (_, registry) = leased();
        registry.publish(version(1));
        registry.retain(|model_id| model_id == version(1).model.id);
        assert_eq!(answering(&registry), Ok(1));
        registry.retain(|_| false);
        assert_eq!(answering(&registry), Err(Unserved::NotLoaded));
        assert!(registry.is_empty() && registry.served().is_empty());
    }
}
