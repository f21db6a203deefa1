//! Data in object stores: the models of files, whatever the store does, or one message.
//!
//! The stores are real servers on loopback in the test process (see `servers`).

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod faults;
mod reading;
mod servers;

use common::*;
use std::path::Path;

/// A fit of little work whose model depends on every row.
pub const FIT: &str = "--target y --kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 40 --select uniform --solver gram --workers 2 --quiet";

/// Three files of several row groups, two of them in a folder, under `folder`.
pub fn make_tree(folder: &Path) {
    std::fs::create_dir_all(folder.join("year=2024")).unwrap();
    for (index, name) in ["a.parquet", "year=2024/b.parquet", "year=2024/c.parquet"].iter().enumerate() {
        write_grouped(&folder.join(name), &batch(table(index * 20_000, 12_000 + 1000 * index)), 3000);
    }
}

/// A place with the tree in `disk` and, in the bucket `bucket`, in `deep/down`; and the port of its S3 server.
pub fn place_with_bucket() -> (Place, u16) {
    let mut place = Place::new();
    make_tree(&place.path("disk"));
    make_tree(&place.path("stores/bucket/deep/down"));
    let port = servers::s3(&place.path("stores"));
    place.variables = servers::s3_variables(port);
    (place, port)
}

/// The digest of the model that is fitted to `data`.
pub fn fitted(place: &Place, data: &[&str]) -> String {
    digest(&place.json(&format!("fit --data {} {FIT} --out m.nys", data.join(" --data "))))
}
