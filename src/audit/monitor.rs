//! Auditing a whole log, entry by entry: its tree is computed anew, and its entries are held to
//! the order in which things can happen.

use std::collections::HashMap;

use serde::Deserialize;
use uuid::Uuid;

use super::{
    leaf::{Leaf, LeafError},
    tile::{Tile, WIDTH, root_of_full},
    tree::Frontier,
};
use crate::domain::{
    audit::{AuditKind, leaf_hash},
    identity::Digest,
};

/// What has been seen of a log so far. Its memory grows with the requests and models in it, not
/// with the entries.
#[derive(Debug, Default)]
pub struct Monitor {
    tree: Frontier,
    /// The last, unfinished tile of each level.
    tiles: Vec<(u64, Vec<Digest>)>,
    requests: HashMap<Uuid, Stage>,
    versions: HashMap<Uuid, (u64, Digest)>,
    foreign: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for an approval.
    Suspended,
    Received,
    Batched,
    Completed,
    /// Completed and settled, rejected, cancelled or failed.
    Ended,
}

/// An entry that cannot have come about.
#[derive(Debug, thiserror::Error)]
pub enum Finding {
    #[error("entry {index} cannot be read")]
    Entry { index: u64, source: LeafError },
    #[error("entry {index} contradicts the log before it: {what}")]
    Order { index: u64, what: &'static str },
}

/// How far the requests in a log have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub open: u64,
    /// Not settled yet, or never in need of it.
    pub completed: u64,
    pub ended: u64,
    pub versions: u64,
    /// Entries of kinds that this version of forgetd does not know.
    pub foreign: u64,
}

#[derive(Deserialize)]
struct Version {
    epoch: u64,
    parent_epoch: Option<u64>,
    parent_weights: Option<Digest>,
    weights: Digest,
}

#[derive(Deserialize)]
struct Completion {
    excluded_from_epoch: Option<u64>,
}

impl Monitor {
    pub const fn size(&self) -> u64 {
        self.tree.size()
    }

    pub fn root(&self) -> Digest {
        self.tree.root()
    }

    /// Takes the next entry into the tree, and gives the tiles that it completes.
    pub fn push(&mut self, entry: &str) -> Vec<(Tile, Vec<Digest>)> {
        let mut hash = leaf_hash(entry.as_bytes());
        self.tree.push(hash);
        let mut completed = Vec::new();
        for level in 0..=u8::MAX {
            let at = usize::from(level);
            if self.tiles.len() <= at {
                self.tiles.push((0, Vec::new()));
            }
            let (index, hashes) = &mut self.tiles[at];
            hashes.push(hash);
            let Some(root) = root_of_full(hashes) else { break };
            let tile = Tile { level, index: *index, width: WIDTH };
            completed.push((tile, std::mem::take(hashes)));
            *index += 1;
            hash = root;
        }
        completed
    }

    /// The unfinished tiles, lowest level first.
    pub fn partial_tiles(&self) -> impl Iterator<Item = (Tile, &[Digest])> {
        (0..).zip(&self.tiles).filter_map(|(level, (index, hashes))| {
            let width = u16::try_from(hashes.len()).ok().filter(|width| *width > 0)?;
            Some((Tile { level, index: *index, width }, hashes.as_slice()))
        })
    }

    /// Holds the entry at `index` to those before it.
    ///
    /// # Errors
    /// When it cannot have come about.
    pub fn judge(&mut self, index: u64, entry: &str) -> Result<(), Finding> {
        let leaf = match Leaf::read(entry) {
            Ok(leaf) => leaf,
            Err(LeafError::Foreign(_)) => {
                self.foreign += 1;
                return Ok(());
            }
            Err(source) => return Err(Finding::Entry { index, source }),
        };
        let order = |what| Finding::Order { index, what };
        let details = |source| Finding::Entry { index, source };
        match (leaf.kind, leaf.about, leaf.model_id) {
            (AuditKind::VersionPublished, _, Some(model_id)) => {
                let version: Version = leaf.details().map_err(details)?;
                let parent = self.versions.insert(model_id, (version.epoch, version.weights));
                let expected = parent.map_or(1, |(epoch, _)| epoch + 1);
                if version.epoch != expected {
                    return Err(order("the version's epoch is not the next one"));
                }
                if (version.parent_epoch, version.parent_weights) != parent.unzip() {
                    return Err(order("the version names other weights as its parent's"));
                }
            }
            (AuditKind::DeletionCompleted, Some(id), Some(model_id)) => {
                let completion: Completion = leaf.details().map_err(details)?;
                let newest = self.versions.get(&model_id).map_or(0, |(epoch, _)| *epoch);
                if completion.excluded_from_epoch.is_some_and(|epoch| epoch > newest) {
                    return Err(order("completed by a version that was never published"));
                }
                self.step(id, &[Stage::Batched], Stage::Completed).map_err(order)?;
            }
            (AuditKind::DeletionSuspended, Some(id), _) => {
                self.enter(id, Stage::Suspended).map_err(order)?;
            }
            (AuditKind::DeletionReceived, Some(id), _) => {
                self.enter(id, Stage::Received).map_err(order)?;
            }
            (AuditKind::DeletionRejected, Some(id), _) => {
                self.enter(id, Stage::Ended).map_err(order)?;
            }
            (AuditKind::DeletionRefused, Some(id), _) => {
                self.step(id, &[Stage::Suspended], Stage::Ended).map_err(order)?;
            }
            (AuditKind::DeletionBatched, Some(id), _) => {
                // After a failed attempt it goes into another batch.
                let from = [Stage::Received, Stage::Batched];
                self.step(id, &from, Stage::Batched).map_err(order)?;
            }
            (AuditKind::DeletionCancelled, Some(id), _) => {
                // A request that came back from a failed batch can be cancelled too.
                let from = [Stage::Suspended, Stage::Received, Stage::Batched];
                self.step(id, &from, Stage::Ended).map_err(order)?;
            }
            (AuditKind::DeletionFailed, Some(id), _) => {
                self.step(id, &[Stage::Batched], Stage::Ended).map_err(order)?;
            }
            (AuditKind::DeadlineApproaching | AuditKind::DeadlineExtended, Some(id), _) => {
                self.is_open(id).map_err(order)?;
            }
            (AuditKind::DeletionSettled, Some(id), _) => {
                self.step(id, &[Stage::Completed], Stage::Ended).map_err(order)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// New, or approved after it was suspended.
    fn enter(&mut self, id: Uuid, stage: Stage) -> Result<(), &'static str> {
        match self.requests.insert(id, stage) {
            None => Ok(()),
            Some(Stage::Suspended) if stage != Stage::Suspended => Ok(()),
            Some(_) => Err("the request was received before"),
        }
    }

    fn is_open(&self, id: Uuid) -> Result<(), &'static str> {
        match self.requests.get(&id) {
            Some(Stage::Suspended | Stage::Received | Stage::Batched) => Ok(()),
            Some(Stage::Completed | Stage::Ended) => Err("the request had ended by then"),
            None => Err("the request was never received"),
        }
    }

    fn step(&mut self, id: Uuid, from: &[Stage], to: Stage) -> Result<(), &'static str> {
        match self.requests.insert(id, to) {
            Some(stage) if from.contains(&stage) => Ok(()),
            Some(_) => Err("the request cannot take this step from where it stood"),
            None => Err("the request was never received"),
        }
    }

    pub fn counts(&self) -> Counts {
        let of = |stages: &[Stage]| {
            self.requests.values().filter(|stage| stages.contains(stage)).count() as u64
        };
        Counts {
            open: of(&[Stage::Suspended, Stage::Received, Stage::Batched]),
            completed: of(&[Stage::Completed]),
            ended: of(&[Stage::Ended]),
            versions: self.versions.values().map(|(epoch, _)| epoch).sum(),
            foreign: self.foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        audit::{tile::Tiles, tree::Span},
        domain::{audit::NewAuditEvent, timestamp::Timestamp},
    };

    fn entry(kind: AuditKind, about: u128, details: Value) -> String {
        let (model_id, about) = (Some(Uuid::from_u128(9)), Some(Uuid::from_u128(about)));
        NewAuditEvent { kind, model_id, about, details }.entry(Timestamp::from_micros(0))
    }

    fn version(epoch: u64, parent: Option<u64>) -> String {
        let weights = |epoch: u64| Digest::of(&epoch.to_be_bytes());
        let details = json!({
            "epoch": epoch, "weights": weights(epoch),
            "parent_epoch": parent, "parent_weights": parent.map(weights),
        });
        entry(AuditKind::VersionPublished, 100, details)
    }

    fn judge(entries: &[String]) -> Result<Counts, String> {
        let mut monitor = Monitor::default();
        for (index, entry) in (0..).zip(entries) {
            monitor.judge(index, entry).map_err(|finding| finding.to_string())?;
        }
        Ok(monitor.counts())
    }

    #[test]
    fn what_can_happen_passes() {
        use AuditKind::{
            DeadlineApproaching, DeadlineExtended, DeletionBatched, DeletionCancelled,
            DeletionCompleted, DeletionReceived, DeletionRefused, DeletionRejected,
            DeletionSettled, DeletionSuspended,
        };
        let entries = [
            version(1, None),
            entry(DeletionReceived, 1, json!({})),
            entry(DeletionRejected, 2, json!({})),
            entry(DeletionReceived, 3, json!({})),
            entry(DeletionReceived, 4, json!({})),
            entry(DeletionBatched, 1, json!({})),
            entry(DeadlineApproaching, 1, json!({})),
            entry(DeletionBatched, 1, json!({})),
            entry(DeletionCancelled, 3, json!({})),
            entry(DeletionSuspended, 5, json!({})),
            entry(DeletionRefused, 5, json!({})),
            entry(DeletionSuspended, 6, json!({})),
            entry(DeadlineExtended, 6, json!({})),
            entry(DeletionReceived, 6, json!({})),
            entry(DeletionCancelled, 6, json!({})),
            version(2, Some(1)),
            entry(DeletionCompleted, 1, json!({"excluded_from_epoch": 2})),
            entry(DeletionSettled, 1, json!({})),
            r#"{"kind":"of.tomorrow"}"#.to_owned(),
        ];
        let counts = judge(&entries).unwrap();
        assert_eq!(counts, Counts { open: 1, completed: 0, ended: 5, versions: 2, foreign: 1 });
    }

    #[test]
    fn what_cannot_happen_is_found() {
        use AuditKind::{
            DeadlineExtended, DeletionBatched, DeletionCompleted, DeletionReceived,
            DeletionRefused, DeletionRejected, DeletionSettled,
        };
        let received = || entry(DeletionReceived, 1, json!({}));
        let batched = || entry(DeletionBatched, 1, json!({}));
        let completed =
            |epoch: u64| entry(DeletionCompleted, 1, json!({"excluded_from_epoch": epoch}));
        for (entries, what) in [
            (vec![batched()], "never received"),
            (vec![entry(DeadlineExtended, 1, json!({}))], "never received"),
            (
                vec![entry(DeletionRejected, 1, json!({})), entry(DeadlineExtended, 1, json!({}))],
                "had ended",
            ),
            (vec![received(), received()], "received before"),
            (vec![received(), entry(DeletionRefused, 1, json!({}))], "cannot take this step"),
            (vec![version(1, None), received(), completed(1)], "cannot take this step"),
            (vec![received(), batched(), completed(1)], "never published"),
            (
                vec![version(1, None), received(), batched(), completed(1), completed(1)],
                "cannot take this step",
            ),
            (vec![received(), entry(DeletionSettled, 1, json!({}))], "cannot take this step"),
            (vec![version(2, Some(1))], "not the next one"),
            (vec![version(1, None), version(3, Some(2))], "not the next one"),
            (vec![version(1, None), version(2, None)], "parent"),
            (vec!["{".to_owned()], "cannot be read"),
        ] {
            let found = judge(&entries).unwrap_err();
            assert!(found.contains(what), "{found} instead of {what}");
        }
    }

    #[test]
    fn its_tiles_hold_the_tree() {
        let (mut monitor, mut tiles) = (Monitor::default(), Tiles::default());
        for number in 0..70_000_u64 {
            for (tile, hashes) in monitor.push(&number.to_string()) {
                assert_eq!(hashes.len(), 256);
                tiles.insert(tile, hashes);
            }
        }
        let partial: Vec<_> = monitor.partial_tiles().map(|(tile, _)| tile).collect();
        let expected = [(0, 273, 112), (1, 1, 17), (2, 0, 1)].map(|(level, index, width)| Tile {
            level,
            index,
            width,
        });
        assert_eq!(partial, expected, "as in C2SP tlog-tiles for 70,000 leaves");
        for (tile, hashes) in monitor.partial_tiles() {
            tiles.insert(tile, hashes.to_vec());
        }
        assert_eq!(Span::whole(70_000).unwrap().hash(&tiles).unwrap(), monitor.root());
    }
}
