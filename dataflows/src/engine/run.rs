//! Starting the workers of a process.

use crate::engine::session::{Process, Session};
use std::any::Any;
use std::sync::Arc;
use timely::communication::AllocatorBuilder;

/// Runs `job` on every worker of this process and returns their results in worker order.
///
/// `communication` holds timely's allocators, one for each worker of this process, and the guard of its network threads.
///
/// # Errors
/// Timely's message when the workers cannot be started, or a worker panicked.
///
/// ```
/// use nystream_dataflows::engine::{Process, SilentProgress, run};
/// let process = Process::new(2, 1, 0, Box::new(SilentProgress));
/// let communication = timely::CommunicationConfig::Process(2).try_build().unwrap();
/// let peers = run(&process, communication, |session| session.peers()).unwrap();
/// assert_eq!(peers, [2, 2]);
/// ```
pub fn run<T, F>(
    process: &Arc<Process>,
    communication: (Vec<AllocatorBuilder>, Box<dyn Any + Send>),
    job: F,
) -> Result<Vec<T>, String>
where
    T: Send + 'static,
    F: Fn(&mut Session<'_>) -> T + Send + Sync + 'static,
{
    let shared = Arc::clone(process);
    let guards = timely::execute::execute_from(
        communication.0,
        communication.1,
        timely::WorkerConfig::default(),
        move |worker| job(&mut Session::new(worker, Arc::clone(&shared))),
    )?;
    guards.join().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exchange::{Audience, Gather, Outgoing, Scan, Step, pass};
    use crate::engine::session::SilentProgress;
    use crate::error::StageError;

    fn threads(workers: usize) -> (Vec<AllocatorBuilder>, Box<dyn Any + Send>) {
        timely::CommunicationConfig::Process(workers).try_build().unwrap()
    }

    struct Counting {
        left: u32,
        parcels: Vec<Outgoing>,
        fail: bool,
    }

    impl Scan for Counting {
        fn step(&mut self) -> Result<Step, StageError> {
            if self.left == 0 {
                return Ok(Step::Done);
            }
            self.left -= 1;
            if self.fail && self.left == 1 {
                return Err(StageError::Data("row 7 is bad".into()));
            }
            Ok(Step::More { rows: 1 })
        }

        fn finish(self) -> Result<Vec<Outgoing>, StageError> {
            Ok(self.parcels)
        }
    }

    fn job(workers: usize, audience: Audience, fail: Option<usize>) -> Vec<Result<Vec<Outgoing>, StageError>> {
        let process = Process::new(workers, 1, 0, Box::new(SilentProgress));
        run(&process, threads(workers), move |session| {
            let me = session.index() as u64;
            let parcels = vec![
                Outgoing { key: 5, bytes: vec![me as u8; 3 << 20] },
                Outgoing { key: 2, bytes: Vec::new() },
                Outgoing { key: 5, bytes: vec![9] },
            ];
            let scan = Counting { left: 3, parcels, fail: fail == Some(session.index()) };
            pass(session, "test", scan, Gather::default(), audience)
        })
        .unwrap()
    }

    #[test]
    fn large_parcels_arrive_whole_and_in_order_everywhere() {
        for workers in 1..=3 {
            let expected: Vec<Outgoing> = (0..workers)
                .map(|_| Outgoing { key: 2, bytes: Vec::new() })
                .chain((0..workers).flat_map(|w| {
                    [Outgoing { key: 5, bytes: vec![w as u8; 3 << 20] }, Outgoing { key: 5, bytes: vec![9] }]
                }))
                .collect();
            for result in job(workers, Audience::Everyone, None) {
                assert!(result.unwrap() == expected);
            }
            let leaders = job(workers, Audience::Leaders, None);
            for (index, result) in leaders.into_iter().enumerate() {
                assert_eq!(result.unwrap().len(), if index == 0 { 3 * workers } else { 0 });
            }
        }
    }

    #[test]
    fn an_error_of_one_worker_reaches_all() {
        for audience in [Audience::Everyone, Audience::Leaders] {
            for result in job(3, audience, Some(1)) {
                assert_eq!(result, Err(StageError::Data("row 7 is bad".into())));
            }
        }
    }

    #[test]
    fn once_computes_once_per_process() {
        let process = Process::new(3, 1, 0, Box::new(SilentProgress));
        let values = run(&process, threads(3), |session| {
            let index = session.index();
            let first = session.once(|| index);
            let second: Result<_, StageError> = session.try_once(|| Ok(index + 10));
            (*first, *second.unwrap())
        });
        assert_eq!(values.unwrap(), [(0, 10); 3]);
    }
}
