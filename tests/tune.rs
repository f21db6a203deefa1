//! `nystream tune` through the built binary: the flags it prints are the fit that `auto` would make.

mod common;

use common::*;

/// The flags at the end of what `tune` prints for people.
fn printed(place: &Place, line: &str) -> String {
    let output = place.run(line);
    assert_eq!(output.status.code(), Some(0), "{line}\n{}", text(&output.stderr));
    let shown = text(&output.stdout);
    let flags = shown.lines().find_map(|line| line.strip_prefix("chosen  ")).unwrap_or_else(|| panic!("{shown}"));
    assert!(shown.lines().any(|line| line.trim_end().ends_with("chosen")), "no row is marked:\n{shown}");
    flags.trim().to_owned()
}

/// More rows than the sample, so that a ridge of the sample's rows would be another one.
#[test]
fn the_printed_flags_are_the_fit_of_auto() {
    for (source, solve) in [
        ("synth:sines?rows=30000&d=3&seed=5", "--solver pcg"),
        ("synth:twoclass?rows=30000&d=4&seed=5", "--task classification --class-weight 0=3 --solver pcg"),
        ("synth:twoclass?rows=30000&d=4&seed=5", "--loss logistic"),
    ] {
        let place = Place::new();
        let what = format!("--data {source} --target y {solve} --centers 150");
        let flags = printed(&place, &format!("tune {what}"));
        let auto = place.solved(&format!("fit {what} --out auto.nys"));
        let told = place.solved(&format!("fit {what} --out told.nys {flags} --workers 1"));
        assert_eq!(digest(&told), digest(&auto), "{what}: {flags}");
        for field in ["/ridge", "/ridge_matrix", "/bandwidth"] {
            assert_eq!(number(&told, field), number(&auto, field), "{field}");
        }
        let ridge: f64 = flags.split_whitespace().last().unwrap().parse().unwrap();
        assert_eq!(number(&auto, "/ridge"), ridge);
    }
}

#[test]
fn centers_on_auto_are_the_same_too_and_given_values_are_kept() {
    let place = Place::new();
    let what = "--data synth:sines?rows=25000&d=2&seed=3 --target y --solver pcg --max-flops 4e10";
    let flags = printed(&place, &format!("tune {what}"));
    let auto = place.solved(&format!("fit {what} --out auto.nys"));
    let told = place.solved(&format!("fit {what} --out told.nys {flags}"));
    assert_eq!(digest(&told), digest(&auto), "{flags}");
    assert_eq!(number(&told, "/centers"), number(&auto, "/centers"));

    let given = printed(&place, &format!("tune {what} --kernel laplace --ridge 3.5e-5"));
    assert!(given.contains("--kernel laplace") && given.ends_with("--ridge 3.5e-5"), "{given}");
    // The Gram chooses its ridge from all rows: `tune` says so.
    let gram = place.json(&format!("tune {} --kernel laplace --bandwidth 1x", what.replace("pcg", "gram")));
    assert!(gram["notes"][0].as_str().unwrap().contains("gram"), "{gram}");
}
