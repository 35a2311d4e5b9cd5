//! Tiles and entry bundles as in C2SP tlog-tiles: 256 hashes or entries under one path.

use std::collections::HashMap;

use super::tree::{Node, Nodes, Span, node_hash};
use crate::domain::identity::Digest;

/// Hashes of a full tile, entries of a full bundle.
pub const WIDTH: u16 = 256;

/// log2 of `WIDTH`: how many levels of the tree a tile spans.
const HEIGHT: u32 = 8;

/// A tile or, at level 0, also the entry bundle of the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// 0 holds leaf hashes, each hash above is a full tile's root: 0 to 63.
    pub level: u8,
    pub index: u64,
    /// 1 to 256.
    pub width: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    #[error("{0:?} is no tile's path, such as 000, x001/234 or 000.p/7")]
    Path(String),
    #[error("{0:?} is no tile's level, which is 0 to 63")]
    Level(String),
    #[error("the tile holds {found} bytes, not {expected}")]
    Size { expected: usize, found: usize },
    #[error("the bundle ends within entry {0}")]
    Cut(usize),
    #[error("entry {0} is no UTF-8 text")]
    NoText(usize),
    #[error("the bundle holds {found} entries, not {expected}")]
    Entries { expected: usize, found: usize },
    #[error("an entry of {0} bytes does not fit into a bundle, which takes 65535")]
    TooLong(usize),
}

impl Tile {
    /// The tile that a tree of `size` leaves has at this place, full or partial.
    pub fn of_tree(level: u8, index: u64, size: u64) -> Option<Self> {
        let hashes = size.checked_shr(u32::from(level) * HEIGHT).unwrap_or(0);
        let width = hashes.saturating_sub(index.checked_mul(u64::from(WIDTH))?);
        let width = u16::try_from(width).unwrap_or(WIDTH).min(WIDTH);
        (width > 0).then_some(Self { level, index, width })
    }

    /// Index of its first hash within its level.
    pub const fn first(self) -> u64 {
        self.index * WIDTH as u64
    }

    /// `<N>[.p/<W>]`: the path below the level, or below `entries`.
    pub fn path(self) -> String {
        let mut groups = vec![format!("{:03}", self.index % 1_000)];
        let mut rest = self.index / 1_000;
        while rest > 0 {
            groups.push(format!("x{:03}", rest % 1_000));
            rest /= 1_000;
        }
        groups.reverse();
        let partial =
            if self.width == WIDTH { String::new() } else { format!(".p/{}", self.width) };
        groups.join("/") + &partial
    }

    /// From the level and the path below it; only the one spelling that the specification allows.
    pub fn parse(level: &str, path: &str) -> Result<Self, TileError> {
        let failed = || TileError::Path(path.to_owned());
        let level = decimal(level)
            .filter(|level| *level < 64)
            .and_then(|level| u8::try_from(level).ok())
            .ok_or_else(|| TileError::Level(level.to_owned()))?;
        let (index, width) = match path.split_once(".p/") {
            None => (path, u64::from(WIDTH)),
            Some((index, width)) => {
                let width = decimal(width).filter(|width| (1..u64::from(WIDTH)).contains(width));
                (index, width.ok_or_else(failed)?)
            }
        };
        let mut value: u64 = 0;
        let groups: Vec<&str> = index.split('/').collect();
        for (position, group) in groups.iter().enumerate() {
            let is_last = position + 1 == groups.len();
            let digits = if is_last { Some(*group) } else { group.strip_prefix('x') };
            let digits = digits
                .filter(|it| it.len() == 3 && it.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|it| it.parse::<u64>().ok())
                .ok_or_else(failed)?;
            value = value
                .checked_mul(1_000)
                .and_then(|value| value.checked_add(digits))
                .ok_or_else(failed)?;
        }
        let tile = Self { level, index: value, width: u16::try_from(width).map_err(|_| failed())? };
        // Leading groups of zeros would be a second spelling; an index beyond any tree is none.
        let fits = value <= u64::MAX / u64::from(WIDTH) && tile.path() == path;
        if fits { Ok(tile) } else { Err(failed()) }
    }

    /// The hashes of a tile that was served.
    pub fn decode(self, bytes: &[u8]) -> Result<Vec<Digest>, TileError> {
        let expected = usize::from(self.width) * 32;
        if bytes.len() != expected {
            return Err(TileError::Size { expected, found: bytes.len() });
        }
        let (hashes, _) = bytes.as_chunks::<32>();
        Ok(hashes.iter().map(|hash| Digest::from_bytes(*hash)).collect())
    }
}

/// The hashes end to end.
pub fn encode(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

/// A bundle: each entry after its length as a big-endian u16.
pub fn encode_entries<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Vec<u8>, TileError> {
    let mut bundle = Vec::new();
    for entry in entries {
        let length = u16::try_from(entry.len()).map_err(|_| TileError::TooLong(entry.len()))?;
        bundle.extend(length.to_be_bytes());
        bundle.extend(entry.as_bytes());
    }
    Ok(bundle)
}

/// The entries of a bundle that was served as `width` entries wide.
pub fn decode_entries(mut bundle: &[u8], width: u16) -> Result<Vec<String>, TileError> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let cut = TileError::Cut(entries.len());
        let (length, rest) = bundle.split_first_chunk::<2>().ok_or(cut.clone())?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, rest) = rest.split_at_checked(length).ok_or(cut)?;
        let entry =
            String::from_utf8(entry.to_vec()).map_err(|_| TileError::NoText(entries.len()))?;
        entries.push(entry);
        bundle = rest;
    }
    if entries.len() == usize::from(width) {
        Ok(entries)
    } else {
        Err(TileError::Entries { expected: usize::from(width), found: entries.len() })
    }
}

/// The tiles of a tree of `size` leaves that hold every subtree of the spans.
pub fn tiles_of(spans: &[Span], size: u64) -> Vec<Tile> {
    let nodes = spans.iter().flat_map(|span| span.nodes());
    let mut tiles: Vec<_> = nodes
        .filter_map(|node| {
            let (level, first) = place(node)?;
            Tile::of_tree(level, first / u64::from(WIDTH), size)
        })
        .collect();
    tiles.sort_unstable();
    tiles.dedup();
    tiles
}

/// Level of the tile with a subtree's root under it, and the index of its first hash there.
fn place(node: Node) -> Option<(u8, u64)> {
    let level = u8::try_from(node.height / HEIGHT).ok()?;
    Some((level, node.index << (node.height % HEIGHT)))
}

/// Tiles that were read.
#[derive(Clone, Debug, Default)]
pub struct Tiles(HashMap<(u8, u64), Vec<Digest>>);

impl Tiles {
    pub fn insert(&mut self, tile: Tile, hashes: Vec<Digest>) {
        self.0.insert((tile.level, tile.index), hashes);
    }
}

impl Nodes for Tiles {
    fn node(&self, node: Node) -> Option<Digest> {
        let (level, first) = place(node)?;
        let hashes = self.0.get(&(level, first / u64::from(WIDTH)))?;
        let first = usize::try_from(first % u64::from(WIDTH)).ok()?;
        complete(hashes.get(first..first + (1 << (node.height % HEIGHT)))?)
    }
}

/// Root of a complete subtree over a power of two of hashes.
fn complete(hashes: &[Digest]) -> Option<Digest> {
    match hashes {
        [] => None,
        [hash] => Some(*hash),
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            Some(node_hash(&complete(left)?, &complete(right)?))
        }
    }
}

/// The root of a full tile, which is one hash of the level above; `None` when it is not full.
pub fn root_of_full(hashes: &[Digest]) -> Option<Digest> {
    if hashes.len() == usize::from(WIDTH) { complete(hashes) } else { None }
}

fn decimal(text: &str) -> Option<u64> {
    let value: u64 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        // The example of C2SP tlog-tiles, and those of golang.org/x/mod/sumdb/tlog.
        for (index, width, path) in [
            (1_234_067, 256, "x001/x234/067"),
            (0, 256, "000"),
            (1, 5, "001.p/5"),
            (999, 255, "999.p/255"),
            (1_000, 1, "x001/000.p/1"),
            (123_456_078, 2, "x123/x456/078.p/2"),
        ] {
            let tile = Tile { level: 5, index, width };
            assert_eq!(tile.path(), path);
            assert_eq!(Tile::parse("5", path).unwrap(), tile);
        }
    }

    #[test]
    fn other_spellings_are_no_paths() {
        for path in [
            "",
            "0",
            "00",
            "0000",
            "1",
            "x000/000",
            "x000/001",
            "x001/x234/67",
            "001/234",
            "x001",
            "x001/",
            "-01",
            "+01",
            "000.p/0",
            "000.p/256",
            "000.p/01",
            "000.p/",
            "000.p",
            "000/",
            "000.p/1/",
            " 000",
            "000.P/1",
            "x999/x999/x999/x999/x999/x999/999",
            "00a",
        ] {
            assert!(matches!(Tile::parse("0", path), Err(TileError::Path(_))), "{path}");
        }
        for level in ["", "64", "00", "-1", "a", "+1", "256"] {
            assert!(matches!(Tile::parse(level, "000"), Err(TileError::Level(_))), "{level}");
        }
        assert!(Tile::parse("63", "000").is_ok());
    }

    #[test]
    fn a_tree_of_70000_leaves_has_the_tiles_of_the_specification() {
        let width = |level, index| Tile::of_tree(level, index, 70_000).map(|tile| tile.width);
        assert_eq!((width(0, 272), width(0, 273), width(0, 274)), (Some(256), Some(112), None));
        assert_eq!((width(1, 0), width(1, 1), width(1, 2)), (Some(256), Some(17), None));
        assert_eq!((width(2, 0), width(2, 1), width(3, 0)), (Some(1), None, None));
        assert_eq!(Tile::of_tree(1, 0, 256).map(|tile| tile.width), Some(1));
        assert_eq!(Tile::of_tree(63, 0, u64::MAX), None);
        assert_eq!(Tile::of_tree(0, u64::MAX, u64::MAX), None);
    }

    #[test]
    fn bundles_round_trip_and_broken_ones_are_named() {
        let entries = ["", "a", "{\"é\":1}"];
        let bundle = encode_entries(entries.into_iter()).unwrap();
        assert_eq!(&bundle[..5], [0, 0, 0, 1, b'a']);
        assert_eq!(decode_entries(&bundle, 3).unwrap(), entries);
        assert_eq!(decode_entries(&bundle, 2), Err(TileError::Entries { expected: 2, found: 3 }));
        assert_eq!(decode_entries(&bundle[..bundle.len() - 1], 3), Err(TileError::Cut(2)));
        assert_eq!(decode_entries(&[0], 1), Err(TileError::Cut(0)));
        assert_eq!(decode_entries(&[0, 1, 0xff], 1), Err(TileError::NoText(0)));
        let long = "x".repeat(65_536);
        assert_eq!(encode_entries([long.as_str()].into_iter()), Err(TileError::TooLong(65_536)));
    }

    #[test]
    fn tiles_have_their_size() {
        let tile = Tile { level: 0, index: 0, width: 2 };
        let hashes = vec![Digest::of(b"a"), Digest::of(b"b")];
        assert_eq!(tile.decode(&encode(&hashes)).unwrap(), hashes);
        let cut = tile.decode(&encode(&hashes)[1..]);
        assert_eq!(cut, Err(TileError::Size { expected: 64, found: 63 }));
        assert_eq!(root_of_full(&hashes), None);
    }
}
