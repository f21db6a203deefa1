//! Addresses and objects that cannot be used: one message each.

use super::servers::{Behind, Fault, front, s3_variables};
use super::{FIT, place_with_bucket};

#[test]
fn addresses_that_name_nothing() {
    let (place, _) = place_with_bucket();
    let line = |data: &str| format!("fit --data {data} {FIT} --out m.nys");
    std::fs::create_dir_all(place.path("stores/bucket/empty")).unwrap();
    std::fs::create_dir_all(place.path("stores/hollow")).unwrap();
    let cases = [
        ("s3://", 2, "no bucket"),
        ("s3://b*/x", 2, "without wildcards"),
        ("s3://bucket/a//b.parquet", 2, "empty part"),
        ("ftp://bucket/a.parquet", 2, "s3://"),
        ("https://host/a.parquet?token=x", 2, "query"),
        ("http://host/folder/", 2, "cannot be listed"),
        ("s3://bucket/absent.parquet", 1, "'s3://bucket/absent.parquet' does not exist"),
        ("s3://bucket/empty/", 1, "no Parquet file matches"),
        ("s3://bucket/deep/down/*.csv", 1, "no Parquet file matches"),
        ("s3://hollow", 1, "no Parquet file matches"),
        ("s3://absent-bucket/x.parquet", 1, "no such bucket"),
        ("s3://absent-bucket", 1, "no such bucket"),
        ("disk --data s3://bucket/deep/down/", 2, "different stores"),
        ("s3://bucket/deep/down/a.parquet --data s3://bucket/deep/down/", 1, "listed twice"),
    ];
    for (data, code, part) in cases {
        place.fails(&line(data), code, &[part]);
    }
    for out in ["--out s3://bucket/m.nys", "--out m.nys --report s3://bucket/r.json"] {
        place.fails(&format!("fit --data disk {FIT} {out}"), 2, &["read, not written"]);
    }
}

#[test]
fn objects_that_are_no_parquet_files() {
    let (place, _) = place_with_bucket();
    let put = |name: &str, bytes: &[u8]| std::fs::write(place.path("stores/bucket").join(name), bytes).unwrap();
    let sound = std::fs::read(place.path("disk/a.parquet")).unwrap();
    put("zero.parquet", b"");
    put("text.parquet", b"a,b,y\n1,2,3\n4,5,6\n");
    put("short.parquet", b"PAR1");
    put("half.parquet", &sound[..sound.len() / 2]);
    let mut damaged = sound.clone();
    damaged[4..200].fill(0xff);
    put("damaged.parquet", &damaged);
    let cases = [
        ("zero", "is empty"),
        ("text", "not a Parquet file"),
        ("short", "cut short"),
        ("half", "closing magic"),
        ("damaged", "row group 0"),
    ];
    for (name, part) in cases {
        let line = format!("fit --data s3://bucket/{name}.parquet {FIT} --out m.nys");
        place.fails(&line, 1, &[part, &format!("s3://bucket/{name}.parquet")]);
    }
}

#[test]
fn credentials_that_are_missing_or_wrong() {
    let (mut place, port) = place_with_bucket();
    let line = format!("fit --data s3://bucket/deep/down/ {FIT} --out m.nys");
    place.variables = s3_variables(port);
    place.variables.retain(|(name, _)| !name.contains("KEY"));
    place.variables.push(("AWS_METADATA_ENDPOINT".into(), "http://127.0.0.1:1".into()));
    place.fails(&line, 1, &["no credentials", "AWS_ACCESS_KEY_ID"]);
    place.variables = s3_variables(port);
    place
        .variables
        .iter_mut()
        .filter(|(name, _)| name.contains("SECRET"))
        .for_each(|(_, value)| *value = "another-secret".into());
    place.fails(&line, 1, &["403", "AWS_SECRET_ACCESS_KEY"]);
    // In the clear only when that is allowed.
    place.variables = s3_variables(port);
    place.variables.retain(|(name, _)| name != "AWS_ALLOW_HTTP");
    place.fails(&line, 1, &["AWS_ALLOW_HTTP"]);
    place.variables = s3_variables(port);
    place.variables.push(("AWS_CONNECT_TIMEOUT".into(), "soon".into()));
    place.fails(&line, 1, &["variables"]);
}

#[test]
fn web_servers_without_ranges() {
    let (place, _) = place_with_bucket();
    let web = front(Behind::Folder(place.path("disk")), |_, request| match request.method == "GET" {
        true => Fault::Answer("200 OK", "all of it"),
        false => Fault::None,
    });
    let line = format!("fit --data http://127.0.0.1:{}/a.parquet {FIT} --out m.nys", web.port);
    place.fails(&line, 1, &["whole files only"]);
}
