//! One heap for all threads.
//!
//! The problem: the C library of Linux keeps a heap or more for each thread and, in each, what was freed there, blocks of up to 32 MiB among them. The matrices
//! of 1,500 to 3,000 centers are such blocks, or are made with such, and what the threads of earlier stages freed stood beside what those of later ones needed:
//! peaks 15 to 28 % above the plan (kin40k, 2,000 and 3,000 centers, 2026-11-26). From one heap each uses what others freed: 341 to 410 MiB instead of
//! 550 at 2,000 centers (plan 480), 621 instead of 1,030 at 3,000 (plan 803). Threads may wait for each other at the heap; loops over rows allocate nothing.
//! (A fixed threshold above which blocks are mapped on their own has the same effect at 1 MiB only, and costs fits of 1,000 centers a tenth of their time in
//! page faults.)
//!
//! The C library reads the setting from its environment when it starts, so the program starts itself again, once, with it. What the user has set is left alone,
//! and so is everything where that does not work: memory is then planned as well as it can be.

/// Starts the program again with the setting in its environment, unless it, or another of its kind, is there.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn share_one_heap() {
    use std::os::unix::process::CommandExt;
    const HEAPS: &str = "MALLOC_ARENA_MAX";
    if [HEAPS, "GLIBC_TUNABLES"].iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let mut own = std::env::args_os();
    let (Ok(program), Some(name)) = (std::env::current_exe(), own.next()) else { return };
    // Only a failure returns, and then nothing has changed.
    let _failed = std::process::Command::new(program).arg0(name).args(own).env(HEAPS, "1").exec();
}

/// Other C libraries have one heap.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn share_one_heap() {}
