//! Progress on stderr: bars with rate and time left on a terminal, one line per finished pass elsewhere.
//!
//! Progress never touches stdout, decides nothing, and is silent with `--quiet`, `--no-progress` or
//! `NYSTREAM_NO_PROGRESS=1`. Counting is one atomic addition a call, from any thread.

use crate::exit;
use crate::report::text::{count, number, seconds};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where progress goes.
#[derive(Clone, Debug)]
pub struct Progress {
    mode: Mode,
}

#[derive(Clone, Debug)]
enum Mode {
    Bars(MultiProgress),
    Lines,
    Hidden,
}

impl Progress {
    /// Bars where stderr is a terminal, lines elsewhere, nothing when `hidden`.
    pub fn new(hidden: bool) -> Self {
        let mode = match (hidden, io::stderr().is_terminal()) {
            (true, _) => Mode::Hidden,
            (false, true) => Mode::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr())),
            (false, false) => Mode::Lines,
        };
        Progress { mode }
    }

    /// No progress.
    pub fn hidden() -> Self {
        Progress { mode: Mode::Hidden }
    }

    /// Starts a pass named `name` over `total` units (unknown: `None`); `unit` is their plural ("rows").
    ///
    /// ```
    /// use nystream::progress::Progress;
    /// let pass = Progress::hidden().pass("profile", Some(100), "rows");
    /// let counter = pass.counter();
    /// std::thread::scope(|s| { s.spawn(move || counter(60)); });
    /// pass.add(40);
    /// assert_eq!(pass.done(), 100);
    /// pass.finish();
    /// ```
    pub fn pass(&self, name: &str, total: Option<u64>, unit: &'static str) -> Pass {
        exit::set_stage(Some(name));
        let bar = match &self.mode {
            Mode::Bars(bars) => Some(bars.add(bar(name, total, unit))),
            _ => None,
        };
        self.counting(name, unit, bar)
    }

    /// Starts work that counts nothing, such as a factorisation. Elsewhere than on a terminal its line comes now: what is slow says so.
    pub fn step(&self, what: &str) -> Pass {
        exit::set_stage(Some(what));
        let bar = match &self.mode {
            Mode::Bars(bars) => {
                let bar = bars.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {elapsed}") {
                    bar.set_style(style);
                }
                Some(started(bar, what))
            }
            _ => None,
        };
        self.say_line(what);
        let mut pass = self.counting(what, "", bar);
        if pass.lines == Lines::Due {
            pass.lines = Lines::Over;
        }
        pass
    }

    fn counting(&self, name: &str, unit: &'static str, bar: Option<ProgressBar>) -> Pass {
        let counted = Counted { done: AtomicU64::new(0), bar, noted: AtomicBool::new(false) };
        let lines = if matches!(self.mode, Mode::Lines) { Lines::Due } else { Lines::Never };
        Pass { counted: Arc::new(counted), name: name.to_string(), unit, begun: Instant::now(), lines }
    }

    /// A line where there are no bars to show it.
    fn say_line(&self, line: &str) {
        if matches!(self.mode, Mode::Lines) {
            eprint_line(line);
        }
    }

    /// A line for people on stderr, in step with the bars.
    pub fn say(&self, line: &str) {
        match &self.mode {
            Mode::Bars(bars) => {
                let _ = bars.println(line);
            }
            Mode::Lines => eprint_line(line),
            Mode::Hidden => {}
        }
    }

    /// Runs `write` with the bars out of the way.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.mode {
            Mode::Bars(bars) => bars.suspend(write),
            _ => write(),
        }
    }
}

fn bar(name: &str, total: Option<u64>, unit: &str) -> ProgressBar {
    let known = "{prefix:<12} {bar:30} {percent:>3}%  {human_pos}/{human_len} UNIT  {rate}{left}  {msg}";
    let unknown = "{prefix:<12} {spinner} {human_pos} UNIT  {rate} {elapsed}  {msg}";
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), known),
        None => (ProgressBar::new_spinner(), unknown),
    };
    if let Ok(style) = ProgressStyle::with_template(&template.replace("UNIT", unit)) {
        // Whole rows, and no time left once all have gone by: the algebra that follows counts none.
        let rate = |state: &ProgressState, w: &mut dyn fmt::Write| {
            let _ = write!(w, "{:.0}/s", state.per_sec());
        };
        let left = |state: &ProgressState, w: &mut dyn fmt::Write| {
            if state.len().is_some_and(|len| state.pos() < len) {
                let _ = write!(w, " eta {:.0}s", state.eta().as_secs_f64());
            }
        };
        bar.set_style(style.with_key("rate", rate).with_key("left", left));
    }
    started(bar, name)
}

fn started(bar: ProgressBar, name: &str) -> ProgressBar {
    bar.set_prefix(name.to_string());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

#[derive(Debug)]
struct Counted {
    done: AtomicU64,
    bar: Option<ProgressBar>,
    /// Whether the bar names a step, which the next count ends.
    noted: AtomicBool,
}

impl Counted {
    fn add(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(units);
            if self.noted.swap(false, Ordering::Relaxed) {
                bar.set_message("");
            }
        }
    }
}

/// A pass under way. Dropping it without [`Pass::finish`] clears its bar and says nothing.
#[derive(Debug)]
pub struct Pass {
    counted: Arc<Counted>,
    name: String,
    unit: &'static str,
    begun: Instant,
    lines: Lines,
}

/// What a pass prints elsewhere than on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lines {
    Never,
    /// Its line, at the end.
    Due,
    /// Nothing more: its line came first.
    Over,
}

impl Pass {
    /// Counts units done.
    pub fn add(&self, units: u64) {
        self.counted.add(units);
    }

    /// A counter for other threads and for crates that know nothing of progress.
    pub fn counter(&self) -> Arc<dyn Fn(u64) + Send + Sync> {
        let counted = Arc::clone(&self.counted);
        Arc::new(move |units| counted.add(units))
    }

    /// A step within the pass that counts nothing: beside the bar until the next count, elsewhere a line at once.
    pub fn step(&self, what: &str) {
        match &self.counted.bar {
            Some(bar) => {
                bar.set_message(what.to_string());
                self.counted.noted.store(true, Ordering::Relaxed);
            }
            None if self.lines != Lines::Never => eprint_line(&format!("{}: {what}", self.name)),
            None => {}
        }
    }

    /// Whether there is something to count: it is no step of its own.
    pub fn counts(&self) -> bool {
        !self.unit.is_empty()
    }

    /// Units done.
    pub fn done(&self) -> u64 {
        self.counted.done.load(Ordering::Relaxed)
    }

    /// Ends the pass and gives its seconds; elsewhere than on a terminal this prints its line.
    pub fn finish(self) -> f64 {
        let elapsed = self.begun.elapsed().as_secs_f64();
        if self.lines == Lines::Due {
            eprint_line(&summary(&self.name, self.done(), self.unit, elapsed));
        }
        elapsed
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        exit::set_stage(None);
        if let Some(bar) = &self.counted.bar {
            bar.finish_and_clear();
        }
    }
}

fn summary(name: &str, done: u64, unit: &str, elapsed: f64) -> String {
    let rate = done as f64 / elapsed.max(1e-9);
    if done == 0 {
        // Work on what is in memory counts no rows.
        return format!("{name}: {}", seconds(elapsed));
    }
    let each = unit.split(' ').next().unwrap_or(unit);
    format!("{name}: {} {unit} in {} ({} {each}/s)", count(done), seconds(elapsed), number(rate))
}

fn eprint_line(line: &str) {
    exit::say(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_one_line() {
        assert_eq!(summary("profile", 1_500_000, "rows", 0.5), "profile: 1,500,000 rows in 500.0 ms (3000000 rows/s)");
        let share = summary("profile", 1500, "rows of this process", 1.0);
        assert_eq!(share, "profile: 1,500 rows of this process in 1.0 s (1500 rows/s)");
        assert_eq!(summary("tune", 0, "rows", 2.0), "tune: 2.0 s");
    }

    /// A terminal that keeps what is written.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<std::sync::Mutex<String>>);

    impl indicatif::TermLike for Screen {
        fn width(&self) -> u16 {
            160
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, s: &str) -> io::Result<()> {
            self.write_str(s)
        }
        fn write_str(&self, s: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(s);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bar_tells_its_rate_and_what_is_left_while_rows_are() {
        let shown = |done: u64| {
            let screen = Screen::default();
            let bar = bar("gram", Some(1000), "rows");
            bar.disable_steady_tick();
            bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(screen.clone())));
            bar.set_position(done);
            bar.force_draw();
            screen.0.lock().unwrap().clone()
        };
        let (some, all) = (shown(400), shown(1000));
        assert!(some.contains("400/1,000 rows") && some.contains("/s eta "), "{some}");
        assert!(all.contains("1,000/1,000 rows") && all.contains("/s") && !all.contains("eta"), "{all}");
    }

    #[test]
    fn counts_from_many_threads() {
        let pass = Progress::hidden().pass("test", None, "rows");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let counter = pass.counter();
                scope.spawn(move || (0..1000).for_each(|_| counter(3)));
            }
        });
        assert_eq!(pass.done(), 12_000);
        assert!(pass.finish() >= 0.0);
    }
}
