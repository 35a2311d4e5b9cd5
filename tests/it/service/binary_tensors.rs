//! The Open Inference Protocol's extension for binary tensors.

use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::{
    Database, Service, field,
    people::{self, MODEL},
    process::{Answer, answer},
};

const JSON_LENGTH: &str = "inference-header-content-length";

/// The person of this number as binary columns.
fn columns(number: u32) -> (Value, Vec<u8>) {
    let row = people::row(number);
    let number = |name: &str| row[name].as_f64().unwrap().to_le_bytes();
    let work = row["work"].as_str().unwrap();
    let length = u32::try_from(work.len()).unwrap().to_le_bytes();
    let binary = [&number("age")[..], &number("hours"), &length, work.as_bytes()].concat();
    let column = |name: &str, datatype: &str, size: usize| {
        json!({"name": name, "shape": [1], "datatype": datatype,
               "parameters": {"binary_data_size": size}})
    };
    let inputs = json!([
        column("age", "FP64", 8),
        column("hours", "FP64", 8),
        column("work", "BYTES", 4 + work.len()),
    ]);
    (inputs, binary)
}

async fn infer(service: &Service, json: &Value, binary: &[u8], length: Option<&str>) -> Answer {
    let json = json.to_string();
    let mut request = service
        .request(Method::POST, &format!("/v2/models/{MODEL}/infer"))
        .header(CONTENT_TYPE, "application/octet-stream");
    let json_length = json.len().to_string();
    if let Some(length) = length {
        request = request.header(JSON_LENGTH, if length == "true" { &json_length } else { length });
    }
    answer(request.body([json.as_bytes(), binary].concat())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_tensors_go_in_and_come_out() {
    let service = Service::start(Database::Sqlite).await;
    people::trained(&service, &people::unsettled()).await;
    let metadata = service.get("/v2").await;
    assert_eq!(field(&metadata.body, "/extensions/0"), "binary_tensor_data");

    for number in [0, 1, 2] {
        let expected = people::predict(&service, number).await.body;
        let (inputs, binary) = columns(number);
        let found = infer(&service, &json!({ "inputs": inputs }), &binary, Some("true")).await;
        assert_eq!(found.status, StatusCode::OK, "{found:#?}");
        assert_eq!(found.body, expected, "both forms of one row have one answer");
    }

    let mut request = people::prediction(0);
    let expected = service.post(&format!("/v2/models/{MODEL}/infer"), &request).await.body;
    request["id"] = json!("7");
    request["parameters"] = json!({"binary_data_output": true});
    let sent = service
        .request(Method::POST, &format!("/v2/models/{MODEL}/infer"))
        .json(&request)
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), StatusCode::OK);
    assert_eq!(sent.headers()[CONTENT_TYPE], "application/octet-stream");
    assert_eq!(sent.headers()["forgetd-epoch"], "1");
    let length: usize = sent.headers()[JSON_LENGTH].to_str().unwrap().parse().unwrap();
    let body = sent.bytes().await.unwrap();
    let (json, bytes) = body.split_at(length);
    let json: Value = serde_json::from_slice(json).unwrap();
    assert_eq!(json["id"], "7");
    assert_eq!(field(&json, "/outputs/0/shape"), field(&expected, "/outputs/0/shape"));
    assert_eq!(json.pointer("/outputs/0/data"), None);
    assert_eq!(field(&json, "/outputs/0/parameters/binary_data_size"), 8);
    let (quads, label) = bytes.split_at(8);
    let found: Vec<f64> = quads
        .chunks_exact(4)
        .map(|quad| f64::from(f32::from_le_bytes(quad.try_into().unwrap())))
        .collect();
    let probabilities = field(&expected, "/outputs/0/data").as_array().unwrap();
    for (found, expected) in found.iter().zip(probabilities) {
        assert!((found - expected.as_f64().unwrap()).abs() < 1e-6, "{found} {expected}");
    }
    let expected = field(&expected, "/outputs/1/data/0").as_str().unwrap();
    assert_eq!(field(&json, "/outputs/1/parameters/binary_data_size"), 4 + expected.len());
    let length = u32::try_from(expected.len()).unwrap().to_le_bytes();
    assert_eq!(label, [&length[..], expected.as_bytes()].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_binary_tensors_are_refused_with_the_reason() {
    let service = Service::start(Database::Sqlite).await;
    people::trained(&service, &people::unsettled()).await;
    let (inputs, binary) = columns(0);
    let whole = json!({ "inputs": inputs });
    let refused = async |json: &Value, binary: &[u8], length: Option<&str>, word: &str| {
        let refused = infer(&service, json, binary, length).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:#?}");
        let reason = field(&refused.body, "/error").as_str().unwrap();
        assert!(reason.contains(word), "{reason}");
    };
    refused(&whole, &binary[..binary.len() - 1], Some("true"), "are left").await;
    refused(&whole, &[&binary[..], &[0]].concat(), Some("true"), "1 are no input's").await;
    refused(&whole, &binary, Some("1000000"), "length of the JSON object").await;
    refused(&whole, &binary, Some("-1"), "length of the JSON object").await;
    refused(&whole, &binary, Some("5"), "EOF").await;
    let mut nan = binary.clone();
    nan[..8].copy_from_slice(&f64::NAN.to_le_bytes());
    refused(&whole, &nan, Some("true"), "finite").await;
    let mut no_text = binary.clone();
    *no_text.last_mut().unwrap() = 0xff;
    refused(&whole, &no_text, Some("true"), "UTF-8").await;
    let mut odd = whole.clone();
    odd["inputs"][0]["datatype"] = json!("FP16");
    odd["inputs"][0]["parameters"]["binary_data_size"] = json!(7);
    odd["inputs"][1]["parameters"]["binary_data_size"] = json!(9);
    refused(&odd, &binary, Some("true"), "no whole number of values").await;

    let unannounced = infer(&service, &whole, &binary, None).await;
    assert_eq!(unannounced.status, StatusCode::BAD_REQUEST, "{unannounced:#?}");
    assert_eq!(people::predict(&service, 0).await.status, StatusCode::OK);
}
