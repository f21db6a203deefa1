//! The workers of an engine as it sees them: what they are told, what they answer, and batches that they are not done with.
//!
//! The engine's thread nets and deals the next batches while the workers are at earlier ones: up to [`AHEAD`] are told before it waits for the first. How many rows there are is known as of the batches that were waited for, which
//! depends on how many were told alone, not on how far the workers are.

use super::worker::{AHEAD, Lot, Order, Ordered, Reply};
use crate::error::StageError;
use crate::online::learner::RunEnd;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};

/// How the workers ended, or why they did not begin.
pub(super) type Ends = Result<Vec<Result<RunEnd, StageError>>, String>;

/// The engine's end of its link with a worker.
struct Link {
    orders: Sender<Order>,
    replies: Receiver<Reply>,
    thread: Arc<OnceLock<Thread>>,
}

/// The workers of this process.
pub(super) struct Crew {
    links: Vec<Link>,
    threads: Option<JoinHandle<Ends>>,
    /// Rows that each batch brings which was told and not waited for.
    under_way: VecDeque<u64>,
    /// Rows that are there after the batches that were waited for.
    rows: u64,
    /// What ended it.
    failed: Option<StageError>,
}

impl Crew {
    /// Of so many workers, which are still to be started, with their ends of the links.
    pub(super) fn new(workers: usize) -> (Self, Vec<Ordered>) {
        let link = |_| {
            let ((orders, ordered), (answered, replies)) = (channel(), channel());
            let thread = Arc::new(OnceLock::new());
            let own = Ordered { orders: ordered, replies: answered, thread: Arc::clone(&thread) };
            (Link { orders, replies, thread }, own)
        };
        let (links, own) = (0..workers).map(link).unzip();
        (Crew { links, threads: None, under_way: VecDeque::new(), rows: 0, failed: None }, own)
    }

    /// They are started.
    pub(super) fn started(&mut self, threads: JoinHandle<Ends>) {
        self.threads = Some(threads);
    }

    /// Rows that are there, after all batches.
    ///
    /// # Errors
    /// As [`Crew::complete`].
    pub(super) fn rows(&mut self) -> Result<u64, StageError> {
        self.complete()?;
        Ok(self.rows)
    }

    /// Rows as of the batches that were waited for.
    pub(super) fn rows_known(&self) -> u64 {
        self.rows
    }

    /// Rows that there may be at most, after all batches.
    pub(super) fn rows_at_most(&self) -> u64 {
        self.rows + self.under_way.iter().sum::<u64>()
    }

    /// Tells a batch, and waits for those that are too many then.
    ///
    /// # Errors
    /// What an earlier batch, or this one, has met.
    pub(super) fn learn(&mut self, lot: Lot) -> Result<(), StageError> {
        self.sound()?;
        let brings = lot.which.len() as u64;
        self.tell(&Order::Learn(Arc::new(lot)))?;
        self.under_way.push_back(brings);
        self.wait_until(AHEAD)
    }

    /// Waits for all batches.
    ///
    /// # Errors
    /// What one of them has met. Some workers have applied it: a restart makes the rows anew, and nothing else comes of this crew.
    pub(super) fn complete(&mut self) -> Result<(), StageError> {
        self.wait_until(0)
    }

    fn wait_until(&mut self, left: usize) -> Result<(), StageError> {
        self.sound()?;
        while self.under_way.len() > left {
            let learned = self.replies(|reply| if let Reply::Learned(rows) = reply { Some(rows) } else { None });
            self.under_way.pop_front();
            match learned {
                Ok(rows) => self.rows = rows.into_iter().sum(),
                Err(error) => {
                    let error = match error {
                        StageError::Budget(_) | StageError::Data(_) | StageError::Usage(_) => error,
                        other => StageError::Internal(other.to_string()),
                    };
                    return Err(self.failed.insert(error).clone());
                }
            }
        }
        Ok(())
    }

    /// Whether it can be told anything.
    fn sound(&self) -> Result<(), StageError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Gives an order other than a batch, and hears what each worker answers, in their order; `of`: the answer to it.
    ///
    /// # Errors
    /// As [`Crew::complete`], and the least of the errors that are answered.
    pub(super) fn ask<T>(
        &mut self,
        order: &Order,
        of: impl Fn(Reply) -> Option<Result<T, StageError>>,
    ) -> Result<Vec<T>, StageError> {
        self.complete()?;
        self.tell(order)?;
        self.replies(of)
    }

    /// What each worker answers.
    ///
    /// # Errors
    /// The least of the errors that are answered.
    pub(super) fn replies<T>(
        &mut self,
        of: impl Fn(Reply) -> Option<Result<T, StageError>>,
    ) -> Result<Vec<T>, StageError> {
        self.sound()?;
        let (mut all, mut least): (Vec<T>, Option<StageError>) = (Vec::new(), None);
        for link in 0..self.links.len() {
            let Ok(reply) = self.links[link].replies.recv() else { return Err(self.broken()) };
            match of(reply) {
                Some(Ok(found)) => all.push(found),
                Some(Err(error)) => least = Some(least.map_or(error.clone(), |known| known.min(error))),
                None => return Err(StageError::Internal("workers fell out of step".into())),
            }
        }
        least.map_or(Ok(all), Err)
    }

    /// Tells all workers.
    pub(super) fn tell(&mut self, order: &Order) -> Result<(), StageError> {
        for link in &self.links {
            if link.orders.send(order.clone()).is_err() {
                return Err(self.broken());
            }
            link.thread.get().inspect(|thread| thread.unpark());
        }
        // Where nobody is left to tell, why that is was told before.
        if self.links.is_empty() { Err(self.broken()) } else { Ok(()) }
    }

    /// A worker is gone: why. Nothing else comes of the others.
    fn broken(&mut self) -> StageError {
        let error = self.failed.clone().unwrap_or_else(|| self.cause());
        self.failed = Some(error.clone());
        error
    }

    /// Lets go of all of them, and says what the first that failed has met.
    fn cause(&mut self) -> StageError {
        self.links.clear();
        self.under_way.clear();
        let reason = match self.threads.take().map(JoinHandle::join) {
            Some(Ok(Ok(results))) => match results.into_iter().find_map(Result::err) {
                // What cannot be used, or kept, is no bug.
                Some(error @ (StageError::Usage(_) | StageError::Budget(_))) => return error,
                error => error.map(|e| e.to_string()),
            },
            Some(Ok(Err(reason))) => Some(reason),
            Some(Err(_)) | None => None,
        };
        StageError::Internal(reason.unwrap_or_else(|| "the workers of the exact mode are gone".into()))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.links.clear();
        if let Some(threads) = self.threads.take() {
            // What went wrong was told with the order that met it.
            let _ = threads.join();
        }
    }
}
