//! Random sequences of verbs, each applied to the store and to a simple model of it in memory:
//! after each, both must say and hold the same, and the ledger what holds always. In the end
//! everything that is open comes to its end.
//!
//! The sequences are the same at each run; `PROPTEST_CASES` and `PROPTEST_RNG_SEED` ask for more
//! and for others. A sequence that failed is kept, shortened, in `machine.proptest-regressions`, is
//! tried first from then on, and belongs into the commit that mends what it found.

mod driver;
mod reference;
mod tables;

use forgetd::domain::{deletion::TargetKind, job::JobKind};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{FileFailurePersistence, RngSeed, TestRunner},
};

use super::Ledger;
use driver::Machine;
use reference::Target;

const MODELS: usize = 2;
const WORKERS: usize = 2;
const REPLICAS: usize = 2;
/// Samples that a test knows by number.
const NUMBERS: u64 = 12;

#[derive(Clone, Debug)]
enum Verb {
    Wait(i64),
    Ingest { model: usize, first: u64, count: u64 },
    Delete { model: usize, targets: Vec<Target>, asks_for_approval: bool, key: Option<u8> },
    Cancel(Index),
    Decide { request: Index, approves: bool },
    Lift { model: usize, target: Target },
    Enqueue { model: usize, kind: JobKind },
    CancelJob(Index),
    Claim { worker: usize },
    Renew { worker: usize },
    Publish { worker: usize, retrained: bool },
    GiveBack { worker: usize, preempted: bool },
    Fail { worker: usize, retries: bool },
    Acknowledge { worker: usize },
    Report { replica: usize, catches_up: bool },
    Retire { replica: usize },
    Complete,
    Destroy,
}

fn verbs() -> impl Strategy<Value = Vec<Verb>> {
    let (model, worker, replica) = (0..MODELS, 0..WORKERS, 0..REPLICAS);
    let kind = prop_oneof![Just(TargetKind::Sample), Just(TargetKind::Subject)];
    // The last have no sample.
    let target = (kind, 0..NUMBERS + 2);
    let deletion = (
        model.clone(),
        prop::collection::vec(target.clone(), 1..4),
        any::<bool>(),
        prop::option::weighted(0.3, 0..3_u8),
    );
    let training = prop_oneof![Just(JobKind::Training), Just(JobKind::Settlement)];
    let verb = prop_oneof![
        2 => prop_oneof![Just(1), Just(20), Just(40), Just(4_000)].prop_map(Verb::Wait),
        2 => (model.clone(), 0..NUMBERS, 1..4_u64)
            .prop_map(|(model, first, count)| Verb::Ingest { model, first, count }),
        6 => deletion.prop_map(|(model, targets, asks_for_approval, key)| Verb::Delete {
            model, targets, asks_for_approval, key
        }),
        1 => any::<Index>().prop_map(Verb::Cancel),
        2 => any::<(Index, bool)>()
            .prop_map(|(request, approves)| Verb::Decide { request, approves }),
        1 => (model.clone(), target).prop_map(|(model, target)| Verb::Lift { model, target }),
        2 => (model, training).prop_map(|(model, kind)| Verb::Enqueue { model, kind }),
        1 => any::<Index>().prop_map(Verb::CancelJob),
        6 => worker.clone().prop_map(|worker| Verb::Claim { worker }),
        2 => worker.clone().prop_map(|worker| Verb::Renew { worker }),
        6 => (worker.clone(), any::<bool>())
            .prop_map(|(worker, retrained)| Verb::Publish { worker, retrained }),
        1 => (worker.clone(), any::<bool>())
            .prop_map(|(worker, preempted)| Verb::GiveBack { worker, preempted }),
        1 => (worker.clone(), any::<bool>())
            .prop_map(|(worker, retries)| Verb::Fail { worker, retries }),
        1 => worker.prop_map(|worker| Verb::Acknowledge { worker }),
        3 => (replica.clone(), any::<bool>())
            .prop_map(|(replica, catches_up)| Verb::Report { replica, catches_up }),
        1 => replica.prop_map(|replica| Verb::Retire { replica }),
        4 => Just(Verb::Complete),
        1 => Just(Verb::Destroy),
    ];
    prop::collection::vec(verb, 1..60)
}

#[test]
fn the_store_does_what_a_simple_model_does_on_sqlite() {
    hold_to_the_model(48, Ledger::on_sqlite);
}

#[test]
fn the_store_does_what_a_simple_model_does_on_postgres() {
    hold_to_the_model(12, Ledger::on_postgres);
}

fn hold_to_the_model(cases: u32, ledger: impl AsyncFn() -> Ledger) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // What the environment says has been read already.
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(4);
    }
    config.max_shrink_iters = 2_000;
    let kept = "tests/it/store/machine.proptest-regressions";
    config.failure_persistence = Some(Box::new(FileFailurePersistence::Direct(kept)));
    let tried = TestRunner::new(config).run(&verbs(), |verbs| {
        runtime.block_on(async {
            let mut machine = Machine::start(ledger().await).await;
            for verb in verbs {
                machine.apply(verb).await;
                machine.check().await;
            }
            machine.come_to_an_end().await;
        });
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
}
