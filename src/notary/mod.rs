//! The notary: signs the audit log's checkpoints, serves its tiles and proves what is in it. It
//! reads the log from the store and leaves the mathematics to `audit`.
//!
//! A checkpoint is signed when one is asked for and the log has grown since the last. Before it
//! signs, the notary proves the new tree consistent with the last checkpoint: a log that was
//! rewritten below gets no signature any more.

mod certifying;
mod witnessing;

use crate::{
    audit::{
        certificate::CertificateError,
        checkpoint::{Checkpoint, CheckpointError},
        note::{Note, NoteError, Signature, Signer, VerifierKey},
        tile::{self, Tile, TileError, Tiles, WIDTH},
        tree::{self, MissingNode, ProofError, Span},
    },
    clock::Clock,
    domain::identity::Digest,
    store::{AuditFilter, NewCheckpoint, PutCheckpoint, Store, StoreError, StoredCheckpoint},
};

pub use certifying::Certification;
pub use witnessing::{Witness, Witnessing};

/// Roots of tiles that one transaction stores.
const NODES_PER_WRITE: u64 = 64;

/// How often another signer may be faster before that looks like a defect.
const OVERTAKEN_MAX: u32 = 16;

pub struct Notary {
    store: Store,
    signer: Signer,
    clock: Clock,
}

#[derive(Debug, thiserror::Error)]
pub enum NotaryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the audit log's checkpoints are signed by {recorded}, but this process has the key of \
         {own}: give all processes the same key, or make the new one the log's with `forgetd keys \
         adopt-log-key`"
    )]
    ForeignKey { recorded: String, own: String },
    #[error(
        "the audit log was changed below entry {size}, to which a checkpoint was signed before: \
         nothing more is signed. Restore the log, or keep it as evidence"
    )]
    Rewritten { size: u64, source: ProofError },
    #[error("the audit log lacks hashes of tile {}/{}", .0.level, .0.path())]
    Incomplete(Tile),
    #[error("the audit log's tree cannot be computed")]
    Tree(#[from] MissingNode),
    #[error("a stored checkpoint cannot be read")]
    Checkpoint(#[from] CheckpointError),
    #[error("a stored cosignature cannot be read")]
    Cosignature(#[from] NoteError),
    #[error("an entry cannot be served")]
    Entry(#[from] TileError),
    #[error("the log does not bear out a certificate")]
    Certificate(#[from] CertificateError),
    #[error("other processes signed checkpoints faster, {OVERTAKEN_MAX} times over")]
    Overtaken,
}

/// A signed head of the log.
#[derive(Clone, Debug)]
pub struct Signed {
    pub size: u64,
    pub root: Digest,
    /// With every cosignature so far.
    pub note: Note,
}

impl Notary {
    /// The log's key is the one that first opened it; another is refused.
    ///
    /// # Errors
    /// When the log has another key, or the ledger cannot be used.
    pub async fn open(store: Store, signer: Signer, clock: Clock) -> Result<Self, NotaryError> {
        let own = signer.verifier_key().to_string();
        let recorded = match store.log_key().await? {
            None if store.adopt_log_key(&own, None, clock.now()).await? => Some(own.clone()),
            // Another process was first.
            None => store.log_key().await?,
            known => known,
        };
        match recorded {
            Some(recorded) if recorded != own => Err(NotaryError::ForeignKey { recorded, own }),
            _ => Ok(Self { store, signer, clock }),
        }
    }

    /// Makes the signer's key the log's, with a leaf that says so. Returns the key before.
    ///
    /// # Errors
    /// When the ledger cannot be used, or another process adopted a key at the same moment.
    pub async fn adopt(
        store: &Store,
        signer: &Signer,
        clock: &Clock,
    ) -> Result<Option<String>, NotaryError> {
        let own = signer.verifier_key().to_string();
        let previous = store.log_key().await?;
        if store.adopt_log_key(&own, previous.as_deref(), clock.now()).await? {
            Ok(previous)
        } else {
            Err(NotaryError::Overtaken)
        }
    }

    pub fn verifier_key(&self) -> VerifierKey {
        self.signer.verifier_key()
    }

    /// The head of the log, signed now if it has grown since the last checkpoint.
    pub async fn checkpoint(&self) -> Result<Signed, NotaryError> {
        let mut asked_for = None;
        for _ in 0..OVERTAKEN_MAX {
            let latest = self.store.latest_checkpoint(false).await?;
            let size = self.store.audit_size().await?;
            // One that another signed meanwhile will do, if it covers what was there at the call.
            let enough = *asked_for.get_or_insert(size);
            if let Some(latest) = &latest
                && latest.size >= enough
            {
                return signed(latest);
            }
            if let Some(signed) = self.sign(size, latest.as_ref()).await? {
                return Ok(signed);
            }
        }
        Err(NotaryError::Overtaken)
    }

    /// The checkpoint that was signed last, if any was.
    pub async fn latest(&self) -> Result<Option<Signed>, NotaryError> {
        self.store.latest_checkpoint(false).await?.as_ref().map(signed).transpose()
    }

    /// `None` when another signer was faster.
    async fn sign(
        &self,
        size: u64,
        latest: Option<&StoredCheckpoint>,
    ) -> Result<Option<Signed>, NotaryError> {
        self.store_full_tiles(size).await?;
        let whole = Span::whole(size);
        let known = latest.map_or(0, |latest| latest.size);
        let growth = tree::consistency(known, size);
        let spans: Vec<_> = whole.into_iter().chain(growth.iter().copied()).collect();
        let tiles = self.read_tiles(&spans, size).await?;
        let root = whole.map_or_else(|| Ok(tree::empty_root()), |whole| whole.hash(&tiles))?;
        if let Some(latest) = latest {
            let proof = tree::hashes(&growth, &tiles)?;
            tree::verify_consistency(latest.size, size, &latest.root, &root, &proof)
                .map_err(|source| NotaryError::Rewritten { size: latest.size, source })?;
        }
        let note = Checkpoint::sign(size, root, &self.signer);
        let own = self.verifier_key().to_string();
        let new = NewCheckpoint {
            size,
            root,
            note: note.to_string(),
            verifier_key: own.clone(),
            signed_at: self.clock.now(),
        };
        match self.store.put_checkpoint(&new, latest.map(|latest| latest.size)).await? {
            PutCheckpoint::Stored => Ok(Some(Signed { size, root, note })),
            PutCheckpoint::Overtaken => Ok(None),
            PutCheckpoint::ForeignKey(recorded) => {
                Err(NotaryError::ForeignKey { recorded: recorded.unwrap_or_default(), own })
            }
        }
    }

    /// Roots of tiles that have become full; they never change again, so that it does not matter
    /// how many processes store them.
    async fn store_full_tiles(&self, size: u64) -> Result<(), NotaryError> {
        for level in 1..64 {
            let wanted = size.checked_shr(8 * u32::from(level)).unwrap_or(0);
            if wanted == 0 {
                break;
            }
            let mut first = self.store.audit_nodes(level).await?;
            while first < wanted {
                let mut roots = Vec::new();
                for index in first..wanted.min(first + NODES_PER_WRITE) {
                    let tile = Tile { level: level - 1, index, width: WIDTH };
                    let hashes = self.read_tile(tile).await?;
                    roots.extend(tile::root_of_full(&hashes));
                }
                self.store.put_audit_nodes(level, first, &roots).await?;
                first += roots.len() as u64;
            }
        }
        Ok(())
    }

    async fn read_tile(&self, tile: Tile) -> Result<Vec<Digest>, NotaryError> {
        let hashes = self.store.audit_hashes(tile.level, tile.first(), tile.width).await?;
        if hashes.len() == usize::from(tile.width) {
            Ok(hashes)
        } else {
            Err(NotaryError::Incomplete(tile))
        }
    }

    /// Those that hold the spans' subtrees, in a tree of `size` leaves.
    async fn read_tiles(&self, spans: &[Span], size: u64) -> Result<Tiles, NotaryError> {
        let mut tiles = Tiles::default();
        for tile in tile::tiles_of(spans, size) {
            tiles.insert(tile, self.read_tile(tile).await?);
        }
        Ok(tiles)
    }

    /// The bytes of a tile; `None` unless a checkpoint was signed over a tree that has it.
    pub async fn tile(&self, tile: Tile) -> Result<Option<Vec<u8>>, NotaryError> {
        if !self.is_signed(tile).await? {
            return Ok(None);
        }
        Ok(Some(tile::encode(&self.read_tile(tile).await?)))
    }

    /// The bytes of an entry bundle, likewise.
    pub async fn entries(&self, tile: Tile) -> Result<Option<Vec<u8>>, NotaryError> {
        if tile.level != 0 || !self.is_signed(tile).await? {
            return Ok(None);
        }
        let filter = AuditFilter::default();
        let events = self.store.audit_events(&filter, tile.first(), tile.width.into()).await?;
        if events.len() != usize::from(tile.width) {
            return Err(NotaryError::Incomplete(tile));
        }
        Ok(Some(tile::encode_entries(events.iter().map(|event| event.entry.as_str()))?))
    }

    async fn is_signed(&self, tile: Tile) -> Result<bool, NotaryError> {
        let latest = self.store.latest_checkpoint(false).await?;
        let size = latest.map_or(0, |latest| latest.size);
        let there = Tile::of_tree(tile.level, tile.index, size);
        Ok(there.is_some_and(|there| tile.width <= there.width))
    }
}

fn signed(stored: &StoredCheckpoint) -> Result<Signed, NotaryError> {
    let mut note = Note::parse(&stored.note).map_err(CheckpointError::from)?;
    for line in &stored.cosignatures {
        note.signatures.push(Signature::parse(line)?);
    }
    Ok(Signed { size: stored.size, root: stored.root, note })
}
