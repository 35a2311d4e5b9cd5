//! The floors of ARCHITECTURE.md: imports only go down, and siblings do not know each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every top-level module, from the ground up.
const FLOORS: [&[&str]; 7] = [
    &["domain"],
    &["clock", "fail_point", "priority", "outbound", "nn", "dataset", "intake"],
    &["unlearning", "audit", "store"],
    &["serving", "evaluation", "notary", "webhooks", "broker"],
    &["http", "worker"],
    &["app"],
    &["cli"],
];

fn floor_of(module: &str) -> usize {
    FLOORS
        .iter()
        .position(|modules| modules.contains(&module))
        .unwrap_or_else(|| panic!("module `{module}` stands on no floor: name it in FLOORS"))
}

/// Top-level module names after `crate::`, also those in a braced list.
fn imports(source: &str) -> Vec<String> {
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut found = Vec::new();
    for (_, rest) in code.match_indices("crate::").map(|(at, word)| code.split_at(at + word.len()))
    {
        match rest.strip_prefix('{') {
            Some(list) => found.extend(heads_of_list(list)),
            None => found.push(head(rest)),
        }
    }
    found
}

fn head(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first words of the entries of `a::{b, c}, d}`, whose opening brace is gone.
fn heads_of_list(list: &str) -> Vec<String> {
    let (mut depth, mut entries) = (0_usize, vec![String::new()]);
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => entries.push(String::new()),
            _ if depth == 0 => entries.last_mut().expect("never empty").push(c),
            _ => {}
        }
    }
    entries.iter().map(|entry| head(entry.trim())).filter(|name| !name.is_empty()).collect()
}

pub fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .collect()
}

#[test]
fn imports_only_go_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    let mut seen = 0;
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if module == "lib" || module == "main" {
            continue;
        }
        for import in imports(&fs::read_to_string(&path).unwrap()) {
            seen += 1;
            if import != module && floor_of(&import) >= floor_of(module) {
                broken.push(format!("{} uses {import}", relative.display()));
            }
        }
    }
    assert!(seen > 100, "only {seen} imports found: the reader of `use` lines is broken");
    assert!(broken.is_empty(), "imports that do not go down:\n{}", broken.join("\n"));
}

#[test]
fn only_http_knows_status_codes() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src).iter().filter(|path| !path.starts_with(src.join("http"))) {
        let source = fs::read_to_string(path).unwrap();
        assert!(!source.contains("StatusCode"), "{} names status codes", path.display());
    }
}

#[test]
fn imports_are_read_from_lists_and_paths() {
    let source = "use crate::{a::{b, c::d}, e::f};\n// crate::comment\nlet x = crate::g::h();";
    assert_eq!(imports(source), ["a", "e", "g"]);
}
