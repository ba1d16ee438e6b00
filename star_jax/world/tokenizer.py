"""The world's tokenizer: a byte-level BPE with Qwen3's special tokens, made from `train`.

    train() → Tokenizer        make(folder) → tokenizer.json, tokenizer_config.json, template

How texts are cut, in short: a space is never part of a word, so that a word is the same tokens in
a sentence and between quotation marks, where it has to be copied to; digits go in twos; and runs of
JSON that every schema repeats are one token each. The two fixed texts around a list of tools are
one token each, too. A call's text is cut by the same rules alone, as it is in any Qwen3 tokenizer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from star_jax import chat
from star_jax.world.generate import rows

ASSETS = Path(__file__).parent / "assets"
FOLDER = ASSETS / "tokenizer"
SIZE = 2048  # ids, the special ones among them
ROWS = 5000  # of `train`, which the merges are counted on
SEED = 20_26  # no other use of the split has it

# In the order and with the flags of Qwen3's own tokenizer.json.
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ADDED = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
MAX_LENGTH = 4096

# Runs of JSON that stand between words, the longest first.
_RUNS = (
    '", "parameters": {"type": "object", "properties": {"',
    '"parameters": {"type": "object", "properties": {"',
    '{"type": "object", "properties": {"',
    '": {"type": "string", "enum": ["',
    '": {"type": "array", "items": {"type": "string"}',
    '": {"type": "array", "items": {"type": "string", "enum": ["',
    '": {"type": "string"',
    '": {"type": "integer"',
    '": {"type": "number"',
    '": {"type": "boolean"',
    '", "description": "',
    ', "description": "',
    '}}, "required": ["',
    '"}}, "required": ["',
    '"]}}, "required": ["',
    '"], "description": "',
    '"]}, "',
    ', "default": ',
    '", "arguments": {"',
    '{"name": "',
    '"], "',
    '"}, "',
    '}, "',
    '", "',
    ', "',
    '": "',
    '": ["',
    '": {"',
    '": ',
    '"]}}',
)
_CUTS = (
    *(re.escape(run) for run in sorted(_RUNS, key=len, reverse=True)),
    r"\p{Lu}?[\p{Ll}\p{M}]+|\p{Lu}+|[\p{L}\p{M}]+",  # getWeather is get and Weather
    r"\p{N}{1,2}",
    r'["{}\[\]]+',
    r"\n+| +|[\s\S]",
)


def frame() -> tuple[str, str]:
    """What `chat.render` writes before a list of tools, and after it."""
    tool = {"name": "x"}
    text = chat.render([{"role": "user", "content": ""}], [tool])
    before, after = text.split(f"\n{json.dumps(tool)}\n")
    return before.removeprefix("<|im_start|>system\n"), "\n" + after.partition("<|im_end|>")[0]


def train(size: int = SIZE, count: int = ROWS) -> tokenizers.Tokenizer:
    """The tokenizer that these many rows of `train` give: the same on every machine."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex("|".join(_CUTS)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    made.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False)
    made.decoder = decoders.ByteLevel()
    named = [tokenizers.AddedToken(text, normalized=False, special=True) for text in SPECIAL]
    named += [tokenizers.AddedToken(text, normalized=False) for text in (*ADDED, *frame())]
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(named),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(_texts(count), trainer)
    made.add_tokens(named)
    return made


def _texts(count: int) -> Iterator[str]:
    """What is said in the rows, without what has tokens of its own."""
    cut = re.compile("|".join(map(re.escape, (*frame(), *SPECIAL, *ADDED))))
    for row in rows("train", SEED, count):
        yield from cut.split(chat.render(row["messages"], row["tools"]))


def make(folder: str | Path) -> Path:
    """Train it and write a folder that Hugging Face's AutoTokenizer loads. The folder appears when
    it is whole, or never."""
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder}: exists already: choose another name, or remove it")
    if not folder.parent.is_dir():
        raise ValueError(f"{folder.parent}: there is no such folder: make it first")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        for name, text in _files(train()).items():
            with open(part / name, "x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _files(made: tokenizers.Tokenizer) -> dict[str, str]:
    added = {
        str(number): {
            "content": token.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token.special,
        }
        for number, token in sorted(made.get_added_tokens_decoder().items())
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": MAX_LENGTH,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        # Qwen3's own class would put its own rules of cutting in place of ours.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    return {
        "tokenizer.json": made.to_str(pretty=False) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        "chat_template.jinja": template(),
    }


def template() -> str:
    """`chat.render` in Jinja, for programs that ask a folder for its chat template."""
    before, after = (json.dumps(text, ensure_ascii=False) for text in frame())
    return _TEMPLATE.replace("BEFORE", before).replace("AFTER", after)


_TEMPLATE = """\
{#- Qwen3's chat format. What an assistant thought before the last question is left out. -#}
{%- set has_system = messages[0].role == "system" %}
{%- if tools %}
    {{- "<|im_start|>system\\n" }}
    {{- messages[0].content + "\\n\\n" if has_system else "" }}
    {{- BEFORE }}
    {%- for tool in tools %}
        {{- "\\n" + (tool | tojson) }}
    {%- endfor %}
    {{- AFTER + "<|im_end|>\\n" }}
{%- elif has_system %}
    {{- "<|im_start|>system\\n" + messages[0].content + "<|im_end|>\\n" }}
{%- endif %}
{%- set seen = namespace(question=messages | length - 1, found=false) %}
{%- for message in messages | reverse %}
    {%- if not seen.found and message.role == "user" and message.content is string %}
        {%- set text = message.content %}
        {%- if not (text.startswith("<tool_response>") and text.endswith("</tool_response>")) %}
            {%- set seen.found = true %}
            {%- set seen.question = messages | length - loop.index %}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set text = message.content if message.content is string else "" %}
    {%- if message.role == "assistant" %}
        {%- set thought = message.reasoning_content %}
        {%- if thought is not string %}{% set thought = "" %}{% endif %}
        {%- if message.reasoning_content is not string and "</think>" in text %}
            {%- set thought = text.split("</think>")[0].rstrip("\\n") %}
            {%- set thought = thought.split("<think>")[-1].lstrip("\\n") %}
            {%- set text = text.split("</think>")[-1].lstrip("\\n") %}
        {%- endif %}
        {{- "<|im_start|>assistant\\n" }}
        {%- if loop.index0 > seen.question and (loop.last or thought) %}
            {{- "<think>\\n" + thought.strip("\\n") + "\\n</think>\\n\\n" }}
            {{- text.lstrip("\\n") }}
        {%- else %}
            {{- text }}
        {%- endif %}
        {%- for given in message.tool_calls or [] %}
            {%- set call = given.function or given %}
            {{- "\\n" if text or not loop.first else "" }}
            {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- "}\\n</tool_call>" }}
        {%- endfor %}
        {{- "<|im_end|>\\n" }}
    {%- elif message.role == "tool" %}
        {{- "<|im_start|>user" if loop.first or loop.previtem.role != "tool" else "" }}
        {{- "\\n<tool_response>\\n" + text + "\\n</tool_response>" }}
        {{- "<|im_end|>\\n" if loop.last or loop.nextitem.role != "tool" else "" }}
    {%- elif message.role == "user" or not loop.first %}
        {{- "<|im_start|>" + message.role + "\\n" + text + "<|im_end|>\\n" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- "<think>\\n\\n</think>\\n\\n" }}
    {%- endif %}
{%- endif %}
"""
