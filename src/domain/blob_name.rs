//! What the file of a version's weights is called.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use super::identity::Digest;

/// The job that made the weights is part of the name, so that no two versions share a file, though
/// a retraining may give the very bits of an earlier version: what is destroyed for one is never
/// needed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlobName {
    /// SHA-256 of the content.
    pub digest: Digest,
    pub job_id: Uuid,
}

/// `<64 hex digits>-<32 hex digits>`
impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.digest, self.job_id.simple())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not the name of a blob, which is <64 hex digits>-<32 hex digits>")]
pub struct BlobNameError;

impl FromStr for BlobName {
    type Err = BlobNameError;

    fn from_str(name: &str) -> Result<Self, BlobNameError> {
        let (digest, job_id) = name.split_once('-').ok_or(BlobNameError)?;
        let digest = digest.parse().map_err(|_| BlobNameError)?;
        let job_id = Uuid::try_parse(job_id).map_err(|_| BlobNameError)?;
        let parsed = Self { digest, job_id };
        if parsed.to_string() == name { Ok(parsed) } else { Err(BlobNameError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let name = BlobName { digest: Digest::of(b"weights"), job_id: Uuid::from_u128(7) };
        assert_eq!(name.to_string().parse::<BlobName>().unwrap(), name);
        let hex = "ab".repeat(32);
        for other in [
            String::new(),
            hex.clone(),
            format!("{hex}-"),
            format!("{hex}-7"),
            format!("{hex}-{}", Uuid::from_u128(7)),
            format!("{name}#1"),
        ] {
            assert!(other.parse::<BlobName>().is_err(), "{other}");
        }
    }
}
