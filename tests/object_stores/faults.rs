//! Stores that are busy, break off, change, or refuse.

use super::common::*;
use super::servers::{Behind, Fault, SECRET, SLOW_DOWN, front, s3_variables};
use super::{FIT, fitted, place_with_bucket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const DATA: &str = "s3://bucket/deep/down/";

#[test]
fn what_passes_is_overcome() {
    let (mut place, port) = place_with_bucket();
    let disk = fitted(&place, &["disk"]);
    let busy = front(Behind::Port(port), |number, request| match number % 7 {
        1 => SLOW_DOWN,
        2 => Fault::Answer("429 Too Many Requests", ""),
        3 if request.reads() => Fault::Cut(1000),
        4 => Fault::Drop,
        5 => Fault::Wait(Duration::from_millis(30)),
        _ => Fault::None,
    });
    place.variables = s3_variables(busy.port);
    assert_eq!(fitted(&place, &[DATA]), disk);
    let two = place.cluster(&format!("fit --data {DATA} {FIT} --out two.nys"), 2);
    assert_eq!(digest(&two), disk);
    assert!(busy.seen().len() > 40, "{} requests", busy.seen().len());
    // A web server without ETags to hold on to is asked again all the same.
    let web = front(Behind::Folder(place.path("disk")), |number, request| match number % 2 {
        1 if request.reads() => Fault::Cut(17),
        _ => Fault::None,
    });
    let line = format!("http://127.0.0.1:{}/a.parquet", web.port);
    assert_eq!(fitted(&place, &[&line]), fitted(&place, &["disk/a.parquet"]));
}

#[test]
fn what_stays_ends_the_job_with_one_message() {
    let (mut place, port) = place_with_bucket();
    let line = format!("fit --data {DATA} {FIT} --out m.nys --store-timeout 1s");
    let cases: [(Fault, &[&str]); 3] = [
        (SLOW_DOWN, &["503 Service Unavailable (SlowDown)", "tried", "--store-timeout"]),
        (Fault::Cut(100), &["tried", "--store-timeout"]),
        (Fault::Drop, &["tried"]),
    ];
    for (fault, parts) in cases {
        // Footers can be read, pages cannot.
        let broken = front(Behind::Port(port), move |number, request| match request.reads() && number > 8 {
            false => Fault::None,
            true => match &fault {
                Fault::Answer(status, body) => Fault::Answer(status, body),
                Fault::Cut(bytes) => Fault::Cut(*bytes),
                _ => Fault::Drop,
            },
        });
        place.variables = s3_variables(broken.port);
        let parts: Vec<&str> = parts.iter().copied().chain([".parquet", "s3://bucket/deep/down/"]).collect();
        place.fails(&line, 1, &parts);
    }
    let cases: [(&str, &str, &[&str]); 4] = [
        (
            "403 Forbidden",
            "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>hunter2-is-the-secret</AWSAccessKeyId></Error>",
            &["403 Forbidden", "AWS_ACCESS_KEY_ID"],
        ),
        ("301 Moved Permanently", "", &["AWS_REGION"]),
        ("400 Bad Request", "<Error><Code>AuthorizationHeaderMalformed</Code></Error>", &["AWS_REGION"]),
        ("501 Not Implemented", "", &["501"]),
    ];
    for (status, body, parts) in cases {
        let refusing = front(Behind::Port(port), move |_, _| Fault::Answer(status, body));
        place.variables = s3_variables(refusing.port);
        place.fails(&line, 1, parts);
        assert!(!text(&place.run(&line).stderr).contains(SECRET));
        if !status.starts_with('5') {
            assert!(refusing.seen().len() <= 4, "{status} was asked for again: {} requests", refusing.seen().len());
        }
    }
    // Nobody there.
    place.variables = s3_variables(1);
    place.fails(&line, 1, &["tried", "endpoint"]);
}

/// An object that is replaced while it is read ends the job, whether the server compares versions or leaves it to us.
#[test]
fn a_changed_object_is_refused_not_mixed() {
    let (mut place, port) = place_with_bucket();
    for compares in [false, true] {
        let (old, new) = (place.path("disk/a.parquet"), place.path("new.parquet"));
        // As long as the other: only the content differs.
        let bytes = std::fs::read(&old).unwrap();
        let mut changed = bytes.clone();
        changed[bytes.len() / 2] ^= 1;
        std::fs::write(&new, &changed).unwrap();
        let (folder, target) = match compares {
            true => (Behind::Folder(place.path("web")), place.path("web/bucket/a.parquet")),
            false => (Behind::Port(port), place.path("stores/bucket/a.parquet")),
        };
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&old, &target).unwrap();
        let (done, source, destination) = (AtomicBool::new(false), new.clone(), target.clone());
        let store = front(folder, move |number, request| {
            if request.reads() && number >= 3 && !done.swap(true, Ordering::SeqCst) {
                std::fs::copy(&source, &destination).unwrap();
            }
            Fault::None
        });
        place.variables = s3_variables(store.port);
        let data = match compares {
            true => format!("http://127.0.0.1:{}/bucket/a.parquet", store.port),
            false => "s3://bucket/a.parquet".to_owned(),
        };
        place.fails(
            &format!("fit --data {data} {FIT} --out m.nys"),
            1,
            &["a.parquet", "changed while it was being read"],
        );
        let conditional = store.seen().iter().filter(|request| request.header("if-match").is_some()).count();
        assert!(conditional > 0, "no request named the version");
        // Gone altogether is changed as well.
        std::fs::copy(&old, &target).unwrap();
        let gone = target.clone();
        let behind = match compares {
            true => Behind::Folder(place.path("web")),
            false => Behind::Port(port),
        };
        let vanishing = front(behind, move |number, request| {
            if request.reads() && number >= 3 {
                let _ = std::fs::remove_file(&gone);
            }
            Fault::None
        });
        place.variables = s3_variables(vanishing.port);
        let data = data.replace(&store.port.to_string(), &vanishing.port.to_string());
        place.fails(
            &format!("fit --data {data} {FIT} --out m.nys"),
            1,
            &["a.parquet", "changed while it was being read"],
        );
    }
}

/// Processes that were shown different versions do not start.
#[test]
fn processes_see_one_version() {
    let (mut place, port) = place_with_bucket();
    let line = format!("fit --data {DATA} {FIT} --out m.nys --join-timeout 20s");
    // The second process reads another bucket of the same names.
    super::make_tree(&place.path("stores/other/deep/down"));
    write_grouped(&place.path("stores/other/deep/down/a.parquet"), &batch(table(9, 12_000)), 3000);
    place.variables = s3_variables(port);
    let outputs = place.processes(&[line.clone(), line.replace("bucket", "other")]);
    for output in outputs {
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{error}");
        assert!(error.contains("what the files of --data or --validation hold"), "{error}");
    }
}
