//! What a run is told: the configuration of the learner, with every default resolved, and the model it is taken from.

use crate::cli::OnlineArgs;
use crate::cli::online::LearnerArgs;
use crate::cli::values::online::{Clip, CurvatureName, DriftName, Mode as ModeName, OnlineLoss, Publish, WindowSpec};
use crate::exit::Failure;
use crate::fitted::function_of;
use crate::model::{Model, Precision, Selection};
use crate::report::text::bytes;
use crate::report::{AlarmReport, BoundTerms, RegretReport, ShardReport, ShardsReport};
use nystream_dataflows::StageError;
use nystream_dataflows::online::learner::{Published, Regret};
use nystream_dataflows::online::recursive;
use nystream_dataflows::online::session::{Rules, Session};
use nystream_dataflows::online::settings::{Mode, Settings};
use nystream_dataflows::online::tally::DriftAlarm;
use nystream_dataflows::online::units::Units;
use nystream_dataflows::online::window::Window;
use nystream_dataflows::predict::Function;
use nystream_datasets::{Bounds, Encoder, SplitRule, TargetRange};
use nystream_kernels::online::drift::{Alarm, DriftAction, DriftParams};
use nystream_kernels::online::{Bound, Comparator, Curvature, Loss, RecursiveParams};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The column of keys where a model has none.
pub const KEY: &str = "key";

/// What `STATE/online.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Version of the file.
    pub version: u32,
    /// Options as they were given, by name: a restart may leave them out, but not change them.
    pub asked: BTreeMap<String, String>,
    /// The learner.
    pub settings: Settings,
    /// How events are taken.
    pub rules: Rules,
    /// Rows that may wait.
    pub max_waiting: u64,
    /// Digest of the model that the configuration was taken from.
    pub source: String,
    /// Independent learners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<ShardsTold>,
}

/// How rows are dealt to independent learners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardsTold {
    /// The column, or `key`.
    pub by: String,
    /// How many there may be.
    pub most: u64,
    /// Whether each begins with the model's function.
    pub whole: bool,
}

impl Told {
    /// Whose the log and the snapshots are.
    pub fn identity(&self) -> Result<[u8; 16], Failure> {
        let hash = blake3::hash(&self.bytes()?);
        Ok(std::array::from_fn(|i| hash.as_bytes()[i]))
    }

    /// The file.
    pub fn bytes(&self) -> Result<Vec<u8>, Failure> {
        serde_json::to_vec_pretty(self)
            .map_err(|error| Failure::data(format!("the settings cannot be written: {error}")))
    }
}

/// Options that change what is learned or answered, by name, as text.
pub fn asked(args: &OnlineArgs) -> BTreeMap<String, String> {
    let mut asked = of_learner(&args.learner);
    let stream = &args.stream;
    let text = |value: Option<String>| value.unwrap_or_else(|| "none".into());
    asked.extend([
        ("lateness".into(), text(stream.lateness.map(|time| time.to_string()))),
        ("window".into(), text(stream.window.map(|window| window.to_string()))),
        ("max-waiting".into(), stream.max_waiting.to_string()),
        ("publish".into(), stream.publish.to_string()),
        ("kernel".into(), auto(args.kernel.kernel.given().map(|kernel| kernel.to_string()))),
        ("bandwidth".into(), args.kernel.bandwidth.to_string()),
        ("ridge".into(), auto(args.kernel.ridge.given().map(|ridge| ridge.to_string()))),
        ("metric".into(), text(args.kernel.metric.as_ref().map(|path| path.display().to_string()))),
        ("seed".into(), args.sample.seed.to_string()),
        ("precision".into(), args.sample.precision.to_string()),
        ("init-rows".into(), text(args.learner.init_rows.map(|rows| rows.to_string()))),
    ]);
    asked
}

fn auto(value: Option<String>) -> String {
    value.unwrap_or_else(|| "auto".into())
}

/// The same, of the learner alone.
pub fn of_learner(learner: &LearnerArgs) -> BTreeMap<String, String> {
    [
        ("mode", learner.mode.to_string()),
        ("loss", learner.loss.to_string()),
        ("curvature", learner.curvature.to_string()),
        ("alpha", auto(learner.alpha.given().map(|alpha| alpha.to_string()))),
        ("gamma", auto(learner.gamma.given().map(|gamma| gamma.to_string()))),
        ("beta", learner.beta.to_string()),
        ("cap", learner.cap.to_string()),
        ("clip", learner.clip.to_string()),
        ("forgetting", learner.forgetting.to_string()),
        ("block", learner.block.to_string()),
        ("loss-window", learner.loss_window.to_string()),
        ("hindsight", learner.hindsight.to_string()),
        ("drift", learner.drift.to_string()),
        ("sketch-share", learner.sketch_share.to_string()),
        ("shard-by", learner.shard_by.clone().unwrap_or_else(|| "none".into())),
        ("max-shards", auto(learner.max_shards.given().map(|count| count.to_string()))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Options of what is fitted, not of how events are taken.
pub const FITTED: [&str; 6] = ["kernel", "bandwidth", "ridge", "metric", "seed", "precision"];

/// Refuses flags of the command line that would change what the state was told.
///
/// # Errors
/// A usage failure (2) that names them.
pub fn refuse_changes(told: &Told, args: &OnlineArgs) -> Result<(), Failure> {
    let now = asked(args);
    let differ: Vec<String> = args
        .given
        .iter()
        // A configuration that is made anew takes these from the command line.
        .filter(|flag| !(args.stream.refit_encoder && FITTED.contains(&flag.as_str())))
        .filter_map(|flag| {
            let after = now.get(flag)?;
            // Older states have none of these.
            let none = matches!(flag.as_str(), "window" | "shard-by" | "max-shards").then_some("none");
            let before = told.asked.get(flag).map(String::as_str).or(none)?;
            (before != after).then(|| format!("--{flag} {after} (was {before})"))
        })
        .collect();
    if differ.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the state was begun otherwise: {}. Leave that out to go on, or begin in another --state",
        differ.join(", ")
    )))
}

/// The configuration of a model for a stream: rows have keys, and none is held out.
///
/// # Errors
/// A model that cannot be used (1).
pub fn for_stream(model: &Model) -> Result<Model, Failure> {
    let (mut encoder, _) = function_of(model, None)?;
    encoder.id_column.get_or_insert_with(|| KEY.to_owned());
    encoder.split = SplitRule::None;
    let mut model = model.clone();
    model.config.encoder = crate::model::json::faithful(&encoder).map_err(Failure::data)?;
    model.config.split = "none".into();
    Ok(model)
}

/// The settings of a learner by a model's configuration.
///
/// # Errors
/// Options that the model leaves without a meaning (2).
pub fn settings(
    learner: &LearnerArgs,
    model: &Model,
    function: &Function,
    seed: u64,
) -> Result<(Settings, Units), Failure> {
    let mode = match learner.mode {
        ModeName::ConKons => Mode::ConKons,
        ModeName::ProsNKons => Mode::ProsNKons,
        ModeName::Kons => Mode::Kons,
        ModeName::SketchedKons => Mode::SketchedKons,
        ModeName::Exact => {
            return Err(Failure::usage("--mode exact begins with no function: use online --config-from MODEL"));
        }
        ModeName::Recursive => return Err(Failure::usage("--mode recursive has settings of its own")),
    };
    let loss = match learner.loss {
        OnlineLoss::Squared => Loss::Squared,
        OnlineLoss::Logistic => Loss::Logistic,
        OnlineLoss::SquaredHinge => Loss::SquaredHinge,
        OnlineLoss::Huber(delta) => Loss::Huber { delta },
    };
    let units = Units::new(function, deviation(model), loss)?;
    let clip = match learner.clip {
        Clip::None => None,
        Clip::At(clip) => Some(clip),
        Clip::Auto => Some(if units.is_number() { 2.0 * units.reach() } else { 4.0 }),
    };
    if learner.curvature == CurvatureName::Fixed && matches!(loss, Loss::Huber { .. }) {
        return Err(Failure::usage(
            "--curvature fixed is one number for a whole loss, and huber's tails are straight, with no curvature at all: leave out --curvature (adaptive), or take --loss squared",
        ));
    }
    if clip.is_none()
        && (learner.curvature == CurvatureName::Fixed || matches!(loss, Loss::Logistic | Loss::SquaredHinge))
    {
        return Err(Failure::usage(
            "--clip none is for --loss squared and huber with --curvature adaptive: the curvature of the others is that of a clip range. Leave out --clip, or give a number",
        ));
    }
    let alpha = alpha(learner, model)?;
    let gamma = learner.gamma.given().map_or(0.5 * alpha, |gamma| gamma.0);
    // The loss that counts as 1: twice the spread of the target, or what is well beyond chance.
    let loss_scale = match loss {
        Loss::Squared | Loss::SquaredHinge => 4.0,
        Loss::Logistic => 2.0,
        Loss::Huber { delta } => Loss::Huber { delta }.value(2.0, 0.0),
    };
    let drift = |action| Some(DriftParams { loss_scale: Some(loss_scale), ..DriftParams::new(action) });
    shares(learner)?;
    let settings = Settings {
        mode,
        loss,
        curvature: match learner.curvature {
            CurvatureName::Adaptive => Curvature::Adaptive,
            CurvatureName::Fixed if mode == Mode::ProsNKons => Curvature::Fixed { scale: 0.5 },
            CurvatureName::Fixed => Curvature::Fixed { scale: 1.0 },
        },
        alpha,
        gamma,
        spread: learner.gamma.given().is_none(),
        beta: learner.beta.0,
        cap: usize::try_from(learner.cap.0).unwrap_or(usize::MAX),
        clip,
        forgetting: learner.forgetting.0,
        block: usize::try_from(learner.block.0).unwrap_or(usize::MAX),
        window: usize::try_from(learner.loss_window.0).unwrap_or(usize::MAX),
        hindsight: usize::try_from(learner.hindsight.0).unwrap_or(usize::MAX),
        drift: match learner.drift {
            DriftName::None => None,
            DriftName::Report => drift(DriftAction::Report),
            DriftName::Forget(keep) => drift(DriftAction::Forget { keep }),
            DriftName::Reset => drift(DriftAction::Reset),
            DriftName::Adapt => drift(DriftAction::Adapt),
        },
        least: learner.sketch_share.0,
        seed,
    };
    Ok((settings, units))
}

/// The ridge of the comparator: as given, or that of the model over its rows; of several ridges their geometric mean, since one matrix serves all targets.
fn alpha(learner: &LearnerArgs, model: &Model) -> Result<f64, Failure> {
    if let Some(alpha) = learner.alpha.given() {
        return Ok(alpha.0);
    }
    let config = &model.config;
    let ridge = match config.ridge.as_slice() {
        [] => 0.0,
        [one] => *one,
        all if all.iter().all(|ridge| ridge == &all[0]) => all[0],
        all => (all.iter().map(|ridge| ridge.ln()).sum::<f64>() / all.len() as f64).exp(),
    };
    let ridge = ridge * config.sum_weights;
    if !(ridge > 0.0 && ridge.is_finite()) {
        return Err(Failure::usage("the model's ridge says nothing of alpha (it is 0, or of no rows): give --alpha"));
    }
    Ok(if config.loss == "logistic" { ridge } else { 2.0 * ridge })
}

fn shares(learner: &LearnerArgs) -> Result<(), Failure> {
    if learner.forgetting.0 > 1.0 || learner.sketch_share.0 > 1.0 {
        return Err(Failure::usage("--forgetting and --sketch-share are shares: above 0 and at most 1"));
    }
    Ok(())
}

/// The settings of recursive least squares by a model's configuration.
///
/// # Errors
/// Options that the model leaves without a meaning (2).
pub fn recursive_settings(learner: &LearnerArgs, model: &Model, seed: u64) -> Result<Settings, Failure> {
    shares(learner)?;
    let (rho, block) = (learner.forgetting.0, learner.block.0);
    let (kept, least) = (rho.powf(block as f64), RecursiveParams::LEAST_KEPT);
    if kept < least {
        let most = (least.ln() / rho.ln()).floor();
        return Err(Failure::usage(format!(
            "--forgetting {rho} leaves {kept:.0e} of what was known before the {block} rows of a block, and less than {least:.0e} is lost in rounding: {}--forgetting {:.4} or more",
            if most >= 1.0 { format!("give --block {most} or fewer, or ") } else { "give ".to_owned() },
            // Rounded up.
            (least.powf(1.0 / block as f64) * 1e4).ceil() / 1e4
        )));
    }
    Ok(Settings {
        alpha: alpha(learner, model)?,
        forgetting: learner.forgetting.0,
        block: usize::try_from(learner.block.0).unwrap_or(usize::MAX),
        window: usize::try_from(learner.loss_window.0).unwrap_or(usize::MAX),
        ..Settings::bare(Mode::Recursive, seed)
    })
}

/// How rows are dealt to learners of these settings, each of which may hold its share of two fifths of `memory`: snapshots hold what learners hold thrice over, without the halves of triangles that mean nothing.
///
/// # Errors
/// More shards than fit (4).
pub fn shards(
    learner: &LearnerArgs,
    settings: &Settings,
    model: &Model,
    whole: bool,
    memory: u64,
) -> Result<Option<ShardsTold>, Failure> {
    let Some(by) = &learner.shard_by else { return Ok(None) };
    let block = settings.block as u64;
    let own = match settings.mode {
        Mode::Recursive => recursive::bytes(model.centers.len() as u64, model.outputs() as u64, block),
        _ => {
            // Four matrices whose room doubles, the features of a block, the atoms, and the rows of the hindsight sample.
            let room = (settings.cap as u64).checked_next_power_of_two().unwrap_or(u64::MAX);
            let width = 4 * model.config.numeric_width as u64 + 2 * model.config.code_width as u64;
            let rows = room.saturating_add(settings.hindsight as u64).saturating_mul(width + 48);
            room.saturating_mul(room.saturating_mul(4).saturating_add(block)).saturating_mul(8).saturating_add(rows)
        }
    };
    let budget = memory / 5 * 2;
    let most = match learner.max_shards.given() {
        None => (budget / own.max(1)).clamp(1, 1_000_000),
        Some(count) => count.0,
    };
    let needed = most.saturating_mul(own);
    if needed > budget {
        return Err(Failure::budget(format!(
            "{most} shards of up to {} may need {}, and two fifths of --memory are {}: lower --max-shards or --cap",
            bytes(own),
            bytes(needed),
            bytes(budget)
        )));
    }
    Ok(Some(ShardsTold { by: by.clone(), most, whole }))
}

/// One digest of the models of all shards, in the order of their names; `None` where no row was learned.
///
/// # Errors
/// A model that cannot be made.
pub fn digest_of_shards(session: &mut Session, model: &Model, settings: &Settings) -> Result<Option<String>, Failure> {
    let Some(shards) = session.shards() else { return Ok(None) };
    let mut hasher = blake3::Hasher::new();
    let mut any = false;
    for (name, _) in &shards.all {
        let published = match session.shard(name) {
            Ok(published) => published,
            // Its first block is not complete.
            Err(StageError::Data(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let digest = model_of(model, settings, published).digest()?;
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(digest.as_bytes());
        any = true;
    }
    Ok(any.then(|| hasher.finalize().to_hex().to_string()))
}

/// The shards of a session, for reports.
pub fn shards_report(session: &Session) -> Option<ShardsReport> {
    let shards = session.shards()?;
    // Of several the first by name.
    let largest = shards.all.iter().rev().max_by_key(|(_, info)| info.rows + info.waiting);
    let largest = largest.map(|(name, info)| ShardReport {
        shard: name.to_string(),
        rows: info.rows + info.waiting,
        dictionary: info.dictionary,
    });
    Some(ShardsReport { count: shards.all.len() as u64, max: shards.most, largest })
}

/// The standard deviations of the model's targets; 0 where they are not known.
pub fn deviations(model: &Model) -> Vec<f64> {
    model.config.targets.iter().map(|target| target.deviation.unwrap_or(0.0)).collect()
}

/// An alarm as it is reported.
pub fn alarm(alarm: &DriftAlarm) -> AlarmReport {
    AlarmReport {
        by: match alarm.raised.by {
            Alarm::Mass => "mass",
            Alarm::Loss => "loss",
        }
        .into(),
        changes: alarm.changes,
        key: alarm.key.clone(),
        time: alarm.time.and_then(nystream_datasets::events::instant_text),
        value: alarm.raised.value,
        threshold: alarm.raised.threshold,
    }
}

/// Regret as it is reported.
pub fn regret(regret: Regret) -> RegretReport {
    let Regret { found, bound, published_bound } = regret;
    RegretReport {
        measured: found.regret,
        error: found.error,
        bound: bound.map(|bound| bound.total()),
        terms: bound.map(|Bound { ridge, newton, excess, outside }| BoundTerms { ridge, newton, excess, outside }),
        published_bound,
        comparator: match found.comparator {
            Comparator::Whole => "whole",
            Comparator::Own => "own",
            Comparator::Halves => "halves",
            Comparator::Zero => "zero",
            Comparator::Mixed => "mixed",
        }
        .into(),
        comparator_loss: found.comparator_loss,
        comparator_norm: found.norm,
        infeasible: found.infeasible as u64,
        rows: found.rows as u64,
    }
}

/// The standard deviation of the model's target.
pub fn deviation(model: &Model) -> Option<f64> {
    model.config.targets.first().and_then(|target| target.deviation)
}

/// How events are taken.
pub fn rules(args: &OnlineArgs, model: &Model) -> Rules {
    Rules {
        lateness: args.stream.lateness.map(|time| (time.0 * 1e6).min(9e18) as i64),
        publish_every: match args.stream.publish {
            Publish::Changes(every) => Some(every),
            Publish::End | Publish::Seconds(_) | Publish::Drift(_) => None,
        },
        publish_drift: match args.stream.publish {
            Publish::Drift(drift) => Some(drift),
            _ => None,
        },
        watch_rows: match args.stream.publish {
            Publish::Drift(_) => args.learner.block.0,
            _ => 0,
        },
        window: args.stream.window.map(|window| match window {
            WindowSpec::Rows(rows) => Window::Rows(rows),
            WindowSpec::Time(seconds) => Window::Time((seconds * 1e6) as i64),
        }),
        loss_window: usize::try_from(args.learner.loss_window.0).unwrap_or(usize::MAX),
        deviations: deviations(model),
    }
}

/// The encoder of a run: targets beyond the clip range are bad values.
pub fn encoder_of(mut encoder: Encoder, settings: &Settings, units: &Units) -> Encoder {
    if let (Some(clip), true) = (settings.clip, units.is_number()) {
        let weight = encoder.bounds.as_ref().map_or(f64::MAX, |bounds| bounds.weight);
        let range = TargetRange { centre: units.centre(), reach: clip * units.scale() };
        encoder.bounds = Some(Bounds { targets: vec![range], weight });
    }
    encoder
}

/// The settings that a function comes of: what is only looked at and reported is none of them.
fn learned_by(settings: &Settings) -> Value {
    let reported = |drift: &DriftParams| drift.action == DriftAction::Report;
    let drift = settings.drift.filter(|drift| !reported(drift));
    let mut own = json!(Settings { drift, ..settings.clone() });
    if let Value::Object(fields) = &mut own {
        for name in ["window", "hindsight"] {
            fields.remove(name);
        }
    }
    own
}

/// Precision of kernel entries: that of the configuration, or what was asked for. The inverse that KONS grows rests on alpha / 2 beside them, which f32 does not resolve: its entries are f64.
///
/// # Errors
/// f32 where it cannot be (2).
pub fn precision(mode: ModeName, asked: Option<Precision>, model: &Model) -> Result<Precision, Failure> {
    match (mode, asked) {
        (ModeName::Kons | ModeName::SketchedKons, Some(Precision::F32)) => Err(Failure::usage(format!(
            "--mode {mode} has f64 entries, since the inverse that it grows rests on alpha / 2 beside them: leave out --precision f32"
        ))),
        (ModeName::Kons | ModeName::SketchedKons, _) => Ok(Precision::F64),
        (_, asked) => Ok(asked.unwrap_or(model.config.precision)),
    }
}

/// What predicting the mean of the targets loses, or of two classes neither, as the configuration knows them; `None` for losses of which that cannot be said.
pub fn baseline(settings: &Settings, numbers: bool) -> Option<f64> {
    if settings.mode == Mode::Exact {
        return None;
    }
    match settings.loss {
        Loss::Squared => numbers.then_some(1.0),
        // At most: e^2 / 2.
        Loss::Huber { .. } => Some(0.5),
        Loss::Logistic => Some(std::f64::consts::LN_2),
        Loss::SquaredHinge => Some(1.0),
    }
}

/// The model of what was published.
pub fn model_of(source: &Model, settings: &Settings, published: Published) -> Model {
    if settings.mode == Mode::Exact {
        return super::exact::model_of(source, published);
    }
    let Published { function, rows, sum_weights, deviations, .. } = published;
    let mut config = source.config.clone();
    (config.rows, config.sum_weights) = (rows, sum_weights);
    for (target, deviation) in config.targets.iter_mut().zip(deviations) {
        target.deviation = Some(deviation);
    }
    config.solver = settings.mode.name().into();
    config.loss = crate::fitted::loss_name(function.loss).into();
    if settings.mode != Mode::Recursive {
        config.selection = Selection {
            method: "kors".into(),
            gamma: Some(settings.gamma),
            beta: Some(settings.beta),
            ..Selection::default()
        };
    }
    config.exact = None;
    config.settings = BTreeMap::from([("online".to_owned(), learned_by(settings))]);
    let code = &function.code;
    let t = code.width();
    let coefficients = function.coefficients.iter().enumerate().map(|(i, c)| c * code.scale(i % t)).collect();
    Model::new(config, function.centers, coefficients, code.centres.clone())
}
