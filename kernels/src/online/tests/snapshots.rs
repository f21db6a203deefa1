//! A state that is stored and restored goes on to the same bits, from any row; damaged states are refused.

use super::drift::{DriftAction, DriftParams};
use super::*;

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

fn bits(outcomes: &[Outcome]) -> Vec<[u64; 3]> {
    outcomes.iter().map(|o| [o.prediction, o.leverage, o.outside].map(f64::to_bits)).collect()
}

#[test]
fn projected_learners_resume() {
    let stream = Stream::smooth(200, 230, 3, 0.2).flipping(90);
    for operation in [Operation::Rows, Operation::Blocks] {
        for growth in [Growth::Carry, Growth::CarryAfter, Growth::Restart] {
            let base = ProjectedParams::new(gaussian(1.2), dictionary(0.1, 50, 1), 0.5);
            let drift = Some(DriftParams { loss_scale: Some(4.0), ..DriftParams::new(DriftAction::Reset) });
            let params = ProjectedParams {
                operation,
                growth,
                block: 20,
                window: 30,
                hindsight: 40,
                forgetting: 0.99,
                drift,
                ..base
            };
            let mut whole = ProjectedKons::new(params.clone(), 3, 0).unwrap();
            let mut expected = whole.learn(&stream.batch()).unwrap();
            expected.extend(whole.flush().unwrap());
            for stop in [0, 1, 7, 20, 33, 199, 230] {
                let mut first = ProjectedKons::new(params.clone(), 3, 0).unwrap();
                let mut outcomes = first.learn(&stream.part(0, stop)).unwrap();
                let mut second: ProjectedKons = through_json(&first);
                second.check().unwrap();
                let probe = stream.rows.view().slice(0, 10);
                assert_eq!(first.predict(probe).unwrap(), second.predict(probe).unwrap());
                outcomes.extend(second.learn(&stream.part(stop, 230)).unwrap());
                outcomes.extend(second.flush().unwrap());
                assert_eq!(bits(&outcomes), bits(&expected), "{operation:?} {growth:?} {stop}");
                assert_eq!(second.expansion(), whole.expansion());
                assert_eq!(second.ledger(), whole.ledger());
                assert_eq!(second.hindsight(), whole.hindsight());
                assert_eq!(serde_json::to_string(&second).unwrap(), serde_json::to_string(&whole).unwrap());
            }
        }
    }
}

#[test]
fn kons_resumes() {
    let stream = Stream::smooth(201, 120, 2, 0.2);
    for least in [1.0, 0.2] {
        let sketch = Some(Sketch { least, gamma: 0.5, eps: 0.5, beta: 1.0, seed: 3 });
        let params = KonsParams { sketch, ..KonsParams::new(gaussian(1.0), 0.5) };
        let mut whole = Kons::new(params.clone(), 2, 0).unwrap();
        let expected = whole.learn(&stream.batch()).unwrap();
        let mut first = Kons::new(params, 2, 0).unwrap();
        let mut outcomes = first.learn(&stream.part(0, 57)).unwrap();
        let mut second: Kons = through_json(&first);
        second.check().unwrap();
        outcomes.extend(second.learn(&stream.part(57, 120)).unwrap());
        assert_eq!(bits(&outcomes), bits(&expected));
        assert_eq!(serde_json::to_string(&second).unwrap(), serde_json::to_string(&whole).unwrap());
    }
}

#[test]
fn recursive_learners_resume() {
    let stream = Stream::smooth(202, 100, 3, 0.2);
    let atoms = Stream::smooth(203, 20, 3, 0.0);
    let targets: Vec<f64> = (0..300).map(|i| stream.y[i / 3] * (i % 3) as f64 + 0.1).collect();
    let params = RecursiveParams { block: 16, refresh: 2, ..RecursiveParams::new(gaussian(1.5), 0.2, 3) };
    let learn = |learner: &mut Recursive, from: usize, to: usize| {
        let rows = stream.rows.view().slice(from, to);
        learner.insert(rows, &stream.ids[from..to], &targets[3 * from..3 * to], None).unwrap().predictions
    };
    let mut whole = Recursive::new(params.clone(), atoms.rows.view()).unwrap();
    let expected = learn(&mut whole, 0, 100);
    for stop in [0, 16, 41] {
        let mut first = Recursive::new(params.clone(), atoms.rows.view()).unwrap();
        let mut answers = learn(&mut first, 0, stop);
        let mut second: Recursive = through_json(&first);
        second.check().unwrap();
        answers.extend(learn(&mut second, stop, 100));
        assert_eq!(answers, expected);
        assert_eq!(serde_json::to_string(&second).unwrap(), serde_json::to_string(&whole).unwrap());
    }
}

/// Truncated lists do not come back as a learner, or are found by `check`.
#[test]
fn damaged_states_are_refused() {
    // Ids that fit the numbers of a JSON value.
    let stream = Stream::smooth(0, 60, 2, 0.2);
    let params = ProjectedParams { block: 25, ..ProjectedParams::new(gaussian(1.2), dictionary(0.1, 50, 1), 0.5) };
    let mut learner = ProjectedKons::new(params, 2, 0).unwrap();
    learner.learn(&stream.batch()).unwrap();
    let sound = serde_json::to_value(&learner).unwrap();
    for path in [
        "dictionary/p",
        "dictionary/ids",
        "dictionary/basis/rows",
        "dictionary/members",
        "dictionary/rows/numeric",
        "folded/w",
        "folded/a/rows",
        "waiting/targets",
    ] {
        let mut value = sound.clone();
        let list = value.pointer_mut(&format!("/{path}")).unwrap().as_array_mut().unwrap();
        assert!(list.pop().is_some());
        let restored = serde_json::from_value::<ProjectedKons>(value);
        assert!(restored.map_or(true, |learner| learner.check().is_err()), "{path}");
    }
    let restored: ProjectedKons = serde_json::from_value(sound).unwrap();
    restored.check().unwrap();
}
