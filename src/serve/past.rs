//! Models of before: what requests with `as_of` are answered by.
//!
//! The published models that a state keeps (`--keep-published`) lie in files. One of them at a time is in memory beside the newest, the one that was asked for last, and requests for such models are answered one after
//! the other: so their memory is bounded by one model, whatever is asked.

use super::http::Response;
use nystream_dataflows::online::serving::Serving;
use std::sync::{Arc, Mutex, PoisonError};

/// Why there is no model of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// None of then is kept.
    NotKept(String),
    /// It was there when its point was looked up, and is no longer: as many newer ones have come as are kept.
    Gone,
    /// It is there and cannot be used.
    Unusable(String),
}

impl Missing {
    fn response(&self) -> Response {
        match self {
            Missing::NotKept(reason) => Response::error(404, reason),
            Missing::Gone => Response::error(404, "the model is no longer kept: ask again"),
            Missing::Unusable(reason) => Response::error(500, reason),
        }
    }
}

/// Where models of before are.
pub trait Keeper: Send + Sync {
    /// The point of the newest one of `until` or before, of a request for the model of `changes`. `newest`: that of the newest model, where it was published.
    ///
    /// # Errors
    /// None is kept: which are, is said.
    fn point(&self, changes: u64, until: u64, newest: Option<u64>) -> Result<u64, Missing>;

    /// The one of `point`.
    ///
    /// # Errors
    /// It is gone, or cannot be used.
    fn load(&self, point: u64) -> Result<Serving, Missing>;

    /// Whether the newest model is a published one.
    fn publishes(&self) -> bool;
}

/// Models of before.
pub struct Past {
    keeper: Box<dyn Keeper>,
    held: Mutex<Option<Serving>>,
}

/// Times that a model which is gone is looked for anew before those of earlier points are.
const AGAIN: u32 = 3;

impl Past {
    /// Those of `keeper`.
    pub fn new(keeper: Box<dyn Keeper>) -> Arc<Self> {
        Arc::new(Past { keeper, held: Mutex::new(None) })
    }

    /// What `answer` makes of the model that was published last when the stream had brought `changes`; `newest` is the newest one.
    pub fn answer(
        &self,
        changes: u64,
        newest: Option<&Serving>,
        answer: impl FnOnce(&Serving) -> Response,
    ) -> Response {
        let newest = newest.filter(|_| self.keeper.publishes());
        let (mut until, mut again) = (changes, AGAIN);
        loop {
            let point = match self.keeper.point(changes, until, newest.map(|serving| serving.changes)) {
                Ok(point) => point,
                Err(missing) => return missing.response(),
            };
            if let Some(serving) = newest.filter(|serving| serving.changes == point) {
                return answer(serving);
            }
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(serving) = held.as_ref().filter(|serving| serving.changes == point) {
                return answer(serving);
            }
            // First the room.
            *held = None;
            match self.keeper.load(point) {
                Ok(serving) => return answer(held.insert(serving)),
                // Publications go on meanwhile, and the oldest goes: what is there now is looked up again, newer ones of then first.
                Err(Missing::Gone) if again > 0 => again -= 1,
                Err(Missing::Gone) if point > 0 => until = point - 1,
                Err(missing) => return missing.response(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps nothing that it has said to keep: as if a publication came between the two every time.
    struct Fleeting;

    impl Keeper for Fleeting {
        fn point(&self, changes: u64, until: u64, _: Option<u64>) -> Result<u64, Missing> {
            let points = [300, 600, 900];
            let found = points.into_iter().rev().find(|point| *point <= until);
            found.ok_or_else(|| Missing::NotKept(format!("none of {changes} is kept: there is 1200")))
        }

        fn load(&self, _: u64) -> Result<Serving, Missing> {
            Err(Missing::Gone)
        }

        fn publishes(&self) -> bool {
            true
        }
    }

    #[test]
    fn what_goes_while_it_is_asked_for_is_not_there() {
        let past = Past::new(Box::new(Fleeting));
        let response = past.answer(700, None, |_| Response::error(500, "nothing answers"));
        assert_eq!(response, Response::error(404, "none of 700 is kept: there is 1200"));
    }
}
