//! Data files in, encoded examples out: readers of CSV, NDJSON and Parquet, and the encoder that
//! turns what they read into what a network sees.
//!
//! The readers stream: they hold one record at a time, whatever the file's size. Each stops at
//! its first error.

mod cell;
pub mod csv;
pub mod digits;
pub mod encoder;
pub mod ndjson;
pub mod parquet;
pub mod raw_sample;
