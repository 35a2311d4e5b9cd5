//! What serde says of a text that does not fit, without what it quotes from the text.

use std::fmt::Display;

/// How messages begin that quote a value, or a name that is not known, if only the path to it stands
/// before them. All others are of words of ours.
const QUOTING: [&str; 4] = ["invalid type: ", "invalid value: ", UNKNOWN_FIELD, "unknown variant "];

/// Its path ends with the name that is not known.
const UNKNOWN_FIELD: &str = "unknown field ";

/// Before what is known, which stands last and is ours.
const KNOWN: [&str; 2] = [", expected ", ", there are no "];

/// The kind of what was found stays, and what was expected in its place.
pub fn without_content(error: &impl Display) -> String {
    let message = error.to_string();
    let Some(start) = QUOTING.iter().filter_map(|words| message.find(words)).min() else {
        return message;
    };
    let quote = message[start..].find(['"', '`']).map(|at| start + at);
    let known = KNOWN.iter().filter_map(|words| message.rfind(words)).max();
    match quote.zip(known) {
        Some((quote, known)) if quote < known => {
            let begin = if message[start..].starts_with(UNKNOWN_FIELD) { start } else { 0 };
            format!("{}{}", message[begin..quote].trim_end(), &message[known..])
        }
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only what is said when it does not fit matters")]
    struct Body {
        number: u8,
        #[serde(default)]
        kind: Option<Kind>,
        #[serde(default)]
        nothing: Option<Nothing>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Train,
        Holdout,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    fn said(json: &str) -> String {
        without_content(&serde_json::from_str::<Body>(json).unwrap_err())
    }

    #[test]
    fn what_was_expected_is_said_and_what_was_found_is_not() {
        for (json, expected) in [
            (r#"{"number": "alice"}"#, "invalid type: string, expected u8 at line 1 column 18"),
            (r#"{"number": -17}"#, "invalid value: integer, expected u8 at line 1 column 14"),
            (r#"{"number": 0.5}"#, "invalid type: floating point, expected u8 at line 1 column 14"),
            (r#"{"number": []}"#, "invalid type: sequence, expected u8 at line 1 column 11"),
            (r#"{"number": null}"#, "invalid type: null, expected u8 at line 1 column 15"),
            ("{}", "missing field `number` at line 1 column 2"),
            ("{", "EOF while parsing an object at line 1 column 1"),
        ] {
            assert_eq!(said(json), expected, "{json}");
        }
        let unknown = said(r#"{"number": 1, "kind": "alice"}"#);
        assert!(unknown.starts_with("unknown variant, expected `train` or `holdout`"), "{unknown}");
        let unknown = said(r#"{"number": 1, "alice": 2}"#);
        assert!(
            unknown.starts_with("unknown field, expected one of `number`, `kind`"),
            "{unknown}"
        );
        let unknown = said(r#"{"number": 1, "nothing": {"alice": 2}}"#);
        assert!(unknown.starts_with("unknown field, there are no fields"), "{unknown}");
    }

    #[test]
    fn the_path_to_what_does_not_fit_stays() {
        let unknown = without_content(&"alice: unknown field `alice`, expected `state`");
        assert_eq!(unknown, "unknown field, expected `state`");
        let said =
            without_content(&"state: unknown variant `alice`, expected `queued` or `failed`");
        assert_eq!(said, "state: unknown variant, expected `queued` or `failed`");
    }

    #[test]
    fn a_text_that_looks_like_the_end_of_a_message_is_not_repeated_either() {
        for odd in ["x, expected alice", "x, there are no alice", "` at line 1, expected alice"] {
            let value = said(&format!(r#"{{"number": "{odd}"}}"#));
            let field = said(&format!(r#"{{"number": 1, "{odd}": 2}}"#));
            let nested = said(&format!(r#"{{"number": 1, "nothing": {{"{odd}": 2}}}}"#));
            for said in [value, field, nested] {
                assert!(!said.contains("alice"), "{said}");
            }
        }
    }
}
