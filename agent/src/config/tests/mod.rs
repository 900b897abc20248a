//! The configuration as a whole: files in, values or messages out.

mod bad;
mod documented;
mod good;
mod round_trip;
mod sources;
