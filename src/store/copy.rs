//! Rows in the binary format of `PostgreSQL`'s COPY (its documentation, "COPY", "Binary Format").

/// Rows on their way into a table, each of `N` columns that are not null.
pub(super) struct CopyRows<const N: usize> {
    bytes: Vec<u8>,
}

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// No flags, and a header extension of no bytes.
const HEADER: [u8; 8] = [0; 8];
/// A row of -1 columns.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

impl<const N: usize> CopyRows<N> {
    pub(super) fn new() -> Self {
        Self { bytes: [SIGNATURE, &HEADER].concat() }
    }

    /// Values as the server receives them: an id its 16 bytes, an integer its bytes in network order,
    /// text and bytes themselves.
    pub(super) fn push(&mut self, values: [&[u8]; N]) {
        let columns = i16::try_from(N).expect("no table has so many columns");
        self.bytes.extend(columns.to_be_bytes());
        for value in values {
            let length = i32::try_from(value.len()).expect("no value is 2 GiB");
            self.bytes.extend(length.to_be_bytes());
            self.bytes.extend(value);
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend(TRAILER);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `COPY (SELECT 'ab'::text, 258::bigint) TO STDOUT (FORMAT binary)` gives.
    #[test]
    fn rows_are_as_the_server_writes_them() {
        let mut rows = CopyRows::new();
        rows.push([b"ab", &258_i64.to_be_bytes()]);
        let expected = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x02ab\
            \0\0\0\x08\0\0\0\0\0\0\x01\x02\xff\xff";
        assert_eq!(rows.finish(), expected);
    }
}
