//! The fields that [parquet.thrift] declares, as far as who reads samples comes across them: each by
//! its place, the first at number 1.
//!
//! [parquet.thrift]: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift

use self::Kind::{Byte, Double, Fields, Flag, List, Number, Stated, Text};

/// What a declared field holds.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Flag,
    Byte,
    /// Of 16, 32 or 64 bits, which are written alike; enumerations too.
    Number,
    /// A number of a page's header that is checked.
    Stated(Size),
    Double,
    Text,
    List(&'static Kind),
    /// A structure or a union.
    Fields(&'static [Kind]),
}

#[derive(Clone, Copy)]
pub(super) enum Size {
    Unpacked,
    Packed,
    /// Values of a dictionary.
    Values,
}

const EMPTY: Kind = Fields(&[]);
const NUMBERS: Kind = List(&Number);
const KEY_VALUES: Kind = List(&Fields(&[Text, Text]));
const STATISTICS: Kind = Fields(&[Text, Text, Number, Number, Text, Text, Flag, Flag, Number]);

pub(super) const PAGE_HEADER: &[Kind] = &[
    Number,
    Stated(Size::Unpacked),
    Stated(Size::Packed),
    Number,
    Fields(&[Number, Number, Number, Number, STATISTICS]),
    EMPTY,
    Fields(&[Stated(Size::Values), Number, Flag]),
    Fields(&[Number, Number, Number, Number, Number, Number, Flag, STATISTICS]),
];

pub(super) const FILE_METADATA: &[Kind] = &[
    Number,
    List(&SCHEMA_ELEMENT),
    Number,
    List(&ROW_GROUP),
    KEY_VALUES,
    Text,
    List(&Fields(&[EMPTY, EMPTY])),
    Fields(&[ENCRYPTION, ENCRYPTION]),
    Text,
];
const ENCRYPTION: Kind = Fields(&[Text, Text, Flag]);

const SCHEMA_ELEMENT: Kind = Fields(&[
    Number,
    Number,
    Number,
    Text,
    Number,
    Number,
    Number,
    Number,
    Number,
    Fields(LOGICAL_TYPE),
]);
const TIME: Kind = Fields(&[Flag, Fields(&[EMPTY, EMPTY, EMPTY])]);
const LOGICAL_TYPE: &[Kind] = &[
    EMPTY,
    EMPTY,
    EMPTY,
    EMPTY,
    Fields(&[Number, Number]),
    EMPTY,
    TIME,
    TIME,
    EMPTY,
    Fields(&[Byte, Flag]),
    EMPTY,
    EMPTY,
    EMPTY,
    EMPTY,
    EMPTY,
    Fields(&[Byte]),
    Fields(&[Text]),
    Fields(&[Text, Number]),
    EMPTY,
];

const ROW_GROUP: Kind = Fields(&[
    List(&COLUMN_CHUNK),
    Number,
    Number,
    List(&Fields(&[Number, Flag, Flag])),
    Number,
    Number,
    Number,
]);
const COLUMN_CHUNK: Kind = Fields(&[
    Text,
    Number,
    Fields(COLUMN_METADATA),
    Number,
    Number,
    Number,
    Number,
    Fields(&[EMPTY, Fields(&[List(&Text), Text])]),
    Text,
]);
const COLUMN_METADATA: &[Kind] = &[
    Number,
    NUMBERS,
    List(&Text),
    Number,
    Number,
    Number,
    Number,
    KEY_VALUES,
    Number,
    Number,
    Number,
    STATISTICS,
    List(&Fields(&[Number, Number, Number])),
    Number,
    Number,
    Fields(&[Number, NUMBERS, NUMBERS]),
    Fields(&[Fields(&[Double, Double, Double, Double, Double, Double, Double, Double]), NUMBERS]),
];
