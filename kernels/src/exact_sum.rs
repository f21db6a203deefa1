//! Exact sums (under construction).
