//! The API's description at the root is the one that the code makes.

use std::path::Path;

#[test]
fn openapi_yaml_is_up_to_date() {
    let made = forgetd::http::openapi().to_yaml().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.yaml");
    let kept = std::fs::read_to_string(path).unwrap();
    assert!(made == kept, "openapi.yaml is stale: run `cargo run -- openapi > openapi.yaml`");
}
