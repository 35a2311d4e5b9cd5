//! Which threads go first where more want to run than there are processors.

/// On the scale of `nice`. Beside a thread of niceness 0 one of 10 gets a tenth of a processor that
/// both want, and the former need not wait for the latter's turn to end.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Lets threads that answer requests go before this one, and before those that it starts. Does
/// nothing where niceness is a process's, or where this one is that nice already.
pub fn stand_back() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getpriority_process, setpriority_process};
        let nicer = getpriority_process(None).map(|niceness| niceness.max(NICENESS));
        if let Err(error) = nicer.and_then(|niceness| setpriority_process(None, niceness)) {
            tracing::debug!(%error, "a thread in the background goes first like any other");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stands_back_and_no_other_with_it() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        let inside = std::thread::spawn(move || {
            stand_back();
            niceness()
        });
        assert_eq!(inside.join().unwrap(), before.max(NICENESS));
        assert_eq!(niceness(), before);
    }
}
