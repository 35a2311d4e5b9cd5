//! Named steps at which a test may hold the process, to kill it or to freeze it there.
//!
//! Only builds with debug assertions have them, as those of `cargo test` do; a release has none,
//! which `scripts/check-fail-points.sh` looks up in the binary. A Cargo feature would not do: what
//! is built together shares its features, and a release built beside an example would have had it.

/// Waits for as long as the folder that `FORGETD_FAIL_POINTS` names holds a file `<part>.<step>`;
/// meanwhile a file `<part>.<step>.reached` stands beside it.
pub async fn pass(part: &'static str, step: &'static str) {
    #[cfg(debug_assertions)]
    while held::is_held(part, step) {
        tokio::time::sleep(held::PAUSE).await;
    }
    #[cfg(not(debug_assertions))]
    let _ = (part, step);
}

/// The same on a thread that computes.
pub fn pass_blocking(part: &'static str, step: &'static str) {
    #[cfg(debug_assertions)]
    while held::is_held(part, step) {
        std::thread::sleep(held::PAUSE);
    }
    #[cfg(not(debug_assertions))]
    let _ = (part, step);
}

#[cfg(debug_assertions)]
mod held {
    use std::{fs::File, path::Path, time::Duration};

    pub(super) const PAUSE: Duration = Duration::from_millis(2);

    pub(super) fn is_held(part: &str, step: &str) -> bool {
        let Some(folder) = std::env::var_os("FORGETD_FAIL_POINTS") else { return false };
        let point = Path::new(&folder).join(format!("{part}.{step}"));
        let is_held = point.exists();
        if is_held {
            let reached = File::create(Path::new(&folder).join(format!("{part}.{step}.reached")));
            reached.expect("the test's folder can be written to");
        }
        is_held
    }
}
