//! Fixed-shape reduction tree (under construction).
