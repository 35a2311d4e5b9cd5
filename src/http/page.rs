//! Lists come in pages: `limit` items, and `next_cursor` while there are more.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::problem::Problem;

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// What to send as `cursor` for the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next_cursor: Option<String>,
}

/// How many items to send; the store is asked for one more, which tells whether there is a
/// next page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct PageLimit(u32);

impl TryFrom<u32> for PageLimit {
    type Error = String;

    fn try_from(limit: u32) -> Result<Self, String> {
        if (1..=LIMIT_MAX).contains(&limit) {
            Ok(Self(limit))
        } else {
            Err(format!("`limit` must be 1 to {LIMIT_MAX}"))
        }
    }
}

impl Default for PageLimit {
    fn default() -> Self {
        Self(LIMIT_DEFAULT)
    }
}

impl PageLimit {
    pub fn with_one_more(self) -> u32 {
        self.0 + 1
    }

    /// Cuts `rows`, of which one more was asked for, into a page; `cursor` names a row for the
    /// page after it.
    pub fn page<R, T>(
        self,
        mut rows: Vec<R>,
        cursor: impl Fn(&R) -> String,
        item: impl Fn(R) -> T,
    ) -> Page<T> {
        let limit = self.0 as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| more).map(cursor);
        Page { items: rows.into_iter().map(item).collect(), next_cursor }
    }
}

/// A number in a query must be one; serde's message alone does not say which parameter.
pub fn epoch(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|epoch| i64::try_from(*epoch).is_ok())
}

/// # Errors
/// When the cursor is beyond what a database counts to.
pub fn counted(cursor: Option<u64>) -> Result<Option<u64>, Problem> {
    match cursor {
        Some(cursor) if i64::try_from(cursor).is_err() => {
            Err(Problem::InvalidQuery("`cursor` is none that was given out".into()))
        }
        cursor => Ok(cursor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_page_has_a_cursor_only_if_there_is_more() {
        let limit = PageLimit::try_from(2).unwrap();
        let page = |rows: Vec<u32>| limit.page(rows, u32::to_string, |row| row);
        assert_eq!(page(vec![1, 2, 3]).next_cursor.as_deref(), Some("2"));
        assert_eq!(page(vec![1, 2, 3]).items, [1, 2]);
        assert_eq!(page(vec![1, 2]).next_cursor, None);
        assert_eq!(page(vec![]).next_cursor, None);
    }

    #[test]
    fn limits_are_bounded() {
        assert!(PageLimit::try_from(0).is_err());
        assert!(PageLimit::try_from(LIMIT_MAX + 1).is_err());
        assert_eq!(PageLimit::default().with_one_more(), LIMIT_DEFAULT + 1);
    }

    #[test]
    fn epochs_are_plain_numbers() {
        assert_eq!(epoch("12"), Some(12));
        for odd in ["", "+1", "-1", "1.0", "9223372036854775808", "99999999999999999999"] {
            assert_eq!(epoch(odd), None, "{odd}");
        }
    }
}
