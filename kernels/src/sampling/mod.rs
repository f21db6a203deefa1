//! sampling (under construction).
