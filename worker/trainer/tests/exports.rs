//! What goes with an export: the template and the end of turn of the training, and elements that
//! the file can hold.

mod toy;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value as Meta};
use candle_core::{DType, Tensor};
use qlora_config::{DeviceKind, FlashAttention};
use qlora_trainer::Error;
use qlora_trainer::export::{self, Base, ElementType, Merged};
use qlora_trainer::score::{Answerer, Subject};
use serde_json::{Value, json};
use toy::{Tensors, config, golden, held_as, model, tensors};

/// Id of `<|im_end|>` in the golden tokenizer.
const IM_END: u32 = 4;

#[test]
fn two_exports_to_one_name_leave_each_other_alone() {
    let home = Home::new();
    let base = home.base(&tensors());
    for name in ["merged", "merged.gguf"] {
        let (out, adapter) = (home.path(name), home.adapter(None, 1.0));
        // What another process is writing meanwhile, under the name of either version of this
        // program.
        let others = [
            home.path(&format!("{name}.partial")),
            home.path(&format!("{name}.7-0badcafe.partial")),
        ];
        others
            .iter()
            .for_each(|other| fs::write(other, "half").expect("a file"));
        let merge = |progress: export::Progress<'_>| {
            let held = held_as("nf4");
            export::merge(
                &base,
                &adapter,
                &out,
                Base::Original,
                &held,
                ElementType::F32,
                progress,
            )
        };
        // The other one is complete while this one still writes.
        let refused = merge(&mut |_, _| {
            fs::write(&out, "whole").expect("a file");
            Ok(())
        })
        .expect_err("the name was taken");
        assert!(refused.to_string().contains("exists already"), "{refused}");
        assert_eq!(fs::read_to_string(&out).expect("a file"), "whole");
        fs::remove_file(&out).expect("removed");
        merge(&mut |_, _| Ok(())).expect("a model");
        assert!(
            others
                .iter()
                .all(|other| fs::read_to_string(other).is_ok_and(|text| text == "half"))
        );
        let left = fs::read_dir(home.0.path())
            .expect("a folder")
            .filter_map(Result::ok);
        let left = left
            .filter(|e| e.file_name().to_string_lossy().ends_with(".partial"))
            .count();
        assert_eq!(left, others.len(), "something of its own is left");
        others
            .iter()
            .for_each(|other| fs::remove_file(other).expect("removed"));
    }
}

#[test]
fn an_export_that_is_stopped_leaves_nothing() {
    let home = Home::new();
    let (base, adapter) = (home.base(&tensors()), home.adapter(None, 1.0));
    let before = home.names();
    for (name, at) in [
        ("merged", 1),
        ("merged", 9),
        ("merged.gguf", 1),
        ("merged.gguf", 9),
        ("nf4", 5),
        ("whole.gguf", 5),
        ("alone.gguf", 1),
    ] {
        let mut begun = Vec::new();
        let mut stop = |done, _| {
            begun = home.names();
            if done == at {
                Err(Error::Stopped)
            } else {
                Ok(())
            }
        };
        let ended = home.export(&base, &adapter, name, &mut stop);
        assert!(matches!(ended, Err(Error::Stopped)), "{name}: {ended:?}");
        assert_eq!(begun.len(), before.len() + 1, "{name}: nothing was begun");
        assert_eq!(home.names(), before, "{name}");
    }
}

#[test]
fn an_export_can_be_stopped_between_its_last_tensor_and_its_name() {
    let home = Home::new();
    let (base, adapter) = (home.base(&tensors()), home.adapter(None, 1.0));
    let before = home.names();
    for name in ["merged", "merged.gguf", "nf4", "whole.gguf", "alone.gguf"] {
        let mut complete = 0;
        let mut stop = |done: usize, of: usize| {
            complete += usize::from(done == of);
            if complete == 2 {
                Err(Error::Stopped)
            } else {
                Ok(())
            }
        };
        let ended = home.export(&base, &adapter, name, &mut stop);
        assert!(matches!(ended, Err(Error::Stopped)), "{name}: {ended:?}");
        assert_eq!((complete, home.names()), (2, before.clone()), "{name}");
    }
}

#[test]
fn an_adapter_that_names_another_base_is_told_of_wherever_it_is_used() {
    let home = Home::new();
    let (base, adapter) = (home.base(&tensors()), home.adapter(None, 1.0));
    let settings = fs::read_to_string(adapter.join("adapter_config.json")).expect("settings");
    let mut count = 0;
    let mut notes = |name: &str| {
        let named = settings.replace("\"owner/base\"", name);
        assert!(named.contains(name));
        fs::write(adapter.join("adapter_config.json"), named).expect("settings");
        count += 1;
        let alone = home.path(&format!("{count}-adapter.gguf"));
        let subject = Subject {
            model: base.clone(),
            adapter: Some(adapter.clone()),
            config: &held_as("none"),
            template: "auto".into(),
            max_new_tokens: 1,
            device: DeviceKind::Cpu,
            attention: FlashAttention::Auto,
        };
        [
            home.merge(&base, &adapter, &count.to_string(), ElementType::F16)
                .expect("a merged model")
                .notes,
            export::convert_adapter(&base, &adapter, &alone, &mut |_, _| Ok(()))
                .expect("an adapter")
                .notes,
            Answerer::open(&subject).expect("a model").notes,
            toy::logits(&base, Some(&adapter)).expect("logits").1,
        ]
    };
    for name in ["\"owner/other\"", "\"/models/base-chat\""] {
        for told in notes(name) {
            let named = |note: &String| {
                note.contains(name.trim_matches('"')) && note.contains("base_model_name_or_path")
            };
            assert_eq!(
                told.iter().filter(|note| named(note)).count(),
                1,
                "{name}: {told:?}"
            );
        }
    }
    for name in ["\"owner/base\"", "\"BASE\"", "\"./base/\"", "\"\"", "null"] {
        for told in notes(name) {
            assert!(told.is_empty(), "{name}: {told:?}");
        }
    }
    let record = adapter.join("training_base.json");
    fs::write(&record, r#"{"rms_norm_eps": [1e-6], "soft caps": [0, 0]}"#).expect("a record");
    for told in notes("\"owner/base\"") {
        assert!(
            told.len() == 1 && told[0].contains("rms_norm_eps (0.000001, here 0.00001)"),
            "{told:?}"
        );
    }
    fs::write(
        &record,
        r#"{"rms_norm_eps": [0.00001], "of a later version": [1]}"#,
    )
    .expect("a record");
    for told in notes("\"owner/base\"") {
        assert!(told.is_empty(), "{told:?}");
    }
}

#[test]
fn an_adapter_with_a_broken_template_is_used_with_one_that_is_asked_for() {
    let home = Home::new();
    let (base, adapter) = (home.base(&tensors()), home.adapter(None, 1.0));
    let config = &held_as("none");
    let open = |template: &str| {
        let subject = Subject {
            model: base.clone(),
            adapter: Some(adapter.clone()),
            config,
            template: template.into(),
            max_new_tokens: 1,
            device: DeviceKind::Cpu,
            attention: FlashAttention::Auto,
        };
        Answerer::open(&subject).map(|answerer| answerer.notes)
    };
    for broken in [
        r#"{"chat_template": 5}"#,
        r#"{"chat_template": [{"name": "rag", "template": "r"}]}"#,
    ] {
        fs::write(adapter.join("tokenizer_config.json"), broken).expect("a file");
        let fault = open("auto").expect_err(broken);
        assert_eq!(fault.code().id(), "Q0512", "{fault}");
        for template in ["chatml-tools", "default"] {
            let notes = open(template).expect(template);
            let told = |note: &&String| note.contains("tokenizer_config.json");
            assert_eq!(notes.iter().filter(told).count(), 1, "{notes:?}");
        }
    }
}

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<std::ffi::OsString> {
        let entries = fs::read_dir(self.0.path()).expect("a folder");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    }

    fn base(&self, tensors: &Tensors) -> PathBuf {
        let base = model(&self.path("base"), &config(), tensors);
        let template = fs::read_to_string(golden("chat/llama3_like.jinja")).expect("a template");
        fs::write(base.join("chat_template.jinja"), template).expect("a template");
        fs::write(
            base.join("generation_config.json"),
            r#"{"eos_token_id": 2, "temperature": 0.6}"#,
        )
        .expect("settings");
        base
    }

    /// PEFT's adapter, with `template` beside it; `strength` multiplies A and B.
    fn adapter(&self, template: Option<&str>, strength: f64) -> PathBuf {
        let (from, to) = (
            golden("qlora_run/attn_r8/final_adapter"),
            self.path("adapter"),
        );
        fs::create_dir_all(&to).expect("a folder");
        let settings = fs::read_to_string(from.join("adapter_config.json")).expect("settings");
        fs::write(
            to.join("adapter_config.json"),
            settings.replace("\"tiny_llama\"", "\"owner/base\""),
        )
        .expect("settings");
        let factors = candle_core::safetensors::load(
            from.join("adapter_model.safetensors"),
            &candle_core::Device::Cpu,
        );
        let scaled =
            |(name, tensor): (String, Tensor)| (name, (tensor * strength).expect("a tensor"));
        let factors: Tensors = factors.expect("factors").into_iter().map(scaled).collect();
        toy::save(&factors, &to.join("adapter_model.safetensors"));
        if let Some(template) = template {
            fs::write(to.join("chat_template.jinja"), template).expect("a template");
        }
        to
    }

    fn merge(
        &self,
        base: &Path,
        adapter: &Path,
        out: &str,
        element: ElementType,
    ) -> Result<Merged, String> {
        let merged = export::merge(
            base,
            adapter,
            &self.path(out),
            Base::Original,
            &held_as("nf4"),
            element,
            &mut |_, _| Ok(()),
        );
        merged.map_err(|e| e.to_string())
    }

    /// A merged model, an adapter alone, or the base, as `name` says.
    fn export(
        &self,
        base: &Path,
        adapter: &Path,
        name: &str,
        progress: export::Progress<'_>,
    ) -> qlora_trainer::Result<()> {
        let (out, held) = (self.path(name), held_as("nf4"));
        if name.starts_with("merged") {
            export::merge(
                base,
                adapter,
                &out,
                Base::Original,
                &held,
                ElementType::F16,
                progress,
            )
            .map(drop)
        } else if name.starts_with("alone") {
            export::convert_adapter(base, adapter, &out, progress).map(drop)
        } else {
            export::convert(base, &out, &held, ElementType::F16, progress).map(drop)
        }
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(path)).expect("a file")).expect("JSON")
    }

    fn metadata(&self, name: &str) -> std::collections::HashMap<String, Meta> {
        let mut file = fs::File::open(self.path(name)).expect("a file");
        Content::read(&mut file).expect("a header").metadata
    }
}

#[test]
fn a_merged_model_carries_the_template_and_the_end_of_its_training() {
    let home = Home::new();
    let template = fs::read_to_string(golden("chat/chatml_tools.jinja")).expect("a template");
    let (base, adapter) = (home.base(&tensors()), home.adapter(Some(&template), 1.0));
    let merged = home
        .merge(&base, &adapter, "merged", ElementType::F16)
        .expect("a merged model");
    assert!(
        merged.notes.iter().any(|note| note.contains("template")),
        "{:?}",
        merged.notes
    );
    assert!(
        merged
            .notes
            .iter()
            .any(|note| note.contains("<|im_end|>") && note.contains("</s>"))
    );
    assert_eq!(
        fs::read_to_string(home.path("merged/chat_template.jinja")).expect("a template"),
        template
    );
    let settings = home.json("merged/tokenizer_config.json");
    assert_eq!(
        (&settings["eos_token"], settings.get("chat_template")),
        (&json!("<|im_end|>"), None)
    );
    assert_eq!(home.json("merged/config.json")["eos_token_id"], IM_END);
    let generation = home.json("merged/generation_config.json");
    assert_eq!(
        (&generation["eos_token_id"], &generation["temperature"]),
        (&json!([IM_END, 2]), &json!(0.6))
    );
    // A GGUF file of the folder, and one of the GGUF file.
    home.merge(&base, &adapter, "merged.gguf", ElementType::F16)
        .expect("a merged model");
    export::convert(
        &base,
        &home.path("base.gguf"),
        &held_as("nf4"),
        ElementType::F16,
        &mut |_, _| Ok(()),
    )
    .expect("a file");
    home.merge(
        &home.path("base.gguf"),
        &adapter,
        "again.gguf",
        ElementType::F16,
    )
    .expect("a merged model");
    let text = |meta: &Meta| meta.to_string().expect("a text").clone();
    for name in ["merged.gguf", "again.gguf"] {
        let metadata = home.metadata(name);
        assert_eq!(
            text(&metadata["tokenizer.chat_template"]),
            template,
            "{name}"
        );
        assert_eq!(
            metadata["tokenizer.ggml.eos_token_id"]
                .to_u32()
                .expect("an id"),
            IM_END,
            "{name}"
        );
    }
    assert_eq!(
        home.metadata("base.gguf")["tokenizer.ggml.eos_token_id"]
            .to_u32()
            .expect("an id"),
        2
    );
}

#[test]
fn an_adapter_that_names_no_template_leaves_the_bases() {
    let home = Home::new();
    let (base, adapter) = (home.base(&tensors()), home.adapter(None, 1.0));
    let merged = home
        .merge(&base, &adapter, "merged", ElementType::F16)
        .expect("a merged model");
    assert!(merged.notes.is_empty(), "{:?}", merged.notes);
    for name in [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
    ] {
        let read = |folder: &Path| fs::read_to_string(folder.join(name)).expect("a file");
        assert_eq!(read(&home.path("merged")), read(&base), "{name}");
    }
}

#[test]
fn numbers_that_a_type_cannot_hold_are_refused_and_a_matrix_that_becomes_zero_is_told() {
    let home = Home::new();
    let name = "model.layers.0.mlp.down_proj.weight";
    let scaled = |by: f64| {
        let mut all = tensors();
        all.insert(name.into(), (&all[name] * by).expect("a tensor"));
        home.base(&all)
    };
    let convert = |base: &Path, element| {
        let out = home.path("out.gguf");
        let written = export::convert(base, &out, &held_as("nf4"), element, &mut |_, _| Ok(()))
            .map_err(|e| e.to_string());
        assert_eq!(written.is_ok(), out.exists());
        drop(fs::remove_file(out));
        written
    };
    let large = scaled(1e7);
    let fault = convert(&large, ElementType::F16).expect_err("infinities were written");
    assert!(
        fault.contains(name) && fault.contains("--type bf16"),
        "{fault}"
    );
    assert!(
        convert(&large, ElementType::Bf16)
            .expect("bf16 holds it")
            .notes
            .is_empty()
    );
    assert!(convert(&scaled(1e12), ElementType::Q8_0).is_err());
    let small = scaled(1e-9);
    for element in [ElementType::F16, ElementType::Q8_0] {
        let notes = convert(&small, element).expect("a file").notes;
        assert!(
            matches!(&notes[..], [note] if note.contains(name) && note.contains("zero")),
            "{notes:?}"
        );
    }
    assert!(
        convert(&small, ElementType::F32)
            .expect("f32 holds it")
            .notes
            .is_empty()
    );
}

#[test]
fn a_merge_beyond_the_range_of_its_base_is_refused() {
    let home = Home::new();
    let half = tensors()
        .into_iter()
        .map(|(name, t)| (name, t.to_dtype(DType::F16).expect("a tensor")))
        .collect();
    let base = home.base(&half);
    let adapter = home.adapter(None, 1e9);
    for out in ["merged", "merged.gguf"] {
        let fault = home
            .merge(&base, &adapter, out, ElementType::F16)
            .expect_err("infinities were written");
        assert!(
            fault.contains("self_attn") && fault.contains("bf16"),
            "{fault}"
        );
        assert!(!home.path(out).exists());
    }
    let merged = home
        .merge(&base, &adapter, "merged.gguf", ElementType::Bf16)
        .expect("bf16 holds it");
    assert!(
        merged.update > 1e9 && merged.update.is_finite(),
        "{}",
        merged.update
    );
    let fault = home.merge(
        &base,
        &home.adapter(None, 1e25),
        "beyond.gguf",
        ElementType::F32,
    );
    assert!(
        fault
            .expect_err("infinities were written")
            .contains("adapter")
    );
}
