//! Every value round-trips, and nonsense is refused.

use super::*;
use std::fmt::Debug;

fn round_trip<T: FromStr + fmt::Display + PartialEq + Debug>(texts: &[&str])
where
    T::Err: Debug,
{
    for text in texts {
        let value: T = text.parse().unwrap_or_else(|e| panic!("{text}: {e:?}"));
        assert_eq!(value.to_string().parse::<T>().unwrap(), value, "{text}");
    }
}

fn refused<T: FromStr + Debug>(texts: &[&str]) {
    for text in texts {
        assert!(text.parse::<T>().is_err(), "{text} parsed to {:?}", text.parse::<T>().ok());
    }
}

#[test]
fn values_print_to_what_they_parse_from() {
    round_trip::<ByteSize>(&["0", "1", "8GiB", "500MB", "1.5G", "12 k", "18446744073709551615", "3TiB", "1000"]);
    round_trip::<Bandwidth>(&["auto", "2.0x", "0.1", "1e-3x", "1e15"]);
    round_trip::<Ridge>(&["0", "1e-6", "3.25"]);
    round_trip::<KernelName>(&["gaussian", "laplace", "matern12", "matern32", "matern52", "cauchy"]);
    round_trip::<KernelName>(&["wendland2", "wendland4:25"]);
    round_trip::<KernelName>(&["polynomial", "polynomial:2", "polynomial:2:0.5", "arccosine:2", "ntk:3"]);
    round_trip::<SplitSpec>(&["none", "hash:0.1", "hash:0.25:a:b", "time:a:b:0.1"]);
    round_trip::<Select>(&["auto", "squeak", "rpcholesky", "rpcholesky:full", "uniform", "file:a:b"]);
    round_trip::<ClassWeight>(&["balanced", "yes=2,no=1", "a=b=0.5"]);
    round_trip::<Interval>(&["0s", "0.5s", "1m"]);
    round_trip::<Seconds>(&["90s", "10m", "1.5h", "3"]);
    round_trip::<AllOr>(&["all", "1e6", "1_000"]);
    round_trip::<AutoOr<Count>>(&["auto", "12"]);
    round_trip::<Noise>(&["0", "0.5", "1e-3"]);
    round_trip::<Positive>(&["2e14", "1e-9"]);
}

#[test]
fn nonsense_is_refused() {
    refused::<ByteSize>(&["", "GiB", "-1", "8XB", "1e99GiB", "999999999TiB", "NaN", "1.2.3"]);
    refused::<Bandwidth>(&["", "0", "0x", "-1", "NaN", "inf", "x", "2xx"]);
    refused::<Ridge>(&["", "-1e-9", "NaN", "inf"]);
    refused::<KernelName>(&["", "gauss", "gaussian:2", "polynomial:0", "ntk:0", "ntk:65", "polynomial:2:-1"]);
    refused::<KernelName>(&["wendland", "wendland3", "wendland2:0", "wendland2:1001", "wendland2:3:1"]);
    refused::<SplitSpec>(&["", "hash", "hash:", "hash:0", "hash:1", "hash:0.1:", "time:0.1", "time::0.1", "x:0.1"]);
    refused::<Select>(&["", "file:", "rpc"]);
    refused::<ClassWeight>(&["", "a", "a=0", "a=-1", "a=1,a=2", "a=NaN"]);
    refused::<Seconds>(&["", "0", "-1s", "1d", "NaN", "inf", "-inf", "infs", "1e300", "1e308h", "1e9m"]);
    refused::<Interval>(&["", "-1s", "NaN", "inf", "1e10"]);
    assert!("inf".parse::<Interval>().unwrap_err().contains("leave out --checkpoint"));
    refused::<AllOr>(&["", "0", "-1", "1.5", "1e30"]);
    refused::<Noise>(&["-0.5", "inf", "NaN", ""]);
    refused::<Positive>(&["0", "-1", "inf", "NaN", ""]);
}

#[test]
fn units_of_bytes() {
    for (text, bytes) in [("1K", 1000), ("1k", 1000), ("1KiB", 1024), ("1kib", 1024), ("2 MB", 2_000_000)] {
        assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
    }
    // Exact where f64 would round.
    assert_eq!("9007199254740993".parse::<ByteSize>().unwrap().0, 9_007_199_254_740_993);
}
