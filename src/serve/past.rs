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
    /// It is there and cannot be used.
    Unusable(String),
}

impl Missing {
    fn response(&self) -> Response {
        match self {
            Missing::NotKept(reason) => Response::error(404, reason),
            Missing::Unusable(reason) => Response::error(500, reason),
        }
    }
}

/// Where models of before are.
pub trait Keeper: Send + Sync {
    /// The point of the newest one of `changes` or before. `newest`: that of the newest model, where it was published.
    ///
    /// # Errors
    /// None is kept.
    fn point(&self, changes: u64, newest: Option<u64>) -> Result<u64, Missing>;

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
        let point = match self.keeper.point(changes, newest.map(|serving| serving.changes)) {
            Ok(point) => point,
            Err(missing) => return missing.response(),
        };
        if let Some(serving) = newest.filter(|serving| serving.changes == point) {
            return answer(serving);
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|serving| serving.changes != point) {
            // First the room.
            *held = None;
            match self.keeper.load(point) {
                Ok(serving) => *held = Some(serving),
                Err(missing) => return missing.response(),
            }
        }
        match held.as_ref() {
            Some(serving) => answer(serving),
            None => Response::error(500, "the model is gone"),
        }
    }
}
