//! Processes that hold a share of the centers each.

use super::*;

/// The parts that `processes` of `workers` write, each with its share of the centers alone, and the errors that they measure; with `share` false each has all.
fn shared(
    (processes, workers): (usize, usize),
    share: bool,
    catalog: &Catalog,
    encoder: &Arc<Encoder>,
    whole: &Arc<Function>,
) -> (BTreeMap<String, Vec<Option<f64>>>, String) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("parts");
    std::fs::create_dir(&out).unwrap();
    let (mut builders, _guard) = timely::CommunicationConfig::Process(processes * workers).try_build().unwrap();
    let (m, t) = (whole.centers(), whole.code.width());
    let measured: Vec<String> = std::thread::scope(|scope| {
        let start = |index: usize| {
            let own: Vec<_> = builders.drain(..workers).collect();
            let shard = Shard::of(m, processes, index);
            let range = if share { shard.centers() } else { 0..m };
            let function = Arc::new(Function {
                centers: RowBuf::gather(whole.centers.view(), &range.clone().collect::<Vec<_>>()),
                coefficients: whole.coefficients[range.start * t..range.end * t].to_vec(),
                ..(**whole).clone()
            });
            let room = Room { shard: share.then_some(shard), ..Room::default() };
            let path = if processes > 1 { out.clone() } else { out.join(part_name(0)) };
            let options = PredictOptions { out: path, room, ..Default::default() };
            let (catalog, encoder) = (catalog.clone(), Arc::clone(encoder));
            let process = Process::new(workers, processes, index, Box::new(SilentProgress));
            let job = move |session: &mut crate::engine::Session<'_>| {
                let written = predict(session, &catalog, &encoder, &function, &options)?;
                assert_eq!(written.rows, catalog.total_rows);
                let limit = ProductLimit::default();
                evaluate_model(session, &catalog, &encoder, &function, limit, 0, &options.room)
            };
            scope.spawn(move || run(&process, (own, Box::new(())), job).unwrap())
        };
        let threads: Vec<_> = (0..processes).map(start).collect();
        let results = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        results.map(|measured| format!("{:?}", measured.unwrap().evaluation)).collect()
    });
    assert!(measured.windows(2).all(|pair| pair[0] == pair[1]));
    let mut all: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    for index in 0..processes {
        for (name, values) in table(&out.join(part_name(index))) {
            all.entry(name).or_default().extend(values);
        }
    }
    (all, measured[0].clone())
}

/// Three blocks of centers, the last of one: predictions and errors have the bits of one process, and are what the sums say.
#[test]
fn shared_centers_predict_what_one_process_does() {
    let catalog = open(&["synth:friedman1?rows=20001&d=5"]);
    let encoder = encoder(&catalog, &["y"], None);
    for (m, precision) in [(8193, Precision::Single), (4097, Precision::Double)] {
        let function = Arc::new(function(&encoder, m, numbers(&["y"]), precision, 0));
        let alone = shared((1, 2), false, &catalog, &encoder, &function);
        let x = rows(&catalog, &encoder);
        let some = RowBuf::gather(x.view(), &(0..20_001).step_by(1000).collect::<Vec<_>>());
        let expected = sums(&function, &some, &function.coefficients, 1);
        for (k, sum) in expected.iter().enumerate() {
            let mut out = [0.0];
            function.outputs_of(&[*sum], &mut out);
            let found = alone.0["prediction"][k * 1000].unwrap();
            assert!((found - out[0]).abs() < 1e-4 * (m as f64).sqrt(), "{found} {}", out[0]);
        }
        for division in [(2, 1), (4, 1), (2, 2)] {
            assert!(shared(division, true, &catalog, &encoder, &function) == alone, "{m}: {division:?}");
        }
        assert!(shared((2, 1), false, &catalog, &encoder, &function) == alone, "{m}: whole in each of two");
    }
}
