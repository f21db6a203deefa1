//! The recipes of `cluster/deploy`: what they would start is read from them and started here, on loopback, and must fit the model of one process.

#![cfg(unix)]

mod common;

use common::*;
use nystream_cluster::launch::loopback;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use yaml_rust2::{Yaml, YamlLoader};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/deploy").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn documents(name: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(&read(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Words and variables of a process.
type Started = (Vec<String>, Vec<(String, String)>);

/// What a recipe starts: words and variables of each process, and the text of its host file.
#[derive(Debug)]
struct Recipe {
    processes: Vec<Started>,
    hosts: String,
}

fn words(list: &Yaml) -> Vec<String> {
    list.as_vec()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap_or_else(|| panic!("{word:?} is no text")).to_owned())
        .collect()
}

fn of_kind<'a>(documents: &'a [Yaml], kind: &str) -> &'a Yaml {
    documents.iter().find(|document| document["kind"].as_str() == Some(kind)).unwrap_or_else(|| panic!("no {kind}"))
}

fn kubernetes() -> Recipe {
    let documents = documents("kubernetes.yaml");
    let (service, job) = (of_kind(&documents, "Service"), &of_kind(&documents, "Job"));
    let spec = &job["spec"];
    let pod = &spec["template"]["spec"];
    let count = spec["completions"].as_i64().unwrap();
    assert_eq!((spec["completionMode"].as_str(), spec["parallelism"].as_i64()), (Some("Indexed"), Some(count)));
    assert_eq!(pod["restartPolicy"].as_str(), Some("Never"), "what a failure policy needs");
    assert_eq!(pod["enableServiceLinks"].as_bool(), Some(false));
    // Names of pods resolve through a service without an address, which finds pods by their label.
    let name = job["metadata"]["name"].as_str().unwrap();
    let service_name = service["metadata"]["name"].as_str().unwrap();
    assert_eq!(service["spec"]["clusterIP"].as_str(), Some("None"));
    assert_eq!(service["spec"]["publishNotReadyAddresses"].as_bool(), Some(true));
    assert_eq!(pod["subdomain"].as_str(), Some(service_name));
    assert_eq!(service["spec"]["selector"], spec["template"]["metadata"]["labels"]);
    let port = service["spec"]["ports"][0]["port"].as_i64().unwrap();
    let hosts = of_kind(&documents, "ConfigMap")["data"]["hosts.txt"].as_str().unwrap().to_owned();
    let wanted: Vec<String> = (0..count).map(|index| format!("{name}-{index}.{service_name}:{port}")).collect();
    assert_eq!(hosts.lines().collect::<Vec<_>>(), wanted);
    // What another attempt would meet again fails the job; a lost peer (5) and a join that failed (6) do not.
    let rules = spec["podFailurePolicy"]["rules"].as_vec().unwrap();
    let fails = rules.iter().find(|rule| rule["action"].as_str() == Some("FailJob")).unwrap();
    let container = &pod["containers"][0];
    assert_eq!(fails["onExitCodes"]["containerName"], container["name"]);
    let codes: Vec<i64> =
        fails["onExitCodes"]["values"].as_vec().unwrap().iter().map(|code| code.as_i64().unwrap()).collect();
    assert_eq!(codes, [1, 2, 3, 4, 101]);
    assert!(spec["backoffLimitPerIndex"].as_i64().unwrap() > 0);
    let volumes: Vec<&str> =
        pod["volumes"].as_vec().unwrap().iter().map(|volume| volume["name"].as_str().unwrap()).collect();
    for mount in container["volumeMounts"].as_vec().unwrap() {
        assert!(volumes.contains(&mount["name"].as_str().unwrap()), "{mount:?}");
    }
    let variables = |index: i64| {
        let variable = |variable: &Yaml| {
            let value = match (&variable["value"], &variable["valueFrom"]) {
                (Yaml::String(value), _) => value.clone(),
                (_, from) if from["secretKeyRef"]["key"].as_str() == Some("secret") => "a secret of a test".to_owned(),
                (_, from) => {
                    let path = from["fieldRef"]["fieldPath"].as_str().unwrap();
                    assert_eq!(path, "metadata.annotations['batch.kubernetes.io/job-completion-index']");
                    index.to_string()
                }
            };
            (variable["name"].as_str().unwrap().to_owned(), value)
        };
        container["env"].as_vec().unwrap().iter().map(variable).collect()
    };
    Recipe { processes: (0..count).map(|index| (words(&container["args"]), variables(index))).collect(), hosts }
}

fn compose() -> Recipe {
    let document = documents("docker-compose.yaml").remove(0);
    let services = document["services"].as_hash().unwrap();
    let hosts = document["configs"]["hosts"]["content"].as_str().unwrap().to_owned();
    let named: Vec<&str> = services.keys().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(hosts.lines().map(|line| line.rsplit_once(':').unwrap().0).collect::<Vec<_>>(), named);
    let process = |service: &Yaml| {
        assert_eq!(service["secrets"][0].as_str(), Some("nystream_secret"));
        assert!(document["secrets"]["nystream_secret"]["file"].as_str().is_some());
        let dockerfile = service["build"]["dockerfile"].as_str().unwrap();
        assert_eq!(dockerfile, "cluster/deploy/Dockerfile");
        let root = deploy(service["build"]["context"].as_str().unwrap());
        assert!(root.join(dockerfile).is_file());
        let variables = service["environment"].as_hash().unwrap().iter();
        let variables =
            variables.map(|(name, value)| (name.as_str().unwrap().to_owned(), value.as_str().unwrap().to_owned()));
        (words(&service["command"]), variables.collect())
    };
    Recipe { processes: services.values().map(process).collect(), hosts }
}

fn systemd() -> Recipe {
    let unit = read("nystream@.service");
    let all = |key: &str| {
        unit.lines().filter_map(|line| line.strip_prefix(&format!("{key}="))).map(str::to_owned).collect::<Vec<_>>()
    };
    let [start] = &all("ExecStart")[..] else { panic!("one command") };
    assert_eq!(all("RestartPreventExitStatus"), ["1 2 3 4 101 130"]);
    let process = |index: usize| {
        let filled = |text: &str| text.replace("%i", &index.to_string()).replace("%d", "/run/secrets");
        let mut words: Vec<String> = filled(start).split_whitespace().map(str::to_owned).collect();
        assert!(words.remove(0).ends_with("/nystream"));
        let variables = all("Environment")
            .iter()
            .map(|pair| filled(pair).split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap())
            .collect();
        (words, variables)
    };
    Recipe { processes: (0..2).map(process).collect(), hosts: "one:4100\ntwo:4100\n".into() }
}

/// The paths of recipes, as they are in the folder of a test.
fn local(place: &Place, text: &str) -> String {
    let folder = place.path("").display().to_string();
    let folder = folder.trim_end_matches('/');
    ["/data", "/srv/nystream", "/scratch", "/etc/nystream", "/run/secrets"].iter().fold(
        text.to_owned(),
        |text, path| match text.strip_prefix(path) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{folder}{rest}"),
            _ => text,
        },
    )
}

/// A folder with what recipes find on their machines.
fn place() -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("train")).unwrap();
    write(&place.path("train/a.parquet"), &batch(table(0, 4000)));
    for name in ["secret", "nystream_secret"] {
        let mut file = std::fs::File::create(place.path(name)).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
        file.write_all(b"a secret of a test, long enough\n").unwrap();
    }
    place
}

/// Small, so that every recipe is quick.
const SMALL: &str = "--kernel gaussian --bandwidth 1x --ridge 1e-5 --centers 50";

fn expected(place: &Place) -> String {
    digest(&place.json(&format!("fit --data train --target y --out alone.nys {SMALL}")))
}

fn model(place: &Place) -> String {
    place.json("inspect model.nys")["model_digest"].as_str().unwrap().to_owned()
}

fn starts(recipe: &Recipe) {
    let place = place();
    let wanted = expected(&place);
    assert_eq!(recipe.hosts.lines().count(), recipe.processes.len());
    let lines: String = loopback(recipe.processes.len()).unwrap().iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(place.path("hosts.txt"), lines).unwrap();
    let start = |(words, variables): &Started| {
        // Threads and memory of real machines are not what a test has.
        let mut command = place.command("");
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--workers" => {
                    words.next();
                    command.args(["--workers", "1"]);
                }
                word => {
                    command.arg(local(&place, word));
                }
            }
        }
        command.args(SMALL.split_whitespace());
        command.envs(variables.iter().map(|(name, value)| (name, local(&place, value))));
        command.spawn().unwrap()
    };
    let children: Vec<_> = recipe.processes.iter().map(start).collect();
    for (index, child) in children.into_iter().enumerate() {
        let output = finish(child, "a process of a recipe");
        assert_eq!(output.status.code(), Some(0), "process {index}: {}", text(&output.stderr));
        assert_eq!(output.stdout.is_empty(), index > 0, "{}", text(&output.stdout));
    }
    assert_eq!(model(&place), wanted);
}

#[test]
fn kubernetes_starts_a_job() {
    starts(&kubernetes());
}

#[test]
fn compose_starts_a_job() {
    starts(&compose());
}

#[test]
fn systemd_starts_a_job() {
    starts(&systemd());
}

/// The analyser of systemd finds nothing wrong but that the program is not installed here.
#[test]
fn the_unit_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("nystream@0.service");
    let own = std::env::current_exe().unwrap();
    std::fs::write(&unit, read("nystream@.service").replace("/usr/local/bin/nystream", &own.display().to_string()))
        .unwrap();
    let Ok(output) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output() else {
        eprintln!("skipped: no systemd-analyze");
        return;
    };
    let said = text(&output.stderr);
    assert!(!said.contains("nystream@0.service"), "{said}");
}

/// A script under stand-ins for what a Slurm cluster has: `srun` starts one task a node.
#[test]
fn slurm_starts_a_job() {
    let script = deploy("slurm.sbatch");
    let checked = Command::new("sh").arg("-n").arg(&script).output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", text(&checked.stderr));
    if let Ok(output) = Command::new("shellcheck").arg("-s").arg("sh").arg(&script).output() {
        assert!(output.status.success(), "{}", text(&output.stdout));
    }
    let place = place();
    let wanted = expected(&place);
    std::fs::create_dir(place.path("bin")).unwrap();
    // The nodes of a job, which stand for one machine here: their ports differ.
    let nodes = "case $1-$2 in show-hostnames) printf '127.0.0.1\\n127.0.0.1\\n127.0.0.1\\n';; *) exit 1;; esac";
    let tasks = "[ \"$1\" = --kill-on-bad-exit=1 ] || exit 64\nshift\nfor task in 0 1 2; do SLURM_PROCID=$task \"$@\" & all=\"$all $!\"; done\nfor task in $all; do wait $task || exit; done";
    for (name, body) in [("scontrol", nodes), ("srun", tasks)] {
        let path = place.path(&format!("bin/{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    // Three ports in a row that are free now.
    let base = (0..200u32).map(|i| 20_000 + (std::process::id() * 3 + i * 101) % 10_000);
    let free = |base: &u32| (0..3).all(|i| std::net::TcpListener::bind(("127.0.0.1", (base + i) as u16)).is_ok());
    let base = base.clone().find(free).unwrap();
    let line = format!("fit --data train --target y --out model.nys --workers 1 {SMALL}");
    let run = |line: &str| {
        let mut command = Command::new("sh");
        command.arg(&script).args(line.split_whitespace()).current_dir(place.path(""));
        command.env("PATH", format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap()));
        command.env("NYSTREAM_PROGRAM", env!("CARGO_BIN_EXE_nystream")).env("NYSTREAM_BASE_PORT", base.to_string());
        command.env("SLURM_JOB_ID", "7").env("SLURM_JOB_NODELIST", "n[1-3]").env("SLURM_SUBMIT_DIR", place.path(""));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command.spawn().unwrap(), line)
    };
    let output = run(&line);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(model(&place), wanted);
    assert!(text(&output.stdout).contains("model.nys"), "{}", text(&output.stdout));
    // What it made for the job is gone, and a failure is the job's.
    assert!(!place.names().iter().any(|name| name.starts_with("nystream.")), "{:?}", place.names());
    let failed = run(&line.replace("--target y", "--target absent"));
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stderr));
}

/// An image cannot be built here; what it copies and starts can be looked at.
#[test]
fn the_dockerfile_builds_this_program() {
    let file = read("Dockerfile");
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let field = |key: &str| {
        manifest.lines().find_map(|line| line.strip_prefix(&format!("{key} = \""))).unwrap().trim_end_matches('"')
    };
    assert!(
        file.contains(&format!("FROM rust:{}-slim", field("rust-version"))),
        "the compiler is the least one that will do"
    );
    assert!(file.contains("RUN cargo build --release --locked --bin nystream"));
    assert!(file.contains("COPY --from=build /src/target/release/nystream /usr/local/bin/nystream"));
    assert!(file.contains("\nENTRYPOINT [\"nystream\"]\n"));
    let image = format!("nystream:{}", field("version"));
    for name in ["Dockerfile", "docker-compose.yaml", "kubernetes.yaml"] {
        assert!(read(name).contains(&image), "{name} names another image than {image}");
    }
}
