use super::*;

/// The vectors of golang.org/x/mod/sumdb/note, the first implementation of these notes.
const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const PETER_SECRET: &str = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
    then you don't know what your problem is.\n";
const BY_PETER: &str = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN\
    1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";
const BY_ENOCH: &str = "\u{2014} EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp\
    +vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";

fn key(text: &str) -> VerifierKey {
    text.parse().unwrap()
}

#[test]
fn gos_notes_verify_and_are_signed_alike() {
    let secret = BASE64_STANDARD.decode(PETER_SECRET).unwrap();
    let signer = Signer::new("PeterNeumann", secret[1..].try_into().unwrap()).unwrap();
    assert_eq!(signer.verifier_key().to_string(), PETER);
    let note = format!("{TEXT}\n{BY_PETER}");
    assert_eq!(signer.sign(TEXT.to_owned()).to_string(), note);

    let both = Note::parse(&format!("{note}{BY_ENOCH}")).unwrap();
    assert_eq!(both.to_string(), format!("{note}{BY_ENOCH}"));
    assert_eq!(both.verify(&key(PETER)), Ok(None));
    assert_eq!(both.verify(&key(ENOCH)), Ok(None));
    let one = Note::parse(&note).unwrap();
    assert_eq!(one.verify(&key(ENOCH)), Err(NoteError::Unsigned("EnochRoot".into())));
    let mut forged = one.clone();
    forged.text = forged.text.replace("don't", "do");
    assert_eq!(forged.verify(&key(PETER)), Err(NoteError::Forged("PeterNeumann".into())));
    // A good signature does not excuse a bad one of the same key.
    let mut mixed = one.clone();
    mixed.signatures.push(forged.signatures[0].clone());
    mixed.signatures[1].bytes[0] ^= 1;
    assert_eq!(mixed.verify(&key(PETER)), Err(NoteError::Forged("PeterNeumann".into())));
}

#[test]
fn the_specifications_example_verifies() {
    let text = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnag\
        v1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    let key = key("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k");
    assert_eq!(Note::parse(text).unwrap().verify(&key), Ok(None));
}

#[test]
fn broken_notes_are_refused() {
    for broken in [
        TEXT.to_owned(),
        format!("{TEXT}\n"),
        format!("{TEXT}\n{}", BY_PETER.trim_end()),
        format!("\u{1}{TEXT}\n{BY_PETER}"),
        format!("{TEXT}\n{BY_PETER}Unexpected line.\n"),
        format!("{TEXT}\n{}", BY_PETER.replace("Peter", "Peter ")),
        format!("{TEXT}\n{}", BY_PETER.replace("Peter", "Peter+")),
        format!("{TEXT}\n{}", BY_PETER.replace("nAM=", "nAM")),
        format!("{TEXT}\n{}", BY_PETER.replace('\u{2014}', "-")),
        format!("{TEXT}\n\u{2014} PeterNeumann x08gow==\n"),
        format!("{TEXT}\n{}", BY_PETER.repeat(101)),
        format!("{TEXT}\r\n\n{BY_PETER}"),
    ] {
        assert!(matches!(Note::parse(&broken), Err(NoteError::Malformed(_))), "{broken}");
    }
    // The text may hold empty lines: the last one ends it.
    let note = Note::parse(&format!("a\n\nb\n\n{BY_PETER}")).unwrap();
    assert_eq!(note.text, "a\n\nb\n");
}

#[test]
fn a_part_of_a_verifier_key_is_no_key() {
    for start in 0..PETER.len() {
        for end in start..PETER.len() {
            assert!(PETER[start..end].parse::<VerifierKey>().is_err(), "{}", &PETER[start..end]);
        }
    }
    let changed = PETER.replace("c74f20a3", "c74f20a4");
    assert_eq!(changed.parse::<VerifierKey>(), Err(KeyError::Id));
    // Ids that fit, but a key of another length and an unknown kind; from Go's tests too.
    for other in [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ] {
        assert_eq!(other.parse::<VerifierKey>(), Err(KeyError::Form));
    }
    for name in ["", "a b", "a+b", "a\u{2003}b", "a\nb"] {
        assert_eq!(Signer::new(name, &[1; 32]).map(drop), Err(KeyError::Name), "{name:?}");
    }
}

/// As a witness does it.
fn cosign(note: &mut Note, name: &str, secret: &[u8; 32], seconds: u64) -> VerifierKey {
    let secret = SigningKey::from_bytes(secret);
    let key = VerifierKey::new(name, KeyKind::Witness, secret.verifying_key().as_bytes()).unwrap();
    let signature = secret.sign(cosigned(seconds, &note.text).as_bytes());
    let bytes = [seconds.to_be_bytes().as_slice(), &signature.to_bytes()].concat();
    note.signatures.push(Signature { name: name.to_owned(), key_id: key.id(), bytes });
    key
}

#[test]
fn cosignatures_carry_their_time_and_stand_beside_the_logs() {
    let mut note = Note::parse(&format!("{TEXT}\n{BY_PETER}")).unwrap();
    let witness = cosign(&mut note, "witness.example/w1", &[3; 32], 1_679_315_147);
    let time = Timestamp::from_micros(1_679_315_147_000_000);
    assert_eq!(note.verify(&witness), Ok(Some(time)));
    assert_eq!(note.verify(&key(PETER)), Ok(None));
    assert_eq!(witness.to_string().parse::<VerifierKey>().unwrap(), witness);
    note.signatures[1].bytes[7] ^= 1;
    assert!(matches!(note.verify(&witness), Err(NoteError::Forged(_))), "the time is signed");
    // The same bytes under a log's kind are another key.
    let as_log = VerifierKey { kind: KeyKind::Log, ..witness };
    assert!(matches!(note.verify(&as_log), Err(NoteError::Unsigned(_))));
}
