//! Checkpoints as in C2SP tlog-checkpoint: the signed head of a log.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::note::{Note, NoteError, Signer, VerifierKey};
use crate::domain::identity::Digest;

/// The head of a log's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log, and of the key that signs it.
    pub origin: String,
    /// Leaves.
    pub size: u64,
    pub root: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error("it is no checkpoint: {0}")]
    Malformed(&'static str),
    #[error("it is a checkpoint of {found:?}, not of {expected:?}")]
    Origin { expected: String, found: String },
}

impl Checkpoint {
    /// The note's text; lines after these three are allowed, but say nothing that is checked.
    ///
    /// # Errors
    /// When the text has not the three lines of a checkpoint.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let malformed = CheckpointError::Malformed;
        let mut lines = text.strip_suffix('\n').unwrap_or_default().split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(malformed("it has fewer than three lines"));
        };
        if origin.is_empty() || lines.any(str::is_empty) {
            return Err(malformed("a line is empty"));
        }
        let leaves: u64 = size.parse().map_err(|_| malformed("its size is no number"))?;
        if leaves.to_string() != size {
            return Err(malformed("its size is no plain decimal"));
        }
        let root = BASE64_STANDARD
            .decode(root)
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or(malformed("its root is not 32 bytes in base64"))?;
        Ok(Self { origin: origin.to_owned(), size: leaves, root: Digest::from_bytes(root) })
    }

    pub fn text(&self) -> String {
        let root = BASE64_STANDARD.encode(self.root.as_bytes());
        format!("{}\n{}\n{root}\n", self.origin, self.size)
    }

    /// The checkpoint of the signer's log.
    pub fn sign(size: u64, root: Digest, signer: &Signer) -> Note {
        let checkpoint = Self { origin: signer.name().to_owned(), size, root };
        signer.sign(checkpoint.text())
    }

    /// The checkpoint in a note that `key`, the log's, has signed; its origin must be the key's
    /// name.
    ///
    /// # Errors
    /// When the note is none of the log's checkpoints.
    pub fn open(note: &Note, key: &VerifierKey) -> Result<Self, CheckpointError> {
        let checkpoint = Self::parse(&note.text)?;
        if checkpoint.origin != key.name() {
            let expected = key.name().to_owned();
            return Err(CheckpointError::Origin { expected, found: checkpoint.origin });
        }
        note.verify(key)?;
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of C2SP tlog-checkpoint.
    const EXAMPLE: &str = "example.com/behind-the-sofa\n20852163\n\
        CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    #[test]
    fn the_specifications_example_reads_and_writes_alike() {
        let checkpoint = Checkpoint::parse(EXAMPLE).unwrap();
        assert_eq!(checkpoint.origin, "example.com/behind-the-sofa");
        assert_eq!(checkpoint.size, 20_852_163);
        assert_eq!(checkpoint.text(), EXAMPLE);
        let extended = Checkpoint::parse(&format!("{EXAMPLE}more\n")).unwrap();
        assert_eq!(extended, checkpoint);
        // Formatted by golang.org/x/mod/sumdb/tlog.
        let gos = "go.sum database tree\n123456789012\n\
            TszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0=\n";
        let root = crate::domain::audit::leaf_hash(b"hello world");
        assert_eq!(Checkpoint::parse(gos).unwrap().root, root);
    }

    #[test]
    fn other_texts_are_no_checkpoints() {
        for text in [
            "",
            "\n",
            "a\n1\n",
            "\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
            "a\n01\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
            "a\n+1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
            "a\n-1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
            "a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I\n",
            "a\n1\nCsUY\n",
            "a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\nmore\n",
            "a\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=",
        ] {
            assert!(
                matches!(Checkpoint::parse(text), Err(CheckpointError::Malformed(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_checkpoint_is_opened_with_its_own_logs_key_only() {
        let signer = Signer::new("example.org/log", &[1; 32]).unwrap();
        let note = Checkpoint::sign(0, super::super::tree::empty_root(), &signer);
        let opened = Checkpoint::open(&note, &signer.verifier_key()).unwrap();
        assert_eq!((opened.size, opened.origin.as_str()), (0, "example.org/log"));
        let renamed = Signer::new("example.org/other", &[1; 32]).unwrap();
        let error = Checkpoint::open(&note, &renamed.verifier_key()).unwrap_err();
        assert!(matches!(error, CheckpointError::Origin { .. }));
        let another = Signer::new("example.org/log", &[2; 32]).unwrap();
        let error = Checkpoint::open(&note, &another.verifier_key()).unwrap_err();
        assert!(matches!(error, CheckpointError::Note(NoteError::Unsigned(_))));
    }
}
