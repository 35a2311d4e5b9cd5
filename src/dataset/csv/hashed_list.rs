//! A list of hashed identifiers as California's DROP gives it: CSV with a work item's id and a hash in
//! base64 a line.

use std::io::Read;

use super::records::Records;
use crate::{
    dataset::{cell::Spot, raw_sample::ReadError},
    domain::{alias, identity::Digest},
};

/// Longest id of a work item in bytes.
const ID_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As the list has it.
    pub id: String,
    pub hash: Digest,
}

/// Starts to read a list. Its columns are called `ID` and `Hash`, in letters of either case; others are
/// passed over.
///
/// # Errors
/// When the header cannot be read, or lacks one of them.
pub fn entries<R: Read>(reader: R) -> Result<Entries<R>, ReadError> {
    let records = Records::open(reader)?;
    let at = |name: &str| {
        let position = records.header.iter().position(|column| column.eq_ignore_ascii_case(name));
        position.ok_or_else(|| ReadError::MissingColumn {
            column: name.to_owned(),
            present: records.header.clone(),
        })
    };
    let (id, hash) = (at("ID")?, at("Hash")?);
    Ok(Entries { records, id, hash, is_ended: false })
}

/// Entries of a list, in its order; a list may have none.
pub struct Entries<R> {
    records: Records<R>,
    id: usize,
    hash: usize,
    is_ended: bool,
}

impl<R: Read> Iterator for Entries<R> {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_ended {
            return None;
        }
        let read = self.read().transpose();
        self.is_ended = !matches!(read, Some(Ok(_)));
        read
    }
}

impl<R: Read> Entries<R> {
    fn read(&mut self) -> Result<Option<Entry>, ReadError> {
        let Some(place) = self.records.advance()? else { return Ok(None) };
        let Records { header, record, .. } = &self.records;
        let spot = |position: usize| Spot { place, column: &header[position] };
        let id = spot(self.id).name(record[self.id].to_owned())?;
        if id.len() > ID_MAX {
            let found = format!("one of {} bytes", id.len());
            return Err(spot(self.id).refuse(format!("an id of at most {ID_MAX} bytes"), found));
        }
        let hash = alias::from_base64(&record[self.hash])
            .ok_or_else(|| spot(self.hash).refuse("32 bytes in base64", "something else"))?;
        Ok(Some(Entry { id, hash }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "KA18MT/ph6IHYjzT9zwETySDQyvSh87YuoSBpOQtkhE=";

    fn read(text: &str) -> Result<Vec<Entry>, ReadError> {
        entries(text.as_bytes())?.collect()
    }

    #[test]
    fn a_list_has_ids_and_hashes_or_nothing() {
        let list = read(&format!("ID,Hash\r\n17,{HASH}\r\n18,{HASH}\r\n")).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].id.as_str(), list[0].hash), ("17", alias::from_base64(HASH).unwrap()));
        assert_eq!(read("Id,hash,ListType\n").unwrap(), []);
    }

    #[test]
    fn refusals_name_the_line_and_repeat_no_hash() {
        let wrong = "anna@example.org";
        let error = read(&format!("ID,Hash\n1,{HASH}\n2,{wrong}\n")).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("Hash"), "{error}");
        assert!(!error.contains(wrong), "{error}");
        assert!(read(&format!("ID,Hash\n,{HASH}\n")).unwrap_err().to_string().contains("line 2"));
        assert!(read("ID\n1\n").unwrap_err().to_string().contains("\"Hash\""));
        assert!(matches!(read(""), Err(ReadError::Empty)));
    }
}
