//! What both hold, line by line, and what neither ever holds.

use std::collections::BTreeMap;

use super::reference::{Job, Model, Reference, Request, Sample, Version};

/// Requests, jobs, samples, contributions, tombstones and versions, as `Reference::tables` writes
/// them. Ids rise, so that a row's number says which it is.
pub const TABLES: [&str; 6] = [
    "SELECT r.state || ' ' || r.samples || ' ' || r.attempts || ' '
         || COALESCE(r.guarantee, '-') || ' ' || COALESCE(CAST(r.excluded_from_epoch AS TEXT), '-')
         || ' ' || (SELECT COUNT(*) FROM jobs j WHERE j.id <= r.batch_id)
     FROM deletion_requests r ORDER BY r.id",
    "SELECT kind || ' ' || state || ' ' || attempts || ' ' || preemptions || ' '
         || COALESCE(CAST(epoch AS TEXT), '-')
         || CASE WHEN cancel_requested THEN ' cancelled' ELSE '' END
     FROM jobs ORDER BY id",
    "SELECT (SELECT COUNT(*) FROM deletion_requests r WHERE r.id <= s.deletion_id)
         || CASE WHEN s.deleted_at IS NULL THEN '' ELSE ' deleted' END
         || CASE WHEN s.readmitted_at IS NULL THEN '' ELSE ' readmitted' END
         || CASE WHEN EXISTS (
                 SELECT 1 FROM models m JOIN sample_predictions p ON p.set_id = m.prediction_set_id
                 WHERE m.id = s.model_id AND p.sample_id = s.id)
             THEN ' predicted' ELSE '' END
     FROM samples s ORDER BY s.model_id, s.ordinal",
    "SELECT s.ordinal || ' ' || c.from_epoch || ' ' || COALESCE(CAST(c.until_epoch AS TEXT), '-')
     FROM contributions c JOIN samples s ON s.id = c.sample_id
     ORDER BY s.model_id, s.ordinal, c.from_epoch",
    "SELECT (SELECT COUNT(*) FROM deletion_requests r WHERE r.id <= t.deletion_id)
         || ' ' || COUNT(*)
     FROM tombstones t GROUP BY t.deletion_id ORDER BY t.deletion_id",
    "SELECT epoch || ' ' || cause
         || CASE WHEN weights_removed_at IS NULL THEN '' ELSE ' destroyed' END
     FROM versions ORDER BY model_id, epoch",
];

/// Of these there are none, ever.
pub const NEVER: [(&str, &str); 9] = [
    (
        "models with two running jobs",
        "SELECT COUNT(*) FROM (SELECT model_id FROM jobs WHERE state = 'running'
         GROUP BY model_id HAVING COUNT(*) > 1) AS busy",
    ),
    (
        "epochs missing",
        "SELECT CAST(COALESCE(SUM(gaps), 0) AS BIGINT) FROM (
             SELECT MAX(epoch) - COUNT(*) AS gaps FROM versions GROUP BY model_id) AS counted",
    ),
    (
        "deleted samples that contribute",
        "SELECT COUNT(*) FROM contributions c JOIN samples s ON s.id = c.sample_id
         WHERE c.until_epoch IS NULL AND s.deleted_at IS NOT NULL",
    ),
    (
        "deleted samples with a key, a content or predictions",
        "SELECT COUNT(*) FROM samples s WHERE s.deleted_at IS NOT NULL AND (
             EXISTS (SELECT 1 FROM data_keys k WHERE k.sample_id = s.id)
             OR EXISTS (SELECT 1 FROM sample_contents c WHERE c.sample_id = s.id)
             OR EXISTS (SELECT 1 FROM sample_predictions p WHERE p.sample_id = s.id))",
    ),
    (
        "live samples without a key or a content",
        "SELECT COUNT(*) FROM samples s WHERE s.deleted_at IS NULL AND NOT (
             EXISTS (SELECT 1 FROM data_keys k WHERE k.sample_id = s.id)
             AND EXISTS (SELECT 1 FROM sample_contents c WHERE c.sample_id = s.id))",
    ),
    (
        "completed requests with samples that are not deleted",
        "SELECT COUNT(*) FROM samples s JOIN deletion_requests r ON r.id = s.deletion_id
         WHERE r.state = 'completed' AND s.deleted_at IS NULL",
    ),
    (
        "samples in use although a request was accepted for their subject, and none for them failed",
        "SELECT COUNT(*) FROM samples s
             JOIN tombstones t ON t.model_id = s.model_id AND t.subject_key = s.subject_key
             JOIN deletion_requests r ON r.id = t.deletion_id
         WHERE s.deletion_id IS NULL AND r.state <> 'failed' AND NOT EXISTS (
             SELECT 1 FROM deletion_samples d JOIN deletion_requests f ON f.id = d.deletion_id
             WHERE d.sample_id = s.id AND f.state = 'failed')",
    ),
    (
        "samples that are not deleted although a request for their subject is completed",
        "SELECT COUNT(*) FROM tombstones t
             JOIN deletion_requests r ON r.id = t.deletion_id
             JOIN samples s ON s.model_id = t.model_id AND s.subject_key = t.subject_key
         WHERE r.state = 'completed' AND s.deleted_at IS NULL",
    ),
    (
        "requests completed twice",
        "SELECT COUNT(*) FROM (SELECT about FROM audit_events WHERE kind = 'deletion.completed'
         GROUP BY about HAVING COUNT(*) > 1) AS repeated",
    ),
];

impl Reference {
    pub fn tables(&self) -> [(&'static str, Vec<String>); 6] {
        [
            ("requests", self.requests.iter().map(Request::line).collect()),
            ("jobs", self.jobs.iter().map(Job::line).collect()),
            ("samples", self.of_samples(|_, sample| vec![sample.line()])),
            ("contributions", self.of_samples(Sample::contribution_lines)),
            ("tombstones", self.tombstone_lines()),
            ("versions", self.models.iter().flat_map(Model::version_lines).collect()),
        ]
    }

    fn of_samples(&self, lines: impl Fn(usize, &Sample) -> Vec<String>) -> Vec<String> {
        let samples = self.models.iter().flat_map(|model| model.samples.iter().enumerate());
        samples.flat_map(|(ordinal, sample)| lines(ordinal, sample)).collect()
    }

    fn tombstone_lines(&self) -> Vec<String> {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for request in self.models.iter().flat_map(|it| it.tombstones.values()) {
            *counts.entry(request + 1).or_default() += 1;
        }
        counts.iter().map(|(request, count)| format!("{request} {count}")).collect()
    }
}

fn or_dash(number: Option<u64>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}

impl Request {
    fn line(&self) -> String {
        let guarantee = self.exact.map(|exact| if exact { "exact" } else { "approximate" });
        format!(
            "{} {} {} {} {} {}",
            self.state,
            self.samples,
            self.attempts,
            guarantee.unwrap_or("-"),
            or_dash(self.excluded_from),
            self.batch.map_or(0, |job| job + 1),
        )
    }
}

impl Job {
    fn line(&self) -> String {
        let cancelled = if self.cancel_requested { " cancelled" } else { "" };
        format!(
            "{} {} {} {} {}{cancelled}",
            self.kind.as_str(),
            self.state.as_str(),
            self.attempts,
            self.preemptions,
            or_dash(self.epoch),
        )
    }
}

impl Sample {
    fn line(&self) -> String {
        format!(
            "{}{}{}{}",
            self.claimed_by.map_or(0, |request| request + 1),
            if self.deleted { " deleted" } else { "" },
            if self.readmitted { " readmitted" } else { "" },
            if self.predicted { " predicted" } else { "" },
        )
    }

    fn contribution_lines(ordinal: usize, sample: &Self) -> Vec<String> {
        let line =
            |(from, until): &(u64, Option<u64>)| format!("{ordinal} {from} {}", or_dash(*until));
        sample.contributions.iter().map(line).collect()
    }
}

impl Model {
    fn version_lines(&self) -> Vec<String> {
        let line = |(epoch, version): (u64, &Version)| {
            let destroyed = if version.destroyed { " destroyed" } else { "" };
            format!("{epoch} {}{destroyed}", version.cause.as_str())
        };
        (1..).zip(&self.versions).map(line).collect()
    }
}
