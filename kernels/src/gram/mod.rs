//! gram (under construction).
