//! GGUF files that are damaged or strange: each is refused by name. What they say of text is
//! carried out.

mod toy;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Value as Meta;
use qlora_trainer::export::{self, ElementType};
use qlora_trainer::weights::Checkpoint;
use serde_json::json;
use toy::gguf::Gguf;
use toy::{config, held_as, model, patched, refused, tensors};

/// How the tokenizer of GPT-4o, and of Phi-4-mini, cuts text.
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn base(home: &Path) -> PathBuf {
    model(&home.join("base"), &config(), &tensors())
}

fn gguf(home: &Path) -> PathBuf {
    let out = home.join("whole.gguf");
    export::convert(
        &base(home),
        &out,
        &held_as("nf4"),
        ElementType::F32,
        &mut |_, _| Ok(()),
    )
    .expect("a file");
    out
}

#[test]
fn a_gguf_header_that_cannot_be_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let whole = fs::read(gguf(home.path())).expect("a file");
    let path = home.path().join("changed.gguf");
    let refuses = |bytes: &[u8], words: &[&str]| {
        fs::write(&path, bytes).expect("a file");
        let words = [&["changed.gguf"], words].concat();
        refused(&path, None, &words);
    };
    refuses(
        &patched(&whole, b"blk.1.attn_norm.weight", b"blk.0.attn_norm.weight"),
        &["blk.0.attn_norm.weight", "twice"],
    );
    refuses(
        &patched(&whole, b"llama.rope.freq_base", b"llama.embedding_leng"),
        &["changed.gguf"],
    );
    refuses(
        &patched(&whole, b"llama.vocab_size", b"llama.block_coun"),
        &["changed.gguf"],
    );
    let doubled = patched(
        &whole,
        b"tokenizer.ggml.eos_token_id",
        b"tokenizer.ggml.bos_token_id",
    );
    refuses(&doubled, &["tokenizer.ggml.bos_token_id", "twice"]);
    // Counts, sizes and places that no file has room for.
    for (from, to) in [(8, u64::MAX), (16, u64::MAX), (8, 1 << 29), (16, 1 << 29)] {
        let mut changed = whole.clone();
        changed[from..from + 8].copy_from_slice(&to.to_le_bytes());
        refuses(&changed, &[]);
    }
    let name = b"output_norm.weight";
    let at = whole
        .windows(name.len())
        .position(|part| part == name)
        .expect("a tensor")
        + name.len();
    for (place, value, word) in [
        (at + 4, 0u64, "output_norm.weight"),
        (at + 4, u64::MAX, "output_norm.weight"),
        (at + 4, 1 << 60, "output_norm.weight"),
        (at + 16, 0, "overlaps"),
        (at + 16, u64::MAX, "cut off"),
    ] {
        let mut changed = whole.clone();
        changed[place..place + 8].copy_from_slice(&value.to_le_bytes());
        refuses(&changed, &[word]);
    }
    // The alignment is a key of one value, so another one of the same length makes room for it.
    for alignment in [0u32, 3, 7] {
        let changed = patched(&whole, b"general.file_type", b"general.alignment");
        let key = b"general.alignment";
        let at = changed
            .windows(key.len())
            .position(|part| part == key)
            .expect("a key")
            + key.len()
            + 4;
        let mut changed = changed;
        changed[at..at + 4].copy_from_slice(&alignment.to_le_bytes());
        refuses(&changed, &["general.alignment"]);
    }
    for length in (0..whole.len()).step_by(whole.len() / 23) {
        refuses(&whole[..length], &[]);
    }
}

#[test]
fn a_type_of_blocks_that_is_not_read_is_named_with_its_tensor() {
    let home = tempfile::tempdir().expect("a folder");
    let whole = fs::read(gguf(home.path())).expect("a file");
    let path = home.path().join("changed.gguf");
    for (tensor, dims) in [
        ("output_norm.weight", 1),
        ("blk.1.ffn_down.weight", 2),
        ("token_embd.weight", 2),
    ] {
        let at = whole
            .windows(tensor.len())
            .position(|part| part == tensor.as_bytes())
            .expect("a tensor");
        let at = at + tensor.len() + 4 + 8 * dims;
        for (number, name) in [
            (9u32, "Q8_1"),
            (15, "Q8_K"),
            (16, "IQ2_XXS"),
            (20, "IQ4_NL"),
            (23, "IQ4_XS"),
            (34, "TQ1_0"),
            (39, "MXFP4"),
            (4711, "no known name"),
        ] {
            let mut changed = whole.clone();
            changed[at..at + 4].copy_from_slice(&number.to_le_bytes());
            fs::write(&path, &changed).expect("a file");
            let fault = refused(
                &path,
                None,
                &[
                    "changed.gguf",
                    tensor,
                    &number.to_string(),
                    name,
                    "Q4_0",
                    "Q6_K",
                    "BF16",
                ],
            );
            assert!(!fault.contains("dtype"), "{fault}");
            assert_eq!(
                Checkpoint::open(&path).err().expect("a fault").code().id(),
                "Q0518"
            );
        }
    }
}

#[test]
fn the_way_of_cutting_text_is_the_one_that_a_gguf_names() {
    let home = tempfile::tempdir().expect("a folder");
    let file = gguf(home.path());
    let text = "It's 2024-07-26: Hello   World\n\n x1234567 don't";
    let ids = |path: &Path| {
        let checkpoint = Checkpoint::open(path).expect("a model");
        checkpoint
            .files
            .tokenizer()
            .expect("a tokenizer")
            .encode(text, false)
            .expect("tokens")
            .get_ids()
            .to_vec()
    };
    assert_eq!(ids(&file), ids(&home.path().join("base")));
    let whole = fs::read(&file).expect("a file");
    let path = home.path().join("other.gguf");
    fs::write(&path, patched(&whole, b"smaug-bpe", b"smaug-xyz")).expect("a file");
    refused(&path, None, &["tokenizer.ggml.pre", "smaug-xyz"]);
    fs::write(
        &path,
        patched(&whole, b"tokenizer.ggml.pre", b"tokenizer.ggml.prf"),
    )
    .expect("a file");
    refused(&path, None, &["tokenizer.ggml.pre", "missing"]);
}

/// Each cut has the name that llama.cpp knows it by, and is read under its other names.
#[test]
fn a_byte_level_cut_comes_back_under_every_name_that_it_has() {
    let home = tempfile::tempdir().expect("a folder");
    let base = base(home.path());
    let path = base.join("tokenizer.json");
    let text = fs::read_to_string(&path).expect("a tokenizer");
    let mut tokenizer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let split = |pattern: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern},
            "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes]})
    };
    let digits = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]});
    let llama = tokenizer["pre_tokenizer"].clone();
    for (cut, whole, names) in [
        (llama.clone(), true, ["llama-bpe", "llama3"]),
        (llama, false, ["smaug-bpe", "dbrx"]),
        (split(GPT_4O), false, ["gpt-4o", "gpt-4o"]),
        (digits, false, ["smollm", "refact"]),
    ] {
        tokenizer["pre_tokenizer"] = cut;
        tokenizer["model"]["ignore_merges"] = whole.into();
        fs::write(&path, tokenizer.to_string()).expect("a tokenizer");
        let (out, held) = (home.path().join("cut.gguf"), held_as("nf4"));
        export::convert(&base, &out, &held, ElementType::F32, &mut |_, _| Ok(())).expect("a file");
        let ids = |path: &Path| {
            let checkpoint = Checkpoint::open(path).expect("a model");
            let read = checkpoint.files.tokenizer().expect("a tokenizer");
            let text = "It's 2024-07-26: HelloWORLD don't\n\n /x1234567/\n  Zürich's";
            read.encode(text, false).expect("tokens").get_ids().to_vec()
        };
        let pre = "tokenizer.ggml.pre";
        for name in names {
            let renamed = home.path().join("renamed.gguf");
            let file = Gguf::of(&out);
            let (_, written) = file.metadata.iter().find(|(k, _)| k == pre).expect("a key");
            assert_eq!(written.to_string().expect("a text"), names[0]);
            file.with(pre, Meta::String(name.into())).write(&renamed);
            assert_eq!(ids(&renamed), ids(&base), "{name}");
        }
        fs::remove_file(out).expect("removed");
    }
}

#[test]
fn a_byte_level_cut_that_gguf_has_no_name_for_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let base = base(home.path());
    let path = base.join("tokenizer.json");
    let mut tokenizer: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("a tokenizer")).expect("JSON");
    let mut written = |space: bool, regex: bool| {
        tokenizer["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex});
        fs::write(&path, tokenizer.to_string()).expect("a tokenizer");
        let out = home.path().join(format!("{space}-{regex}.gguf"));
        let written = export::convert(
            &base,
            &out,
            &held_as("nf4"),
            ElementType::F16,
            &mut |_, _| Ok(()),
        );
        written.map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(written(false, true), Ok(()));
    for (space, regex) in [(true, true), (false, false), (true, false)] {
        let fault = written(space, regex).expect_err("another cut was written");
        assert!(fault.contains("cuts text"), "{fault}");
    }
}

#[test]
fn templates_with_names_come_back_from_a_gguf_file_and_stay_beside_the_trained_one() {
    let home = tempfile::tempdir().expect("a folder");
    let base = base(home.path());
    let others = base.join("additional_chat_templates");
    fs::create_dir_all(&others).expect("a folder");
    fs::write(base.join("chat_template.jinja"), "default {{ messages }}").expect("a template");
    for name in ["rag", "tool_use"] {
        fs::write(
            others.join(format!("{name}.jinja")),
            format!("{name} {{{{ messages }}}}"),
        )
        .expect("a template");
    }
    let templates = |path: &Path| {
        let files = Checkpoint::open(path).expect("a model").files;
        let mut all: Vec<_> = files
            .template
            .expect("templates")
            .iter()
            .map(|(n, t)| (n.to_owned(), t.to_owned()))
            .collect();
        all.sort();
        all
    };
    let wanted = templates(&base);
    assert_eq!(wanted.len(), 3);
    let out = home.path().join("base.gguf");
    export::convert(
        &base,
        &out,
        &held_as("nf4"),
        ElementType::F16,
        &mut |_, _| Ok(()),
    )
    .expect("a file");
    assert_eq!(templates(&out), wanted);
    let nf4 = home.path().join("nf4");
    export::convert(
        &base,
        &nf4,
        &held_as("nf4"),
        ElementType::F16,
        &mut |_, _| Ok(()),
    )
    .expect("a folder");
    assert_eq!(templates(&nf4), wanted);
    let adapter = home.path().join("adapter");
    fs::create_dir_all(&adapter).expect("a folder");
    let from = toy::golden("qlora_run/attn_r8/final_adapter");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(from.join(name), adapter.join(name)).expect("an adapter");
    }
    fs::write(
        adapter.join("chat_template.jinja"),
        "trained {{ messages }}",
    )
    .expect("a template");
    let mut trained = wanted.clone();
    trained[0].1 = "trained {{ messages }}".into();
    for (model, name) in [
        (&base, "merged"),
        (&base, "merged.gguf"),
        (&out, "again.gguf"),
    ] {
        let to = home.path().join(name);
        let base = export::Base::Original;
        let merged = export::merge(
            model,
            &adapter,
            &to,
            base,
            &held_as("nf4"),
            ElementType::F16,
            &mut |_, _| Ok(()),
        );
        let merged = merged.expect("a merged model");
        assert_eq!(templates(&to), trained, "{name}");
        assert!(
            merged.notes.iter().any(|note| note.contains("`tool_use`")),
            "{:?}",
            merged.notes
        );
    }
}

#[test]
fn a_key_of_another_type_or_without_a_size_is_refused_by_its_name() {
    let home = tempfile::tempdir().expect("a folder");
    let file = gguf(home.path());
    let path = home.path().join("changed.gguf");
    let text = |text: &str| Meta::String(text.into());
    for (key, value, word) in [
        ("llama.block_count", Meta::U32(0), "is 0"),
        ("llama.embedding_length", Meta::U64(0), "is 0"),
        ("llama.block_count", Meta::F32(2.0), "F32(2.0)"),
        (
            "llama.attention.head_count",
            Meta::F64(4.0),
            "whole numbers",
        ),
        ("llama.block_count", text("2"), "no number"),
        ("llama.block_count", Meta::U32(u32::MAX), "at the most"),
        (
            "llama.feed_forward_length",
            Meta::U32(1 << 31),
            "at the most",
        ),
        ("llama.embedding_length", Meta::U64(1 << 31), "at the most"),
        (
            "tokenizer.ggml.add_bos_token",
            text("true"),
            "neither true nor false",
        ),
        (
            "tokenizer.ggml.add_eos_token",
            Meta::U32(1),
            "neither true nor false",
        ),
        ("tokenizer.ggml.eos_token_id", Meta::I32(-1), "-1"),
        (
            "tokenizer.ggml.eos_token_id",
            Meta::F32(4.0),
            "no id of a token",
        ),
        ("tokenizer.ggml.bos_token_id", text("1"), "no id of a token"),
    ] {
        Gguf::of(&file).with(key, value).write(&path);
        let fault = refused(&path, None, &["changed.gguf", key, word]);
        assert!(!fault.contains("lack"), "{fault}");
    }
    let lacking = Gguf::of(&file).lacking("llama.block_count");
    lacking.write(&path);
    refused(&path, None, &["lack `llama.block_count`"]);
}

#[test]
fn texts_that_are_not_utf_8_are_refused_by_their_key() {
    let home = tempfile::tempdir().expect("a folder");
    let file = gguf(home.path());
    let path = home.path().join("changed.gguf");
    for key in ["tokenizer.chat_template", "tokenizer.chat_template.rag"] {
        let template = Meta::String("MARKER{{ messages }}".into());
        Gguf::of(&file).with(key, template).write(&path);
        let whole = fs::read(&path).expect("a file");
        fs::write(&path, patched(&whole, b"MARKER", b"MARK\xff\xfe")).expect("a file");
        refused(&path, None, &["changed.gguf", key, "not UTF-8"]);
    }
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        let texts = ["a b", "MARKER"].map(|text| Meta::String(text.into()));
        let list = Meta::Array(texts.into());
        Gguf::of(&file).with(key, list).write(&path);
        let whole = fs::read(&path).expect("a file");
        fs::write(&path, patched(&whole, b"MARKER", b"MARK\xff\xfe")).expect("a file");
        refused(
            &path,
            None,
            &["changed.gguf", "the text at 1", key, "not UTF-8"],
        );
    }
}
