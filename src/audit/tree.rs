//! Merkle trees as in RFC 6962, section 2.1: which subtrees a root or a proof is made of, and
//! what a proof proves.
//!
//! Making is split from reading: a [`Span`] names its complete subtrees, the caller reads those
//! (O(log n) of them, whatever the tree's size), and the span's hash is folded from them.

use sha2::{Digest as _, Sha256};

use crate::domain::identity::Digest;

/// Root of the tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Digest {
    Digest::of(b"")
}

/// SHA-256 of a byte 1 and both children.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let hash = Sha256::new()
        .chain_update([1])
        .chain_update(left.as_bytes())
        .chain_update(right.as_bytes())
        .finalize();
    Digest::from_bytes(hash.into())
}

/// A complete subtree over the leaves `[index << height, (index + 1) << height)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub height: u32,
    pub index: u64,
}

/// Where the hashes of complete subtrees come from.
pub trait Nodes {
    fn node(&self, node: Node) -> Option<Digest>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the hash of the subtree of height {} at index {} is missing: read its tile first",
    .0.height, .0.index
)]
pub struct MissingNode(pub Node);

/// Leaves `[start, end)` whose Merkle tree hash stands in a proof, or is the root. Not empty, and
/// `start` is a multiple of every power of two below the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// The whole tree; `None` when it has no leaves.
    pub fn whole(size: u64) -> Option<Self> {
        (size > 0).then_some(Self { start: 0, end: size })
    }

    /// Its complete subtrees, from left to right, each smaller than the one before.
    pub fn nodes(self) -> Vec<Node> {
        let (mut start, mut nodes) = (self.start, Vec::new());
        while start < self.end {
            let height = (self.end - start).ilog2();
            nodes.push(Node { height, index: start >> height });
            start += 1 << height;
        }
        nodes
    }

    /// The Merkle tree hash of its leaves.
    pub fn hash(self, nodes: &impl Nodes) -> Result<Digest, MissingNode> {
        let mut hash = None;
        for node in self.nodes().into_iter().rev() {
            let left = nodes.node(node).ok_or(MissingNode(node))?;
            hash = Some(hash.map_or(left, |right| node_hash(&left, &right)));
        }
        Ok(hash.unwrap_or_else(empty_root))
    }

    fn halves(self) -> (Self, Self) {
        // The largest power of two that is smaller than the length.
        let split = self.start + (1 << (self.end - self.start - 1).ilog2());
        (Self { start: self.start, end: split }, Self { start: split, end: self.end })
    }

    const fn len(self) -> u64 {
        self.end - self.start
    }
}

/// The audit path of a leaf, RFC 6962 section 2.1.1: from its sibling to the root's child. Empty
/// unless `index < size`.
pub fn inclusion(index: u64, size: u64) -> Vec<Span> {
    let mut path = Vec::new();
    let Some(mut span) = Span::whole(size).filter(|_| index < size) else { return path };
    while span.len() > 1 {
        let (left, right) = span.halves();
        let (towards, sibling) = if index < left.end { (left, right) } else { (right, left) };
        path.push(sibling);
        span = towards;
    }
    path.reverse();
    path
}

/// The consistency proof between two sizes, RFC 6962 section 2.1.2. Empty unless
/// `0 < old < new`.
pub fn consistency(old: u64, new: u64) -> Vec<Span> {
    let mut proof = Vec::new();
    if old == 0 || old >= new {
        return proof;
    }
    let mut span = Span { start: 0, end: new };
    let mut is_known = true;
    while span.end != old {
        let (left, right) = span.halves();
        if old <= left.end {
            proof.push(right);
            span = left;
        } else {
            proof.push(left);
            span = right;
            is_known = false;
        }
    }
    if !is_known {
        proof.push(span);
    }
    proof.reverse();
    proof
}

/// The hashes of a proof's spans.
pub fn hashes(spans: &[Span], nodes: &impl Nodes) -> Result<Vec<Digest>, MissingNode> {
    spans.iter().map(|span| span.hash(nodes)).collect()
}

/// A tree that grows leaf by leaf and keeps only what its root takes.
#[derive(Clone, Debug, Default)]
pub struct Frontier {
    size: u64,
    /// Roots of the complete subtrees, from left to right.
    roots: Vec<Digest>,
}

impl Frontier {
    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        // Each trailing one of the size is a subtree that the new leaf completes.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.roots.push(hash);
        self.size += 1;
    }

    pub const fn size(&self) -> u64 {
        self.size
    }

    pub fn root(&self) -> Digest {
        let folded =
            self.roots.iter().rev().copied().reduce(|right, left| node_hash(&left, &right));
        folded.unwrap_or_else(empty_root)
    }
}

/// What a proof fails to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("leaf {index} lies beyond the tree of size {size}")]
    Beyond { index: u64, size: u64 },
    #[error("the older tree of size {old} is larger than the newer one of size {new}")]
    Backwards { old: u64, new: u64 },
    #[error("the proof has {found} hashes, which is not what trees of these sizes take")]
    Length { found: usize },
    #[error("the proof leads to another root: {computed} instead of {expected}")]
    Root { computed: Digest, expected: Digest },
    #[error("the proof does not lead to the older root: {computed} instead of {expected}")]
    OldRoot { computed: Digest, expected: Digest },
}

/// RFC 9162, section 2.1.3.2.
pub fn verify_inclusion(
    index: u64,
    size: u64,
    leaf: &Digest,
    proof: &[Digest],
    root: &Digest,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Beyond { index, size });
    }
    let length = ProofError::Length { found: proof.len() };
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return Err(length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(length);
    }
    expect_root(hash, root)
}

/// RFC 9162, section 2.1.4.2; every tree is consistent with the empty one, without a proof.
pub fn verify_consistency(
    old: u64,
    new: u64,
    old_root: &Digest,
    new_root: &Digest,
    proof: &[Digest],
) -> Result<(), ProofError> {
    let length = ProofError::Length { found: proof.len() };
    if old > new {
        return Err(ProofError::Backwards { old, new });
    }
    if old == 0 || old == new {
        if !proof.is_empty() {
            return Err(length);
        }
        let known = if old == new { *new_root } else { empty_root() };
        return expect_old_root(known, old_root);
    }
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        (node, last) = (node >> 1, last >> 1);
    }
    // A complete older tree is the first subtree itself, and is left out of the proof.
    let (first, rest) = if old.is_power_of_two() {
        (*old_root, proof)
    } else {
        proof.split_first().map(|(first, rest)| (*first, rest)).ok_or(length)?
    };
    let (mut old_hash, mut new_hash) = (first, first);
    for hash in rest {
        if last == 0 {
            return Err(length);
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(hash, &old_hash);
            new_hash = node_hash(hash, &new_hash);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            new_hash = node_hash(&new_hash, hash);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(length);
    }
    expect_old_root(old_hash, old_root)?;
    expect_root(new_hash, new_root)
}

fn expect_root(computed: Digest, expected: &Digest) -> Result<(), ProofError> {
    if computed == *expected {
        Ok(())
    } else {
        Err(ProofError::Root { computed, expected: *expected })
    }
}

fn expect_old_root(computed: Digest, expected: &Digest) -> Result<(), ProofError> {
    if computed == *expected {
        Ok(())
    } else {
        Err(ProofError::OldRoot { computed, expected: *expected })
    }
}

#[cfg(test)]
mod tests;
