//! Events of every kind of column, and of none.

use super::*;
use crate::{
    CategoricalFeature, Chunk, ColumnKind, Encoder, NumericFeature, RawBatch, Role, Scale, SplitRule, TargetKind,
    Transform,
};
use nystream_hashing::{FileId, RowId};
use proptest::prelude::*;

fn feature(column: &str, kind: ColumnKind) -> NumericFeature {
    let transform = match kind {
        ColumnKind::Boolean => Transform::Boolean { center: 0.5 },
        _ => Transform::Affine { center: 0.0, scale: 1.0 },
    };
    NumericFeature { column: column.into(), kind, transform, cyclic: false, indicator: false }
}

/// A model that reads a column of each kind, classes `no` and `yes` of column `y`, and keys of column `id`.
fn encoder() -> Encoder {
    let json = serde_json::json!({
        "targets": ["y"],
        "target_kind": TargetKind::Classes(vec!["no".into(), "yes".into()]),
        "scale": Scale::default(),
        "numeric": [
            feature("number", ColumnKind::Numeric),
            feature("flag", ColumnKind::Boolean),
            feature("at", ColumnKind::Timestamp),
            feature("on", ColumnKind::Date),
            feature("clock", ColumnKind::Time),
            feature("took", ColumnKind::Duration),
        ],
        "categorical": [CategoricalFeature {
            column: "color".into(),
            kind: ColumnKind::Text,
            levels: vec!["red".into(), "7".into()],
            null_level: true,
        }],
        "weight": "w",
        "class_weights": [],
        "id_column": "id",
        "split": SplitRule::None,
        "notes": [],
    });
    serde_json::from_value(json).unwrap()
}

fn encode(events: &[Event]) -> Chunk {
    let encoder = encoder();
    let batch = StreamSchema::of(&encoder).unwrap().batches(events).unwrap().remove(0);
    let raw = RawBatch { file: 0, file_id: FileId::from_relative_path("stream"), first_ordinal: 0, batch };
    let mut chunk = Chunk::new();
    encoder.encode(&raw, Role::Training, &mut chunk).unwrap();
    chunk
}

/// What is not written is null.
fn read(line: &str) -> Result<Event, EventError> {
    json::event(line.as_bytes(), &StreamSchema::of(&encoder()).unwrap().with_absent_null())
}

/// A row that lacks a feature is none, by the name that it lacks and the nearest that it has; a null is a value, and targets and what else is no feature may be absent.
#[test]
fn absent_features_are_refused_and_nulls_are_not() {
    let schema = StreamSchema::of(&encoder()).unwrap();
    let read = |line: &str| json::event(line.as_bytes(), &schema);
    let most = r#""flag": true, "at": 0, "on": null, "clock": 60, "took": null, "color": "red""#;
    let event = read(&format!(r#"{{"key": "a", "row": {{"number": null, {most}}}}}"#)).unwrap();
    assert_eq!(event.cells[0], Cell::Null);
    // What is written of it reads back.
    assert_eq!(read(&json::text(&event, &schema)).unwrap(), event);
    for (op, name) in [("insert", "Numbr"), ("update", "number "), ("insert", "NUMBER")] {
        let line = format!(r#"{{"row": {{"{name}": 1, {most}}}, "op": "{op}", "key": "a"}}"#);
        let error = read(&line).unwrap_err();
        assert_eq!(error.key(), Some("a"));
        let text = error.to_string();
        assert!(text.starts_with(&format!("the row has no column 'number' (there is '{name}');")), "{text}");
        let found = json::event(line.as_bytes(), &schema.clone().with_absent_null()).unwrap();
        assert_eq!(found.cells[0], Cell::Null);
    }
    let error = read(r#"{"key": "a", "row": {"y": "no"}}"#).unwrap_err().to_string();
    assert!(error.starts_with("the row has no column 'number'; a value"), "{error}");
    assert!(read(r#"{"op": "label", "key": "a", "row": {"y": "no"}}"#).is_ok());
    assert!(read(r#"{"op": "delete", "key": "a", "row": {}}"#).is_ok());
    // A column for whoever runs the stream is none of the model's.
    let more = schema.clone().with_text("shop");
    assert!(json::event(format!(r#"{{"key": "a", "row": {{"number": 1, {most}}}}}"#).as_bytes(), &more).is_ok());
}

#[test]
fn every_kind_of_column_reaches_the_encoder() {
    let row = r#"{"number": -0.5, "flag": true, "at": "2020-01-01T00:00:01.5Z", "on": "1970-01-03", "clock": "00:01:00", "took": 2.5, "color": 7, "y": "yes", "else": [1, {"a": 2}]}"#;
    let line = format!(r#"{{"row": {row}, "weight": 2, "key": 12}}"#);
    let event = read(&line).unwrap();
    assert_eq!((event.op, event.key.as_str(), event.weight, event.time), (Op::Insert, "12", Some(2.0), None));
    let chunk = encode(&[event]);
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    assert_eq!(chunk.numeric, [-0.5, 1.0, 1_577_836_801.5f64 as f32, 172_800.0, 60.0, 2.5]);
    assert_eq!((chunk.codes, chunk.targets, chunk.weights), (vec![2], vec![1.0], vec![2.0]));
    assert_eq!(chunk.ids, [RowId::from_key("12")]);
    // Numbers for instants are seconds.
    let numbers = read(r#"{"key": "a", "row": {"at": 1577836801.5, "clock": 60, "took": 2.5, "flag": 1}}"#).unwrap();
    let text =
        read(r#"{"key": "a", "row": {"at": "2020-01-01 00:00:01.5", "clock": "00:01", "took": 2.5, "flag": true}}"#);
    assert_eq!(numbers, text.unwrap());
}

#[test]
fn nulls_missing_and_bad_values_are_the_encoders_to_judge() {
    let events: Vec<Event> = [
        r#"{"key": "a", "row": {"y": "no", "number": null}}"#,
        r#"{"key": "b", "row": {"y": "no", "number": "NaN"}}"#,
        r#"{"key": "c", "row": {"y": "maybe"}}"#,
        r#"{"key": "d", "row": {"number": 1}}"#,
        r#"{"key": "e", "row": {"y": "no", "number": "-Infinity"}}"#,
        r#"{"key": "f", "row": {"y": "no"}, "weight": -1}"#,
    ]
    .iter()
    .map(|line| read(line).unwrap())
    .collect();
    let chunk = encode(&events);
    assert_eq!(chunk.ids, [RowId::from_key("a")]);
    assert_eq!((chunk.bad.len(), chunk.skipped_null_target), (4, 1));
    let schema = StreamSchema::of(&encoder()).unwrap();
    assert!(schema.has_target(&events[0].cells) && !schema.has_target(&events[3].cells));
}

#[test]
fn operations_need_what_they_need() {
    assert_eq!(read(r#"{"op": "delete", "key": "a"}"#).unwrap().cells, []);
    assert_eq!(read(r#"{"op": "delete", "key": "a", "row": {"number": 1}}"#).unwrap().cells, []);
    assert_eq!(read(r#"{"op": "label", "key": "a", "row": {"y": "no"}}"#).unwrap().op, Op::Label);
    assert_eq!(read(r#"{"op": "update", "key": "a", "row": {}}"#).unwrap().op, Op::Update);
    assert_eq!(read(r#"{"op": null, "key": "a", "row": {}, "time": null, "weight": null}"#).unwrap().op, Op::Insert);
    let time = |text: &str| read(&format!(r#"{{"key": "a", "row": {{}}, "time": {text}}}"#)).unwrap().time;
    assert_eq!((time("1.5"), time("\"1970-01-01T00:00:02Z\"")), (Some(1_500_000), Some(2_000_000)));
    assert_eq!(time("\"1970-01-01T02:00:02+02:00\""), Some(2_000_000));
}

#[test]
fn what_is_no_event_is_told_with_its_key() {
    let refused = |line: &str| {
        let error = read(line).unwrap_err();
        (error.key().map(str::to_owned), error.to_string())
    };
    let cases = [
        (r#"{"row": {}}"#, None, "no \"key\""),
        (r#"{"key": "a"}"#, Some("a"), "no \"row\""),
        (r#"{"key": "a", "row": null}"#, Some("a"), "no \"row\""),
        (r#"{"key": "a", "row": 3}"#, Some("a"), "expected a row"),
        (r#"{"key": "", "row": {}}"#, None, "\"key\" must be"),
        (r#"{"key": 1.5, "row": {}}"#, None, "\"key\" must be"),
        (r#"{"key": ["a"], "row": {}}"#, None, "\"key\" must be"),
        (r#"{"key": "a", "key": "b", "row": {}}"#, Some("b"), "stands twice"),
        (r#"{"op": "upsert", "key": "a", "row": {}}"#, Some("a"), "insert, update, delete or label"),
        (r#"{"op": "label", "key": "a", "row": {"number": 1}}"#, Some("a"), "needs a target"),
        (r#"{"op": "label", "key": "a", "row": {"y": null}}"#, Some("a"), "needs a target"),
        (r#"{"rwo": {}, "key": "a", "row": {}}"#, Some("a"), "\"rwo\" is no field"),
        (r#"{"row": {"number": "much"}, "key": "a"}"#, Some("a"), "'number' is the text 'much' but a number"),
        (r#"{"row": {"number": true}, "key": "a"}"#, Some("a"), "the boolean true but a number"),
        (r#"{"row": {"number": [1]}, "key": "a"}"#, Some("a"), "'number' holds a list"),
        (r#"{"row": {"number": 1, "number": 2}, "key": "a"}"#, Some("a"), "'number' stands twice"),
        (r#"{"row": {"flag": 2}, "key": "a"}"#, Some("a"), "true or false"),
        (r#"{"row": {"at": "soon"}, "key": "a"}"#, Some("a"), "ISO 8601"),
        (r#"{"row": {"at": 1e300}, "key": "a"}"#, Some("a"), "ISO 8601"),
        (r#"{"row": {"on": 3}, "key": "a"}"#, Some("a"), "a date"),
        (r#"{"row": {"clock": 86400}, "key": "a"}"#, Some("a"), "a time of day"),
        (r#"{"row": {"took": "long"}, "key": "a"}"#, Some("a"), "a length of time"),
        (r#"{"key": "a", "row": {}, "time": "soon"}"#, Some("a"), "\"time\" must be"),
        (r#"{"key": "a", "row": {}, "weight": "2"}"#, Some("a"), "\"weight\" must be"),
        (r#"{"key": "a", "row": {}"#, Some("a"), "EOF"),
        (r#"{"key": "a", "row": {}} x"#, Some("a"), "trailing"),
        ("", None, "EOF"),
        ("[1, 2]", None, "expected an event"),
        ("nonsense", None, "expected"),
    ];
    for (line, key, reason) in cases {
        let (found, message) = refused(line);
        assert_eq!(found.as_deref(), key, "{line}");
        assert!(message.contains(reason), "{line}: {message}");
    }
    assert!(json::event(b"{\"key\": \"\xff\", \"row\": {}}", &StreamSchema::of(&encoder()).unwrap()).is_err());
}

#[test]
fn deep_nesting_is_no_danger_and_long_keys_are_refused() {
    let deep = format!(r#"{{"key": "a", "row": {{"else": {}1{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(read(&deep).unwrap().key, "a");
    let deep = deep.replace("else", "number");
    assert!(read(&deep).unwrap_err().to_string().contains("holds a list"));
    let long = format!(r#"{{"key": "{}", "row": {{}}}}"#, "k".repeat(MAX_KEY_BYTES + 1));
    assert!(read(&long).is_err());
}

fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        Just(Cell::Null),
        any::<f64>().prop_filter("equal to itself", |v| !v.is_nan()).prop_map(Cell::Number),
        any::<bool>().prop_map(Cell::Flag),
        any::<i64>().prop_map(Cell::Ticks),
        any::<i64>().prop_map(Cell::Nanos),
        ".*".prop_map(Cell::Text),
    ]
}

proptest! {
    #[test]
    fn stored_events_read_back(
        key in ".+",
        time in prop::option::of(any::<i64>()),
        weight in prop::option::of(0.0f64..1e9),
        cells in prop::collection::vec(cell(), 0..12),
        delete in any::<bool>(),
    ) {
        let event = Event { op: if delete { Op::Delete } else { Op::Insert }, key, time, weight, cells };
        let bytes = event.to_bytes().unwrap();
        // At any alignment.
        let mut shifted = vec![0; 3];
        shifted.extend_from_slice(&bytes);
        prop_assert_eq!(Event::from_bytes(&shifted[3..]).unwrap(), event);
    }

    #[test]
    fn damaged_events_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), flip in any::<prop::sample::Index>()) {
        let _ = Event::from_bytes(&bytes);
        let event = Event { op: Op::Insert, key: "key".into(), time: Some(1), weight: None, cells: vec![Cell::Text("text".into()); 3] };
        let mut stored = event.to_bytes().unwrap().to_vec();
        let place = flip.index(stored.len());
        stored[place] ^= 1 + (place % 255) as u8;
        let _ = Event::from_bytes(&stored);
        let _ = Event::from_bytes(&stored[..place]);
    }

    #[test]
    fn arbitrary_lines_never_panic(line in "[\\{\\}\\[\\]\":,a-z0-9 .]{0,80}") {
        let _ = read(&line);
    }

    /// Numbers that are written with all their digits come back to the bit.
    #[test]
    fn numbers_are_read_to_the_last_bit(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
        let text = serde_json::to_string(&value).unwrap();
        let event = read(&format!(r#"{{"key": "a", "row": {{"number": {text}}}}}"#)).unwrap();
        let place = StreamSchema::of(&encoder()).unwrap().place("number").unwrap();
        let Cell::Number(found) = event.cells[place] else { panic!("{:?}", event.cells) };
        prop_assert_eq!(found.to_bits(), value.to_bits());
    }
}

#[test]
fn units_of_time_are_not_mixed_and_none_is_rounded() {
    let schema = StreamSchema::of(&encoder()).unwrap();
    let at = |text: &str| read(&format!(r#"{{"key": "a", "row": {{"at": {text}, "y": "no"}}}}"#)).unwrap();
    let events = [
        at("\"2020-01-01T00:00:00.123456\""),
        at("null"),
        at("\"2020-01-01T00:00:00.123456789\""),
        at("null"),
        at("\"2020-01-01T00:00:00\""),
    ];
    let place = schema.place("at").unwrap();
    assert_eq!(events[2].cells[place], Cell::Nanos(1_577_836_800_123_456_789));
    let batches = schema.batches(&events).unwrap();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).collect::<Vec<_>>(), [2, 2, 1]);
    assert!(schema.batches(&[]).unwrap().is_empty());
}

mod arrow_batches {
    use super::*;
    use arrow_array::*;
    use std::sync::Arc;

    fn column(array: impl Array + 'static) -> ArrayRef {
        Arc::new(array)
    }

    fn batch() -> RecordBatch {
        let columns = [
            ("else", column(Int32Array::from(vec![1, 2, 3]))),
            ("color", column(StringArray::from(vec![Some("red"), None, Some("7")]))),
            ("number", column(Float32Array::from(vec![0.5, f32::NAN, 2.0]))),
            ("flag", column(BooleanArray::from(vec![true, false, true]))),
            ("at", column(TimestampNanosecondArray::from(vec![1_577_836_800_123_456_789; 3]))),
            ("on", column(Date32Array::from(vec![2, 3, 4]))),
            ("clock", column(Time32SecondArray::from(vec![60, 61, 62]))),
            ("took", column(DurationMillisecondArray::from(vec![2500, 1, 2]))),
            ("y", column(StringArray::from(vec![Some("yes"), Some("no"), None]))),
            ("w", column(Float64Array::from(vec![Some(2.0), None, Some(1.0)]))),
            ("id", column(Int64Array::from(vec![7, 8, 9]))),
            ("op", column(StringArray::from(vec![None, Some("update"), Some("insert")]))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// A row has the same bits whether the encoder reads the file or its events.
    #[test]
    fn events_of_a_batch_encode_as_the_batch_does() {
        let (encoder, schema) = (encoder(), StreamSchema::of(&encoder()).unwrap());
        let events: Vec<Event> = arrow::events(&batch(), &schema).unwrap().into_iter().map(|e| e.unwrap()).collect();
        assert_eq!(
            events.iter().map(|e| (e.op, e.key.as_str())).collect::<Vec<_>>(),
            [(Op::Insert, "7"), (Op::Update, "8"), (Op::Insert, "9")]
        );
        let encode = |batch: RecordBatch| {
            let raw = RawBatch { file: 0, file_id: FileId::from_relative_path("stream"), first_ordinal: 0, batch };
            let mut chunk = Chunk::new();
            encoder.encode(&raw, Role::Training, &mut chunk).unwrap();
            chunk
        };
        let direct = encode(batch());
        let mut through = encode(schema.batches(&events).unwrap().remove(0));
        assert_eq!(direct.ids, [RowId::from_key("7")]);
        // A weight that is null is a bad row in a file; in an event it is 1, so that row is bad for its NaN.
        assert_eq!((direct.bad.len(), through.bad.len()), (1, 1));
        through.bad = direct.bad.clone();
        assert_eq!(through, direct);
    }

    #[test]
    fn batches_that_are_no_events_are_told() {
        let schema = StreamSchema::of(&encoder()).unwrap();
        let without = |name: &str| {
            let batch = batch();
            let keep: Vec<usize> =
                (0..batch.num_columns()).filter(|i| batch.schema().field(*i).name() != name).collect();
            batch.project(&keep).unwrap()
        };
        assert!(arrow::events(&without("id"), &schema).unwrap_err().to_string().contains("'id'"));
        // Rows without a feature are none, or it is null.
        let named = |event: &Result<Event, EventError>| {
            let error = event.as_ref().unwrap_err();
            error.to_string().starts_with("the row has no column 'number'") && error.key().is_some()
        };
        assert!(arrow::events(&without("number"), &schema).unwrap().iter().all(named));
        let events = arrow::events(&without("number"), &schema.clone().with_absent_null()).unwrap();
        let place = schema.place("number").unwrap();
        assert!(events.iter().all(|event| event.as_ref().unwrap().cells[place] == Cell::Null));
        assert!(arrow::events(&without("y"), &schema).unwrap().iter().all(Result::is_ok));
        let bad = [
            ("number", column(StringArray::from(vec!["a", "b", "c"])), "a number"),
            ("flag", column(Float64Array::from(vec![1.0, 2.0, 3.0])), "true or false"),
            ("at", column(Float64Array::from(vec![1.0, 2.0, 3.0])), "an instant"),
            ("op", column(Int32Array::from(vec![1, 2, 3])), "insert, update, delete or label"),
        ];
        for (name, array, reason) in bad {
            let batch = without(name);
            let mut columns: Vec<(String, ArrayRef)> =
                batch.schema().fields().iter().map(|f| f.name().clone()).zip(batch.columns().to_vec()).collect();
            columns.push((name.into(), array));
            let error = arrow::events(&RecordBatch::try_from_iter(columns).unwrap(), &schema).unwrap_err();
            assert!(error.to_string().contains(reason), "{name}: {error}");
        }
        // One bad row does not spoil the others.
        let mut columns: Vec<(String, ArrayRef)> = Vec::new();
        let whole = batch();
        for (field, array) in whole.schema().fields().iter().zip(whole.columns()) {
            let array = match field.name().as_str() {
                "op" => column(StringArray::from(vec!["insert", "upsert", "delete"])),
                "id" => column(StringArray::from(vec![Some("a"), Some("b"), None])),
                _ => array.clone(),
            };
            columns.push((field.name().clone(), array));
        }
        let events = arrow::events(&RecordBatch::try_from_iter(columns).unwrap(), &schema).unwrap();
        assert!(events[0].is_ok());
        assert_eq!(events[1].as_ref().unwrap_err().key(), Some("b"));
        assert!(events[2].as_ref().unwrap_err().to_string().contains("key"));
    }
}
