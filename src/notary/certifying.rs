//! Certificates out of the ledger.

use uuid::Uuid;

use super::{Notary, NotaryError, Signed, signed};
use crate::{
    audit::{
        certificate::{Certificate, CertifiedLeaf, Consistency},
        tree,
    },
    domain::deletion::DeletionState,
};

/// What came of asking for a certificate.
#[derive(Debug)]
pub enum Certification {
    Certified(Box<Certificate>),
    Unknown,
    NotCompleted(DeletionState),
    /// The log has never had so many entries; its size is given.
    Beyond(u64),
}

impl Notary {
    /// The certificate of a completed request; with `since`, also the proof that the log only grew
    /// from that size.
    pub async fn certify(
        &self,
        id: Uuid,
        since: Option<u64>,
    ) -> Result<Certification, NotaryError> {
        let Some(record) = self.store.deletion_record(id).await? else {
            return Ok(Certification::Unknown);
        };
        let state = record.details.request.state;
        if state != DeletionState::Completed {
            return Ok(Certification::NotCompleted(state));
        }
        let leaves = record.events.last().map_or(0, |event| event.index + 1);
        let needed = leaves.max(since.unwrap_or(0));
        let checkpoint = self.checkpoint_over(needed).await?;
        let size = checkpoint.size;
        if since.is_some_and(|since| since > size) {
            return Ok(Certification::Beyond(size));
        }
        let paths: Vec<_> =
            record.events.iter().map(|event| tree::inclusion(event.index, size)).collect();
        let growth = tree::consistency(since.unwrap_or(size), size);
        let spans: Vec<_> = paths.iter().flatten().chain(&growth).copied().collect();
        let tiles = self.read_tiles(&spans, size).await?;
        let leaves = record
            .events
            .into_iter()
            .zip(&paths)
            .map(|(event, path)| {
                let proof = tree::hashes(path, &tiles)?;
                Ok(CertifiedLeaf { index: event.index, entry: event.entry, proof })
            })
            .collect::<Result<_, NotaryError>>()?;
        let consistency = match since {
            Some(from) => Some(Consistency { from, proof: tree::hashes(&growth, &tiles)? }),
            None => None,
        };
        let targets = &record.details.targets;
        let made = Certificate::make(leaves, targets, &checkpoint.note, consistency)?;
        Ok(Certification::Certified(Box::new(made)))
    }

    /// A checkpoint over at least that many leaves: the last that a witness cosigned, or else the
    /// last, or else a new one. One from before the log's key was changed does not verify any more.
    async fn checkpoint_over(&self, leaves: u64) -> Result<Signed, NotaryError> {
        let key = self.verifier_key();
        for cosigned in [true, false] {
            let stored = self.store.latest_checkpoint(cosigned).await?;
            if let Some(stored) = stored.filter(|stored| stored.size >= leaves) {
                let signed = signed(&stored)?;
                if signed.note.verify(&key).is_ok() {
                    return Ok(signed);
                }
            }
        }
        self.checkpoint().await
    }
}
