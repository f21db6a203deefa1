//! What this process has used.

/// Peak resident memory of this process in bytes, where the system says (Linux: `VmHWM`).
///
/// ```
/// // Nothing runs in less than a kilobyte.
/// assert!(nystream::resources::peak_rss_bytes().is_none_or(|bytes| bytes > 1024));
/// ```
pub fn peak_rss_bytes() -> Option<u64> {
    peak_of_status(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Resident memory of this process in bytes, where the system says (Linux: `VmRSS`).
pub fn resident_bytes() -> Option<u64> {
    of_status(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

fn peak_of_status(status: &str) -> Option<u64> {
    of_status(status, "VmHWM:")
}

fn of_status(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_high_water_mark() {
        assert_eq!(peak_of_status("VmPeak:\t 9 kB\nVmHWM:\t    1234 kB\nVmRSS: 5 kB\n"), Some(1234 * 1024));
        assert_eq!(peak_of_status("VmRSS: 5 kB\n"), None);
        assert_eq!(of_status("VmRSS: 5 kB\n", "VmRSS:"), Some(5 * 1024));
        if cfg!(target_os = "linux") {
            assert!(peak_rss_bytes().is_some_and(|bytes| bytes > 100_000));
        }
    }
}
