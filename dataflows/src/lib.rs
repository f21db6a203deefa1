//! The timely and differential operators, one folder per stage.
