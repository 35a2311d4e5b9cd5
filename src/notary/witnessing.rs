//! Asking witnesses to cosign. In C2SP tlog-witness the log is the client: it submits each
//! checkpoint with a consistency proof to every witness's `add-checkpoint`, and keeps the
//! cosignatures that come back, after checking them.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Notary, NotaryError, Signed};
use crate::{
    audit::{
        note::{NoteError, Signature, VerifierKey},
        tree, witness,
    },
    domain::{chain::Chain, identity::Digest},
    outbound::{Outbound, OutboundError},
};

/// Between two rounds: new checkpoints are cosigned within this time.
const INTERVAL: Duration = Duration::from_secs(5);

/// A witness and the prefix below which its `add-checkpoint` lies.
#[derive(Clone, Debug)]
pub struct Witness {
    pub url: String,
    pub key: VerifierKey,
}

pub struct Witnessing {
    notary: Arc<Notary>,
    outbound: Outbound,
    /// Each with the size that it cosigned last, as far as this process knows.
    witnesses: Vec<(Witness, u64)>,
}

#[derive(Debug, thiserror::Error)]
enum WitnessingError {
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    #[error("it answered {0}")]
    Refused(String),
    #[error("it knows a log of {0} entries, more than there are: the log was cut, or forked")]
    Ahead(u64),
    #[error("its cosignature cannot be used")]
    Cosignature(#[from] NoteError),
    #[error(transparent)]
    Notary(#[from] NotaryError),
}

impl Witnessing {
    pub fn new(notary: Arc<Notary>, outbound: Outbound, witnesses: Vec<Witness>) -> Self {
        let witnesses = witnesses.into_iter().map(|witness| (witness, 0)).collect();
        Self { notary, outbound, witnesses }
    }

    /// A round at every interval, until `shutdown`. A witness that does not answer holds up
    /// nothing but its own cosignatures.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let rounds = async {
            loop {
                match self.notary.checkpoint().await {
                    Ok(signed) => self.round(&signed).await,
                    Err(error) => {
                        warn!(error = %Chain(&error), "there is no checkpoint to cosign");
                    }
                }
                tokio::time::sleep(INTERVAL).await;
            }
        };
        // Nothing is half-done by a round that is dropped.
        let _: Option<()> = shutdown.run_until_cancelled(rounds).await;
    }

    async fn round(&mut self, signed: &Signed) {
        for (witness, known) in &mut self.witnesses {
            if *known == signed.size {
                continue;
            }
            match cosign(&self.notary, &self.outbound, witness, *known, signed).await {
                Ok(()) => {
                    *known = signed.size;
                    debug!(witness = witness.key.name(), size = signed.size, "cosigned");
                }
                Err(error) => {
                    let witness = witness.key.name();
                    warn!(witness, error = %Chain(&error), "a witness has not cosigned");
                }
            }
        }
    }
}

async fn cosign(
    notary: &Notary,
    outbound: &Outbound,
    witness: &Witness,
    known: u64,
    signed: &Signed,
) -> Result<(), WitnessingError> {
    let address = format!("{}/add-checkpoint", witness.url.trim_end_matches('/'));
    let mut old = known;
    // The witness may know another size than this process: it then says which.
    for _ in 0..2 {
        let proof = notary.consistency(old, signed.size).await?;
        let body = witness::request(old, &proof, &signed.note);
        let answer = outbound.post(&address, body).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.is_success {
            let signature = witness::cosignature(&text, &signed.note, &witness.key)?;
            notary.keep_cosignature(signed.size, &witness.key, &signature).await?;
            return Ok(());
        }
        match witness::known_size(&answer.content_type, &text) {
            Some(size) if size <= signed.size => old = size,
            Some(size) => return Err(WitnessingError::Ahead(size)),
            None => return Err(WitnessingError::Refused(answer.status)),
        }
    }
    Err(WitnessingError::Refused("another size at each attempt".to_owned()))
}

impl Notary {
    async fn consistency(&self, old: u64, new: u64) -> Result<Vec<Digest>, NotaryError> {
        let spans = tree::consistency(old, new);
        Ok(tree::hashes(&spans, &self.read_tiles(&spans, new).await?)?)
    }

    async fn keep_cosignature(
        &self,
        size: u64,
        witness: &VerifierKey,
        signature: &Signature,
    ) -> Result<(), NotaryError> {
        let (witness, line) = (witness.to_string(), signature.to_string());
        Ok(self.store.put_cosignature(size, &witness, &line).await?)
    }
}
