use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{FutureExt as _, poll};

use super::{fixture::gate, *};

/// Entries that wait for one version where a test computes some together.
const TOGETHER: usize = 8;

struct Panics;

impl Predict for Panics {
    fn probabilities(&self, _: Vec<f32>) -> Vec<f32> {
        panic!("as the test wants")
    }

    fn duration(&self, _: usize) -> Duration {
        Duration::ZERO
    }
}

struct Echo(AtomicUsize);

impl Predict for Echo {
    fn probabilities(&self, rows: Vec<f32>) -> Vec<f32> {
        self.0.fetch_add(1, Ordering::SeqCst);
        rows
    }

    fn duration(&self, _: usize) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test]
async fn a_panic_fails_its_entry_and_the_thread_lives_on() {
    let executor = Executor::start(1, 4).unwrap();
    let panicked = executor.predict(Arc::new(Panics), vec![1.0]).await;
    assert_eq!(panicked, Err(ServingError::Panicked));
    let echo = Arc::new(Echo(AtomicUsize::new(0)));
    assert_eq!(executor.predict(echo, vec![1.0]).await, Ok(vec![1.0]));
}

/// Gives two numbers for one, how many came with it, and remembers what came together.
#[derive(Default)]
struct Batched(Mutex<Vec<usize>>);

impl Predict for Batched {
    fn probabilities(&self, rows: Vec<f32>) -> Vec<f32> {
        self.0.lock().unwrap().push(rows.len());
        assert!(!rows.contains(&666.0), "as the test wants");
        rows.iter().flat_map(|row| [*row, -row]).collect()
    }

    fn duration(&self, _: usize) -> Duration {
        Duration::ZERO
    }
}

/// An entry that waits.
async fn waiting<'a>(
    executor: &'a Executor,
    network: &Arc<Batched>,
    rows: &[f32],
) -> Pin<Box<impl Future<Output = Result<Vec<f32>, ServingError>> + 'a>> {
    let mut entry = Box::pin(executor.predict(network.clone(), rows.to_vec()));
    assert!(poll!(&mut entry).is_pending());
    entry
}

#[tokio::test]
async fn what_waits_for_one_version_is_computed_together() {
    let executor = Executor::start(1, 32).unwrap();
    let (slow, begun, go) = gate();
    let mut first = Box::pin(executor.predict(slow, vec![0.0]));
    assert!(poll!(&mut first).is_pending());
    begun.recv().unwrap();
    let (one, other) = (Arc::new(Batched::default()), Arc::new(Batched::default()));
    let mut together = vec![waiting(&executor, &one, &[2.0, 3.0]).await];
    for _ in 1..TOGETHER {
        together.push(waiting(&executor, &one, &[1.0]).await);
    }
    let apart = waiting(&executor, &other, &[4.0]).await;
    let late = waiting(&executor, &one, &[5.0]).await;
    go.send(()).unwrap();
    let mut answers = Vec::new();
    for entry in together {
        answers.push(entry.await.unwrap());
    }
    assert_eq!(answers[0], [2.0, -2.0, 3.0, -3.0]);
    assert!(answers[1..].iter().all(|answer| *answer == [1.0, -1.0]));
    assert_eq!((apart.await, late.await), (Ok(vec![4.0, -4.0]), Ok(vec![5.0, -5.0])));
    assert_eq!(first.await, Ok(vec![0.0]));
    assert_eq!(*one.0.lock().unwrap(), [TOGETHER + 1, 1]);
    assert_eq!(*other.0.lock().unwrap(), [1]);
}

#[tokio::test]
async fn a_panic_among_many_fails_its_entry_alone() {
    let executor = Executor::start(1, 16).unwrap();
    let (slow, begun, go) = gate();
    let mut first = Box::pin(executor.predict(slow, vec![0.0]));
    assert!(poll!(&mut first).is_pending());
    begun.recv().unwrap();
    let network = Arc::new(Batched::default());
    let bad = waiting(&executor, &network, &[666.0]).await;
    let mut good = Vec::new();
    for _ in 1..TOGETHER {
        good.push(waiting(&executor, &network, &[1.0]).await);
    }
    go.send(()).unwrap();
    assert_eq!(bad.await, Err(ServingError::Panicked));
    for entry in good {
        assert_eq!(entry.await, Ok(vec![1.0, -1.0]));
    }
    assert_eq!(first.await, Ok(vec![0.0]));
    let computed = network.0.lock().unwrap();
    assert_eq!((computed[0], computed.len()), (TOGETHER, 1 + TOGETHER));
}

/// What waits, of entries that take so long each.
fn entries(count: u32, duration: Duration) -> Entries {
    let network: Arc<dyn Predict> = Arc::new(Batched::default());
    let entry = |_| {
        let (answer, _) = oneshot::channel();
        Entry { network: network.clone(), rows: vec![0.0], duration, answer }
    };
    let waiting = (0..count).map(entry).collect();
    Entries { waiting, load: duration * count, ..Entries::default() }
}

#[test]
fn light_work_wakes_one_thread_and_heavy_work_all() {
    let mut light = entries(40, HELP_AFTER / 40);
    assert!(light.call_help(2));
    assert!(!light.call_help(2));
    let shares: Vec<_> = std::iter::from_fn(|| light.take_share(2)).map(|it| it.len()).collect();
    assert_eq!(shares, [32, 8]);

    let mut heavy = entries(100, HELP_AFTER);
    assert!(heavy.call_help(2) && heavy.call_help(2));
    assert!(!heavy.call_help(2));
    let shares: Vec<_> = std::iter::from_fn(|| heavy.take_share(2)).map(|it| it.len()).collect();
    assert_eq!(shares[..6], [32, 32, 18, 9, 5, 2]);
}

#[test]
fn threads_that_are_not_wanted_leave_but_the_last() {
    let mut entries = entries(3, HELP_AFTER / 4);
    entries.active = 2;
    assert!(entries.take_share(2).is_none());
    entries.active = 1;
    assert_eq!(entries.take_share(2).map(|share| share.len()), Some(3));
}

#[test]
fn light_work_does_not_wait_behind_heavy_work() {
    let mut entries = entries(1, Duration::ZERO);
    (entries.load, entries.computing, entries.active) = (2 * HELP_AFTER, 1, 1);
    assert!(entries.call_help(2));
}

#[tokio::test]
async fn a_full_queue_refuses_and_those_who_left_make_room() {
    let executor = Executor::start(1, 1).unwrap();
    let echo = Arc::new(Echo(AtomicUsize::new(0)));
    let (slow, begun, go) = gate();
    let mut first = Box::pin(executor.predict(slow, vec![1.0]));
    assert!(poll!(&mut first).is_pending());
    begun.recv().unwrap();
    let mut leaver = Box::pin(executor.predict(echo.clone(), vec![2.0]));
    assert!(poll!(&mut leaver).is_pending());
    let refused = executor.predict(echo.clone(), vec![3.0]).now_or_never();
    assert_eq!(refused, Some(Err(ServingError::Busy)));
    drop(leaver);
    let mut stayer = Box::pin(executor.predict(echo.clone(), vec![4.0]));
    assert!(poll!(&mut stayer).is_pending());
    go.send(()).unwrap();
    assert_eq!(first.await, Ok(vec![1.0]));
    assert_eq!(stayer.await, Ok(vec![4.0]));
    assert_eq!(echo.0.load(Ordering::SeqCst), 1, "who left is not computed for");
}

#[tokio::test]
async fn closing_answers_those_who_wait() {
    let executor = Executor::start(1, 4).unwrap();
    let (slow, begun, go) = gate();
    let mut running = Box::pin(executor.predict(slow.clone(), vec![1.0]));
    assert!(poll!(&mut running).is_pending());
    begun.recv().unwrap();
    let mut waiting = Box::pin(executor.predict(slow.clone(), vec![2.0]));
    assert!(poll!(&mut waiting).is_pending());
    executor.close();
    assert_eq!(waiting.await, Err(ServingError::ShutDown));
    let late = executor.predict(slow, vec![3.0]).await;
    assert_eq!(late, Err(ServingError::ShutDown));
    go.send(()).unwrap();
    assert_eq!(running.await, Ok(vec![1.0]));
    drop(executor);
}
