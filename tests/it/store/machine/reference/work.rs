//! Jobs, versions and replicas in the model.

use std::collections::BTreeMap;

use forgetd::domain::{
    deletion::DeletionState,
    job::{JobKind, JobState},
};
use uuid::Uuid;

use super::{
    ATTEMPTS_MAX, BATCH_MAX, Fenced, Job, LEASE, Lease, MARGIN, PREEMPTIONS_MAX, Published,
    Reference, Replica, Sample, Time, Version, seconds,
};

impl Reference {
    /// False when one of the kind waits or runs already.
    pub fn enqueue(&mut self, id: Uuid, model: usize, kind: JobKind, now: Time) -> bool {
        let is_open = |it: &Job| matches!(it.state, JobState::Queued | JobState::Running);
        if self.jobs.iter().any(|it| it.model == model && it.kind == kind && is_open(it)) {
            return false;
        }
        self.jobs.push(Job {
            id,
            model,
            kind,
            state: JobState::Queued,
            attempts: 0,
            preemptions: 0,
            cancel_requested: false,
            epoch: None,
            created_at: now,
            not_before: 0,
            token: Uuid::nil(),
            lease_ends: 0,
        });
        let queued = match kind {
            JobKind::Training => "training.queued",
            JobKind::Settlement | JobKind::Unlearning => "settlement.queued",
        };
        self.leaves.push((queued, id));
        true
    }

    /// Expired jobs first, then what has waited for too long of models without deletions, then the
    /// batch whose first request is due first, then what is queued.
    pub fn claim(&mut self, token: Uuid, batch: Uuid, now: Time) -> Option<Lease> {
        let is_expired = |job: &Job| {
            job.state == JobState::Running
                && (job.lease_ends <= now || job.lease_ends > now + 2 * LEASE)
        };
        let mut expired: Vec<_> =
            (0..self.jobs.len()).filter(|job| is_expired(&self.jobs[*job])).collect();
        expired.sort_by_key(|job| self.jobs[*job].lease_ends);
        for job in expired {
            let it = &self.jobs[job];
            if it.cancel_requested {
                self.end_job(job, JobState::Cancelled);
            } else if it.attempts < ATTEMPTS_MAX {
                return Some(self.lease(job, token, now));
            } else if it.kind == JobKind::Unlearning {
                let pause = seconds(1 << (it.attempts - ATTEMPTS_MAX).min(20)).min(seconds(3_600));
                self.set_aside(job, now + pause);
            } else {
                self.end_job(job, JobState::Failed);
            }
        }
        let mut waiting: Vec<_> = self.waiting(now).collect();
        waiting.sort_by_key(|request| self.requests[*request].due);
        let is_ready = |job: &Job| {
            job.state == JobState::Queued && job.not_before <= now && !self.is_busy(job.model)
        };
        let has_no_deletions =
            |job: &Job| waiting.iter().all(|it| self.requests[*it].model != job.model);
        let is_overdue = |job: &Job| is_ready(job) && job.is_overdue(now) && has_no_deletions(job);
        if let Some(job) = self.jobs.iter().position(is_overdue) {
            return Some(self.lease(job, token, now));
        }
        if let Some(first) = waiting.iter().find(|it| !self.is_busy(self.requests[**it].model)) {
            return Some(self.claim_batch(*first, &waiting, token, batch, now));
        }
        let job = self.jobs.iter().position(is_ready)?;
        Some(self.lease(job, token, now))
    }

    fn waiting(&self, now: Time) -> impl Iterator<Item = usize> {
        (0..self.requests.len()).filter(move |request| {
            let it = &self.requests[*request];
            it.state == DeletionState::Queued && it.not_before <= now
        })
    }

    fn is_busy(&self, model: usize) -> bool {
        self.jobs.iter().any(|job| job.model == model && job.state == JobState::Running)
    }

    /// `waiting` is in the order of due times.
    fn claim_batch(
        &mut self,
        first: usize,
        waiting: &[usize],
        token: Uuid,
        id: Uuid,
        now: Time,
    ) -> Lease {
        let model = self.requests[first].model;
        let patient = self.jobs.iter().position(|job| {
            job.model == model
                && job.state == JobState::Queued
                && job.not_before <= now
                && job.preemptions >= PREEMPTIONS_MAX
        });
        if let Some(job) = patient {
            return self.lease(job, token, now);
        }
        let is_passed_over = |job: &&mut Job| {
            job.model == model
                && job.state == JobState::Queued
                && job.not_before <= now
                && job.is_overdue(now)
        };
        self.jobs.iter_mut().filter(is_passed_over).for_each(|job| job.preemptions += 1);
        let attempts = self.requests[first].attempts;
        let together = waiting
            .iter()
            .filter(|it| self.requests[**it].model == model)
            .take(BATCH_MAX)
            .filter(|it| **it == first || (attempts == 0 && self.requests[**it].attempts == 0))
            .copied()
            .collect::<Vec<_>>();
        let job = self.jobs.len();
        self.jobs.push(Job {
            id,
            model,
            kind: JobKind::Unlearning,
            state: JobState::Queued,
            attempts,
            preemptions: 0,
            cancel_requested: false,
            epoch: None,
            created_at: now,
            not_before: now,
            token,
            lease_ends: now,
        });
        for request in together {
            let it = &mut self.requests[request];
            (it.state, it.batch) = (DeletionState::Unlearning, Some(job));
            self.leaves.push(("deletion.batched", it.id));
        }
        self.lease(job, token, now)
    }

    fn lease(&mut self, job: usize, token: Uuid, now: Time) -> Lease {
        let it = &mut self.jobs[job];
        it.state = JobState::Running;
        it.attempts += 1;
        (it.token, it.lease_ends) = (token, now + LEASE);
        Lease { job, token, attempt: it.attempts }
    }

    pub fn holds(&self, lease: Lease) -> bool {
        let job = &self.jobs[lease.job];
        job.state == JobState::Running && job.token == lease.token && job.attempts == lease.attempt
    }

    pub fn of_batch(&self, job: usize) -> impl Iterator<Item = usize> {
        (0..self.requests.len()).filter(move |it| self.requests[*it].batch == Some(job))
    }

    fn end_job(&mut self, job: usize, state: JobState) {
        self.jobs[job].state = state;
        let kind = if state == JobState::Failed { "job.failed" } else { "job.cancelled" };
        self.leaves.push((kind, self.jobs[job].id));
    }

    fn set_aside(&mut self, job: usize, until: Time) {
        self.end_job(job, JobState::Failed);
        for request in self.of_batch(job).collect::<Vec<_>>() {
            let it = &mut self.requests[request];
            (it.state, it.batch) = (DeletionState::Queued, None);
            (it.attempts, it.not_before) = (self.jobs[job].attempts, until);
        }
    }

    /// Whether to stop, and whether deletions wait.
    pub fn renew(&mut self, lease: Lease, now: Time) -> Result<(bool, bool), Fenced> {
        if !self.holds(lease) {
            return Err(Fenced);
        }
        let model = self.jobs[lease.job].model;
        let deletions = self.waiting(now).any(|request| self.requests[request].model == model);
        let job = &mut self.jobs[lease.job];
        job.lease_ends = now + LEASE;
        Ok((job.cancel_requested, deletions))
    }

    pub fn give_back(&mut self, lease: Lease, preempted: bool) -> Result<(), Fenced> {
        if !self.holds(lease) {
            return Err(Fenced);
        }
        if self.jobs[lease.job].kind == JobKind::Unlearning {
            for request in self.of_batch(lease.job).collect::<Vec<_>>() {
                let it = &mut self.requests[request];
                (it.state, it.batch) = (DeletionState::Queued, None);
            }
            self.jobs[lease.job].state = JobState::Cancelled;
        } else {
            let job = &mut self.jobs[lease.job];
            (job.state, job.not_before) = (JobState::Queued, 0);
            job.attempts -= 1;
            job.preemptions += u32::from(preempted);
        }
        Ok(())
    }

    pub fn fail(&mut self, lease: Lease, retry_at: Option<Time>) -> Result<(), Fenced> {
        if !self.holds(lease) {
            return Err(Fenced);
        }
        let job = lease.job;
        match (retry_at, self.jobs[job].kind) {
            (Some(at), JobKind::Unlearning) => self.set_aside(job, at),
            (Some(at), JobKind::Training | JobKind::Settlement) => {
                let job = &mut self.jobs[job];
                (job.state, job.not_before) = (JobState::Queued, at);
            }
            (None, _) => {
                self.end_job(job, JobState::Failed);
                for request in self.of_batch(job).collect::<Vec<_>>() {
                    let it = &mut self.requests[request];
                    (it.state, it.attempts) = (DeletionState::Failed, self.jobs[job].attempts);
                    self.leaves.push(("deletion.failed", it.id));
                    self.release(request);
                }
            }
        }
        Ok(())
    }

    /// The job ends, runs on until its worker hears of it, or cannot be cancelled.
    pub fn cancel_job(&mut self, job: usize) -> Option<JobState> {
        let it = &mut self.jobs[job];
        if it.kind == JobKind::Unlearning || it.state.has_ended() {
            return None;
        }
        if !it.cancel_requested {
            self.leaves.push(("job.cancel_requested", it.id));
        }
        if it.state == JobState::Queued {
            self.end_job(job, JobState::Cancelled);
            return Some(JobState::Cancelled);
        }
        it.cancel_requested = true;
        Some(JobState::Running)
    }

    /// None when nobody asked for it.
    pub fn acknowledge(&mut self, lease: Lease) -> Result<Option<()>, Fenced> {
        if !self.holds(lease) {
            return Err(Fenced);
        }
        if !self.jobs[lease.job].cancel_requested {
            return Ok(None);
        }
        self.end_job(lease.job, JobState::Cancelled);
        Ok(Some(()))
    }

    /// Returns the epoch that is current afterwards.
    pub fn publish(&mut self, lease: Lease, what: &Published<'_>) -> Result<Option<u64>, Fenced> {
        let index = self.jobs.get(lease.job).map(|job| job.model).ok_or(Fenced)?;
        let current = self.models[index].epoch();
        if !self.holds(lease) || (what.cause.is_some() && what.parent != current) {
            return Err(Fenced);
        }
        let (job, kind) = (lease.job, self.jobs[lease.job].kind);
        let epoch = what.cause.map(|_| current.unwrap_or(0) + 1);
        if let (Some(cause), Some(epoch)) = (what.cause, epoch) {
            self.models[index].versions.push(Version { cause, destroyed: false });
            self.leaves.push(("version.published", self.jobs[job].id));
            if cause.is_exact() {
                self.take_exact(index, epoch, what.loaded);
            }
        }
        if kind == JobKind::Unlearning {
            let batch: Vec<_> = self.of_batch(job).collect();
            let model = &mut self.models[index];
            for request in &batch {
                let mut left = None;
                for sample in model.samples.iter_mut().filter(|it| it.claimed_by == Some(*request))
                {
                    if let Some(epoch) = epoch {
                        sample.leaves_weights(epoch);
                    }
                    left = left.max(sample.contributions.iter().filter_map(|it| it.1).max());
                    (sample.deleted, sample.predicted) = (true, false);
                }
                self.requests[*request].excluded_from = epoch.or(left);
            }
            self.leaves.push(("batch.published", self.jobs[job].id));
        }
        let it = &mut self.jobs[job];
        it.epoch = epoch;
        it.state = match kind {
            JobKind::Unlearning => JobState::Published,
            JobKind::Training | JobKind::Settlement => JobState::Completed,
        };
        Ok(epoch.or(current))
    }

    fn take_exact(&mut self, model: usize, epoch: u64, loaded: &[Uuid]) {
        for sample in &mut self.models[model].samples {
            sample.predicted = loaded.contains(&sample.id);
            if !sample.predicted {
                sample.leaves_weights(epoch);
            } else if sample.is_train() && !sample.is_in_weights() {
                sample.contributions.push((epoch, None));
            }
        }
        for request in self.requests.iter_mut().filter(|it| it.model == model) {
            if request.state == DeletionState::Queued {
                request.not_before = 0;
            }
            if request.exact == Some(false) {
                request.exact = Some(true);
                self.leaves.push(("deletion.settled", request.id));
            }
        }
    }

    pub fn report(&mut self, replica: usize, epochs: BTreeMap<usize, u64>, now: Time) {
        self.replicas.retain(|_, it| it.lease_ends >= now - seconds(3_600));
        self.replicas.insert(replica, Replica { lease_ends: now + LEASE, epochs });
    }

    pub fn retire(&mut self, replica: usize) {
        self.replicas.remove(&replica);
    }

    /// Whether a live replica may answer from this epoch or an older one.
    fn is_served(&self, model: usize, epoch: u64, now: Time) -> bool {
        self.replicas.values().any(|replica| {
            replica.lease_ends > now - MARGIN
                && replica.epochs.get(&model).is_some_and(|served| *served <= epoch)
        })
    }

    /// The requests that are completed by it, those included that waited for others of them.
    pub fn complete(&mut self, now: Time) -> Vec<Uuid> {
        let mut completed = Vec::new();
        loop {
            let before = self.leaves.len();
            for job in 0..self.jobs.len() {
                completed.extend(self.complete_batch(job, now));
            }
            if self.leaves.len() == before {
                return completed;
            }
        }
    }

    fn complete_batch(&mut self, job: usize, now: Time) -> Vec<Uuid> {
        let mut completed = Vec::new();
        if self.jobs[job].state != JobState::Published {
            return completed;
        }
        let mut requests: Vec<_> = self.of_batch(job).collect();
        let excluded = |it: &usize| self.requests[*it].excluded_from;
        let needed = requests.iter().filter_map(excluded).max().unwrap_or(0);
        let model = self.jobs[job].model;
        if needed > 0 && self.is_served(model, needed - 1, now) {
            return completed;
        }
        let later = &self.models[model].versions[usize::try_from(needed.max(1) - 1).unwrap()..];
        let was_retrained = later.iter().any(|version| version.cause.is_exact());
        let is_exact = self.jobs[job].epoch.is_none() || was_retrained;
        requests.retain(|it| self.requests[*it].state == DeletionState::Unlearning);
        let left = requests.len();
        requests.retain(|it| !self.waits_for_others(*it, now));
        let has_left = left == requests.len();
        for request in requests {
            let is_incomplete = self.of_its_subjects(request).any(Sample::is_usable);
            let it = &mut self.requests[request];
            if is_incomplete {
                it.state = DeletionState::Failed;
                self.leaves.push(("deletion.failed", it.id));
                continue;
            }
            (it.state, it.exact) = (DeletionState::Completed, Some(is_exact));
            self.leaves.push(("deletion.completed", it.id));
            completed.push(it.id);
        }
        if has_left {
            self.jobs[job].state = JobState::Completed;
        }
        completed
    }

    /// Those that were not let in again.
    fn of_its_subjects(&self, request: usize) -> impl Iterator<Item = &Sample> {
        let it = &self.requests[request];
        let model = &self.models[it.model];
        let is_buried = |subject: u64| model.tombstones.contains_key(&subject);
        model.samples.iter().filter(move |sample| {
            let subject = sample.number / 2 * 2;
            it.subjects.contains(&subject) && is_buried(subject)
        })
    }

    /// Whether a request of another batch is still to delete a sample of its subjects, or a replica
    /// still answers from what learnt one.
    fn waits_for_others(&self, request: usize, now: Time) -> bool {
        let batch = self.requests[request].batch;
        self.of_its_subjects(request).any(|sample| {
            let Some(other) = sample.claimed_by else { return false };
            let it = &self.requests[other];
            let is_open = matches!(it.state, DeletionState::Queued | DeletionState::Unlearning);
            let is_served =
                it.excluded_from.is_some_and(|epoch| self.is_served(it.model, epoch - 1, now));
            is_open && it.batch != batch && (!sample.deleted || is_served)
        })
    }

    /// The versions of which the weights may be destroyed, by model and epoch.
    pub fn superseded(&self, now: Time) -> Vec<(usize, u64)> {
        let mut superseded = Vec::new();
        for (model, it) in self.models.iter().enumerate() {
            for (epoch, version) in (1..).zip(&it.versions) {
                let is_old = epoch < it.versions.len() as u64;
                if is_old && !version.destroyed && !self.is_served(model, epoch, now) {
                    superseded.push((model, epoch));
                }
            }
        }
        superseded
    }

    pub fn destroy(&mut self, model: usize, epoch: u64, job: Uuid) {
        let at = usize::try_from(epoch - 1).unwrap();
        self.models[model].versions[at].destroyed = true;
        self.leaves.push(("version.weights_removed", job));
    }
}
