use std::collections::HashMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::*;
use crate::domain::audit::leaf_hash;

/// The leaves of Certificate Transparency's reference tree.
const LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];

/// Its roots at sizes 1 to 8 (github.com/google/certificate-transparency, merkletree tests).
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/// Hashes every subtree anew, straight from the definition, and counts what it is asked.
struct Leaves {
    hashes: Vec<Digest>,
    asked: std::cell::RefCell<HashMap<Node, u32>>,
}

impl Leaves {
    fn new(hashes: Vec<Digest>) -> Self {
        Self { hashes, asked: std::cell::RefCell::default() }
    }

    fn root(&self, size: usize) -> Digest {
        definition(&self.hashes[..size])
    }
}

impl Nodes for Leaves {
    fn node(&self, node: Node) -> Option<Digest> {
        *self.asked.borrow_mut().entry(node).or_default() += 1;
        let first = usize::try_from(node.index << node.height).unwrap();
        self.hashes.get(first..first + (1 << node.height)).map(definition)
    }
}

/// MTH of RFC 6962, section 2.1, word for word.
fn definition(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let mut split = 1;
            while split * 2 < leaves.len() {
                split *= 2;
            }
            let (left, right) = leaves.split_at(split);
            node_hash(&definition(left), &definition(right))
        }
    }
}

fn reference() -> Leaves {
    Leaves::new(LEAVES.iter().map(|leaf| leaf_hash(&hex::decode(leaf).unwrap())).collect())
}

fn numbered(size: u64) -> Leaves {
    Leaves::new((0..size).map(|number| leaf_hash(&number.to_be_bytes())).collect())
}

#[test]
fn roots_are_those_of_the_reference_tree() {
    assert_eq!(
        empty_root().to_string(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    let tree = reference();
    for (size, root) in (1..).zip(ROOTS) {
        assert_eq!(Span::whole(size).unwrap().hash(&tree).unwrap().to_string(), root);
    }
}

#[test]
fn a_growing_tree_has_the_same_roots() {
    let (tree, mut frontier) = (numbered(300), Frontier::default());
    for size in 0..300 {
        assert_eq!(frontier.root(), tree.root(size), "{size}");
        frontier.push(tree.hashes[size]);
    }
    assert_eq!(frontier.size(), 300);
}

#[test]
fn proofs_of_every_leaf_and_size_verify_and_no_neighbour_does() {
    let tree = numbered(70);
    for size in 1..=70 {
        let root = tree.root(usize::try_from(size).unwrap());
        for index in 0..size {
            let leaf = tree.hashes[usize::try_from(index).unwrap()];
            let proof = hashes(&inclusion(index, size), &tree).unwrap();
            verify_inclusion(index, size, &leaf, &proof, &root).unwrap();
            // The sibling's place takes the same hashes, but in another order.
            assert!(size == 1 || verify_inclusion(index ^ 1, size, &leaf, &proof, &root).is_err());
        }
        for old in 0..=size {
            let old_root = tree.root(usize::try_from(old).unwrap());
            let proof = hashes(&consistency(old, size), &tree).unwrap();
            verify_consistency(old, size, &old_root, &root, &proof).unwrap();
            let other = leaf_hash(b"another history");
            assert!(verify_consistency(old, size, &other, &root, &proof).is_err());
            assert!(old == 0 || verify_consistency(old, size, &old_root, &other, &proof).is_err());
        }
    }
}

#[test]
fn a_proof_reads_few_hashes_of_a_large_tree() {
    let tree = numbered(5_000);
    hashes(&inclusion(1_234, 5_000), &tree).unwrap();
    hashes(&consistency(3_333, 5_000), &tree).unwrap();
    let asked = tree.asked.borrow();
    // At most height per proof, and each hash of the rightmost edge once more.
    assert!(asked.values().sum::<u32>() <= 2 * 13 + 13, "{asked:?}");
}

#[test]
fn what_is_missing_is_named() {
    let tree = numbered(4);
    let missing = Span::whole(5).unwrap().hash(&tree).unwrap_err();
    assert_eq!(missing, MissingNode(Node { height: 0, index: 4 }));
    assert!(inclusion(5, 5).is_empty() && Span::whole(0).is_none());
}

#[derive(Deserialize)]
struct Probes {
    inclusion: Vec<InclusionProbe>,
    consistency: Vec<ConsistencyProbe>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InclusionProbe {
    leaf_idx: u64,
    tree_size: u64,
    root: String,
    leaf_hash: String,
    proof: Option<Vec<String>>,
    desc: String,
    want_err: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConsistencyProbe {
    size1: u64,
    size2: u64,
    root1: String,
    root2: String,
    proof: Option<Vec<String>>,
    desc: String,
    want_err: bool,
}

/// Bytes as a hash; a few probes have others in the place of one.
fn bytes_of(base64: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(base64).unwrap()
}

/// Any hash that is the same for the same bytes stands in for those that are none.
fn hash_of(base64: &str) -> Digest {
    let bytes = bytes_of(base64);
    let stand_in = |_| Digest::of(&[b"stands in for ".as_slice(), &bytes].concat());
    <[u8; 32]>::try_from(bytes.as_slice()).map_or_else(stand_in, Digest::from_bytes)
}

fn proof_of(hashes: Option<&Vec<String>>) -> Vec<Digest> {
    hashes.into_iter().flatten().map(|hash| hash_of(hash)).collect()
}

/// What is no hash is refused before it comes to our types.
fn are_hashes(values: &[&String]) -> bool {
    values.iter().all(|value| bytes_of(value).len() == 32)
}

#[test]
fn another_implementations_probes_are_judged_alike() {
    let text = include_str!("../../../tests/fixtures/rfc6962-probes.json");
    let probes: Probes = serde_json::from_str(text).unwrap();
    assert_eq!((probes.inclusion.len(), probes.consistency.len()), (98, 98));
    let mut judged = 0;
    for probe in probes.inclusion {
        if probe.want_err && !are_hashes(&[&probe.leaf_hash, &probe.root]) {
            continue;
        }
        let (leaf, root) = (hash_of(&probe.leaf_hash), hash_of(&probe.root));
        let proof = proof_of(probe.proof.as_ref());
        let verified = verify_inclusion(probe.leaf_idx, probe.tree_size, &leaf, &proof, &root);
        assert_eq!(verified.is_err(), probe.want_err, "{}: {verified:?}", probe.desc);
        judged += 1;
    }
    for probe in probes.consistency {
        // That library calls proofs from the empty tree useless, and refuses them.
        let is_refused = probe.size1 == 0 || !are_hashes(&[&probe.root1, &probe.root2]);
        if probe.want_err && is_refused {
            continue;
        }
        let (old, new) = (hash_of(&probe.root1), hash_of(&probe.root2));
        let proof = proof_of(probe.proof.as_ref());
        let verified = verify_consistency(probe.size1, probe.size2, &old, &new, &proof);
        assert_eq!(verified.is_err(), probe.want_err, "{}: {verified:?}", probe.desc);
        judged += 1;
    }
    assert_eq!(judged, 158);
}
