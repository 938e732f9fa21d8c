//! Names of tensors: those of Hugging Face's Llama and Mistral, and GGUF's.

use qlora_config::TargetModule;
use qlora_planner::ModelShape;

use crate::lora::Site;

/// A part of a name in either form.
const PARTS: [(&str, &str); 12] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// GGUF's name of what Hugging Face calls `name`.
pub(crate) fn gguf_name(name: &str) -> String {
    let blocks = name.replacen("model.layers.", "blk.", 1);
    PARTS.iter().fold(blocks, |name, (from, to)| {
        let whole = format!("{from}.");
        if name.starts_with(&whole) || name.contains(&format!(".{whole}")) {
            name.replacen(from, to, 1)
        } else {
            name
        }
    })
}

/// The linear layer whose weight GGUF calls `name`.
pub(crate) fn site_of(name: &str) -> Option<Site> {
    let (layer, part) = name
        .strip_prefix("blk.")?
        .strip_suffix(".weight")?
        .split_once('.')?;
    let (theirs, _) = PARTS.iter().find(|(_, ours)| *ours == part)?;
    let module = TargetModule::ALL
        .into_iter()
        .find(|m| theirs.ends_with(m.name()))?;
    Some(Site {
        layer: layer.parse().ok()?,
        module,
    })
}

/// Every tensor of a model of `shape`, by its Hugging Face name, in the order of the forward pass.
pub(crate) fn tensors_of(shape: &ModelShape) -> Vec<String> {
    let layer = |layer: usize| {
        let norms = ["input_layernorm", "post_attention_layernorm"]
            .map(|n| format!("model.layers.{layer}.{n}"));
        norms
            .into_iter()
            .chain(TargetModule::ALL.map(|module| Site { layer, module }.module_path()))
    };
    let head = (!shape.tied_embeddings).then(|| "lm_head".to_owned());
    let names = std::iter::once("model.embed_tokens".to_owned())
        .chain((0..shape.layers).flat_map(layer))
        .chain(["model.norm".to_owned()])
        .chain(head);
    names.map(|name| format!("{name}.weight")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_llama_cpps_and_lead_back_to_their_layers() {
        for (theirs, ours) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            (
                "model.layers.3.input_layernorm.weight",
                "blk.3.attn_norm.weight",
            ),
            (
                "model.layers.3.post_attention_layernorm.weight",
                "blk.3.ffn_norm.weight",
            ),
            (
                "model.layers.11.self_attn.o_proj.weight",
                "blk.11.attn_output.weight",
            ),
            (
                "model.layers.11.mlp.down_proj.weight.lora_a",
                "blk.11.ffn_down.weight.lora_a",
            ),
        ] {
            assert_eq!(gguf_name(theirs), ours);
        }
        for module in TargetModule::ALL {
            let site = Site { layer: 7, module };
            assert_eq!(
                site_of(&gguf_name(&format!("{}.weight", site.module_path()))),
                Some(site)
            );
        }
        assert_eq!(site_of("blk.0.attn_norm.weight"), None);
    }
}
