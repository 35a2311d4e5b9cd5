//! A witness that cosigns the audit log, as C2SP tlog-witness has it.

use std::sync::{Arc, Mutex};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signer as _, SigningKey};
use forgetd::{
    audit::{
        checkpoint::Checkpoint,
        note::{KeyKind, Note, Signature, VerifierKey},
        tree::verify_consistency,
    },
    domain::identity::Digest,
};

use super::{
    Database, Service,
    certificate::{log_key, path_of, verify, write},
    eventually, people,
};

const NAME: &str = "witness.test/w1";
const TIME_S: u64 = 1_790_000_000;

/// What a witness remembers of the one log that it knows.
struct Witness {
    key: SigningKey,
    log: VerifierKey,
    known: Mutex<Option<Checkpoint>>,
}

impl Witness {
    fn verifier_key(&self) -> VerifierKey {
        VerifierKey::new(NAME, KeyKind::Witness, self.key.verifying_key().as_bytes()).unwrap()
    }

    fn cosign(&self, text: &str) -> String {
        let message = format!("cosignature/v1\ntime {TIME_S}\n{text}");
        let signature = self.key.sign(message.as_bytes()).to_bytes();
        let bytes = [TIME_S.to_be_bytes().as_slice(), &signature].concat();
        let key_id = self.verifier_key().id();
        format!("{}\n", Signature { name: NAME.into(), key_id, bytes })
    }
}

/// The specification's checks, in its order.
async fn add_checkpoint(State(witness): State<Arc<Witness>>, body: String) -> impl IntoResponse {
    let (head, note) = body.split_once("\n\n").unwrap();
    let mut lines = head.lines();
    let old: u64 = lines.next().unwrap().strip_prefix("old ").unwrap().parse().unwrap();
    let proof: Vec<_> = lines
        .map(|line| {
            let hash = BASE64_STANDARD.decode(line).unwrap();
            Digest::from_bytes(hash.try_into().unwrap())
        })
        .collect();
    let note = Note::parse(note).unwrap();
    let plain = [("content-type", "text/plain")];
    let Ok(checkpoint) = Checkpoint::open(&note, &witness.log) else {
        return (StatusCode::FORBIDDEN, plain, String::new());
    };
    let mut known = witness.known.lock().unwrap();
    let (size, root) =
        known.as_ref().map_or((0, Digest::of(b"")), |known| (known.size, known.root));
    if old != size {
        let kind = [("content-type", "text/x.tlog.size")];
        return (StatusCode::CONFLICT, kind, format!("{size}\n"));
    }
    let proven = verify_consistency(old, checkpoint.size, &root, &checkpoint.root, &proof);
    if proven.is_err() {
        return (StatusCode::UNPROCESSABLE_ENTITY, plain, String::new());
    }
    *known = Some(checkpoint);
    (StatusCode::OK, plain, witness.cosign(&note.text))
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_cosigned_and_certificates_carry_it() {
    for database in Database::ALL {
        let mut service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let id = people::forget(&service, &["person-1"]).await;
        service.request_becomes(&id, "completed").await;

        let key = log_key(&service).await;
        let witness = Arc::new(Witness {
            key: SigningKey::from_bytes(&[8; 32]),
            log: key.parse().unwrap(),
            known: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/w/add-checkpoint", post(add_checkpoint))
            .with_state(witness.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });

        // The configuration names the witness from the next start on.
        let witness_key = witness.verifier_key().to_string();
        let configured = format!("[{{url=\"http://{address}/w/\",key=\"{witness_key}\"}}]");
        service.set_variable("FORGETD_AUDIT__WITNESSES", &configured);
        service.terminate();
        assert!(service.ended().await.success());
        service.restart().await;
        let cosigned = eventually(
            "the checkpoint is cosigned",
            async || service.text("/audit/checkpoint", "*/*").await,
            |note| note.contains(NAME),
        )
        .await;
        let note = Note::parse(&cosigned).unwrap();
        assert!(note.verify(&witness.verifier_key()).unwrap().is_some());

        // It grows, and the witness follows from where it stood.
        let size = witness.known.lock().unwrap().as_ref().unwrap().size;
        people::forget(&service, &["nobody"]).await;
        eventually(
            "the next checkpoint is cosigned",
            async || {
                service.text("/audit/checkpoint", "*/*").await;
                witness.known.lock().unwrap().as_ref().unwrap().size
            },
            |known| *known > size,
        )
        .await;

        let certificate = service.get(&path_of(&id)).await.body;
        let file = write(&service, "certificate.json", &certificate.to_string());
        let file = file.to_str().unwrap();
        let verdict = verify(&[file, "--key", &key, "--witness", &witness_key]);
        assert!(verdict.holds && verdict.output.contains("cosigned at"), "{}", verdict.output);
        serving.abort();
    }
}
