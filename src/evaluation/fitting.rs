//! Methods at work on one case, and what came of it.

use std::sync::Arc;

use super::{
    attack::Attack,
    bench::{Bench, Judged, Measured},
    case::Case,
    cell::{DriftPoint, Results},
    error::EvaluationError,
    figure::mean,
    library::Library,
    lira::Lira,
    suite::MethodSpec,
    update::{Trained, requests},
};
use crate::{
    clock::Clock,
    domain::watch::Watch,
    unlearning::{Method, UnlearningError},
};

/// Points of a drift curve, at most.
const DRIFT_POINTS: usize = 10;

/// A case with all that its methods are run on and judged by.
pub struct Fitting<'a> {
    case: &'a Case,
    library: &'a Library,
    clock: &'a Clock,
    watch: &'a dyn Watch,
    pub deleted: Vec<usize>,
    bench: Bench,
    retrained: Vec<Judged>,
}

impl<'a> Fitting<'a> {
    pub fn new(
        case: &'a Case,
        library: &'a Library,
        clock: &'a Clock,
        watch: &'a dyn Watch,
    ) -> Result<Self, EvaluationError> {
        let deleted = case.deleted(library, watch)?;
        let set = case.base(&deleted).set;
        let kept = set.without(&deleted).rows();
        // Evenly over the data set, which was shuffled when it was drawn.
        let step = kept.len().div_ceil(case.retained_measured_max.max(1)).max(1);
        let measured: Vec<usize> = kept.into_iter().step_by(step).collect();
        let bench = Bench {
            dataset: case.dataset.clone(),
            forgotten: set.select(&deleted),
            forgotten_rows: deleted.clone(),
            retained: set.select(&measured),
            is_mislabelled: case.is_mislabelled(),
            lira: lira(case, library, watch)?,
            is_convex: case.network.is_convex(),
        };
        let retrained = case
            .retrained(&deleted)
            .iter()
            .map(|training| Ok(bench.judge(&library.network(training, watch)?)))
            .collect::<Result<_, EvaluationError>>()?;
        Ok(Self { case, library, clock, watch, deleted, bench, retrained })
    }

    /// Each retrained network against the others.
    pub fn floor(&self) -> Results {
        let against_others = |deleted: usize| -> Vec<Measured> {
            (0..self.retrained.len())
                .map(|own| {
                    let others = self.retrained.iter().enumerate();
                    let others: Vec<&Judged> =
                        others.filter(|(at, _)| *at != own).map(|(_, judged)| judged).collect();
                    self.bench.measure(&self.retrained[own], &others, deleted)
                })
                .collect()
        };
        let figures = |measured: &[Measured]| {
            mean(&measured.iter().map(|measured| measured.figures.clone()).collect::<Vec<_>>())
        };
        let measured = against_others(self.deleted.len());
        let drift = self.looks().map(|(requests, deleted)| DriftPoint {
            requests,
            deleted,
            figures: figures(&against_others(deleted)),
        });
        Results {
            figures: figures(&measured),
            attack_curve: mean_curve(measured.iter().map(|measured| measured.attack.as_ref())),
            lira_curve: mean_curve(measured.iter().map(|measured| measured.lira.as_ref())),
            drift: drift.collect(),
            ..Results::default()
        }
    }

    pub fn run(&self, spec: &MethodSpec) -> Result<Results, Failure> {
        let mut training = self.case.base(&self.deleted);
        if let Some(folds) = spec.folds {
            training.recipe.folds = folds;
        }
        let network = self.library.network(&training, self.watch)?;
        let method = spec.method().map_err(EvaluationError::method)?;
        let retrained: Vec<&Judged> = self.retrained.iter().collect();
        let measure = |judged: &Judged, deleted| self.bench.measure(judged, &retrained, deleted);
        let Some(Method::Update(update)) = method else {
            let judged = self.bench.judge(&network);
            let drift = self.looks().map(|(requests, deleted)| DriftPoint {
                requests,
                deleted,
                figures: measure(&judged, deleted).figures,
            });
            let results = Results { drift: drift.collect(), ..Results::default() };
            return Ok(results.with(measure(&judged, self.deleted.len())));
        };
        let out_of_fold = self.library.out_of_fold(&training, self.watch)?;
        let trained = Trained::new(&training, network, out_of_fold, self.clock);
        let mut state = trained.start();
        let mut drift = Vec::new();
        let mut looks = self.looks().peekable();
        let requests = requests(self.deleted.len(), self.case.deletion.requests);
        for (number, request) in (1..).zip(requests) {
            let end = request.end;
            trained.forget(update.as_ref(), &mut state, &self.deleted, request, self.watch)?;
            if looks.next_if(|(at, _)| *at == number).is_some() {
                let figures = measure(&self.bench.judge(&state.network), end).figures;
                drift.push(DriftPoint { requests: number, deleted: end, figures });
            }
        }
        let (seconds, details) = (state.seconds, state.details);
        let results = Results { drift, seconds, details, ..Results::default() };
        Ok(results.with(measure(&self.bench.judge(&state.network), self.deleted.len())))
    }

    /// After how many requests a stream is looked at, and how many samples are deleted then.
    fn looks(&self) -> impl Iterator<Item = (usize, usize)> {
        let total = self.case.deletion.requests;
        let requests = requests(self.deleted.len(), total);
        let points = if total == 1 { 0 } else { DRIFT_POINTS.min(total) };
        (1..=points).map(move |point| {
            let number = total * point / points;
            (number, requests[number - 1].end)
        })
    }
}

/// Why a method has no result.
pub enum Failure {
    /// The method's own; the rest of the case goes on.
    Method(UnlearningError),
    Evaluation(EvaluationError),
}

impl From<EvaluationError> for Failure {
    fn from(error: EvaluationError) -> Self {
        Self::Evaluation(error)
    }
}

impl From<UnlearningError> for Failure {
    fn from(error: UnlearningError) -> Self {
        match error {
            UnlearningError::Cancelled => Self::Evaluation(EvaluationError::Stopped),
            error => Self::Method(error),
        }
    }
}

fn lira(
    case: &Case,
    library: &Library,
    watch: &dyn Watch,
) -> Result<Option<Arc<Lira>>, EvaluationError> {
    let references = case.references();
    let confidences = references
        .iter()
        .map(|reference| library.reference(reference, watch))
        .collect::<Result<Vec<_>, _>>()?;
    let included = |row: usize, model: usize| references[model].includes(row);
    Ok(Lira::fit(&confidences, included).map(Arc::new))
}

/// The mean true-positive rate at each false-positive rate.
fn mean_curve<'a>(attacks: impl Iterator<Item = Option<&'a Attack>>) -> Option<Vec<f64>> {
    let attacks: Vec<&Attack> = attacks.collect::<Option<_>>()?;
    let points = attacks.first()?.curve.len();
    let mean = |at: usize| {
        attacks.iter().map(|attack| attack.curve[at]).sum::<f64>() / attacks.len() as f64
    };
    Some((0..points).map(mean).collect())
}
