use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::{
    features::Cell,
    schema::{Column, ColumnKind},
};

fn table() -> InputSchema {
    InputSchema::Columns(vec![
        Column { name: "age".into(), kind: ColumnKind::Numeric },
        Column { name: "work".into(), kind: ColumnKind::Categorical },
    ])
}

fn image() -> InputSchema {
    InputSchema::Tensor(TensorSchema { shape: vec![1, 1, 2], scale: 16 })
}

fn row(age: f64, work: &str) -> Features {
    Features::Row(vec![Cell::Number(age), Cell::Text(work.into())])
}

fn sample(ordinal: i64, split: Split, features: Features, label: &str) -> StoredSample {
    StoredSample { id: Uuid::nil(), ordinal, split, features, label: label.into() }
}

fn people() -> Vec<StoredSample> {
    vec![
        sample(3, Split::Train, row(30.0, "b"), "no"),
        sample(4, Split::Holdout, row(1000.0, "c"), "maybe"),
        sample(7, Split::Train, row(50.0, "a"), "yes"),
    ]
}

#[test]
fn tables_are_standardised_and_one_hot_after_the_training_rows_only() {
    let encoder = Encoder::fit(&table(), &people()).unwrap();
    assert_eq!(encoder.input_shape(), [3]);
    let examples = encoder.encode(&people()).unwrap();
    assert_eq!(examples.shape, [3]);
    assert_eq!(examples.ordinals, [3, 4, 7]);
    // Mean 40, deviation 10; the hold-out row's category was not seen.
    let Values::Floats(values) = examples.values else { panic!("tables give floats") };
    assert_eq!(values, [-1.0, 0.0, 1.0, 96.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
}

#[test]
fn classes_are_those_of_all_samples_sorted() {
    let encoder = Encoder::fit(&table(), &people()).unwrap();
    assert_eq!(encoder.classes(), ["maybe", "no", "yes"]);
    assert_eq!(encoder.encode(&people()).unwrap().labels, [1, 0, 2]);
    let pixels = |label: &str| sample(0, Split::Train, Features::Pixels(vec![0, 16]), label);
    let labels = ["10", "x", "9", "-1", "10", "1.5"].map(pixels);
    let encoder = Encoder::fit(&image(), &labels).unwrap();
    assert_eq!(encoder.classes(), ["-1", "1.5", "9", "10", "x"]);
}

#[test]
fn a_label_that_is_no_class_is_refused() {
    let encoder = Encoder::fit(&table(), &people()).unwrap();
    let samples = [
        sample(0, Split::Train, row(1.0, "a"), "no"),
        sample(1, Split::Train, row(1.0, "a"), "never"),
    ];
    let error = encoder.encode(&samples).unwrap_err();
    assert_eq!(error, EncodingError::UnknownLabel { row: 1 });
}

#[test]
fn constant_columns_do_not_divide_by_zero() {
    // 0.1 summed three times is not three times 0.1.
    let samples = [0, 1, 2].map(|at| sample(at, Split::Train, row(0.1, "a"), "x"));
    let encoder = Encoder::fit(&table(), &samples).unwrap();
    let Values::Floats(values) = encoder.encode(&samples).unwrap().values else {
        panic!("tables give floats")
    };
    assert!(values[0].abs() < 1e-6 && values[1].to_bits() == 1_f32.to_bits(), "{values:?}");
}

/// What the encoder of these ages makes of them.
fn encoded_ages(ages: &[f64]) -> Vec<f32> {
    let samples: Vec<_> =
        ages.iter().map(|age| sample(0, Split::Train, row(*age, "a"), "x")).collect();
    let encoder = Encoder::fit(&table(), &samples).unwrap();
    let features: Vec<_> = samples.into_iter().map(|sample| sample.features).collect();
    encoder.encode_features(&features).unwrap().chunks(2).map(|row| row[0]).collect()
}

#[test]
fn columns_that_differ_by_rounding_alone_are_constant() {
    let near = [vec![0.1; 999], vec![0.100_000_000_000_000_03]].concat();
    // A nanosecond's time stamps, whose last digits a double does not hold.
    let stamps: Vec<f64> = (0..100).map(|at| 1.8e18 + 256.0 * f64::from(at % 2)).collect();
    for ages in [near, stamps, vec![1e18 + 12_345.0; 3], vec![1_000_000_007.0; 3]] {
        let encoded = encoded_ages(&ages);
        assert!(encoded.iter().all(|age| age.abs() < 1e-6), "{:?}", &encoded[..3]);
    }
}

#[test]
fn large_numbers_that_differ_little_are_standardised_like_small_ones() {
    let small: Vec<f64> = (0..100).map(f64::from).collect();
    let expected = encoded_ages(&small);
    for offset in [1e6, 1e9, -1e9, 1e12] {
        let large: Vec<f64> = small.iter().map(|age| age + offset).collect();
        for (found, expected) in encoded_ages(&large).into_iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-3, "{offset}: {found} {expected}");
        }
    }
}

#[test]
fn an_encoder_of_an_older_version_encodes_as_it_did() {
    let encoder = Encoder::fit(&table(), &people()).unwrap();
    let mut json = serde_json::to_value(&encoder).unwrap();
    let age = &mut json["input"]["columns"][0]["encoding"]["numeric"];
    assert!(age.as_object_mut().unwrap().remove("mean_rest").is_some());
    assert_eq!(serde_json::from_value::<Encoder>(json).unwrap(), encoder);
}

#[test]
fn pixels_stay_bytes_and_floats_are_divided_by_the_scale() {
    let pixels = sample(0, Split::Train, Features::Pixels(vec![4, 16]), "x");
    let floats = sample(1, Split::Train, Features::Floats(vec![-4.0, 8.0]), "x");
    let encoder = Encoder::fit(&image(), std::slice::from_ref(&pixels)).unwrap();
    assert_eq!(encoder.input_shape(), [1, 1, 2]);
    let examples = encoder.encode(std::slice::from_ref(&pixels)).unwrap();
    assert!(
        matches!(&examples.values, Values::Bytes { bytes, scale: 16.0 } if bytes == &[4, 16]),
        "{examples:?}"
    );
    assert_eq!(examples.gather(&[0]), [0.25, 1.0]);
    let mixed = encoder.encode(&[pixels.clone(), floats]).unwrap();
    assert_eq!(mixed.gather(&[0, 1]), [0.25, 1.0, -0.25, 0.5]);
    assert_eq!(encoder.encode_features(&[pixels.features]).unwrap(), [0.25, 1.0]);
}

#[test]
fn predictions_are_refused_by_row_and_column() {
    let encoder = Encoder::fit(&table(), &people()).unwrap();
    let refusal = |features: Features| {
        encoder.encode_features(&[row(1.0, "a"), features]).unwrap_err().to_string()
    };
    let short = Features::Row(vec![Cell::Number(1.0)]);
    assert_eq!(refusal(short), "row 1: expected 2 columns, found 1");
    assert_eq!(refusal(Features::Pixels(vec![1, 2])), "row 1: expected 2 columns, found a tensor");
    let text = Features::Row(vec![Cell::Text("39".into()), Cell::Text("a".into())]);
    assert_eq!(refusal(text), r#"row 1, column "age": expected a number, found text"#);
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = refusal(row(odd, "a"));
        assert_eq!(error, format!(r#"row 1, column "age": expected a finite number, found {odd}"#));
    }
    let error = refusal(row(1e300, "a"));
    assert!(error.starts_with(r#"row 1, column "age": the number lies too far"#), "{error}");

    let sample = sample(0, Split::Train, Features::Pixels(vec![0, 1]), "x");
    let encoder = Encoder::fit(&image(), &[sample]).unwrap();
    let refusal = |features| encoder.encode_features(&[features]).unwrap_err().to_string();
    let odd = Features::Floats(vec![0.0, f32::NAN]);
    assert_eq!(refusal(odd), r#"row 0, column "input[1]": expected a finite number, found NaN"#);
    let long = Features::Pixels(vec![1, 2, 3]);
    assert_eq!(refusal(long), "row 0: expected a tensor of shape [1, 1, 2], found 3 numbers");
    assert!(refusal(row(1.0, "a")).ends_with("found columns"));
}

#[test]
fn fitting_refuses_what_it_cannot_standardise() {
    let holdout = [sample(0, Split::Holdout, row(1.0, "a"), "x")];
    assert_eq!(Encoder::fit(&table(), &holdout), Err(EncodingError::NoTrainingSamples));
    let samples = [-1e300, 1e300].map(|age| sample(0, Split::Train, row(age, "a"), "x"));
    let spread = EncodingError::Spread { column: "age".into() };
    assert_eq!(Encoder::fit(&table(), &samples), Err(spread));
    let mut people = people();
    people[2].features = row(f64::NAN, "a");
    let error = Encoder::fit(&table(), &people).unwrap_err();
    assert!(matches!(error, EncodingError::NotFinite { row: 2, .. }), "{error}");
}

#[test]
fn unknown_keys_in_a_stored_encoder_are_refused() {
    let mut json = serde_json::to_value(Encoder::fit(&table(), &people()).unwrap()).unwrap();
    json["width"] = 3.into();
    assert!(serde_json::from_value::<Encoder>(json).is_err());
}

proptest! {
    /// Through text and through `Value`, as the ledger may keep it, without a bit's difference.
    #[test]
    fn an_encoder_from_json_gives_the_same_bits(
        ages in proptest::collection::vec(-1e30..1e30_f64, 1..20),
        exponent in -40..3_i32,
    ) {
        let scaled = |age: f64| age * 10_f64.powi(exponent);
        let samples: Vec<_> =
            ages.iter().map(|age| sample(0, Split::Train, row(scaled(*age), "a"), "x")).collect();
        let encoder = Encoder::fit(&table(), &samples).unwrap();
        let value = serde_json::to_value(&encoder).unwrap();
        let text = serde_json::to_string(&value).unwrap();
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        let again: Encoder = serde_json::from_value(back).unwrap();
        prop_assert_eq!(&again, &encoder);
        let bits = |encoder: &Encoder| {
            let features: Vec<_> = samples.iter().map(|sample| sample.features.clone()).collect();
            let encoded = encoder.encode_features(&features).unwrap();
            encoded.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        prop_assert_eq!(bits(&again), bits(&encoder));
    }
}

#[test]
#[ignore = "reads UCI Adult from the folder that FORGETD_TEST_DATA names"]
fn a_whole_table_is_encoded() {
    use crate::{
        dataset::csv::{Mapping, infer_schema, samples},
        domain::identity::ServiceKey,
    };
    let folder = std::env::var_os("FORGETD_TEST_DATA").expect("FORGETD_TEST_DATA");
    let file = |name| std::fs::File::open(std::path::Path::new(&folder).join(name)).unwrap();
    let mapping = Mapping {
        sample_id: None,
        subject_id: "person_id".into(),
        label: "income".into(),
        split: None,
        aliases: Vec::new(),
    };
    let schema = infer_schema(file("adult-train.csv"), &mapping).unwrap();
    let stored = |name, split| {
        let samples = samples(file(name), &schema, &mapping).unwrap();
        (0..).zip(samples).map(move |(ordinal, raw)| {
            let key = ServiceKey::new([7; 32]);
            let new = raw.unwrap().into_sample(Uuid::nil(), Uuid::nil(), &key, split);
            sample(ordinal, new.split, new.features, &new.label)
        })
    };
    let mut people: Vec<_> = stored("adult-train.csv", Split::Train).collect();
    let trained = people.len();
    people.extend(stored("adult-test.csv", Split::Holdout));
    let started = std::time::Instant::now();
    let encoder = Encoder::fit(&schema, &people).unwrap();
    let fitted = started.elapsed();
    let examples = encoder.encode(&people).unwrap();
    println!("{} rows fitted in {fitted:?}, encoded by {:?}", people.len(), started.elapsed());
    // 6 numeric columns and 102 categories.
    assert_eq!(encoder.input_shape(), [108]);
    assert_eq!(encoder.classes(), ["<=50K", ">50K"]);
    let Values::Floats(values) = &examples.values else { panic!("tables give floats") };
    let ages = values.chunks(108).take(trained).map(|row| f64::from(row[0]));
    let (sum, squares) =
        ages.fold((0.0, 0.0), |(sum, squares), age| (sum + age, squares + age * age));
    let count = trained as f64;
    assert!((sum / count).abs() < 1e-5 && (squares / count - 1.0).abs() < 1e-5);
}
