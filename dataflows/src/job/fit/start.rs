//! What a fit knows before it reads encoded rows: who is who, the encoder, the targets, the weights.
//!
//! A new configuration is fixed from the profile. One that is taken over ([`Frozen`]) stays as it is: the pass then only counts the rows. Both
//! ways count the same rows with the same sums, so the same data under its own configuration gives the same fit again.

use super::{FitInputs, Frozen};
use crate::engine::checkpoint::remember_numbers;
use crate::engine::session::Session;
use crate::error::StageError;
use crate::nystrom::range::KernelRange;
use crate::plan::Decoding;
use crate::profile::census::{Census, census};
use crate::profile::{Profile, TargetSummary, duplicates, profile};
use crate::targets::TargetCode;
use nystream_datasets::{Catalog, Encoder, Role};
use nystream_kernels::exact_sum::ExactSum;
use std::sync::Arc;

/// What is known of the rows.
pub(super) struct Start {
    /// Counts, and what was measured.
    pub profile: Profile,
    /// The encoder.
    pub encoder: Arc<Encoder>,
    /// The targets.
    pub code: TargetCode,
    /// Sum of the training rows' weights, class weights included.
    pub weight_sum: f64,
    /// Declared bound of those weights.
    pub weight_max: f64,
    /// Passes made.
    pub passes: u64,
}

/// Profiles the rows, or counts them under the configuration that is taken over.
///
/// # Errors
/// Unreadable data, no training row, too many bad rows, keys that occur twice, what [`Encoder::fit`] refuses.
pub(super) fn start(session: &mut Session<'_>, inputs: &FitInputs) -> Result<Start, StageError> {
    match &inputs.frozen {
        Some(frozen) => taken_over(session, inputs, frozen),
        None => profiled(session, inputs),
    }
}

fn taken_over(session: &mut Session<'_>, inputs: &FitInputs, frozen: &Frozen) -> Result<Start, StageError> {
    let mut encoder = frozen.encoder.clone();
    if let Some(log2) = frozen.kernel_log2
        && !frozen.kernel.family.is_radial()
    {
        encoder.set_row_test(Arc::new(KernelRange { kernel: frozen.kernel.clone(), log2 }));
    }
    let encoder = Arc::new(encoder);
    let workers = session.process.workers();
    decoding(&inputs.catalog, &encoder, Role::All, workers)?.check(inputs.config.memory, workers)?;
    let counts = census(session, &inputs.catalog, &encoder, inputs.config.max_bad_rows)?;
    let mut profile = Profile {
        columns: Vec::new(),
        targets: frozen.deviations.iter().map(|sd| TargetSummary { sd: *sd, ..TargetSummary::default() }).collect(),
        ..Profile::default()
    };
    count(&mut profile, &counts);
    let passes = 1 + settle(session, inputs, &profile, &encoder.targets, encoder.id_column.as_deref())?;
    let weight_max = weight_bound(&encoder);
    Ok(Start { profile, code: frozen.code.clone(), weight_sum: counts.weight_sum, weight_max, encoder, passes })
}

fn profiled(session: &mut Session<'_>, inputs: &FitInputs) -> Result<Start, StageError> {
    let (config, catalog) = (&inputs.config, &inputs.catalog);
    let options = &config.encoder;
    let columns = options.plan(&catalog.columns)?;
    let profile = profile(session, catalog, &columns, options, config.max_bad_rows, config.memory)?;
    let mut passes =
        profile.passes + settle(session, inputs, &profile, &options.targets, options.id_column.as_deref())?;
    let mut encoder = Encoder::fit(&profile.columns, options)?;
    let code = TargetCode::new(&encoder, &profile)?;
    encoder.bounds = Some(code.bounds(profile.weight_max));
    let encoder = Arc::new(encoder);
    let mut weight_sum = class_weighted(&encoder, &profile);
    if encoder.weight.is_some() && !encoder.class_weights.is_empty() {
        // The profile sums weights by class; a fit that takes this configuration over sums the rows' products, which round otherwise.
        weight_sum = census(session, catalog, &encoder, config.max_bad_rows)?.weight_sum;
        passes += 1;
    }
    let weight_max = weight_bound(&encoder);
    Ok(Start { profile, encoder, code, weight_sum, weight_max, passes })
}

/// What a worker holds while it decodes the columns that `encoder` reads for `role`.
pub(super) fn decoding(
    catalog: &Catalog,
    encoder: &Encoder,
    role: Role,
    workers: usize,
) -> Result<Decoding, StageError> {
    let row = encoder.numeric_width() * 4 + encoder.code_width() * 2;
    Ok(Decoding::new(catalog, &encoder.projection(catalog, role)?, row, workers))
}

/// Takes over the counts of a census.
fn count(profile: &mut Profile, counts: &Census) {
    profile.rows = counts.rows;
    profile.held_out = counts.held_out;
    profile.skipped_null_target = counts.skipped_null_target;
    profile.bad = counts.bad;
    profile.bad_rows.clone_from(&counts.bad_rows);
    for ((target, count), weight_sum) in profile.targets.iter_mut().zip(&counts.targets).zip(&counts.target_weights) {
        (target.count, target.weight_sum) = (*count, *weight_sum);
    }
}

/// Refuses data without training rows and keys that occur twice; gives the passes that took.
fn settle(
    session: &mut Session<'_>,
    inputs: &FitInputs,
    profile: &Profile,
    targets: &[String],
    id_column: Option<&str>,
) -> Result<u64, StageError> {
    if profile.rows == 0 && profile.skipped_null_target > 0 && profile.bad + profile.held_out == 0 {
        let names: Vec<String> = targets.iter().map(|name| format!("'{name}'")).collect();
        return Err(StageError::Data(format!(
            "the target {} is null in all {} rows: nothing can be learned from it",
            names.join(", "),
            profile.skipped_null_target
        )));
    }
    let passes = match id_column {
        Some(column) => {
            let passes = remember_numbers(session, "row keys", |session| {
                duplicates::check(session, &inputs.catalog, column, inputs.config.memory).map(|n| vec![n as f64])
            })?;
            passes.first().map_or(0, |n| *n as u64)
        }
        None => 0,
    };
    if profile.rows == 0 {
        return Err(StageError::Data(format!(
            "no training rows: {} rows have no target, {} are bad and {} are held out",
            profile.skipped_null_target, profile.bad, profile.held_out
        )));
    }
    Ok(passes)
}

/// Sum of the weights with class weights, exact before its last rounding.
fn class_weighted(encoder: &Encoder, profile: &Profile) -> f64 {
    if encoder.class_weights.is_empty() {
        return profile.weight_sum;
    }
    let mut sum = ExactSum::default();
    for (class, weight) in encoder.classes().unwrap_or_default().iter().zip(&encoder.class_weights) {
        sum.add_product(*weight, profile.class_mass(&encoder.targets[0], class));
    }
    sum.round()
}

/// The largest weight, class weights included, that a row may have.
pub(super) fn weight_bound(encoder: &Encoder) -> f64 {
    let rows = encoder.bounds.as_ref().map_or(1.0, |bounds| bounds.weight);
    let classes = encoder.class_weights.iter().copied().fold(0.0, f64::max);
    if classes > 0.0 { rows * classes } else { rows }
}
