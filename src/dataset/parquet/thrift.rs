//! What a file says of itself, looked at before the decoder believes it.
//!
//! A footer and the header of each page are structures of Thrift's [compact protocol]. The decoder
//! (`parquet` 60.1.0) takes a declared field for what it should be, whatever type it comes with;
//! skips a list of two thousand million flags one by one, though none of them takes a byte; goes on
//! skipping where nothing is left; and makes room for as many bytes as a page's header announces.
//! Behind these checks it reads what was checked, in time and memory that are in proportion to it.
//!
//! [compact protocol]: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

use std::io::{self, Read};

use super::format::{
    FILE_METADATA,
    Kind::{self, Byte, Double, Fields, Flag, List, Number, Stated, Text},
    PAGE_HEADER, Size,
};

/// How deep values that the format does not declare may lie within each other, as the decoder has it.
const DEPTH_MAX: u8 = 64;

/// What a page may come to without further ado: writers aim at one mebibyte.
const UNPACKED_BYTES: i64 = 64 << 20;

/// How many times its bytes in the file a larger page may come to: what gzip can do at most, and
/// more than any codec makes of values that are not all the same.
const UNPACKED_TIMES: i64 = 1_032;

/// # Errors
/// When these bytes are no file metadata.
pub(super) fn check_footer(bytes: &[u8]) -> io::Result<()> {
    Walk::over(bytes).fields(FILE_METADATA, DEPTH_MAX)
}

/// # Errors
/// When the input does not begin with a page's header, or it announces more than can be.
pub(super) fn check_page_header(input: impl Read) -> io::Result<()> {
    let mut walk = Walk::over(input);
    walk.fields(PAGE_HEADER, DEPTH_MAX)?;
    let Walk { unpacked, packed, values, .. } = walk;
    let unpacked_max = UNPACKED_BYTES.max(UNPACKED_TIMES * i64::from(packed));
    if i64::from(unpacked) > unpacked_max {
        return refuse(format!("a page of {packed} bytes cannot come to {unpacked}"));
    }
    if values > unpacked {
        return refuse(format!("a dictionary of {unpacked} bytes cannot hold {values} values"));
    }
    Ok(())
}

/// Reads a structure to its end and keeps the sizes that it states, of several the last.
struct Walk<R> {
    input: R,
    unpacked: i32,
    packed: i32,
    values: i32,
}

impl<R: Read> Walk<R> {
    fn over(input: R) -> Self {
        Self { input, unpacked: 0, packed: 0, values: 0 }
    }

    /// The fields of a structure, of which those that are not declared may be anything.
    fn fields(&mut self, declared: &[Kind], depth: u8) -> io::Result<()> {
        let mut number = 0_i64;
        loop {
            let head = self.byte()?;
            let (step, code) = (head >> 4, head & 0xf);
            if code == 0 {
                return Ok(());
            }
            number = if step == 0 { self.signed()? } else { number + i64::from(step) };
            if i16::try_from(number).is_err() {
                return refuse(format!("there is no field {number}"));
            }
            let position = usize::try_from(number - 1).ok();
            match position.and_then(|position| declared.get(position)) {
                Some(kind) => self.declared(*kind, code, depth)?,
                None => self.any(code, depth)?,
            }
        }
    }

    fn declared(&mut self, kind: Kind, code: u8, depth: u8) -> io::Result<()> {
        match (kind, code) {
            (Flag, 1 | 2) | (Byte, 3) | (Number, 4..=6) | (Double, 7) | (Text, 8) => {
                self.any(code, depth)
            }
            (Stated(size), 4..=6) => {
                let number = self.signed()?;
                let Ok(number) = i32::try_from(number) else {
                    return refuse(format!("a page is of another size than {number}"));
                };
                match size {
                    Size::Unpacked => self.unpacked = number,
                    Size::Packed => self.packed = number,
                    Size::Values => self.values = number,
                }
                Ok(())
            }
            (List(kind), 9) => {
                let (count, code) = self.list()?;
                (0..count).try_for_each(|_| self.declared(*kind, code, depth))
            }
            (Fields(declared), 12) => self.fields(declared, depth),
            _ => refuse(format!("a field is of type {code} where the format has another")),
        }
    }

    fn any(&mut self, code: u8, depth: u8) -> io::Result<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return refuse("values lie too deep within each other");
        };
        match code {
            // What a flag is, its type says.
            1 | 2 => Ok(()),
            3 => self.skip(1),
            4..=6 => self.unsigned().map(drop),
            7 => self.skip(8),
            8 => {
                let length = self.unsigned()?;
                self.skip(length)
            }
            9 | 10 => {
                let (count, code) = self.list()?;
                self.elements(count, &[code], depth)
            }
            11 => match self.unsigned()? {
                0 => Ok(()),
                count => {
                    let codes = self.byte()?;
                    self.elements(count, &[codes >> 4, codes & 0xf], depth)
                }
            },
            12 => self.fields(&[], depth),
            13 => self.skip(16),
            _ => refuse(format!("a field is of type {code}, which is none")),
        }
    }

    /// So many times values of these types. Flags, which the decoder takes to have no bytes, are
    /// nowhere in the format but in page indices, which nobody reads.
    fn elements(&mut self, count: u64, codes: &[u8], depth: u8) -> io::Result<()> {
        if count > 0 && codes.iter().any(|code| matches!(code, 1 | 2)) {
            return refuse("flags in a list or a map, where the format has none");
        }
        (0..count).try_for_each(|_| codes.iter().try_for_each(|code| self.any(*code, depth)))
    }

    /// How many elements a list has, and of which type.
    fn list(&mut self) -> io::Result<(u64, u8)> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.unsigned()?,
            count => count.into(),
        };
        Ok((count, head & 0xf))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// Seven bits a byte, the lowest first.
    fn unsigned(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        refuse("a number has more than 64 bits")
    }

    /// The sign is the lowest bit.
    fn signed(&mut self) -> io::Result<i64> {
        let number = self.unsigned()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.input.by_ref().take(count), &mut io::sink())?;
        if skipped == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn refuse<T>(why: impl Into<String>) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of 2^31 - 1 flags as field 15, which nothing declares.
    const FLAGS: [u8; 7] = [0xf9, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07];
    const END: u8 = 0;

    /// A field of a number, its type and place included.
    fn number(step: u8, number: i32) -> Vec<u8> {
        let mut left = (number << 1 ^ number >> 31).cast_unsigned();
        let mut bytes = vec![step << 4 | 5];
        while left > 0x7f {
            bytes.push(left.to_le_bytes()[0] | 0x80);
            left >>= 7;
        }
        bytes.push(left.to_le_bytes()[0]);
        bytes
    }

    /// Of a dictionary of so many values, with whatever else.
    fn page_header(unpacked: i32, packed: i32, values: i32, more: &[u8]) -> Vec<u8> {
        let dictionary = [&[0x4c], number(1, values).as_slice(), &number(1, 0), &[END]].concat();
        let sizes = [number(1, 2), number(1, unpacked), number(1, packed)].concat();
        [&sizes, &dictionary, more, &[END]].concat()
    }

    fn refusal(header: &[u8]) -> String {
        check_page_header(header).unwrap_err().to_string()
    }

    #[test]
    fn a_page_may_not_promise_what_its_bytes_cannot_hold() {
        check_page_header(page_header(64 << 20, 10, 7, &[]).as_slice()).unwrap();
        check_page_header(page_header(i32::MAX, 1 << 22, i32::MAX, &[]).as_slice()).unwrap();
        assert_eq!(
            refusal(&page_header((64 << 20) + 1, 10, 7, &[])),
            "a page of 10 bytes cannot come to 67108865"
        );
        assert_eq!(
            refusal(&page_header(100, 10, 101, &[])),
            "a dictionary of 100 bytes cannot hold 101 values"
        );
        // What is said last counts, for the decoder as well: field 2 once more.
        let again = [&[0x05, 4], &number(0, i32::MAX)[1..]].concat();
        assert_eq!(
            refusal(&page_header(100, 10, 7, &again)),
            "a page of 10 bytes cannot come to 2147483647"
        );
        let beyond = [0x05, 6, 0xfe, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(
            refusal(&page_header(100, 10, 7, &beyond)),
            "a page is of another size than 274877906943"
        );
    }

    #[test]
    fn what_takes_no_bytes_is_not_counted_through() {
        let flags = "flags in a list or a map, where the format has none";
        assert_eq!(refusal(&page_header(100, 10, 7, &FLAGS)), flags);
        let map = [0xfb, 0xff, 0xff, 0xff, 0xff, 0x07, 0x11];
        assert_eq!(refusal(&page_header(100, 10, 7, &map)), flags);
        let footer = [number(1, 1).as_slice(), &FLAGS, &[END]].concat();
        assert_eq!(check_footer(&footer).unwrap_err().to_string(), flags);
        // None at all is no list of flags.
        check_page_header(page_header(100, 10, 7, &[0xf9, 0x01, 0x1b, 0x00]).as_slice()).unwrap();
    }

    #[test]
    fn a_declared_field_has_the_declared_type() {
        // The text of four bytes that the decoder would take for a number, and go on behind it.
        assert_eq!(
            refusal(&[&[0x18, 4], FLAGS.as_slice(), &[END]].concat()),
            "a field is of type 8 where the format has another"
        );
        let schema_of_numbers = [0x29, 0x15, 0, END];
        assert_eq!(
            check_footer(&schema_of_numbers).unwrap_err().to_string(),
            "a field is of type 5 where the format has another"
        );
    }

    #[test]
    fn structures_end_before_their_bytes_do() {
        let whole = page_header(100, 10, 7, &[0xf8, 3, b'a', b'b', b'c']);
        check_page_header(whole.as_slice()).unwrap();
        for length in 0..whole.len() {
            let error = check_page_header(&whole[..length]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length} bytes");
        }
        let deep = [vec![0xf9], vec![0x19; 100]].concat();
        assert_eq!(
            refusal(&page_header(100, 10, 7, &deep)),
            "values lie too deep within each other"
        );
        assert_eq!(
            refusal(&[&[0xf6], [0xff; 10].as_slice()].concat()),
            "a number has more than 64 bits"
        );
        assert_eq!(refusal(&[0xff, 0]), "a field is of type 15, which is none");
        assert_eq!(refusal(&[0x05, 0xff, 0xff, 0x07]), "there is no field -65536");
    }
}
