//! tile (under construction).
