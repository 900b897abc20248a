//! Tables of what other rules make of recorded incidents.
