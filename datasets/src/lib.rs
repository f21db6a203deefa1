//! datasets
/// err
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct DataError;
