//! solve (under construction).
