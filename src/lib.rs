//! nystream.
