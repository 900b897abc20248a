//! The configuration as a whole: files in, values or messages out.

mod bad;

mod good;
mod round_trip;
