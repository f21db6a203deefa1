//! A publication that somebody asks for while a run goes on.
//!
//! The loop of the run looks between two pieces, where publications by the clock come too, and logs it as those; whoever asked waits to hear what came of it. Nothing else of a run depends on it: a log that is read again has the publication
//! where it was.
//!
//! ```
//! use nystream_dataflows::online::demand::Demand;
//! use std::time::Duration;
//! let demand = Demand::default();
//! let asks = demand.clone();
//! let asking = std::thread::spawn(move || asks.ask(Duration::from_secs(60)));
//! let asked = loop {
//!     if let Some(asked) = demand.waits() {
//!         break asked;
//!     }
//! };
//! demand.tell(asked, Ok(1200));
//! assert_eq!(asking.join().unwrap(), Some(Ok(1200)));
//! assert_eq!(demand.waits(), None);
//! ```

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What came of a publication: as of which change it is, or why there is none.
pub type Outcome = Result<u64, String>;

/// Shared by those who ask and the loop that answers.
#[derive(Clone, Debug, Default)]
pub struct Demand(Arc<(Mutex<Asked>, Condvar)>);

#[derive(Debug, Default)]
struct Asked {
    /// Times that it was asked for, and how many of them are answered.
    asked: u64,
    answered: u64,
    last: Option<Outcome>,
}

impl Demand {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a publication that begins after this call, and waits until it is done; `None` where that is not so after `limit`.
    pub fn ask(&self, limit: Duration) -> Option<Outcome> {
        let mut state = self.lock();
        state.asked += 1;
        let own = state.asked;
        let waited = self.0.1.wait_timeout_while(state, limit, |state| state.answered < own);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.last.clone().filter(|_| state.answered >= own)
    }

    /// Whether somebody waits: how often it was asked for, which the answer says again.
    pub fn waits(&self) -> Option<u64> {
        let state = self.lock();
        (state.asked > state.answered).then_some(state.asked)
    }

    /// What came of it, for all who had asked by then.
    pub fn tell(&self, asked: u64, outcome: Outcome) {
        let mut state = self.lock();
        (state.answered, state.last) = (asked, Some(outcome));
        self.0.1.notify_all();
    }
}
