//! The API's description at the root is the one that the code makes.

use std::path::Path;

#[test]
fn openapi_yaml_is_up_to_date() {
    let made = forgetd::http::openapi().to_yaml().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.yaml");
    let kept = std::fs::read_to_string(path).unwrap();
    assert!(made == kept, "openapi.yaml is stale: run `cargo run -- openapi > openapi.yaml`");
}

/// What addresses have in them: ids of ours, names of models, and which column of a file is what. Whom a
/// request is about stands in its body, since addresses are logged on the way.
const IN_ADDRESSES: [&str; 26] = [
    "about",
    "agent_id",
    "ctvid",
    "cursor",
    "email",
    "epoch",
    "id",
    "kind",
    "label",
    "level",
    "limit",
    "list",
    "maid",
    "message_id",
    "model",
    "name_vin",
    "ndz",
    "phone",
    "received_from",
    "received_until",
    "sample_id",
    "since",
    "split",
    "state",
    "subject",
    "tile",
];

#[test]
fn no_address_names_a_person_and_no_route_gives_weights_away() {
    let api = serde_json::to_value(forgetd::http::openapi()).unwrap();
    let mut named = 0;
    for (path, operations) in api["paths"].as_object().unwrap() {
        for word in ["weight", "delta", "blob", "gradient"] {
            assert!(!path.contains(word), "{path}");
        }
        for (method, operation) in operations.as_object().unwrap() {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                if parameter["in"] == "path" || parameter["in"] == "query" {
                    assert!(IN_ADDRESSES.contains(&name), "{name} of {method} {path}");
                    named += 1;
                }
            }
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let kinds = answer["content"].as_object().into_iter().flatten();
                let bytes = kinds.filter(|(kind, _)| *kind == "application/octet-stream");
                let is_tile = path.starts_with("/audit/tile/") || path.ends_with("/infer");
                assert!(is_tile || bytes.count() == 0, "{status} of {method} {path}");
            }
        }
    }
    assert!(named > 40, "only {named} parameters found");
    let of_samples = &api["paths"]["/v1/models/{model}/samples"]["post"]["parameters"];
    let of_samples = of_samples.as_array().unwrap();
    for name in ["ctvid", "email", "maid", "name_vin", "ndz", "phone", "sample_id", "subject"] {
        let parameter = of_samples.iter().find(|it| it["name"] == name).unwrap();
        let description = parameter["description"].as_str().unwrap();
        assert!(description.starts_with("Column of "), "{name}: {description}");
    }
}
