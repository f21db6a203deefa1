//! nystrom (under construction).
