//! Sealing what speaks of a sample: AES-256-GCM (NIST SP 800-38D) under a data key of the sample's
//! own, which is kept only wrapped under the service's master key. What was sealed is gone once its
//! data key is. Encodings of versions and secrets of webhooks are sealed under the master key itself.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use secrecy::{ExposeSecret, SecretBox, zeroize::Zeroize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{identity::Digest, webhook::WebhookSecret};

pub const KEY_BYTES: usize = 32;

/// Drawn at random for each sealing: a master key must not wrap more than 2^32 data keys (SP
/// 800-38D, section 8.3), a data key seals a few texts.
pub const NONCE_BYTES: usize = 12;

const TAG_BYTES: usize = 16;

/// Length of a wrapped data key.
pub const WRAPPED_BYTES: usize = NONCE_BYTES + KEY_BYTES + TAG_BYTES;

/// Which of its owner's texts it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    DataKey,
    Content,
    Predictions,
    WebhookSecret,
    Encoding,
}

/// Whose text it is. It is authenticated with the text: moved to another sample, version, model or
/// column, a sealed text does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub model_id: Uuid,
    pub sample_id: Uuid,
}

impl Owner {
    /// A webhook is no sample, and no model's.
    const fn webhook(id: Uuid) -> Self {
        Self { model_id: Uuid::nil(), sample_id: id }
    }

    /// What a version has is no sample's: its epoch stands in for one.
    const fn version(model_id: Uuid, epoch: u64) -> Self {
        Self { model_id, sample_id: Uuid::from_u64_pair(0, epoch) }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("sealed under another key, for another place, or changed since")]
pub struct SealError;

/// The key under which data keys are wrapped. Who destroys it destroys all that is sealed.
pub struct MasterKey {
    cipher: LessSafeKey,
    fingerprint: Digest,
}

/// One sample's key.
pub struct DataKey(SecretBox<[u8; KEY_BYTES]>);

impl MasterKey {
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        let hash = Sha256::new().chain_update(b"forgetd master key\0").chain_update(bytes);
        Self { cipher: cipher(bytes), fingerprint: Digest::from_bytes(hash.finalize().into()) }
    }

    /// Names the key without telling it.
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    /// `WRAPPED_BYTES` bytes.
    pub fn wrap(&self, key: &DataKey, owner: Owner, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        seal(&self.cipher, Part::DataKey, owner, nonce, key.0.expose_secret())
    }

    /// # Errors
    /// When the key was wrapped under another master key or for another sample.
    pub fn unwrap(&self, wrapped: &[u8], owner: Owner) -> Result<DataKey, SealError> {
        let mut bytes = open(&self.cipher, Part::DataKey, owner, wrapped)?;
        let key = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).map_err(|_| SealError);
        bytes.zeroize();
        key.map(DataKey::new)
    }

    /// `WRAPPED_BYTES` bytes.
    pub fn seal_secret(
        &self,
        secret: &WebhookSecret,
        webhook_id: Uuid,
        nonce: [u8; NONCE_BYTES],
    ) -> Vec<u8> {
        let owner = Owner::webhook(webhook_id);
        seal(&self.cipher, Part::WebhookSecret, owner, nonce, secret.bytes())
    }

    /// # Errors
    /// When the secret was sealed under another master key or for another webhook.
    pub fn open_secret(&self, sealed: &[u8], webhook_id: Uuid) -> Result<WebhookSecret, SealError> {
        let owner = Owner::webhook(webhook_id);
        let mut bytes = open(&self.cipher, Part::WebhookSecret, owner, sealed)?;
        let secret = bytes.as_slice().try_into().map_err(|_| SealError);
        bytes.zeroize();
        secret.map(WebhookSecret::new)
    }

    /// Nonce, ciphertext and tag, end to end.
    pub fn seal_encoding(
        &self,
        encoding: &[u8],
        model_id: Uuid,
        epoch: u64,
        nonce: [u8; NONCE_BYTES],
    ) -> Vec<u8> {
        seal(&self.cipher, Part::Encoding, Owner::version(model_id, epoch), nonce, encoding)
    }

    /// # Errors
    /// When the encoding was sealed under another master key or for another version.
    pub fn open_encoding(
        &self,
        sealed: &[u8],
        model_id: Uuid,
        epoch: u64,
    ) -> Result<Vec<u8>, SealError> {
        open(&self.cipher, Part::Encoding, Owner::version(model_id, epoch), sealed)
    }
}

impl DataKey {
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(SecretBox::new(Box::new(bytes)))
    }

    /// Nonce, ciphertext and tag, end to end.
    pub fn seal(&self, part: Part, owner: Owner, nonce: [u8; NONCE_BYTES], text: &[u8]) -> Vec<u8> {
        seal(&cipher(self.0.expose_secret()), part, owner, nonce, text)
    }

    /// # Errors
    /// When the text was sealed under another key or for another place.
    pub fn open(&self, part: Part, owner: Owner, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        open(&cipher(self.0.expose_secret()), part, owner, sealed)
    }
}

fn cipher(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has the cipher's length"))
}

fn place(part: Part, owner: Owner) -> Aad<[u8; 33]> {
    let mut bytes = [0; 33];
    bytes[0] = match part {
        Part::DataKey => 1,
        Part::Content => 2,
        Part::Predictions => 3,
        Part::WebhookSecret => 4,
        Part::Encoding => 5,
    };
    bytes[1..17].copy_from_slice(owner.model_id.as_bytes());
    bytes[17..].copy_from_slice(owner.sample_id.as_bytes());
    Aad::from(bytes)
}

fn seal(
    cipher: &LessSafeKey,
    part: Part,
    owner: Owner,
    nonce: [u8; NONCE_BYTES],
    text: &[u8],
) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(NONCE_BYTES + text.len() + TAG_BYTES);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(text);
    let tag = cipher
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            place(part, owner),
            &mut sealed[NONCE_BYTES..],
        )
        .expect("no text is as long as the cipher's limit of 64 GiB");
    sealed.extend_from_slice(tag.as_ref());
    sealed
}

fn open(
    cipher: &LessSafeKey,
    part: Part,
    owner: Owner,
    sealed: &[u8],
) -> Result<Vec<u8>, SealError> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(SealError)?;
    let mut text = text.to_vec();
    let length = cipher
        .open_in_place(Nonce::assume_unique_for_key(*nonce), place(part, owner), &mut text)
        .map_err(|_| SealError)?
        .len();
    text.truncate(length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { model_id: Uuid::from_u128(1), sample_id: Uuid::from_u128(2) };

    #[test]
    fn texts_open_in_their_place_only() {
        let key = DataKey::new([7; KEY_BYTES]);
        let sealed = key.seal(Part::Content, OWNER, [1; NONCE_BYTES], b"age 39");
        assert_eq!(key.open(Part::Content, OWNER, &sealed).unwrap(), b"age 39");
        assert!(!sealed.windows(6).any(|window| window == b"age 39"));

        let elsewhere = [
            Owner { model_id: Uuid::from_u128(9), ..OWNER },
            Owner { sample_id: Uuid::from_u128(9), ..OWNER },
        ];
        assert!(elsewhere.iter().all(|owner| key.open(Part::Content, *owner, &sealed).is_err()));
        assert!(key.open(Part::Predictions, OWNER, &sealed).is_err());
        let other = DataKey::new([8; KEY_BYTES]);
        assert!(other.open(Part::Content, OWNER, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(Part::Content, OWNER, &changed).is_err(), "byte {at}");
            assert!(key.open(Part::Content, OWNER, &sealed[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_data_key_needs_its_master_key() {
        let (master, other) = (MasterKey::new(&[3; KEY_BYTES]), MasterKey::new(&[4; KEY_BYTES]));
        let key = DataKey::new([7; KEY_BYTES]);
        let wrapped = master.wrap(&key, OWNER, [1; NONCE_BYTES]);
        assert_eq!(wrapped.len(), WRAPPED_BYTES);
        let sealed = key.seal(Part::Content, OWNER, [2; NONCE_BYTES], b"x");
        let again = master.unwrap(&wrapped, OWNER).unwrap();
        assert_eq!(again.open(Part::Content, OWNER, &sealed).unwrap(), b"x");
        assert!(other.unwrap(&wrapped, OWNER).is_err());
        assert_ne!(master.fingerprint(), other.fingerprint());
        let elsewhere = Owner { sample_id: Uuid::from_u128(9), ..OWNER };
        assert!(master.unwrap(&wrapped, elsewhere).is_err());
    }

    #[test]
    fn a_webhooks_secret_opens_for_that_webhook_only() {
        let (master, id) = (MasterKey::new(&[3; KEY_BYTES]), Uuid::from_u128(1));
        let secret = WebhookSecret::new([7; KEY_BYTES]);
        let sealed = master.seal_secret(&secret, id, [1; NONCE_BYTES]);
        assert_eq!(sealed.len(), WRAPPED_BYTES);
        assert_eq!(master.open_secret(&sealed, id).unwrap().expose(), secret.expose());
        assert!(master.open_secret(&sealed, Uuid::from_u128(2)).is_err());
        assert!(MasterKey::new(&[4; KEY_BYTES]).open_secret(&sealed, id).is_err());
        assert!(master.unwrap(&sealed, Owner::webhook(id)).is_err(), "it is no data key");
    }

    #[test]
    fn an_encoding_opens_for_that_version_only() {
        let (master, model) = (MasterKey::new(&[3; KEY_BYTES]), Uuid::from_u128(1));
        let sealed = master.seal_encoding(b"yes, no", model, 7, [1; NONCE_BYTES]);
        assert_eq!(master.open_encoding(&sealed, model, 7).unwrap(), b"yes, no");
        assert!(master.open_encoding(&sealed, model, 8).is_err());
        assert!(master.open_encoding(&sealed, Uuid::from_u128(2), 7).is_err());
        assert!(MasterKey::new(&[4; KEY_BYTES]).open_encoding(&sealed, model, 7).is_err());
    }

    #[test]
    fn the_cipher_is_the_one_of_the_standard() {
        // McGrew and Viega, "The Galois/Counter Mode of Operation", test case 16: AES-256, 96-bit
        // nonce, 20 bytes of associated data.
        let bytes = |text: &str| hex::decode(text).unwrap();
        let key = bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let nonce = bytes("cafebabefacedbaddecaf888");
        let mut text = bytes(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let place = Aad::from(bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2"));
        let cipher = cipher(&key.try_into().unwrap());
        let nonce = Nonce::try_assume_unique_for_key(&nonce).unwrap();
        let tag = cipher.seal_in_place_separate_tag(nonce, place, &mut text).unwrap();
        assert_eq!(
            hex::encode(text),
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        );
        assert_eq!(hex::encode(tag.as_ref()), "76fc6ece0f4e1768cddf8853bb2d551b");
    }
}
