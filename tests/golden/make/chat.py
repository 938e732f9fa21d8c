"""chat/: a byte-level BPE tokenizer, three chat templates, and what transformers renders for 23 conversations."""

import json

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from common import save_json

# templates (written for these fixtures)
CHATML = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- '# Tools\n\nYou may call functions. Their signatures:\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\n</tools>\n\nAnswer a call as <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call>.<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- generation %}
            {%- if message.content %}
                {{- message.content }}
            {%- endif %}
            {%- for tool_call in message.tool_calls or [] %}
                {%- if not loop.first or message.content %}
                    {{- '\n' }}
                {%- endif %}
                {%- set call = tool_call.function if tool_call.function is defined else tool_call %}
                {{- '<tool_call>\n{"name": "' + call.name + '", "arguments": ' + (call.arguments if call.arguments is string else call.arguments | tojson) + '}\n</tool_call>' }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- elif message.role != 'system' %}
        {{- raise_exception('Unknown role: ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

LLAMA3 = r"""{#- header/eot style with an ipython role; today's date comes in as a variable -#}
{{- bos_token }}
{%- set today = date_string | default('26 Jul 2024') %}
{%- set has_tools = tools is defined and tools is not none and tools | length > 0 %}
{%- set offset = 1 if messages[0]['role'] == 'system' else 0 %}
{%- macro header(role) -%}
    {{- '<|start_header_id|>' ~ role ~ '<|end_header_id|>\n\n' -}}
{%- endmacro %}
{{- header('system') }}
{{- 'Date: ' ~ today ~ '\n' }}
{%- if has_tools %}
    {{- 'Functions you may call, one at a time, as {"name": ..., "parameters": {...}}:\n' }}
    {%- for t in tools %}
        {{- '\n' ~ (t | tojson(indent=4)) ~ '\n' }}
    {%- endfor %}
{%- endif %}
{%- if offset %}
    {{- '\n' ~ messages[0]['content'] | trim }}
{%- endif %}
{{- '<|eot_id|>' }}
{%- for m in messages[offset:] %}
    {%- if m['role'] == 'assistant' %}
        {{- header('assistant') }}
        {%- generation %}
            {%- if m.get('tool_calls') %}
                {%- if m['tool_calls'] | length > 1 %}
                    {{- raise_exception('one tool call per message, got ' ~ m['tool_calls'] | length) }}
                {%- endif %}
                {%- set f = m['tool_calls'][0]['function'] %}
                {{- '{"name": ' ~ f.name | tojson ~ ', "parameters": ' ~ f.arguments | tojson ~ '}' }}
            {%- else %}
                {{- m['content'] | trim }}
            {%- endif %}
            {{- '<|eot_id|>' }}
        {%- endgeneration %}
    {%- elif m['role'] in ['tool', 'ipython'] %}
        {{- header('ipython') }}
        {%- if m.content is mapping or (m.content is iterable and m.content is not string) %}
            {{- m.content | tojson }}
        {%- else %}
            {{- m.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- else %}
        {{- header(m['role']) ~ m['content'] | trim ~ '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- header('assistant') }}
{%- endif %}
"""

MISTRAL = r"""{#- [INST] style: tools go before the last user turn, the system text into it -#}
{%- set ns = namespace(turn=0, last_user=-1, system='') %}
{%- for m in messages %}
    {%- if m.role == 'system' %}
        {%- if not loop.first %}
            {{- raise_exception('system message only at the start') }}
        {%- endif %}
        {%- set ns.system = m.content %}
    {%- elif m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}
        {%- set expected = ['user', 'assistant'][ns.turn % 2] %}
        {%- if m.role != expected %}
            {{- raise_exception('turn ' ~ ns.turn ~ ' must be ' ~ expected ~ ', not ' ~ m.role) }}
        {%- endif %}
        {%- if m.role == 'user' %}
            {%- set ns.last_user = loop.index0 %}
        {%- endif %}
        {%- set ns.turn = ns.turn + 1 %}
    {%- elif m.role not in ('assistant', 'tool') %}
        {{- raise_exception('unsupported role ' ~ m.role) }}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for m in messages if m.role != 'system' %}
    {%- set at = loop.index0 + (1 if messages[0].role == 'system' else 0) %}
    {%- if m.role == 'user' %}
        {%- if tools and at == ns.last_user %}
            {{- '[AVAILABLE_TOOLS] [' }}
            {%- for t in tools %}
                {{- '{' }}
                {%- for key, value in t.items() %}
                    {{- '"' ~ key ~ '": ' ~ value | tojson }}
                    {%- if not loop.last %}{{- ', ' }}{%- endif %}
                {%- endfor %}
                {{- '}' ~ ('' if loop.last else ', ') }}
            {%- endfor %}
            {{- '] [/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' }}
        {%- if at == ns.last_user and ns.system | length %}
            {{- ns.system ~ '\n\n' }}
        {%- endif %}
        {{- m.content ~ ' [/INST]' }}
    {%- elif m.role == 'assistant' and m.tool_calls %}
        {%- generation %}
            {{- '[TOOL_CALLS] [' }}
            {%- for c in m.tool_calls %}
                {%- if c.id is not defined or c.id | string | length != 9 %}
                    {{- raise_exception('tool call ids have 9 characters') }}
                {%- endif %}
                {%- set body = c.function | tojson %}
                {{- body[:-1] ~ ', "id": "' ~ c.id ~ '"}' ~ (']' if loop.last else ', ') }}
            {%- endfor %}
            {{- eos_token }}
        {%- endgeneration %}
    {%- elif m.role == 'assistant' %}
        {%- generation %}
            {{- ' ' ~ m.content | trim ~ eos_token }}
        {%- endgeneration %}
    {%- else %}
        {{- '[TOOL_RESULTS] {"content": ' ~ m.content ~ ', "call_id": "' ~ m.tool_call_id ~ '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
"""
TEMPLATES = {"chatml_tools": CHATML, "llama3_like": LLAMA3, "mistral_like": MISTRAL}

# tools and conversations
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Current weather for a place ("now" only).',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "City, e.g. Zürich"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            },
            "required": ["city"],
        },
    },
}
CALC = {
    "type": "function",
    "function": {
        "name": "calc",
        "description": "Evaluate <expr> & return a number",
        "parameters": {
            "type": "object",
            "properties": {
                "expr": {"type": "string"},
                "precision": {"type": "integer", "minimum": 0},
                "exact": {"type": "boolean", "default": False},
            },
            "required": ["expr"],
            "additionalProperties": False,
        },
    },
}
NOARGS = {
    "type": "function",
    "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
}

S = lambda c: {"role": "system", "content": c}
U = lambda c: {"role": "user", "content": c}
A = lambda c: {"role": "assistant", "content": c}


def C(*calls, content=None):
    m = {
        "role": "assistant",
        "tool_calls": [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls],
    }
    if content is not None:
        m["content"] = content
    return m


R = lambda i, n, c: {"role": "tool", "tool_call_id": i, "name": n, "content": c}

CONVERSATIONS = [
    ("single_turn", None, [U("Hello!"), A("Hi, how can I help?")]),
    ("system", None, [S("Answer in one word."), U("Colour of the sky?"), A("Blue.")]),
    ("multi_turn", None, [S("You are terse."), U("2+2?"), A("4"), U("times 3?"), A("12"), U("minus 1?"), A("11")]),
    ("ends_with_user", None, [U("first"), A("second"), U("third")]),
    ("only_user", None, [U("Is anybody there?")]),
    (
        "whitespace",
        None,
        [S("  leading and trailing  \n"), U("\n\n  indented\n\ttab\t\n"), A("  \n answer with spaces  \n\n")],
    ),
    (
        "unicode",
        None,
        [
            U("Ünïcödé: 日本語テキスト, العربية, हिन्दी, e\u0301 vs é, 👩‍👩‍👧 🏳️‍🌈"),
            A("Verstanden ✓ — “quotes” … ﬁ 𝔘"),
        ],
    ),
    (
        "code",
        None,
        [
            U("Write fizzbuzz"),
            A(
                '```rust\nfn main() {\n    for i in 1..=100 {\n        println!("{}", match (i % 3, i % 5) { (0, 0) => "FizzBuzz".into(), _ => i.to_string() });\n    }\n}\n```'
            ),
        ],
    ),
    (
        "html_and_quotes",
        None,
        [
            S("Use <b> & \"quotes\" 'single' \\backslash\\"),
            U("<script>alert('x')</script> {{ not jinja }} {% nor this %}"),
            A("</s> & &amp; \\n \u2028 done"),
        ],
    ),
    (
        "special_tokens_in_text",
        None,
        [U("What does <|im_end|> or <|eot_id|> or [/INST] mean?"), A("They end a turn: <|im_start|>, </s>.")],
    ),
    ("empty_strings", None, [S(""), U(""), A("")]),
    (
        "long_numbers",
        None,
        [
            U("Sum 123456789012345678901234567890 and 3.14159265358979, 1e-7, 0xDEADBEEF"),
            A("123456789012345678901234567893.14159265358979"),
        ],
    ),
    ("tools_unused", [WEATHER], [U("Tell me a joke."), A("No.")]),
    (
        "tool_call",
        [WEATHER, CALC],
        [
            S("Use tools."),
            U("Weather in Zürich?"),
            C(("call00001", "get_weather", {"city": "Zürich", "unit": "celsius"})),
            R("call00001", "get_weather", '{"temp": 21.5, "sky": "clear"}'),
            A("21.5 °C and clear."),
        ],
    ),
    (
        "tool_call_types",
        [CALC],
        [
            U("compute"),
            C(
                (
                    "abcdefghi",
                    "calc",
                    {
                        "expr": "1 < 2 && \"a\" != 'b'",
                        "precision": 3,
                        "exact": True,
                        "scale": 1.0,
                        "tiny": 1e-07,
                        "big": 12345678901234567890,
                        "none": None,
                        "list": [1, 2.5, "three", [], {}],
                        "nested": {"ключ": "значение", "z": 1, "a": 2},
                    },
                )
            ),
            R("abcdefghi", "calc", "true"),
            A("It is true."),
        ],
    ),
    (
        "two_calls",
        [WEATHER, CALC],
        [
            U("Weather in Rome and 6*7?"),
            C(("aaaaaaaa1", "get_weather", {"city": "Rome"}), ("aaaaaaaa2", "calc", {"expr": "6*7"})),
            R("aaaaaaaa1", "get_weather", "18"),
            R("aaaaaaaa2", "calc", "42"),
            A("18 degrees; 42."),
        ],
    ),
    (
        "call_with_content",
        [CALC],
        [
            U("5!?"),
            C(("bbbbbbbb1", "calc", {"expr": "5!"}), content="Let me compute that."),
            R("bbbbbbbb1", "calc", "120"),
            A("120"),
            U("and 6!?"),
            C(("bbbbbbbb2", "calc", {"expr": "6!"}), content=""),
            R("bbbbbbbb2", "calc", "720"),
            A("720"),
        ],
    ),
    ("no_args_tool", [NOARGS], [U("time?"), C(("ccccccccc", "now", {})), R("ccccccccc", "now", "12:00"), A("Noon.")]),
    ("call_last", [NOARGS], [U("time?"), C(("ddddddddd", "now", {}))]),
    ("bad_alternation", None, [U("one"), U("two"), A("three")]),
    ("unknown_role", None, [U("one"), {"role": "critic", "content": "hm"}, A("two")]),
    ("short_call_id", [NOARGS], [U("time?"), C(("x1", "now", {})), R("x1", "now", "12:00"), A("Noon.")]),
    ("late_system", None, [U("one"), A("two"), S("be brief"), U("three"), A("four")]),
]

# tokenizer
SPECIAL = [
    "<pad>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
]
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXT = [
    "The quick brown fox jumps over the lazy dog. The dog doesn't mind; it's asleep, and they'll let it sleep.",
    "Low-rank adapters add two small matrices to a frozen weight. Only the small matrices are trained, so memory stays low.",
    "A tokenizer turns text into ids and ids back into text. Byte-level merges can represent any input, even emoji 👩‍👩‍👧 and 日本語.",
    'fn main() {\n    let xs: Vec<u32> = (0..10).map(|x| x * x).collect();\n    println!("{:?}", xs);\n}\n',
    "def add(a, b):\n    return a + b\n\nfor i in range(100):\n    print(add(i, i + 1))\n",
    '{"name": "get_weather", "arguments": {"city": "Zürich", "unit": "celsius"}}\n{"type": "object", "properties": {}, "required": []}',
    "In 2024 the price rose from 1,234.56 to 7,890.12 euros (+539%), then fell by 12.5 points in 3 days.",
    "Ünïcödé text: Straße, naïve, façade, Ελληνικά, русский текст, العربية, हिन्दी, 中文文本, 한국어.",
    "You are a helpful assistant. Answer the question in one word. Use the tools if they help. Tell me what the weather is like today.",
    "Question: what is the capital of France? Answer: Paris. Question: what is two plus two? Answer: four.\n\n\n   Indented line\n\tTabbed line\r\nWindows line",
]
SAMPLES = [
    "",
    " ",
    "Hello world",
    " Hello  world ",
    "don't WON'T I'll",
    "1234567 12 3.14",
    "\n\n\nline\r\n\tx",
    "日本語 👩‍👩‍👧 e\u0301",
    "<|im_start|>user\nhi<|im_end|>",
    "a<s>b</s>  [INST] c [/INST]",
    "\u00a0nbsp\u200bzero",
    "!!!???...",
    "x" * 300,
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "tab\tsep\tvalues",
    "CamelCaseAndsnake_case",
    "ＦＵＬＬ ﬁ ①",
]


def build_tokenizer(d):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    corpus = TEXT + [m["content"] for _, _, c in CONVERSATIONS for m in c if m.get("content")]
    t.train_from_iterator(
        corpus * 3,
        trainers.BpeTrainer(
            vocab_size=900,
            min_frequency=2,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tok = PreTrainedTokenizerFast(
        tokenizer_object=t,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    tok.save_pretrained(d)
    for f in d.iterdir():
        f.chmod(0o644)
    return tok


def make(out):
    d = out / "chat"
    d.mkdir(parents=True, exist_ok=True)
    tok = build_tokenizer(d / "tokenizer")
    save_json(
        d / "tokenizer_samples.json",
        [
            {
                "text": s,
                "ids": (e := tok(s, add_special_tokens=False, return_offsets_mapping=True))["input_ids"],
                "offsets": [list(o) for o in e["offset_mapping"]],
                "decoded": tok.decode(e["input_ids"]),
                "decoded_skip_special": tok.decode(e["input_ids"], skip_special_tokens=True),
            }
            for s in SAMPLES
        ],
    )
    save_json(d / "conversations.json", [{"name": n, "tools": t, "messages": c} for n, t, c in CONVERSATIONS])
    for name, template in TEMPLATES.items():
        (d / f"{name}.jinja").write_text(template, encoding="utf-8")
        kw = {"date_string": "26 Jul 2024"} if name == "llama3_like" else {}
        bos = {"bos_token": "<|begin_of_text|>"} if name == "llama3_like" else {}
        tok.bos_token = bos.get("bos_token", "<s>")
        rows = []
        for cname, tools, conv in CONVERSATIONS:
            row = {"conversation": cname}
            try:
                row["text"] = tok.apply_chat_template(conv, tools=tools, chat_template=template, tokenize=False, **kw)
                enc = tok.apply_chat_template(
                    conv,
                    tools=tools,
                    chat_template=template,
                    tokenize=True,
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                    **kw,
                )
                row["ids"], row["assistant_mask"] = list(enc["input_ids"]), list(enc["assistant_masks"])
                assert tok(row["text"], add_special_tokens=False)["input_ids"] == row["ids"]
                row["text_generation_prompt"] = tok.apply_chat_template(
                    conv, tools=tools, chat_template=template, tokenize=False, add_generation_prompt=True, **kw
                )
                row["assistant_text"] = tok.decode([i for i, m in zip(row["ids"], row["assistant_mask"]) if m])
            except Exception as e:
                row["error"] = {"type": type(e).__name__, "message": str(e)}
            rows.append(row)
        save_json(
            d / f"{name}.json",
            {
                "template": f"{name}.jinja",
                "bos_token": tok.bos_token,
                "eos_token": tok.eos_token,
                "extra_variables": kw,
                "rows": rows,
            },
        )
    # a conversation a line
    for f in d.glob("*_*.json"):
        f.write_text(
            json.dumps(json.loads(f.read_text()), ensure_ascii=False, separators=(",", ":"))
            .replace('{"conversation"', '\n{"conversation"')
            .replace('{"text":', '\n{"text":')
            + "\n",
            encoding="utf-8",
        )
