//! Methods at work on one case, and what came of it.

use std::{ops::Range, sync::Arc};

use super::{
    bench::{Bench, Judged, Measured},
    case::Case,
    cell::{DriftPoint, Results},
    error::{EvaluationError, Failure},
    library::Library,
    lira::Lira,
    sisa::Sisa,
    suite::{Contender, MethodSpec},
    update::{Trained, requests},
};
use crate::{clock::Clock, domain::watch::Watch, nn::network::Network, unlearning::Update};

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
            class: case.class(),
            is_mislabelled: case.is_mislabelled(),
            lira: lira(case, library, watch)?,
            is_convex: case.network.architecture.is_linear(),
        };
        let retrained = case
            .retrained(&deleted)
            .iter()
            .map(|training| Ok(bench.judge(&library.network(training, watch)?)))
            .collect::<Result<_, EvaluationError>>()?;
        Ok(Self { case, library, clock, watch, deleted, bench, retrained })
    }

    /// Each retrained network against the others.
    pub fn floor(&self) -> Result<Results, Failure> {
        self.step_free(|span| {
            let of_own = |own: usize| -> Measured {
                let others = self.retrained.iter().enumerate();
                let others: Vec<&Judged> =
                    others.filter(|(at, _)| *at != own).map(|(_, judged)| judged).collect();
                self.bench.measure(&self.retrained[own], &others, &span)
            };
            Ok(Measured::mean(&(0..self.retrained.len()).map(of_own).collect::<Vec<_>>()))
        })
    }

    pub fn run(&self, spec: &MethodSpec) -> Result<Results, Failure> {
        let training = self.case.base_of(spec, &self.deleted);
        let network = || self.library.network(&training, self.watch);
        match spec.contender()? {
            Contender::Nothing => self.nothing(&network()?),
            Contender::Sisa(sisa) => self.ensemble(&sisa),
            Contender::Update(update) => {
                let out_of_fold = self.library.out_of_fold(&training, self.watch)?;
                let trained = Trained::new(&training, network()?, out_of_fold, self.clock);
                self.update(&trained, update.as_ref())
            }
        }
    }

    fn nothing(&self, network: &Network) -> Result<Results, Failure> {
        let (judged, retrained) = (self.bench.judge(network), self.retrained());
        self.step_free(|span| Ok(self.bench.measure(&judged, &retrained, &span)))
    }

    fn ensemble(&self, sisa: &Sisa) -> Result<Results, Failure> {
        let retrained = self.retrained();
        self.step_free(|span| {
            let gone = if self.case.deletion.alone { span.clone() } else { 0..span.end };
            let trainings = sisa.trainings(self.case, &self.deleted, &self.deleted[gone]);
            let networks = trainings.iter().map(|it| self.library.network(it, self.watch));
            let networks = networks.collect::<Result<Vec<_>, _>>()?;
            Ok(self.bench.measure(&self.bench.judge_ensemble(&networks), &retrained, &span))
        })
    }

    /// Of what has no state from request to request: everything is measured for itself.
    fn step_free(
        &self,
        measure: impl Fn(Range<usize>) -> Result<Measured, Failure>,
    ) -> Result<Results, Failure> {
        let look = |(requests, deleted)| -> Result<DriftPoint, Failure> {
            Ok(DriftPoint { requests, deleted, figures: measure(0..deleted)?.figures })
        };
        let drift = self.looks().into_iter().map(look).collect::<Result<_, _>>()?;
        let measured = self.spans().into_iter().map(&measure).collect::<Result<Vec<_>, _>>()?;
        Ok(Results { drift, ..Results::default() }.with(Measured::mean(&measured)))
    }

    fn update(&self, trained: &Trained, update: &dyn Update) -> Result<Results, Failure> {
        let (mut state, looks, retrained) = (trained.start(), self.looks(), self.retrained());
        let measure = |network: &Network, span: Range<usize>| {
            self.bench.measure(&self.bench.judge(network), &retrained, &span)
        };
        let is_alone = self.case.deletion.alone;
        let (mut drift, mut alone) = (Vec::new(), Vec::new());
        for (number, request) in (1..).zip(requests(&self.deleted, &self.case.deletion)) {
            if is_alone {
                state.restart(trained);
            }
            trained.forget(update, &mut state, &request, self.watch)?;
            if is_alone {
                alone.push(measure(&state.network, request.span));
            } else if let Some((requests, deleted)) = looks.iter().find(|(at, _)| *at == number) {
                let figures = measure(&state.network, 0..*deleted).figures;
                drift.push(DriftPoint { requests: *requests, deleted: *deleted, figures });
            }
        }
        let measured = if is_alone {
            Measured::mean(&alone)
        } else {
            measure(&state.network, 0..self.deleted.len())
        };
        let (seconds, details) = (state.seconds, state.details);
        Ok(Results { drift, seconds, details, ..Results::default() }.with(measured))
    }

    fn retrained(&self) -> Vec<&Judged> {
        self.retrained.iter().collect()
    }

    /// Places of the deleted samples that are judged together: all, or each request's own.
    fn spans(&self) -> Vec<Range<usize>> {
        if self.case.deletion.alone {
            let requests = requests(&self.deleted, &self.case.deletion);
            requests.into_iter().map(|request| request.span).collect()
        } else {
            std::iter::once(0..self.deleted.len()).collect()
        }
    }

    /// After how many requests a stream is looked at, and how many samples are deleted then.
    fn looks(&self) -> Vec<(usize, usize)> {
        let total = self.case.deletion.requests;
        if total == 1 || self.case.deletion.alone {
            return Vec::new();
        }
        let requests = requests(&self.deleted, &self.case.deletion);
        let points = DRIFT_POINTS.min(total);
        let numbers = (1..=points).map(|point| total * point / points);
        numbers.map(|number| (number, requests[number - 1].span.end)).collect()
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
