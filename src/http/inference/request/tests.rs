use serde_json::json;

use super::*;

fn request(inputs: serde_json::Value) -> InferenceRequest {
    serde_json::from_value(json!({ "inputs": inputs })).unwrap()
}

fn tensor(shape: serde_json::Value, data: serde_json::Value) -> Result<Vec<Features>, String> {
    let schema = InputSchema::Tensor(TensorSchema { shape: vec![1, 2, 2], scale: 1 });
    let input = json!({"name": "input", "shape": shape, "datatype": "FP32", "data": data});
    request(json!([input])).rows(&schema)
}

fn columns() -> InputSchema {
    InputSchema::Columns(vec![
        Column { name: "age".into(), kind: ColumnKind::Numeric },
        Column { name: "work".into(), kind: ColumnKind::Categorical },
    ])
}

fn age(shape: serde_json::Value, data: serde_json::Value) -> serde_json::Value {
    json!({"name": "age", "shape": shape, "datatype": "INT64", "data": data})
}

fn work(data: serde_json::Value) -> serde_json::Value {
    let rows = data.as_array().unwrap().len();
    json!({"name": "work", "shape": [rows, 1], "datatype": "BYTES", "data": data})
}

#[test]
fn tensors_come_flat_or_in_their_shape() {
    let expected = Ok(vec![Features::Floats(vec![1.0, 2.0, 3.0, 4.0])]);
    assert_eq!(tensor(json!([1, 4]), json!([1, 2, 3, 4])), expected);
    assert_eq!(tensor(json!([1, 1, 2, 2]), json!([[[[1, 2], [3, 4]]]])), expected);
}

#[test]
fn tensors_that_do_not_fit_are_refused_with_the_reason() {
    let refused = |shape, data, word: &str| {
        let reason = tensor(shape, data).unwrap_err();
        assert!(reason.contains(word), "{reason}");
    };
    refused(json!([1, 5]), json!([1, 2, 3, 4, 5]), "[rows, 1, 2, 2] or [rows, 4]");
    refused(json!([]), json!([]), "[rows, 4]");
    refused(json!([0, 4]), json!([]), "0 rows");
    refused(json!([1025, 4]), json!([]), "1 to 1024");
    refused(json!([u64::MAX, 4]), json!([]), "1 to 1024");
    refused(json!([2, 4]), json!([1, 2, 3, 4]), "needs 8 values, but has 4");
    refused(json!([1, 4]), json!([1, 2, 3, 1e39]), "finite");
    refused(json!([1, 4]), json!(["a", "b", "c", "d"]), "takes numbers");
}

#[test]
fn the_datatype_must_be_true() {
    let schema = InputSchema::Tensor(TensorSchema { shape: vec![1], scale: 1 });
    let rows = |datatype: &str, number: f64| {
        let input =
            json!({"name": "input", "shape": [1, 1], "datatype": datatype, "data": [number]});
        request(json!([input])).rows(&schema).is_ok()
    };
    assert!(rows("UINT8", 255.0) && rows("INT8", -128.0) && rows("FP64", 0.5));
    assert!(!rows("UINT8", 256.0) && !rows("UINT8", 0.5) && !rows("INT8", -129.0));
    assert!(!rows("BYTES", 1.0) && !rows("FP16", 65_505.0) && !rows("FP64", 1e39));
    let unknown = json!({"inputs": [
        {"name": "input", "shape": [1], "datatype": "FP8", "data": [1]}
    ]});
    assert!(serde_json::from_value::<InferenceRequest>(unknown).is_err());
}

#[test]
fn columns_come_in_any_order() {
    let inputs = json!([work(json!(["Private", "?"])), age(json!([2]), json!([39, 50]))]);
    let rows = request(inputs).rows(&columns()).unwrap();
    let row = |age, work: &str| Features::Row(vec![Cell::Number(age), Cell::Text(work.into())]);
    assert_eq!(rows, [row(39.0, "Private"), row(50.0, "?")]);
}

#[test]
fn columns_that_do_not_fit_are_refused_with_their_name() {
    let refused = |inputs, word: &str| {
        let reason = request(inputs).rows(&columns()).unwrap_err();
        assert!(reason.contains(word), "{reason}");
    };
    let one = || age(json!([1]), json!([1]));
    refused(json!([one()]), r#""work" is missing"#);
    refused(json!([one(), one()]), "twice");
    let mut extra = work(json!(["a"]));
    extra["name"] = "salary".into();
    refused(json!([one(), work(json!(["a"])), extra]), r#"no input "salary""#);
    refused(json!([one(), work(json!(["a", "b"]))]), "has 2 rows");
    refused(json!([age(json!([1, 2]), json!([1, 2])), work(json!(["a"]))]), "[rows, 1]");
    let mut number = one();
    number["name"] = "work".into();
    refused(json!([one(), number]), "takes strings");
}

#[test]
fn all_outputs_are_sent_unless_some_are_asked_for() {
    let outputs = |names: Option<&[&str]>| {
        let outputs =
            names.map(|names| names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>());
        serde_json::from_value::<InferenceRequest>(json!({"inputs": [], "outputs": outputs}))
            .map_err(|error| error.to_string())
            .and_then(|request| request.outputs())
    };
    let both = Ok(Outputs { probabilities: true, label: true });
    assert_eq!(outputs(None), both);
    assert_eq!(outputs(Some(&[])), both);
    let label = Ok(Outputs { probabilities: false, label: true });
    assert_eq!(outputs(Some(&["label"])), label);
    assert!(outputs(Some(&["label", "label"])).is_err());
    assert!(outputs(Some(&["logits"])).unwrap_err().contains("logits"));
}
