//! `adapter_config.json`: every key is carried out, or refused by name.

use qlora_config::{LoraConfig, TargetModule};
use qlora_planner::ModelShape;
use serde_json::{Map, Value};

use super::targets::{ByPattern, Modules, every_site};
use crate::lora::Site;

/// Keys that may have any value here: [`read`] carries them out, or they say nothing about what an
/// adapter computes once it is trained.
const KNOWN: [&str; 22] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "use_dora",
    "use_rslora",
    "velora_config",
];

/// An adapted place with its own rank and alpha.
pub(super) struct Place {
    pub site: Site,
    pub rank: usize,
    pub alpha: f64,
}

pub(super) struct Settings {
    /// What holds where no pattern says otherwise.
    pub lora: LoraConfig,
    pub places: Vec<Place>,
}

/// Reads the settings `value` for a model of `shape`; the error goes on with what "the adapter"
/// does.
pub(super) fn read(value: &Value, shape: &ModelShape) -> Result<Settings, String> {
    let keys = value
        .as_object()
        .ok_or("has an adapter_config.json that is no object")?;
    let keys = &Keys(keys);
    refuse_what_is_not_done(keys)?;
    let sites = sites(keys, shape)?;
    let (r, alpha) = (
        keys.rank("r")?,
        keys.number("lora_alpha")?.ok_or("has no `lora_alpha`")?,
    );
    let dropout = keys.number("lora_dropout")?.unwrap_or(0.0);
    if !(0.0..1.0).contains(&dropout) {
        return Err(format!(
            "has `lora_dropout: {dropout}`, not a share from 0 to below 1"
        ));
    }
    let places = places(keys, &sites, r, alpha)?;
    let mut target_modules: Vec<TargetModule> = sites.iter().map(|site| site.module).collect();
    target_modules.sort();
    target_modules.dedup();
    let lora = LoraConfig {
        r,
        alpha,
        rslora: keys.flag("use_rslora")?,
        dora: keys.flag("use_dora")?,
        loraplus_ratio: 1.0,
        dropout,
        target_modules,
    };
    Ok(Settings { lora, places })
}

/// Whether `value` asks for nothing: PEFT writes every key, most of them so.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        _ => false,
    }
}

fn refuse_what_is_not_done(keys: &Keys<'_>) -> Result<(), String> {
    for (key, value) in keys.0 {
        let done = match key.as_str() {
            "peft_type" => value == "LORA",
            "task_type" => value.is_null() || value == "CAUSAL_LM",
            "bias" => value.is_null() || value == "none",
            "layers_pattern" => {
                is_nothing(value)
                    || value == ""
                    || value == "layers"
                    || *value == serde_json::json!(["layers"])
            }
            "init_lora_weights" => value.is_boolean() || value.is_null() || leaves_the_base(value),
            key => KNOWN.contains(&key) || is_nothing(value),
        };
        if !done {
            return Err(format!(
                "has `{key}: {value}`, which is not implemented; {}",
                way_out(key, value)
            ));
        }
    }
    Ok(())
}

/// Initializations of PEFT, by their names, that leave the base as it is, so that a trained adapter
/// says nothing of them.
const PLAIN: [&str; 4] = ["gaussian", "orthogonal", "eva", "mica"];

/// PEFT takes these names in capitals too.
fn leaves_the_base(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| PLAIN.iter().any(|name| text.eq_ignore_ascii_case(name)))
}

/// Those that change the base they are trained on.
const CHANGING: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Whether an adapter that began as `value` was trained on a changed base. `pissa_niter_16` is
/// PiSSA, with a number of steps.
fn changes_the_base(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| CHANGING.contains(&text) || text.starts_with("pissa_niter_"))
}

/// What helps where the value of `key` is not carried out.
fn way_out(key: &str, value: &Value) -> &'static str {
    match key {
        "init_lora_weights" if !changes_the_base(value) => {
            "true, false, gaussian, orthogonal, eva and mica are known, and pissa, olora, corda, loftq and lora_ga by the change they make to a base: correct the name"
        }
        "init_lora_weights" | "loftq_config" => {
            "it was trained on a changed base: convert it to plain LoRA with PEFT's path_initial_model_for_weight_conversion"
        }
        "modules_to_save"
        | "trainable_token_indices"
        | "bias"
        | "lora_bias"
        | "layer_replication"
        | "kasa_config"
        | "use_bdlora"
        | "monteclora_config"
        | "target_parameters" => "merge it with PEFT's merge_and_unload and use the merged model",
        // PEFT cannot merge these: what they add depends on the tokens.
        "alora_invocation_tokens" | "arrow_config" => "use an adapter of plain LoRA",
        "peft_type" | "task_type" => "use a LoRA adapter of a causal language model",
        _ => "merge it with PEFT, or remove the key if it changes no computation",
    }
}

fn sites(keys: &Keys<'_>, shape: &ModelShape) -> Result<Vec<Site>, String> {
    let targets = keys
        .value("target_modules")
        .ok_or("has no `target_modules`")?;
    let targets = Modules::read("target_modules", targets)?;
    if let Some(name) = targets.unknown(shape) {
        return Err(format!(
            "adapts `{name}` (`target_modules`), which this base has not as a linear layer of a block"
        ));
    }
    let excluded = keys.value("exclude_modules").filter(|v| !is_nothing(v));
    let excluded = excluded
        .map(|value| Modules::read("exclude_modules", value))
        .transpose()?;
    let layers = layers(keys, shape)?;
    if layers.len() < shape.layers && !matches!(targets, Modules::Names(_)) {
        return Err(
            "has `layers_to_transform` beside a pattern in `target_modules`, which PEFT refuses too; name modules"
                .into(),
        );
    }
    let mut found = Vec::new();
    for site in every_site(shape) {
        let out = excluded
            .as_ref()
            .map_or(Ok(false), |excluded| excluded.matches(&site))?;
        if !out && layers.contains(&site.layer) && targets.matches(&site)? {
            found.push(site);
        }
    }
    if found.is_empty() {
        Err("names no module of this base (`target_modules`)".into())
    } else {
        Ok(found)
    }
}

/// The blocks of `layers_to_transform`, else all.
fn layers(keys: &Keys<'_>, shape: &ModelShape) -> Result<Vec<usize>, String> {
    let Some(value) = keys.value("layers_to_transform").filter(|v| !is_nothing(v)) else {
        return Ok((0..shape.layers).collect());
    };
    let all = value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice);
    let layer = |v: &Value| {
        v.as_u64()
            .map(|n| n as usize)
            .filter(|&layer| layer < shape.layers)
    };
    let fault = || {
        format!(
            "has `layers_to_transform: {value}`, this base has {} blocks",
            shape.layers
        )
    };
    all.iter()
        .map(layer)
        .collect::<Option<_>>()
        .ok_or_else(fault)
}

fn places(keys: &Keys<'_>, sites: &[Site], r: usize, alpha: f64) -> Result<Vec<Place>, String> {
    let pattern = |key: &str| {
        let value = keys.value(key).filter(|v| !is_nothing(v));
        let pattern = value.map(|value| ByPattern::read(key, value)).transpose()?;
        match pattern
            .as_ref()
            .map(|p| p.unused(sites))
            .transpose()?
            .flatten()
        {
            Some(unused) => Err(format!(
                "has a `{key}` for `{unused}`, which fits none of its modules"
            )),
            None => Ok(pattern),
        }
    };
    let (ranks, alphas) = (pattern("rank_pattern")?, pattern("alpha_pattern")?);
    let of =
        |pattern: &Option<ByPattern>, key: &str, site: &Site| -> Result<Option<Value>, String> {
            Ok(pattern
                .as_ref()
                .map(|p| p.of(key, site))
                .transpose()?
                .flatten()
                .cloned())
        };
    let place = |site: &Site| {
        let rank = of(&ranks, "rank_pattern", site)?.map_or(Ok(r), |v| rank("rank_pattern", &v))?;
        let alpha = of(&alphas, "alpha_pattern", site)?
            .map_or(Ok(alpha), |v| number("alpha_pattern", &v))?;
        Ok(Place {
            site: *site,
            rank,
            alpha,
        })
    };
    sites.iter().map(place).collect()
}

fn rank(key: &str, value: &Value) -> Result<usize, String> {
    let rank = value.as_u64().filter(|&r| r > 0).map(|r| r as usize);
    rank.ok_or_else(|| format!("has `{key}: {value}`, not a whole number above 0"))
}

fn number(key: &str, value: &Value) -> Result<f64, String> {
    value
        .as_f64()
        .ok_or_else(|| format!("has `{key}: {value}`, not a number"))
}

struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn rank(&self, key: &str) -> Result<usize, String> {
        rank(
            key,
            self.value(key)
                .ok_or_else(|| format!("has no rank `{key}`"))?,
        )
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.value(key).map(|value| number(key, value)).transpose()
    }

    fn flag(&self, key: &str) -> Result<bool, String> {
        let Some(value) = self.value(key) else {
            return Ok(false);
        };
        value
            .as_bool()
            .ok_or_else(|| format!("has `{key}: {value}`, not true or false"))
    }
}
