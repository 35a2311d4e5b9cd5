//! docs/reliability.md names the test that holds each promise: each of them is there.

use std::path::Path;

/// The lines of the tables with the names in backquotes in their middle columns.
fn named(text: &str) -> Vec<(&str, Vec<&str>)> {
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| promise |");
    text.lines()
        .filter(is_row)
        .map(|line| {
            let cell = line.split('|').nth(2).expect("a table of three columns");
            (line, cell.split('`').skip(1).step_by(2).collect())
        })
        .collect()
}

/// Whether `tests/it` has a test of this name, `module::test`.
fn exists(name: &str) -> bool {
    let Some((modules, test)) = name.rsplit_once("::") else { return false };
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let file = tests.join(modules.replace("::", "/")).with_extension("rs");
    let source = std::fs::read_to_string(file).unwrap_or_default();
    source.contains(&format!("fn {test}("))
}

#[test]
fn every_promise_has_a_test_that_is_there() {
    let rows = named(include_str!("../../docs/reliability.md"));
    assert!(rows.len() > 20, "only {} promises found", rows.len());
    for (promise, tests) in rows {
        assert!(!tests.is_empty(), "no test holds: {promise}");
        for test in tests {
            assert!(exists(test), "there is no test {test}, which is to hold: {promise}");
        }
    }
}
