//! Files behind whose end nothing can be read.

use std::io::{self, Read};

use ::parquet::{
    errors::Result,
    file::reader::{ChunkReader, Length},
};
use bytes::Bytes;

/// To read at its end is an error. The decoder (`parquet` 60.1.0) skips what it has no use for, also
/// where nothing is left (`ThriftReadInputProtocol::skip_bytes` does not look how much it skipped): a
/// page header that announces two thousand million numbers would keep it busy for as many.
pub(super) struct Bounded<T>(pub(super) T);

impl<T: Length> Length for Bounded<T> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<T: ChunkReader> ChunkReader for Bounded<T> {
    type T = BoundedRead<T::T>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        self.0.get_read(start).map(BoundedRead)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.0.get_bytes(start, length)
    }
}

pub(super) struct BoundedRead<R>(R);

impl<R: Read> Read for BoundedRead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_read_at_the_end_is_an_error() {
        let mut file = Bounded(Bytes::from_static(b"abc")).get_read(1).unwrap();
        let mut buffer = [0; 8];
        assert_eq!((file.read(&mut buffer).unwrap(), &buffer[..2]), (2, b"bc".as_slice()));
        assert_eq!(file.read(&mut []).unwrap(), 0);
        let error = io::copy(&mut file.by_ref().take(9), &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
