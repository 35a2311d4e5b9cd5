//! Files whose footer and page headers are checked before the decoder reads them.

use std::{
    io::{self, Read},
    sync::Arc,
};

use ::parquet::{
    errors::{ParquetError, Result},
    file::{
        FOOTER_SIZE,
        metadata::{FooterTail, ParquetMetaData, ParquetMetaDataReader},
        reader::{ChunkReader, Length},
    },
};
use bytes::Bytes;

use super::thrift;

/// # Errors
/// When the file does not end in a footer that is what the format says.
pub(super) fn metadata(file: &impl ChunkReader) -> Result<ParquetMetaData> {
    let short = || ParquetError::EOF("the file is shorter than its footer".into());
    let tail_at = file.len().checked_sub(FOOTER_SIZE as u64).ok_or_else(short)?;
    let tail = FooterTail::try_from(file.get_bytes(tail_at, FOOTER_SIZE)?.as_ref())?;
    if tail.is_encrypted_footer() {
        return Err(ParquetError::NYI("encrypted files are not read".into()));
    }
    let length = tail.metadata_length();
    let bytes = file.get_bytes(tail_at.checked_sub(length as u64).ok_or_else(short)?, length)?;
    thrift::check_footer(&bytes).map_err(|error| ParquetError::General(error.to_string()))?;
    ParquetMetaDataReader::decode_metadata(&bytes)
}

/// What is read bytewise from it must be a page's header first.
pub(super) struct Checked<T>(Arc<T>);

impl<T> From<T> for Checked<T> {
    fn from(file: T) -> Self {
        Self(Arc::new(file))
    }
}

impl<T: Length> Length for Checked<T> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<T: ChunkReader> ChunkReader for Checked<T> {
    type T = Header<T>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(Header { file: Arc::clone(&self.0), start, checked: None })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.0.get_bytes(start, length)
    }
}

/// Begins with a page's header, which is checked when something is read: the decoder also opens one
/// at places where it wants nothing.
pub(super) struct Header<T: ChunkReader> {
    file: Arc<T>,
    start: u64,
    checked: Option<T::T>,
}

impl<T: ChunkReader> Read for Header<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let open = || self.file.get_read(self.start).map_err(io::Error::other);
        let checked = if let Some(checked) = &mut self.checked {
            checked
        } else {
            // One after the other: what reads a file may share its place in it.
            thrift::check_page_header(open()?)?;
            self.checked.insert(open()?)
        };
        checked.read(buffer)
    }
}
