use serde_json::json;

use super::*;

fn request(inputs: serde_json::Value) -> InferenceRequest {
    serde_json::from_value(json!({ "inputs": inputs })).unwrap()
}

fn tensor(shape: serde_json::Value, data: serde_json::Value) -> Result<Rows, String> {
    let schema = InputSchema::Tensor(TensorSchema { shape: vec![1, 2, 2], scale: 1 });
    let input = json!({"name": "input", "shape": shape, "datatype": "FP32", "data": data});
    request(json!([input])).into_rows(&schema)
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
    let expected = Ok(Rows::Tensor(vec![1.0, 2.0, 3.0, 4.0]));
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
        request(json!([input])).into_rows(&schema).is_ok()
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
    let rows = request(inputs).into_rows(&columns()).unwrap();
    let row = |age, work: &str| Features::Row(vec![Cell::Number(age), Cell::Text(work.into())]);
    assert_eq!(rows, Rows::Table(vec![row(39.0, "Private"), row(50.0, "?")]));
}

#[test]
fn columns_that_do_not_fit_are_refused_with_their_name() {
    let refused = |inputs, word: &str| {
        let reason = request(inputs).into_rows(&columns()).unwrap_err();
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
    let both = Ok(Outputs { probabilities: Some(Form::Json), label: Some(Form::Json) });
    assert_eq!(outputs(None), both);
    assert_eq!(outputs(Some(&[])), both);
    let label = Ok(Outputs { probabilities: None, label: Some(Form::Json) });
    assert_eq!(outputs(Some(&["label"])), label);
    assert!(outputs(Some(&["label", "label"])).is_err());
    assert!(outputs(Some(&["logits"])).unwrap_err().contains("logits"));
}

#[test]
fn an_output_says_itself_whether_it_is_binary_or_the_request_does() {
    let request: InferenceRequest = serde_json::from_value(json!({
        "inputs": [],
        "parameters": {"binary_data_output": true, "priority": 3},
        "outputs": [{"name": "label", "parameters": {"binary_data": false}},
                    {"name": "probabilities", "parameters": {}}],
    }))
    .unwrap();
    let expected = Outputs { probabilities: Some(Form::Binary), label: Some(Form::Json) };
    assert_eq!(request.outputs(), Ok(expected));
}

/// One binary input over numbers, or over texts.
fn binary(datatype: &str, shape: serde_json::Value, bytes: &[u8]) -> Result<Rows, String> {
    let name = if datatype == "BYTES" { "work" } else { INPUT };
    let schema = match datatype {
        "BYTES" => {
            InputSchema::Columns(vec![Column { name: name.into(), kind: ColumnKind::Categorical }])
        }
        _ => InputSchema::Tensor(TensorSchema { shape: vec![2], scale: 1 }),
    };
    let json = json!({"inputs": [{
        "name": name, "shape": shape, "datatype": datatype,
        "parameters": {"binary_data_size": bytes.len()},
    }]});
    InferenceRequest::read(json.to_string().as_bytes(), bytes)?.into_rows(&schema)
}

#[test]
fn every_datatype_can_be_binary() {
    let expected = |numbers: [f32; 2]| Ok(Rows::Tensor(numbers.to_vec()));
    let shape = || json!([1, 2]);
    assert_eq!(binary("BOOL", shape(), &[1, 0]), expected([1.0, 0.0]));
    assert_eq!(binary("UINT8", shape(), &[255, 0]), expected([255.0, 0.0]));
    assert_eq!(binary("INT8", shape(), &[255, 1]), expected([-1.0, 1.0]));
    assert_eq!(binary("UINT16", shape(), &[0, 1, 2, 0]), expected([256.0, 2.0]));
    assert_eq!(binary("INT16", shape(), &[254, 255, 2, 0]), expected([-2.0, 2.0]));
    // 1.0 and -2.0 in half precision.
    assert_eq!(binary("FP16", shape(), &[0, 0x3c, 0, 0xc0]), expected([1.0, -2.0]));
    let bytes = |low: [u8; 4], high: [u8; 4]| [low, high].concat();
    let of = |(a, b): (u32, u32)| bytes(a.to_le_bytes(), b.to_le_bytes());
    assert_eq!(binary("UINT32", shape(), &of((7, 65_536))), expected([7.0, 65_536.0]));
    assert_eq!(binary("INT32", shape(), &of((7, u32::MAX))), expected([7.0, -1.0]));
    let singles = bytes(0.5_f32.to_le_bytes(), (-1.5_f32).to_le_bytes());
    assert_eq!(binary("FP32", shape(), &singles), expected([0.5, -1.5]));
    let wide = [0.5_f64.to_le_bytes(), 3.0_f64.to_le_bytes()].concat();
    assert_eq!(binary("FP64", shape(), &wide), expected([0.5, 3.0]));
    let wide = [9_u64.to_le_bytes(), 3_u64.to_le_bytes()].concat();
    assert_eq!(binary("UINT64", shape(), &wide), expected([9.0, 3.0]));
    let wide = [(-9_i64).to_le_bytes(), 3_i64.to_le_bytes()].concat();
    assert_eq!(binary("INT64", shape(), &wide), expected([-9.0, 3.0]));
    let text = |text: &str| Features::Row(vec![Cell::Text(text.into())]);
    let rows = Ok(Rows::Table(vec![text("a\u{e9}"), text("")]));
    assert_eq!(binary("BYTES", json!([2]), b"\x03\0\0\0a\xc3\xa9\0\0\0\0"), rows);
}

#[test]
fn bytes_that_are_not_what_the_inputs_say_are_refused() {
    let refused = |datatype: &str, shape, bytes: &[u8], word: &str| {
        let reason = binary(datatype, shape, bytes).unwrap_err();
        assert!(reason.contains(word), "{reason}");
    };
    refused("FP32", json!([1, 2]), &[0; 7], "no whole number of values of 4 bytes");
    refused("FP32", json!([1, 2]), &[0; 4], "needs 2 values, but has 1");
    refused("FP32", json!([1, 2]), &[0xff; 8], "finite");
    refused("FP16", json!([1, 2]), &[0, 0x7c, 0, 0], "no finite number");
    refused("BOOL", json!([1, 2]), &[2, 0], "no finite number");
    refused("FP64", json!([1, 2]), &f64::MAX.to_le_bytes().repeat(2), "single precision");
    refused("BYTES", json!([1]), b"\x05\0\0\0abc", "end within a text");
    refused("BYTES", json!([1]), b"\x05\0", "end within a text");
    refused("BYTES", json!([1]), b"\x01\0\0\0\xff", "UTF-8");
    let read = |input: serde_json::Value, bytes: &[u8], word: &str| {
        let json = json!({"inputs": [input]}).to_string();
        let reason = InferenceRequest::read(json.as_bytes(), bytes).unwrap_err();
        assert!(reason.contains(word), "{reason}");
    };
    let input = |more: serde_json::Value| {
        let mut input = json!({"name": "input", "shape": [1, 1], "datatype": "UINT8"});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        input
    };
    let sized = |size: u64| json!({"parameters": {"binary_data_size": size}});
    read(input(sized(2)), &[0], "only 1 are left");
    read(input(sized(u64::MAX)), &[0], "only 1 are left");
    read(input(sized(1)), &[0, 0], "1 are no input's");
    read(input(json!({})), &[], "no `data`");
    read(input(json!({"data": null})), &[], "no `data`");
    read(input(json!({"data": [1], "parameters": {"binary_data_size": 1}})), &[0], "both");
    read(input(json!({"data": [1]})), &[0], "1 are no input's");
    read(input(json!({"data": [1], "parameters": {"binary_data_size": "1"}})), &[], "u64");
    read(input(json!({"data": [1], "parameters": [1]})), &[], "sequence");
}
