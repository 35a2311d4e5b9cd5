//! What strangers' bytes go through: each function reads them as one kind of input, and panics if
//! what it read contradicts itself. libFuzzer calls them (`targets/`), and so does `cargo test`,
//! with the seeds of `seeds/` and mutations of them.

use std::io::BufReader;

use forgetd::{
    audit::{
        certificate::{self, Trust},
        checkpoint::Checkpoint,
        note::{Note, Signer, VerifierKey},
        tile,
        tlog_proof::TlogProof,
    },
    dataset::{
        csv, ndjson, parquet,
        raw_sample::{RawSample, ReadError},
    },
    domain::{
        alias::AliasKind,
        features::Features,
        network::{Architecture, NetworkSpec},
        schema::{Column, ColumnKind, InputSchema, TensorSchema},
    },
    http::inference::request::{InferenceRequest, Rows},
    nn::parameters::Parameters,
};

pub type Target = fn(&[u8]);

/// Every target by its name, as its binary and its folder of seeds are called.
pub const TARGETS: [(&str, Target); 10] = [
    ("certificate", certificate),
    ("csv", csv),
    ("entries", entries),
    ("hashed_list", hashed_list),
    ("inference", inference),
    ("ndjson", ndjson),
    ("network", network),
    ("note", note),
    ("parquet", parquet),
    ("safetensors", safetensors),
];

fn table() -> InputSchema {
    let column = |name: &str, kind| Column { name: name.into(), kind };
    InputSchema::Columns(vec![
        column("age", ColumnKind::Numeric),
        column("work", ColumnKind::Categorical),
    ])
}

fn tensor(shape: &[usize]) -> InputSchema {
    InputSchema::Tensor(TensorSchema { shape: shape.to_vec(), scale: 1 })
}

fn schemas() -> [InputSchema; 3] {
    [table(), tensor(&[2]), tensor(&[1, 2, 2])]
}

/// By rights a few bytes can say a great many rows; who reads them decides how many he wants.
const NUMBERS_MAX: usize = 1 << 22;

/// Each sample has the schema's shape, and after an error comes nothing.
fn drain(samples: impl Iterator<Item = Result<RawSample, ReadError>>, schema: &InputSchema) {
    let mut samples = samples.fuse();
    let mut numbers = 0;
    for sample in samples.by_ref() {
        let Ok(sample) = sample else { break };
        let (found, expected) = match (&sample.features, schema) {
            (Features::Row(cells), InputSchema::Columns(columns)) => (cells.len(), columns.len()),
            (Features::Floats(floats), InputSchema::Tensor(tensor)) => {
                (floats.len(), tensor.shape.iter().product())
            }
            (Features::Pixels(bytes), InputSchema::Tensor(tensor)) => {
                (bytes.len(), tensor.shape.iter().product())
            }
            (features, _) => panic!("{features:?} is no sample of {schema:?}"),
        };
        assert_eq!(found, expected);
        numbers += found;
        if numbers > NUMBERS_MAX {
            return;
        }
    }
    assert!(samples.next().is_none(), "a reader goes on after its error");
}

pub fn csv(data: &[u8]) {
    let mapping = csv::Mapping {
        sample_id: Some("id".into()),
        subject_id: "person".into(),
        label: "label".into(),
        split: Some("split".into()),
        aliases: vec![(AliasKind::Phone, "person".into())],
    };
    if let Ok(schema) = csv::infer_schema(data, &mapping) {
        assert!(matches!(schema, InputSchema::Columns(_)));
    }
    for schema in schemas() {
        if let Ok(samples) = csv::samples(data, &schema, &mapping) {
            drain(samples, &schema);
        }
    }
}

pub fn hashed_list(data: &[u8]) {
    if let Ok(entries) = csv::hashed_list::entries(data) {
        let mut entries = entries.fuse();
        for entry in entries.by_ref() {
            let Ok(entry) = entry else { break };
            assert!((1..=256).contains(&entry.id.len()));
        }
        assert!(entries.next().is_none(), "a reader goes on after its error");
    }
}

pub fn ndjson(data: &[u8]) {
    for schema in schemas() {
        drain(ndjson::samples(BufReader::new(data), &schema), &schema);
    }
}

pub fn parquet(data: &[u8]) {
    let file = bytes::Bytes::copy_from_slice(data);
    let mapping = parquet::Mapping {
        sample_id: None,
        source: "file".into(),
        subject_id: None,
        label: "label".into(),
        split: None,
        aliases: Vec::new(),
    };
    let inferred = parquet::infer_schema(file.clone(), &mapping).ok();
    for schema in schemas().into_iter().chain(inferred) {
        if let Ok(samples) = parquet::samples(file.clone(), &schema, &mapping) {
            drain(samples, &schema);
        }
    }
}

/// The first two bytes say how long the JSON object is that binary tensors follow.
pub fn inference(data: &[u8]) {
    let Some((length, body)) = data.split_first_chunk() else { return };
    let length = usize::from(u16::from_le_bytes(*length)).min(body.len());
    let (json, binary) = body.split_at(length);
    for schema in schemas() {
        let Ok(request) = InferenceRequest::read(json, binary) else { return };
        let _ = request.outputs();
        match (request.into_rows(&schema), &schema) {
            (Ok(Rows::Tensor(numbers)), InputSchema::Tensor(tensor)) => {
                assert_eq!(numbers.len() % tensor.shape.iter().product::<usize>(), 0);
                assert!(numbers.iter().all(|number| number.is_finite()));
            }
            (Ok(Rows::Table(rows)), InputSchema::Columns(columns)) => {
                let fits =
                    |row: &Features| matches!(row, Features::Row(it) if it.len() == columns.len());
                assert!(rows.iter().all(fits));
            }
            (Ok(rows), _) => panic!("{rows:?} are none of {schema:?}"),
            (Err(_), _) => {}
        }
    }
}

pub fn network(data: &[u8]) {
    if let Ok(architecture) = serde_json::from_slice::<Architecture>(data) {
        for (input, classes) in [(&[4][..], 2), (&[3, 32, 32], 10)] {
            if let Ok(spec) = architecture.resolve(input, classes) {
                let shapes = spec.shapes().expect("what was resolved has shapes");
                assert_eq!(shapes.last(), Some(&vec![classes]));
            }
        }
    }
    if let Ok(spec) = serde_json::from_slice::<NetworkSpec>(data) {
        let again =
            serde_json::from_value(serde_json::json!(spec)).expect("what is written is read");
        assert_eq!(spec, again);
        if let Ok(shapes) = spec.shapes() {
            assert_eq!(shapes.len(), spec.layers.len() + 1);
        }
    }
}

pub fn safetensors(data: &[u8]) {
    let architecture = serde_json::json!({"preset": "mlp", "hidden": [3]});
    let architecture: Architecture = serde_json::from_value(architecture).expect("it is a preset");
    let spec = architecture.resolve(&[2], 2).expect("it fits");
    if let Ok(parameters) = Parameters::from_safetensors(&spec, data) {
        let again = Parameters::from_safetensors(&spec, &parameters.to_safetensors());
        assert_eq!(again.expect("what is written is read"), parameters);
    }
}

fn key() -> VerifierKey {
    Signer::new("log", &[7; 32]).expect("a name that may be one").verifier_key()
}

pub fn certificate(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let key = key();
    let trust = Trust { key: &key, witnesses: &[], older: None };
    for report in [certificate::verify(text, &trust), certificate::verify_tlog_proof(text, &trust)]
    {
        assert!(!report.holds(), "nobody has signed with that key");
    }
    if let Ok(proof) = TlogProof::parse(text) {
        let again = TlogProof::parse(&proof.to_string()).expect("what is written is read");
        assert_eq!(again.to_string(), proof.to_string());
    }
}

pub fn note(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let _ = text.parse::<VerifierKey>();
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert!(text.starts_with(&checkpoint.text()));
    }
    if let Ok(note) = Note::parse(text) {
        assert_eq!(note.to_string(), text);
        assert!(note.verify(&key()).is_err(), "nobody has signed with that key");
    }
}

/// The first byte says how many entries are expected.
pub fn entries(data: &[u8]) {
    let Some((width, bundle)) = data.split_first() else { return };
    let width = u16::from(*width) + 1;
    if let Ok(entries) = tile::decode_entries(bundle, width) {
        assert_eq!(entries.len(), usize::from(width));
        let again = tile::encode_entries(entries.iter().map(String::as_str));
        assert_eq!(again.expect("they were encoded before"), bundle);
    }
    for path in bundle.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok()) {
        if let Ok(tile) = tile::Tile::parse("0", path) {
            assert_eq!(tile.path(), path);
        }
    }
}
