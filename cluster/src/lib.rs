//! Processes, hosts and failure.
