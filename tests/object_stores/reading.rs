//! The same names give the same model, wherever the files are.

use super::common::*;
use super::servers::{Behind, Fault, front};
use super::{FIT, fitted, make_tree, place_with_bucket};

#[test]
fn disk_bucket_and_web_give_one_model() {
    let (place, _) = place_with_bucket();
    let disk = fitted(&place, &["disk"]);
    for data in [
        &["s3://bucket/deep/down/"][..],
        &["s3://bucket/deep/down/**/*.parquet"],
        &["s3://bucket/deep/down/year=2024/", "s3://bucket/deep/down/a.parquet"],
        &["s3://bucket/deep/d?wn/**/*.parquet", "s3://bucket/deep/other/*"][..1],
    ] {
        let expected = match data[0].contains("d?wn") {
            // The base of this glob is one folder higher: other names, so another model, the same as that of the files.
            true => {
                make_tree(&place.path("higher/down"));
                fitted(&place, &["higher/d?wn/**/*.parquet"])
            }
            false => disk.clone(),
        };
        assert_eq!(fitted(&place, data), expected, "{data:?}");
    }
    // A bucket alone is a folder.
    make_tree(&place.path("stores/whole"));
    assert_eq!(fitted(&place, &["s3://whole"]), disk);
    // Two processes.
    let two = place.cluster(&format!("fit --data s3://bucket/deep/down/ {FIT} --out two.nys"), 2);
    assert_eq!(digest(&two), disk);
    assert!(number(&two, "/bytes_read") > 0.0);
    // The web: single files.
    let web = front(Behind::Folder(place.path("disk")), |_, _| Fault::None);
    let files = ["a.parquet", "year=2024/b.parquet", "year%3D2024/c.parquet"];
    let files = files.map(|name| format!("http://127.0.0.1:{}/{name}", web.port));
    assert_eq!(fitted(&place, &files.each_ref().map(String::as_str)), disk);
    // The other commands.
    let local = place.json("evaluate --model m.nys --data disk");
    let remote = place.json("evaluate --model m.nys --data s3://bucket/deep/down/");
    assert_eq!(local["rmse"], remote["rmse"]);
    place.json("predict --model m.nys --data disk --keep a --out local.parquet");
    place.json("predict --model m.nys --data s3://bucket/deep/down/ --keep a --out remote.parquet");
    let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(bytes("local.parquet") == bytes("remote.parquet"), "predictions differ");
    let described = place.json("inspect s3://bucket/deep/down/");
    assert_eq!((number(&described, "/rows"), number(&described, "/files")), (39_000.0, 3.0));
    place.json("dictionary --data s3://bucket/deep/down/ --target y --centers 20 --out centers.parquet");
    // Neither models nor reports tell the secret.
    let report = place.path("report.json");
    place.json(&format!("fit --data s3://bucket/deep/down/ {FIT} --out m.nys --report report.json"));
    for path in [report, place.path("m.nys")] {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        assert!(!text.contains(super::servers::SECRET) && !text.contains(super::servers::KEY));
    }
}

/// Google and Azure speak protocols of their own for reading; listing is not tested here.
#[test]
fn google_and_azure_read_objects() {
    let mut place = Place::new();
    make_tree(&place.path("disk"));
    make_tree(&place.path("web/bucket"));
    make_tree(&place.path("web/devstoreaccount1/container"));
    let web = front(Behind::Folder(place.path("web")), |_, _| Fault::None);
    let base = format!("http://127.0.0.1:{}", web.port);
    let account = format!(
        r#"{{"gcs_base_url":"{base}","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}}"#
    );
    std::fs::write(place.path("account.json"), account).unwrap();
    let account = place.path("account.json").to_str().unwrap().to_owned();
    place.variables = [
        ("GOOGLE_SERVICE_ACCOUNT", account),
        ("GOOGLE_ALLOW_HTTP", "true".into()),
        ("AZURE_STORAGE_USE_EMULATOR", "true".into()),
        ("AZURITE_BLOB_STORAGE_URL", base),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    let disk = fitted(&place, &["disk/a.parquet", "disk/year=2024/b.parquet"]);
    assert_eq!(fitted(&place, &["gs://bucket/a.parquet", "gs://bucket/year=2024/b.parquet"]), disk);
    assert_eq!(fitted(&place, &["az://container/a.parquet", "az://container/year=2024/b.parquet"]), disk);
}

#[test]
fn names_with_spaces_percents_and_other_letters() {
    let (place, _) = place_with_bucket();
    let names = ["per%20cent%.parquet", "\u{e4}\u{4e2d}.parquet", "a+b&c.parquet", "st?r*[1].parquet"];
    for name in names {
        std::fs::create_dir_all(place.path("odd")).unwrap();
        std::fs::create_dir_all(place.path("stores/bucket/odd")).unwrap();
        for folder in ["odd", "stores/bucket/odd"] {
            write_grouped(&place.path(folder).join(name), &batch(table(name.len() * 5000, 5000)), 2000);
        }
        let disk = fitted(&place, &[&format!("odd/{name}")]);
        assert_eq!(fitted(&place, &[&format!("s3://bucket/odd/{name}")]), disk, "{name}");
    }
    for folder in ["odd", "stores/bucket/odd"] {
        write(&place.path(folder).join("in two words.parquet"), &batch(table(99_000, 500)));
    }
    assert_eq!(fitted(&place, &["s3://bucket/odd/"]), fitted(&place, &["odd"]));
}

/// How fast a profile reads from a disk, an S3 server and a web server on loopback, which take their part of the processors; figures to be read, not judged.
#[test]
fn rates() {
    if !long_tests() {
        return;
    }
    let (place, _) = place_with_bucket();
    place.json("datasets make friedman1 --rows 3000000 --files 12 --out data");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(place.path("data"))
        .arg(place.path("stores/bucket/data"))
        .status();
    assert!(copied.unwrap().success());
    let web = front(Behind::Folder(place.path("data")), |_, _| Fault::None);
    let mut files: Vec<String> = std::fs::read_dir(place.path("data"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".parquet"))
        .map(|name| format!("http://127.0.0.1:{}/{name}", web.port))
        .collect();
    files.sort();
    for round in 0..2 {
        for (name, data) in
            [("disk", "data".to_owned()), ("s3", "s3://bucket/data/".into()), ("web", files.join(" --data "))]
        {
            let line = format!(
                "fit --dry-run --data {data} --target y --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 50 --quiet"
            );
            let begun = std::time::Instant::now();
            let report = place.json(&line);
            let seconds = begun.elapsed().as_secs_f64();
            eprintln!("round {round}, {name}: {seconds:.2} s, of which {}", report["seconds"]);
        }
    }
}

/// Row groups larger than what is fetched at once, short rows beside long ones, columns that nobody needs between.
#[test]
fn large_row_groups_are_read_in_pieces() {
    // Not from the S3 server, which hashes a whole object for each request.
    let place = Place::new();
    let rows = 150_000;
    let mut columns = table(0, rows);
    let names: Vec<String> = (0..14).map(|k| format!("x{k}")).collect();
    for (k, name) in names.iter().enumerate() {
        // Nothing in the first half and much in the second: lanes that do not go on in step.
        let late = |i: usize| if k % 2 == 0 && i < rows / 2 { 0.0 } else { uniform(name, i) };
        columns.push((name.as_str(), numbers((0..rows).map(late))));
    }
    let wide = batch(columns);
    write_grouped(&place.path("wide.parquet"), &wide, rows);
    assert!(std::fs::metadata(place.path("wide.parquet")).unwrap().len() > 13 << 20);
    let web = front(Behind::Folder(place.path("")), |_, _| Fault::None);
    let address = format!("http://127.0.0.1:{}/wide.parquet", web.port);
    for drop in ["", " --drop x3 --drop x4 --drop x5 --drop a"] {
        let line = |data: &str| format!("fit --data {data} {FIT}{drop} --out m.nys");
        assert_eq!(digest(&place.json(&line(&address))), digest(&place.json(&line("wide.parquet"))));
    }
    // What is fetched ahead is in the plan: where a file just fits, an object does not.
    let line = |data: &str| format!("fit --data {data} {FIT} --out m.nys --memory 130MiB");
    place.json(&line("wide.parquet"));
    place.fails(&line(&address), 4, &["reading ahead from object stores"]);
}
