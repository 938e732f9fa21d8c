"""A small SentencePiece vocabulary as GGUF holds it, and ids of texts: python make.py

A reference in Python for remaking vectors: neither the product nor its tests run it. Needs sentencepiece 0.2.3. Writes
vocabulary.json and samples.json beside this file.
"""
import json, pathlib, random, re, tempfile

import sentencepiece

HERE = pathlib.Path(__file__).parent
CONTROL, DEFINED = ["[INST]", "[/INST]"], ["<tool>", "  |  "]
WORDS = """the a of and to in weather city tool call answer model train loss step token text space line number name value
key list object string return if else for while day night rain snow wind warm cold north south east west street house
river tree stone paper light water Zürich Oslo Köln café naïve über straße señor год мир да нет 東京 北京 天気 今日 雨 αβγ""".split()


def corpus():
    chance = random.Random(7)
    lines = []
    for _ in range(6000):
        line = " ".join(chance.choice(WORDS) for _ in range(chance.randint(2, 14)))
        line = chance.choice([str, str.capitalize, str.upper])(line)
        lines.append(line + chance.choice([".", "!", "?", ",  then", ";   so", ": 12345", ' {"city": "Oslo"}', "(x == y)", "    end"]))
    return lines


TEXTS = [
    "", " ", "  ", "     ", "a", " a", "a ", "  a  b   c    d", "Hello", " Hello", "Hello world", "Hello  world ", "\n", "\n\n",
    "a\nb", "a\n\nb\n", " \n ", "\t", "\ttab\tand  space", "\r\n", "the weather in Oslo is warm and cold", "THE WEATHER",
    "Zürich, Köln, café naïve straße", "東京の天気は雨", "今日 北京 明日", "год мир да нет ёж", "αβγδε", "😀", "a😀b 👩‍👩‍👧 c", "🇳🇴",
    "\u0000\u0001\u007f", "\u00a0\u2003x", "▁", "▁▁a▁", " ▁ a", "1234567890 3.14 -5", '{"name": "weather", "arguments": {"city": "東京"}}',
    "if (x == y) { return value; } // end", "aaaa aaa aa a", "=== ==== =====", "é e\u0301", "ﬁ ﷽", "the\u200bcity", "<0x0A>", "<0x41>b", "!?.,;:()[]{}",
]
SPECIAL = [
    "<s>", "<s>a", "<s> a", "a</s>b", "<s>[INST] the weather [/INST] warm</s>", "<s>[INST]the weather[/INST]warm</s>[INST] Oslo [/INST]",
    "<unk>x", "x <tool> y", "x<tool>y", "<tool><tool>", "a  |  b", "a |  |  | b", "[INST", "INST]", "<<s>>",
]


def train(folder):
    file = folder / "corpus.txt"
    file.write_text("\n".join(corpus()))
    sentencepiece.SentencePieceTrainer.train(
        input=str(file), model_prefix=str(folder / "m"), model_type="bpe", vocab_size=600, byte_fallback=True,
        character_coverage=0.999, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, split_digits=True, num_threads=1, minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "m.model"))


def kind(sp, i):
    if sp.is_unknown(i):
        return 2
    return 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1


def ids(sp, tokens, text, prefix):
    """As llama.cpp has it: special tokens are cut out, and every piece of text between them gets its own space."""
    special = {t: i for i, (t, _, k) in enumerate(tokens) if k in (2, 3, 4)}
    found = []
    for part in re.split("(" + "|".join(sorted(map(re.escape, special), key=len, reverse=True)) + ")", text):
        if part in special:
            found.append(special[part])
        elif part:
            # The model adds a space; where none is wanted, a newline keeps it away, and its ids are cut off.
            if prefix:
                found += sp.encode(part)
            else:
                before = sp.encode("\n")
                whole = sp.encode("\n" + part)
                assert whole[: len(before)] == before
                found += whole[len(before) :]
    return found


with tempfile.TemporaryDirectory() as home:
    sp = train(pathlib.Path(home))
    tokens = [(sp.id_to_piece(i), sp.get_score(i), kind(sp, i)) for i in range(sp.get_piece_size())]
    tokens += [(t, 0.0, 3) for t in CONTROL] + [(t, 0.0, 4) for t in DEFINED]
    json.dump([list(t) for t in tokens], open(HERE / "vocabulary.json", "w"), ensure_ascii=False, separators=(",", ":"))
    samples = [{"text": t, "ids": ids(sp, tokens, t, True), "without_prefix": ids(sp, tokens, t, False)} for t in TEXTS + SPECIAL]
    json.dump(samples, open(HERE / "samples.json", "w"), ensure_ascii=False, indent=0)
print(len(tokens), "tokens,", len(samples), "texts")
