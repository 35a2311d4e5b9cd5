use super::*;

const LINE: &str = r#"{"sample_id": "s-1", "subject_id": "p-1", "split": "train", "label": "x", "features": {"age": 39, "work": "Private"}}"#;

fn table() -> InputSchema {
    InputSchema::Columns(vec![
        Column { name: "work".into(), kind: ColumnKind::Categorical },
        Column { name: "age".into(), kind: ColumnKind::Numeric },
    ])
}

fn image() -> InputSchema {
    InputSchema::Tensor(TensorSchema { shape: vec![1, 2, 2], scale: 255 })
}

fn read(text: &[u8], schema: &InputSchema) -> Result<Vec<RawSample>, ReadError> {
    samples(text, schema).collect()
}

fn refusal(text: &str) -> String {
    read(text.as_bytes(), &table()).unwrap_err().to_string()
}

fn tensor_of(features: &str) -> Result<Features, ReadError> {
    let line = format!(r#"{{"subject_id": "p", "label": 7, "features": {features}}}"#);
    read(line.as_bytes(), &image()).map(|samples| samples[0].features.clone())
}

#[test]
fn lines_become_samples() {
    let text = format!(
        "{LINE}\n\n{}",
        r#"{"subject_id":"p-2","label":3,"features":{"age":-1.5,"work":7}}"#
    );
    let samples = read(text.as_bytes(), &table()).unwrap();
    let expected = RawSample {
        sample_id: "s-1".into(),
        subject_id: "p-1".into(),
        split: Some(Split::Train),
        aliases: Vec::new(),
        features: Features::Row(vec![Cell::Text("Private".into()), Cell::Number(39.0)]),
        label: "x".into(),
    };
    assert_eq!(samples[0], expected);
    let cells = vec![Cell::Text("7".into()), Cell::Number(-1.5)];
    let expected = RawSample {
        sample_id: "p-2".into(),
        subject_id: "p-2".into(),
        split: None,
        aliases: Vec::new(),
        features: Features::Row(cells),
        label: "3".into(),
    };
    assert_eq!(samples[1..], [expected]);
}

#[test]
fn tensors_are_flat_or_nested_as_their_shape_is() {
    let pixels = Features::Pixels(vec![1, 2, 3, 4]);
    assert_eq!(tensor_of("[1, 2, 3, 4]").unwrap(), pixels);
    assert_eq!(tensor_of("[[[1, 2], [3, 4]]]").unwrap(), pixels);
    let floats = Features::Floats(vec![1.0, 2.0, 3.0, 0.5]);
    assert_eq!(tensor_of("[1, 2, 3, 0.5]").unwrap(), floats);
    for odd in ["[1, 2, 3]", "[[1, 2], [3, 4]]", "[[[1, 2], [3]]]", "[1, 2, 3, [4]]", "{}"] {
        let error = tensor_of(odd).unwrap_err().to_string();
        assert!(error.starts_with(r#"line 1, column "features""#), "{odd}: {error}");
    }
    let error = tensor_of("[1, 2, 3, null]").unwrap_err().to_string();
    assert!(error.contains("null as number 3"), "{error}");
}

#[test]
fn numbers_that_are_not_finite_are_named_so() {
    for odd in ["NaN", "Infinity", "-Infinity"] {
        let error = refusal(&format!("{LINE}\n{}", LINE.replace("39", odd)));
        assert!(error.starts_with("line 2: "), "{error}");
        assert!(error.contains(odd) && error.contains("not a finite number"), "{error}");
        let error = refusal(&LINE.replace("39", &format!("{odd:?}")));
        assert!(error.starts_with(r#"line 1, column "age""#), "{error}");
        assert!(error.ends_with("what is not finite"), "{error}");
    }
    let error = refusal(&LINE.replace("39", "1e999"));
    assert!(error.contains("number out of range"), "{error}");
    let error = refusal(&LINE.replace("39", "-1e39"));
    assert!(error.ends_with("found one that is not finite in single precision"), "{error}");
    let error = tensor_of("[1, 2, 3, 1e39]").unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}

#[test]
fn what_is_missing_or_unknown_or_twice_is_named() {
    let cases = [
        (LINE.replace(r#""age": 39, "#, ""), r#"column "age": expected a value"#),
        (
            LINE.replace("39", "\"39\""),
            r#"column "age": expected a number, found text of 2 characters"#,
        ),
        (LINE.replace("39", "null"), "found null"),
        (LINE.replace("{\"age\"", "{\"sex\": 1, \"age\""), r#"column "sex": expected no such"#),
        (LINE.replace("{\"age\"", "{\"age\": 1, \"age\""), "\"age\" is there twice"),
        (LINE.replace("{\"age\": 39, \"work\": \"Private\"}", "[39]"), "an object"),
        (LINE.replace("\"subject_id\": \"p-1\", ", ""), "missing field `subject_id`"),
        (
            LINE.replace("\"split\"", "\"when\""),
            "unknown field, expected one of `sample_id`, `subject_id`",
        ),
        (LINE.replace("\"train\"", "\"test\""), "unknown variant, expected `train` or `holdout`"),
        (LINE.replace("\"p-1\"", "\"\""), r#"column "subject_id""#),
        (LINE.replace("\"x\"", "true"), r#"column "label""#),
    ];
    for (line, expected) in cases {
        let error = refusal(&format!("{LINE}\n{line}"));
        assert!(error.starts_with("line 2") && error.contains(expected), "{error}");
    }
}

#[test]
fn what_a_value_says_is_not_repeated() {
    let alice = r#""alice@example.org""#;
    for (line, expected) in [
        (
            LINE.replace("39", alice),
            "column \"age\": expected a number, found text of 17 characters",
        ),
        (LINE.replace(r#""Private""#, &format!("[{alice}]")), "found an array of 1"),
        (LINE.replace(r#""p-1""#, &format!("{{{alice}: 1}}")), "invalid type: map, expected"),
        (LINE.replace(r#""train""#, alice), "unknown variant, expected `train` or `holdout`"),
        (LINE.replace(r#""subject_id""#, alice), "unknown field, expected one of"),
        (
            LINE.replace(r#"{"age": 39, "work": "Private"}"#, alice),
            "invalid type: string, expected",
        ),
    ] {
        let error = refusal(&line);
        assert!(error.contains(expected) && !error.contains("alice"), "{error}");
    }
    let error = tensor_of(&format!("[1, 2, 3, {alice}]")).unwrap_err().to_string();
    assert!(error.ends_with("found text of 17 characters as number 3"), "{error}");
}

#[test]
fn a_broken_line_is_named_and_ends_the_reading() {
    let text = format!("{LINE}\n{}\n{LINE}", &LINE[..40]);
    let mut samples = samples(text.as_bytes(), &table());
    assert!(samples.next().unwrap().is_ok());
    let error = samples.next().unwrap().unwrap_err().to_string();
    assert!(error.starts_with("line 2: EOF while parsing"), "{error}");
    assert!(samples.next().is_none());
}

#[test]
fn empty_files_are_refused() {
    for text in ["", "\n \n"] {
        assert!(matches!(read(text.as_bytes(), &table()), Err(ReadError::Empty)), "{text:?}");
    }
}

#[test]
fn invalid_utf_8_and_endless_lines_are_named() {
    let text = [LINE.as_bytes(), b"\n{\"\xff\"}"].concat();
    let error = read(&text, &table()).unwrap_err().to_string();
    assert_eq!(error, "line 2: the text is not UTF-8");
    let endless = LINE.as_bytes().chain(std::io::BufReader::new(std::io::repeat(b' ')));
    let error = samples(endless, &table()).next().unwrap().unwrap_err().to_string();
    assert!(error.starts_with("line 1: the line is longer than"), "{error}");
}

#[test]
fn aliases_come_as_hashes() {
    let line = r#"{"subject_id":"p-2","label":3,"features":{"age":-1.5,"work":7},"aliases":"#;
    let with = |aliases: &str| format!("{line}{aliases}}}");
    let text = with(r#"{"email": "Anna.Smith@Domain.com", "phone": null}"#);
    let samples = read(text.as_bytes(), &table()).unwrap();
    let email = AliasKind::Email.digest("anna.smith@domain.com").unwrap();
    assert_eq!(samples[0].aliases, [(AliasKind::Email, email)]);
    let error = refusal(&with(r#"{"email": "anna"}"#));
    assert!(error.contains("email") && !error.contains("anna"), "{error}");
    let error = refusal(&with(r#"{"twitter": "anna"}"#));
    assert!(error.contains("unknown variant, expected one of `email`"), "{error}");
}
