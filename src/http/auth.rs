//! Who may do what. A handler says which scope it needs by the type that it takes.

use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use uuid::Uuid;

use crate::{
    domain::{
        access::{ApiKey, Scope, hash_secret},
        identity::Digest,
    },
    http::{problem::Problem, rate::Client, state::State},
};

/// How callers are known.
pub enum Access {
    /// Nobody is asked for a key. For loopback only: the application sees to that.
    Open,
    Keys(KeyCache),
}

impl Access {
    pub fn with_keys() -> Self {
        Self::Keys(KeyCache::default())
    }
}

/// What the ledger said of keys lately, so that predictions do not ask it each time. A revoked
/// key works for at most this long on.
const FRESH: Duration = Duration::from_secs(5);

/// Guessed keys must not fill the memory.
const CACHED_MAX: usize = 4_096;

#[derive(Default)]
pub struct KeyCache(Mutex<Cached>);

#[derive(Default)]
struct Cached {
    /// How often a key was changed here. What was asked before the last change may be out of date.
    generation: u64,
    keys: HashMap<Digest, (Instant, Arc<ApiKey>)>,
}

impl KeyCache {
    /// The key if it is known, or else the generation in which the ledger is asked for it.
    fn get(&self, hash: &Digest, now: Instant) -> Result<Arc<ApiKey>, u64> {
        let cached = self.lock();
        match cached.keys.get(hash) {
            Some((until, key)) if now < *until => Ok(Arc::clone(key)),
            _ => Err(cached.generation),
        }
    }

    fn put(&self, key: Arc<ApiKey>, now: Instant, generation: u64) {
        let mut cached = self.lock();
        if cached.generation != generation {
            return;
        }
        if cached.keys.len() >= CACHED_MAX {
            cached.keys.retain(|_, (until, _)| now < *until);
        }
        if cached.keys.len() < CACHED_MAX {
            cached.keys.insert(key.hash, (now + FRESH, key));
        }
    }

    /// After a key was changed here, it is asked for anew.
    pub fn clear(&self) {
        let mut cached = self.lock();
        cached.generation += 1;
        cached.keys.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Any one of these scopes, or `admin`, is enough.
pub trait Permission: Send {
    const SCOPES: &'static [Scope];
}

/// Ask for predictions.
pub struct Predicting;

/// Post and cancel deletion requests.
pub struct Deleting;

/// Watch deletion requests.
pub struct Watching;

/// Read models, versions, lineage and the audit log.
pub struct Auditing;

/// Change models, samples and versions.
pub struct Administering;

impl Permission for Predicting {
    const SCOPES: &'static [Scope] = &[Scope::Predict];
}

impl Permission for Deleting {
    const SCOPES: &'static [Scope] = &[Scope::Delete];
}

impl Permission for Watching {
    const SCOPES: &'static [Scope] = &[Scope::Delete, Scope::Audit];
}

impl Permission for Auditing {
    const SCOPES: &'static [Scope] = &[Scope::Audit];
}

impl Permission for Administering {
    const SCOPES: &'static [Scope] = &[Scope::Admin];
}

/// A caller who may do what `P` says.
pub struct Caller<P> {
    /// Absent where the service runs without keys.
    pub api_key_id: Option<Uuid>,
    permission: PhantomData<P>,
}

impl<P: Permission> FromRequestParts<Arc<State>> for Caller<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        let api_key_id = match &state.access {
            Access::Open => None,
            Access::Keys(cache) => {
                let key = known(state, cache, &parts.headers).await?;
                if !P::SCOPES.iter().any(|scope| key.allows(*scope)) {
                    return Err(Problem::Forbidden(P::SCOPES));
                }
                let per_minute = key.limits.requests_per_minute;
                state.rates.admit(Client::ApiKey(key.id), per_minute, state.clock.monotonic())?;
                Some(key.id)
            }
        };
        Ok(Self { api_key_id, permission: PhantomData })
    }
}

async fn known(
    state: &State,
    cache: &KeyCache,
    headers: &HeaderMap,
) -> Result<Arc<ApiKey>, Problem> {
    let secret = bearer(headers).ok_or(Problem::Unauthenticated)?;
    let (hash, now) = (hash_secret(secret), state.clock.monotonic());
    let generation = match cache.get(&hash, now) {
        Ok(key) => return Ok(key),
        Err(generation) => generation,
    };
    let key = state.store.api_key(hash).await?.ok_or(Problem::Unauthenticated)?;
    let key = Arc::new(key);
    cache.put(Arc::clone(&key), now, generation);
    Ok(key)
}

/// The secret in the header `Authorization`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let secret = secret.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !secret.is_empty()).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{access::KeyLimits, timestamp::Timestamp};

    fn key(secret: &str) -> Arc<ApiKey> {
        Arc::new(ApiKey {
            id: Uuid::from_u128(1),
            name: "test".into(),
            hash: hash_secret(secret),
            scopes: vec![Scope::Predict],
            limits: KeyLimits::default(),
            created_at: Timestamp::from_micros(0),
            revoked_at: None,
        })
    }

    #[test]
    fn cached_keys_go_stale_and_do_not_fill_the_memory() {
        let (cache, start) = (KeyCache::default(), Instant::now());
        cache.put(key("a"), start, 0);
        assert!(cache.get(&hash_secret("a"), start).is_ok());
        assert!(cache.get(&hash_secret("b"), start).is_err());
        assert!(cache.get(&hash_secret("a"), start + FRESH).is_err());
        for number in 0..2 * CACHED_MAX {
            cache.put(key(&number.to_string()), start, 0);
        }
        assert_eq!(cache.lock().keys.len(), CACHED_MAX);
        cache.put(key("late"), start + FRESH, 0);
        assert_eq!(cache.lock().keys.len(), 1);
    }

    #[test]
    fn a_key_that_was_looked_up_before_a_revocation_is_not_cached_after_it() {
        let (cache, now, hash) = (KeyCache::default(), Instant::now(), hash_secret("a"));
        let before = cache.get(&hash, now).unwrap_err();
        cache.clear();
        cache.put(key("a"), now, before);
        let after = cache.get(&hash, now).unwrap_err();
        cache.put(key("a"), now, after);
        assert!(cache.get(&hash, now).is_ok());
    }

    #[test]
    fn only_bearer_tokens_are_keys() {
        let bearer = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            super::bearer(&headers).map(str::to_owned)
        };
        assert_eq!(bearer("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(bearer("bearer abc").as_deref(), Some("abc"));
        for other in ["Basic abc", "abc", "Bearer", "Bearer  "] {
            assert_eq!(bearer(other), None, "{other}");
        }
    }
}
