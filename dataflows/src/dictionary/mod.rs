//! Choosing centers.

pub mod pool;
pub mod trie;
