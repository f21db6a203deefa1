//! Each shard against a learner of its own; cuts, snapshots and limits.

use super::*;
use crate::online::encoding::rows_of;
use crate::online::recursive::Recursive;
use crate::online::recursive::tests::{chunk, function, settings, smooth};
use nystream_datasets::events::Op;
use nystream_datasets::rows::{Applied, StoredRow};
use nystream_datasets::{Chunk, ColumnInfo, ColumnKind, ColumnSummary, Encoder, EncoderOptions};
use std::ops::Range;

const SHARDS: usize = 5;

fn router() -> Router {
    let info = |name: &str| ColumnInfo {
        name: name.into(),
        kind: ColumnKind::Numeric,
        integer: false,
        data_type: "Float64".into(),
    };
    let summary = |name: &str| ColumnSummary { count: 3, sd: 2.0, max: 4.0, ..ColumnSummary::empty(&info(name)) };
    let options = EncoderOptions { targets: vec!["y".into()], ..Default::default() };
    let encoder = Encoder::fit(&[summary("x"), summary("y")], &options).unwrap();
    let schema = StreamSchema::of(&encoder).unwrap();
    assert!(Router::new("shop", &schema).is_err() && Router::new("y", &schema).is_err());
    assert!(Router::is_key("key", &schema) && !Router::is_key("x", &schema));
    Router::new("shop", &schema.with_text("shop")).unwrap()
}

fn make() -> Make {
    Box::new(|| Ok(Box::new(Recursive::new(&settings(0.02, 8), &function(2, &[]), vec![], false)?) as Box<dyn Learner>))
}

fn sharded(most: usize) -> Sharded {
    Sharded::new(router(), most, 100, make()).unwrap()
}

/// The shard of row `i`, with runs of one and of several.
fn shard(i: usize) -> usize {
    (i * i / 3 + i / 7) % SHARDS
}

fn event(i: usize) -> Event {
    let cells = vec![Cell::Number(0.0), Cell::Number(0.0), Cell::Text(format!("s{}", shard(i)))];
    Event { op: Op::Insert, key: format!("k{i}"), time: None, weight: None, cells }
}

/// Gives rows as the runtime does: each asked for its queue, then all at once.
fn learn(learner: &mut Sharded, rows: Range<usize>) -> Vec<Answer> {
    let changes: Vec<Applied> = rows
        .clone()
        .map(|i| {
            let row = StoredRow { event: event(i), arrival: i as u64 };
            assert!(learner.refusal(&row.event).is_none());
            learner.queue(&row.event).unwrap();
            Applied { number: i as u64, removed: None, added: Some(Arc::new(row)), expired: false }
        })
        .collect();
    let mut added = chunk(rows, 2, smooth);
    added.ordinals = (0..added.rows() as u64).collect();
    let none = crate::online::encoding::empty_like(&added);
    learner.learn(&Batch { changes: &changes, removed: &none, added: &added }).unwrap()
}

fn alone(shard_of: usize) -> (Box<dyn Learner>, Vec<Answer>) {
    let mut learner = make()().unwrap();
    let all = chunk(0..300, 2, smooth);
    let mut own: Chunk = crate::online::encoding::empty_like(&all);
    for i in (0..300).filter(|i| shard(*i) == shard_of) {
        let ordinal = own.rows() as u64;
        crate::online::encoding::append(&mut own, &all, i, ordinal);
    }
    let none = crate::online::encoding::empty_like(&own);
    let mut answers = learner.learn(&Batch { changes: &[], removed: &none, added: &own }).unwrap();
    answers.extend(learner.flush().unwrap());
    (learner, answers)
}

#[test]
fn shards_are_learners_of_their_own() {
    let mut whole = sharded(SHARDS);
    let mut expected = learn(&mut whole, 0..300);
    expected.extend(whole.flush().unwrap());
    // Cut otherwise, and stored in between.
    let (mut learner, mut answers) = (sharded(SHARDS), Vec::new());
    for (from, to) in [(0, 1), (1, 2), (2, 40), (40, 41), (41, 299), (299, 300)] {
        answers.extend(learn(&mut learner, from..to));
        let bytes = learner.snapshot().unwrap();
        learner = sharded(SHARDS);
        learner.restore(&bytes).unwrap();
        assert_eq!(learner.snapshot().unwrap(), bytes);
    }
    answers.extend(learner.flush().unwrap());
    assert_eq!(answers, expected);
    assert_eq!(learner.snapshot().unwrap(), whole.snapshot().unwrap());
    let shards = whole.shards().unwrap();
    assert_eq!(shards.all.len(), SHARDS);
    let probe = chunk(900..901, 2, smooth);
    let mut rows = 0;
    for of in 0..SHARDS {
        let name = format!("s{of}");
        let (mut own, own_answers) = alone(of);
        let number = whole.numbers[name.as_str()];
        let found: Vec<Answer> = expected
            .iter()
            .filter(|answer| answer.queue == number)
            .cloned()
            .map(|answer| Answer { queue: 0, ..answer })
            .collect();
        assert_eq!(found, own_answers, "{name}");
        let (a, b) = (whole.publish_shard(&name).unwrap(), own.publish().unwrap());
        assert_eq!((a.function.coefficients, a.rows), (b.function.coefficients, b.rows), "{name}");
        let asked = (0..300).find(|i| shard(*i) == of).unwrap();
        let (a, b) =
            (whole.predict_event(&event(asked), rows_of(&probe)).unwrap(), own.predict(rows_of(&probe)).unwrap());
        assert_eq!(a, b);
        rows += own.info().rows;
    }
    assert_eq!((rows, whole.info().rows), (300, 300));
    let mean = expected.iter().map(|answer| answer.loss).sum::<f64>() / 300.0;
    assert_eq!(whole.info().mean_loss, Some(mean));
    assert!(whole.publish().is_err() && whole.publish_shard("s9").is_err());
    assert!(sharded(SHARDS).restore(b"nothing").is_err());
}

#[test]
fn further_shards_are_refused() {
    let mut learner = sharded(2);
    let mut seen: Vec<usize> = Vec::new();
    for i in 0..60 {
        let new = !seen.contains(&shard(i));
        let refused = learner.refusal(&event(i));
        assert_eq!(refused.is_some(), new && seen.len() == 2, "{i}: {refused:?}");
        if refused.is_none() && new {
            learner.queue(&event(i)).unwrap();
            seen.push(shard(i));
        }
    }
    let nameless = Event { cells: vec![Cell::Null, Cell::Null, Cell::Null], ..event(0) };
    assert!(learner.refusal(&nameless).unwrap().contains("column 'shop'"));
    let long = Event { cells: vec![Cell::Null, Cell::Null, Cell::Text("x".repeat(2000))], ..event(0) };
    assert!(learner.refusal(&long).is_some());
    // A shard that is not there is predicted by what has learned nothing, and is not made.
    let probe = chunk(900..901, 2, smooth);
    let other = (0..60).find(|i| !seen.contains(&shard(*i))).unwrap();
    let found = learner.predict_event(&event(other), rows_of(&probe)).unwrap();
    assert_eq!(found[0].values, function(2, &[]).code.centres);
    assert_eq!(learner.shards().unwrap().all.len(), 2);
}
