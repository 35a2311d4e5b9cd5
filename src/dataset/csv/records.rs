//! The records of a CSV file, each of bounded length, and the header's names.

use std::{
    collections::BTreeSet,
    io::{self, Read},
};

use ::csv::{ErrorKind, ReaderBuilder, StringRecord, Trim};

use crate::dataset::{
    cell::Spot,
    raw_sample::{Place, ReadError},
};

/// Longest record in bytes, give or take the reader's buffer.
const RECORD_MAX: usize = 16 << 20;

pub(super) struct Records<R> {
    /// Names of the columns.
    pub header: Vec<String>,
    /// The record that was read last; as long as the header.
    pub record: StringRecord,
    reader: ::csv::Reader<Allowance<R>>,
    /// How many lines the reader's count lags behind: after `\r\n` it counts the line only with
    /// the record that follows.
    lag: u64,
}

impl<R: Read> Records<R> {
    /// Reads the header.
    pub fn open(reader: R) -> Result<Self, ReadError> {
        let reader =
            Allowance { inner: reader, left: RECORD_MAX, is_spent: false, end: End::Ahead };
        let reader = ReaderBuilder::new().trim(Trim::All).from_reader(reader);
        let record = StringRecord::new();
        let mut records = Self { header: Vec::new(), record, reader, lag: 0 };
        let header = match records.reader.headers() {
            Ok(header) => header.iter().map(str::to_owned).collect::<Vec<_>>(),
            Err(error) => return Err(records.refusal(error, 1)),
        };
        if header.is_empty() {
            return Err(ReadError::Empty);
        }
        if records.is_open() {
            return Err(open_quote(Place::Line(1)));
        }
        let mut names = BTreeSet::new();
        if let Some(name) = header.iter().find(|name| !names.insert(name.as_str())) {
            return Err(ReadError::DuplicateColumn(name.clone()));
        }
        let lag = u64::from(records.reader.position().line() == 1);
        Ok(Self { header, lag, ..records })
    }

    /// Reads the next record and says where it stands; `None` at the end.
    pub fn advance(&mut self) -> Result<Option<Place>, ReadError> {
        self.reader.get_mut().left = RECORD_MAX;
        let line = self.reader.position().line();
        match self.reader.read_record(&mut self.record) {
            Ok(true) => {
                let line = self.record.position().map_or(line, ::csv::Position::line);
                let place = Place::Line(line + self.lag);
                if self.is_open() { Err(open_quote(place)) } else { Ok(Some(place)) }
            }
            Ok(false) => Ok(None),
            Err(error) => Err(self.refusal(error, line)),
        }
    }

    pub fn position(&self, column: &str) -> Result<usize, ReadError> {
        self.header.iter().position(|name| name == column).ok_or_else(|| ReadError::MissingColumn {
            column: column.to_owned(),
            present: self.header.clone(),
        })
    }

    /// Positions of all columns but the named ones.
    pub fn positions_beside<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<usize> {
        let excluded: BTreeSet<_> = names.collect();
        let beside = |position: &usize| !excluded.contains(self.header[*position].as_str());
        (0..self.header.len()).filter(beside).collect()
    }

    /// Whether the record that was read last goes on beyond the end of the last line, which only
    /// a quoted cell does.
    fn is_open(&self) -> bool {
        self.reader.get_ref().end == End::Told
    }

    fn refusal(&self, error: ::csv::Error, line: u64) -> ReadError {
        let line = error.position().map_or(line, ::csv::Position::line);
        let place = Place::Line(line + self.lag);
        if self.reader.get_ref().is_spent {
            let problem = format!("the row is longer than {RECORD_MAX} bytes; is a quote open?");
            return ReadError::Record { place, problem };
        }
        if self.is_open() {
            return open_quote(place);
        }
        match error.into_kind() {
            ErrorKind::Io(source) => ReadError::Io { place, source },
            ErrorKind::UnequalLengths { expected_len, len, .. } => {
                let problem = format!("the row has {len} cells, but the header has {expected_len}");
                ReadError::Record { place, problem }
            }
            ErrorKind::Utf8 { err, .. } => match self.header.get(err.field()) {
                Some(column) => Spot { place, column }.refuse("UTF-8", "other bytes"),
                None => ReadError::Record { place, problem: "the text is not UTF-8".into() },
            },
            other => ReadError::Record { place, problem: format!("{other:?}") },
        }
    }
}

fn open_quote(place: Place) -> ReadError {
    let problem = "the file ends within a quoted cell of this row; is a quote open?".into();
    ReadError::Record { place, problem }
}

/// Hands on so many bytes of a reader and then fails, so that no record grows without bound. Ends
/// the last line before it tells the end, so that a reader which gets to hear of the end within a
/// record is within a quoted cell.
struct Allowance<R> {
    inner: R,
    /// Bytes that may still be read.
    left: usize,
    is_spent: bool,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Ahead,
    /// The last line is ended.
    Reached,
    Told,
}

impl<R: Read> Read for Allowance<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.is_spent = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let wanted = buffer.len().min(self.left);
        let read = self.inner.read(&mut buffer[..wanted])?;
        self.left -= read;
        if read > 0 {
            return Ok(read);
        }
        if self.end == End::Ahead {
            self.end = End::Reached;
            buffer[0] = b'\n';
            return Ok(1);
        }
        self.end = End::Told;
        Ok(0)
    }
}
