//! The runtime of the process, and its stores.

use super::address::{Address, Scheme};
use super::trouble::{Trouble, hidden};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Threads of the runtime.
const THREADS: usize = 2;
/// Until a connection must stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence in an answer after which it is asked for again.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The first pause, doubled after every failure up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// How long a store that never answered is tried: an address that is wrong stays wrong.
const FIRST_CONTACT: Duration = Duration::from_secs(15);

/// Milliseconds.
static PATIENCE: AtomicU64 = AtomicU64::new(120_000);

/// How long a request is repeated while its failure may pass; two minutes unless set.
pub fn patience() -> Duration {
    Duration::from_millis(PATIENCE.load(Ordering::Relaxed))
}

/// Sets [`patience`], of the whole process.
pub fn set_patience(patience: Duration) {
    PATIENCE.store(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// One bucket, container or host.
pub(super) struct Client {
    pub store: Box<dyn ObjectStore>,
    /// Whether it has ever answered.
    reached: AtomicBool,
}

/// The runtime of the process.
pub(super) fn runtime() -> Result<&'static Runtime, Trouble> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        // An application may have installed another one: that serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(THREADS).thread_name("store").enable_all().build().map_err(|e| e.to_string())
    });
    runtime.as_ref().map_err(|e| {
        Trouble::lasting(format!("no threads for requests can be started ({e})"), "raise the limits of this host")
    })
}

/// The store of `address`, made when it is first asked for.
pub(super) fn client(address: &Address) -> Result<Arc<Client>, Trouble> {
    type Clients = Mutex<BTreeMap<(Scheme, String), Arc<Client>>>;
    static CLIENTS: Clients = Mutex::new(BTreeMap::new());
    runtime()?;
    let key = (address.scheme, address.authority.clone());
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = clients.get(&key) {
        return Ok(Arc::clone(client));
    }
    let client = Arc::new(Client { store: build(address)?, reached: AtomicBool::new(false) });
    clients.insert(key, Arc::clone(&client));
    Ok(client)
}

/// Runs `work` on the runtime and waits for it.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    runtime()?.block_on(work)
}

/// Does `attempt` until it succeeds, fails for good, or patience ends. Pauses grow, and differ between processes, so that many do not ask in step.
pub(super) async fn persist<T, F>(
    client: &Client,
    address: &Address,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Trouble>
where
    F: Future<Output = Result<T, Trouble>>,
{
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    for tries in 1u64.. {
        let trouble = match attempt().await {
            Ok(value) => {
                client.reached.store(true, Ordering::Relaxed);
                return Ok(value);
            }
            Err(trouble) => trouble,
        };
        let Trouble::Failed { reason, remedy, passing: true, unconnected } = &trouble else { return Err(trouble) };
        let stranger = *unconnected && !client.reached.load(Ordering::Relaxed);
        let bound = if stranger { patience().min(FIRST_CONTACT) } else { patience() };
        let seed = nystream_hashing::FileId::from_relative_path(&format!("{} {address} {tries}", std::process::id()));
        let share = 0.5 + (seed.0 % 1024) as f64 / 2048.0;
        let wait = pause.mul_f64(share);
        if begun.elapsed() + wait > bound {
            let (reason, remedy) =
                (format!("{reason}; tried {tries} times in {:.1} s", begun.elapsed().as_secs_f64()), remedy.clone());
            return Err(Trouble::Failed { reason, remedy, passing: true, unconnected: *unconnected });
        }
        match tries {
            3 => tracing::warn!("'{address}': {reason}; trying again, for {} s in all", bound.as_secs()),
            _ => tracing::debug!("'{address}': {reason}; trying again"),
        }
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
    Err(Trouble::passing("no attempt was made"))
}

/// The variables that begin with `prefix`, as settings of a store; unknown and empty ones are not meant for it.
fn settings<K: FromStr>(prefix: &str) -> Vec<(K, String)> {
    let mut found: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| name.starts_with(prefix) && !value.is_empty())
        .collect();
    // Aliases of one setting win in the order of their names, not in that of the environment.
    found.sort();
    found.into_iter().filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value))).collect()
}

fn build(address: &Address) -> Result<Box<dyn ObjectStore>, Trouble> {
    let client = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_read_timeout(READ_TIMEOUT);
    // `persist` tries again: one bound for all kinds of failures.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let name = address.authority.as_str();
    let built: Result<Box<dyn ObjectStore>, object_store::Error> = match address.scheme {
        Scheme::S3 => {
            let given = settings::<AmazonS3ConfigKey>("AWS_");
            own_credentials(&given)?;
            let builder = AmazonS3Builder::new().with_client_options(client).with_retry(retry);
            let builder = given.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
            builder.with_bucket_name(name).build().map(|store| Box::new(store) as _)
        }
        Scheme::Gs => {
            let builder = GoogleCloudStorageBuilder::new().with_client_options(client).with_retry(retry);
            let given = settings::<GoogleConfigKey>("GOOGLE_");
            let builder = given.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
            builder.with_bucket_name(name).build().map(|store| Box::new(store) as _)
        }
        Scheme::Az => {
            let builder = MicrosoftAzureBuilder::new().with_client_options(client).with_retry(retry);
            let given = settings::<AzureConfigKey>("AZURE_");
            let builder = given.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
            builder.with_container_name(name).build().map(|store| Box::new(store) as _)
        }
        Scheme::Http | Scheme::Https => {
            let client = client.with_allow_http(address.scheme == Scheme::Http);
            let builder = HttpBuilder::new().with_client_options(client).with_retry(retry);
            builder.with_url(format!("{}://{name}", address.scheme)).build().map(|store| Box::new(store) as _)
        }
    };
    built.map_err(|error| {
        let mut words = hidden(error.to_string());
        if words.contains("://") {
            words = "its settings are not usable".into();
        }
        Trouble::lasting(words, "check the variables that describe the store")
    })
}

/// Refuses to ask the metadata server of a cloud's machine where there is none: that would fail slowly, and name an address that nobody knows.
fn own_credentials(given: &[(AmazonS3ConfigKey, String)]) -> Result<(), Trouble> {
    use AmazonS3ConfigKey as Key;
    let value = |wanted: &Key| given.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
    let others = [
        Key::AccessKeyId,
        Key::WebIdentityTokenFile,
        Key::ContainerCredentialsRelativeUri,
        Key::ContainerCredentialsFullUri,
    ];
    let unsigned = value(&Key::SkipSignature)
        .is_some_and(|flag| ["1", "true", "on", "yes", "y"].contains(&flag.to_ascii_lowercase().as_str()));
    if unsigned || others.iter().any(|key| value(key).is_some()) {
        return Ok(());
    }
    let endpoint = value(&Key::MetadataEndpoint).unwrap_or("http://169.254.169.254");
    let host = endpoint.split("://").last().unwrap_or(endpoint).trim_end_matches('/');
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let found = host.to_socket_addrs().ok().and_then(|mut all| all.next());
    let answers = found.is_some_and(|place| TcpStream::connect_timeout(&place, Duration::from_secs(1)).is_ok());
    match answers {
        true => Ok(()),
        false => Err(Trouble::lasting(
            "no credentials are given, and this is no machine of a cloud that has its own",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket (files of profiles are not read: \
             `aws configure export-credentials --format env` prints them as variables)",
        )),
    }
}
