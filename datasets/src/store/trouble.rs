//! Why a store did not serve what was asked, and what to do about it.
//!
//! Only statuses, codes and the systems' own words get into a message: bodies of answers and requested addresses may hold keys and signatures.

use super::address::{Address, Scheme};
use crate::DataError;
use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};
use std::error::Error as StdError;

/// A failure that one thread has and another reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// There is no such object.
    Missing,
    /// It is no longer the object whose footer was read.
    Changed,
    /// Anything else.
    Failed {
        /// Status or words of the system.
        reason: String,
        /// What to do.
        remedy: String,
        /// Whether it may pass.
        passing: bool,
        /// Whether no connection came about.
        unconnected: bool,
    },
}

impl Trouble {
    /// One that stays.
    pub fn lasting(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Trouble::Failed { reason: reason.into(), remedy: remedy.into(), passing: false, unconnected: false }
    }

    /// One that may pass.
    pub fn passing(reason: impl Into<String>) -> Self {
        let remedy = "the store, or the network to it, is down or overloaded: run again later, or wait longer with --store-timeout";
        Trouble::Failed { reason: reason.into(), remedy: remedy.into(), passing: true, unconnected: false }
    }

    /// What `object_store` says about a request for `address`.
    pub fn of(error: &Error, address: &Address) -> Self {
        match error {
            Error::Precondition { .. } => return Trouble::Changed,
            Error::NotFound { .. } if code(error).as_deref() != Some("NoSuchBucket") => return Trouble::Missing,
            Error::NotFound { .. } => return no_such_bucket(),
            Error::InvalidPath { .. } => {
                return Trouble::lasting(
                    "a name there has an empty part, '.', '..' or a control character",
                    "rename that object, or name the others",
                );
            }
            _ => {}
        }
        let chain = chain(error);
        if let Some((status, reason)) = answer(&chain) {
            let code = code(error).map(|code| format!(" ({code})")).unwrap_or_default();
            let reason = format!("the store answered {reason}{code}");
            let region = ["PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint"];
            return match status {
                404 if code.contains("NoSuchBucket") => no_such_bucket(),
                408 | 429 | 500 | 502..=504 | 506..=599 => Trouble::passing(reason),
                300..=399 => Trouble::lasting(reason, wrong_place(address.scheme)),
                // Of a request for the size there is no code.
                400 if code.is_empty() || region.iter().any(|name| code.contains(name)) => {
                    Trouble::lasting(reason, wrong_place(address.scheme))
                }
                401 | 403 => Trouble::lasting(reason, credentials(address.scheme)),
                // A range that the noted size has, and the object no longer.
                416 => Trouble::Changed,
                _ => Trouble::lasting(reason, "check the address and the endpoint"),
            };
        }
        if chain.iter().any(|e| e.to_string().contains("redirect without LOCATION")) {
            return Trouble::lasting("the store answered that the bucket is elsewhere", wrong_place(address.scheme));
        }
        let http = chain.iter().find_map(|e| e.downcast_ref::<HttpError>());
        if let Some(http) = http {
            let words = innermost(&chain);
            if words.contains("certificate") {
                return Trouble::lasting(
                    words,
                    "check the address, and that this host trusts the server's certificate",
                );
            }
            if words.contains("not allowed") || words.contains("scheme") {
                return Trouble::lasting(
                    "the endpoint is not encrypted",
                    "name an https:// endpoint, or allow it (AWS_ALLOW_HTTP=true, GOOGLE_ALLOW_HTTP, AZURE_ALLOW_HTTP)",
                );
            }
            let unconnected = http.kind() == HttpErrorKind::Connect;
            return match Trouble::passing(words) {
                Trouble::Failed { reason, passing, .. } if unconnected => Trouble::Failed {
                    reason,
                    remedy: "check the address, the endpoint in the environment, and the network".into(),
                    passing,
                    unconnected,
                },
                other => other,
            };
        }
        let whole = ["non-partial response", "Range request not supported"];
        if chain.iter().any(|e| whole.iter().any(|words| e.to_string().contains(words))) {
            return Trouble::lasting(
                "the server sends whole files only, no ranges of them",
                "serve it by one that does, or copy the file",
            );
        }
        Trouble::lasting(innermost(&chain), "check the address and the settings of the store in the environment")
    }

    /// As an error about `address`, tried for `seconds` where it might have passed.
    pub fn about(self, address: &Address) -> DataError {
        match self {
            Trouble::Missing => DataError::NotFound { path: address.shown() },
            Trouble::Changed => DataError::Changed { path: address.shown() },
            Trouble::Failed { reason, remedy, .. } => DataError::Store { path: address.shown(), reason, remedy },
        }
    }
}

fn no_such_bucket() -> Trouble {
    Trouble::lasting("there is no such bucket", "check its name, and the endpoint")
}

fn credentials(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::S3 => {
            "check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; AWS_SKIP_SIGNATURE=true for public buckets) and \
             that they allow listing and reading there"
        }
        Scheme::Gs => "check the credentials (GOOGLE_APPLICATION_CREDENTIALS) and that they allow reading there",
        Scheme::Az => {
            "check the credentials (AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN) and that they allow reading there"
        }
        Scheme::Http | Scheme::Https => "the server does not let everybody read it: copy the file",
    }
}

fn wrong_place(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::S3 => "set AWS_REGION to the region of the bucket",
        _ => "check the address and the endpoint",
    }
}

/// The error and its causes.
fn chain(error: &Error) -> Vec<&(dyn StdError + 'static)> {
    let mut found: Vec<&(dyn StdError + 'static)> = vec![error];
    while let Some(source) = found[found.len() - 1].source() {
        found.push(source);
    }
    found
}

/// The words of the first cause, unless they show an address.
fn innermost(chain: &[&(dyn StdError + 'static)]) -> String {
    let words = chain.last().map(|e| e.to_string()).unwrap_or_default();
    match words.is_empty() || words.contains("://") {
        true => "the request failed".into(),
        false => hidden(words),
    }
}

/// How `object_store` begins what it says of an answer that is no success; the type itself is not public.
const ANSWERED: &str = "Server returned non-2xx status code: ";

/// The answer that is no success, if there was one: its status as a number and in words.
fn answer(chain: &[&(dyn StdError + 'static)]) -> Option<(u16, String)> {
    let said = chain.iter().map(|e| e.to_string()).find(|words| words.starts_with(ANSWERED))?;
    let words = said[ANSWERED.len()..].split(':').next()?.trim();
    let status = words.split(' ').next()?.parse().ok()?;
    Some((status, words.to_owned()))
}

/// The code in the body of an answer in XML, such as `SlowDown`.
fn code(error: &Error) -> Option<String> {
    let said = chain(error).iter().map(|e| e.to_string()).find(|words| words.starts_with(ANSWERED))?;
    let code = said.split("<Code>").nth(1)?.split("</Code>").next()?;
    let sound = code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric());
    sound.then(|| code.to_owned())
}

/// `text` without the values of variables that are secrets.
pub(super) fn hidden(mut text: String) -> String {
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        let secret = ["SECRET", "TOKEN", "KEY", "SAS", "PASSWORD"].iter().any(|word| name.contains(word));
        let store = ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix));
        if secret && store && value.len() >= 4 {
            text = text.replace(value, "***");
        }
    }
    text
}
