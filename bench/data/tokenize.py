"""Chat rows to packed, masked tokens: ours, the `tokenizers` library's raw encoding, TRL and LLaMA-Factory, in one run.

    python bench/data/tokenize.py [--rows 200000] [--llama-factory FOLDER] [--out bench/results/data_tokenize.md]

FOLDER is an unpacked LLaMA-Factory wheel (its pins conflict with ours, so it is run beside our packages, not installed; see
`_llama_factory` for what is left out). Every contender has two processes (the raw encoding two threads), runs in a program of its
own, and is timed after its imports. CPU seconds are of the program and all its children; they vary less on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

LENGTH = 1024
PROCESSES = 2
CHAT = """{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}{{ message['content'] + '<|im_end|>' }}{% endif %}
{{- '\\n' }}
{%- endfor %}"""
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Llama 3's and, but for the digits, Qwen's."""


def chats(count: int, seed: int = 7) -> Iterator[list[dict[str, str]]]:
    """One to three questions and answers in a vocabulary of 30,000 invented words, frequent ones often (Zipf's law), one row in
    ten with names and quotes beyond ASCII, one in three with a system turn.
    """
    random = Random(seed)
    syllables = [a + b for a in "bcdfghjklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er", "is", "ou")]
    words = ["".join(random.choices(syllables, k=random.randint(1, 4))) for _ in range(30_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    drawn = random.choices(words, weights, k=400_000)
    foreign = ["“quoted”", "naïve", "Łódź", "मेरा कार्ड", "東京", "it’s", "🎉"]

    def sentence(size: int) -> str:
        start = random.randrange(len(drawn) - size)
        found = drawn[start : start + size]
        found[0] = found[0].capitalize()
        if random.random() < 0.2:
            found.insert(size // 2, str(random.randint(1, 99_999)))
        return " ".join(found) + random.choice([".", "?", "!", ", isn't it?"])

    for _ in range(count):
        turns = (
            [{"role": "system", "content": "You are a helpful assistant of Example Ltd."}]
            if random.random() < 0.33
            else []
        )
        for _ in range(random.randint(1, 3)):
            turns.append({"role": "user", "content": sentence(random.randint(4, 20))})
            answer = "\n\n".join(sentence(random.randint(5, 25)) for _ in range(random.randint(1, 3)))
            turns.append({"role": "assistant", "content": answer})
        if random.random() < 0.1:
            turns[-1]["content"] += " " + random.choice(foreign)
        yield turns


def make(folder: Path, rows: int) -> None:
    """Rows as our canonical JSONL, and a tokenizer of 32,000 tokens trained on the same kind of text."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    with (folder / "rows.jsonl").open("w") as stream:
        for number, turns in enumerate(chats(rows)):
            stream.write(json.dumps({"messages": turns, "source": f"r:{number}", "tags": {}}) + "\n")
    text = folder / "text"
    text.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=32_000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((t["content"] for turns in chats(3000, seed=8) for t in turns), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer.save(str(text / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (text / "tokenizer_config.json").write_text(json.dumps(config))
    (text / "chat_template.jinja").write_text(CHAT)


def _messages(folder: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in (folder / "rows.jsonl").open()]


def _ours(folder: Path) -> Callable[[], int]:
    from ftplatform.core.payload import StoreAddress
    from ftplatform.data.rendering.chat_format import load_chat_format
    from ftplatform.data.tokens.base_text import BaseText
    from ftplatform.data.tokens.row_cache import TokenBook
    from ftplatform.data.tokens.shards import ShardWriter
    from ftplatform.data.tokens.work import tokenize_file, write_split
    from ftplatform.store import open_store

    form = load_chat_format(folder / "text")
    address = StoreAddress(url=(folder / "store").as_uri())
    store = open_store(address)
    base = BaseText(address, store.put_tree(folder / "text"))

    def work() -> int:
        (folder / "book").mkdir()
        book = TokenBook(store, "bench/rows", folder / "book")
        found = tokenize_file(book, base, folder / "rows.jsonl", PROCESSES)
        writer = ShardWriter(store, folder, "sft", LENGTH, form.pad_id)
        written = write_split(book, found.keys, "sft", LENGTH, writer).written
        print(json.dumps({"fill": written.fill}), file=sys.stderr)
        return written.tokens

    return work


def _raw(folder: Path) -> Callable[[], int]:
    """The library's `encode_batch` on texts that are rendered already: no file, no mask, no packing."""
    os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = str(PROCESSES), "true"
    from tokenizers import Tokenizer

    from ftplatform.core.rows import Message
    from ftplatform.data.rendering.chat_format import load_chat_format

    template = load_chat_format(folder / "text").template
    texts = [template.render([Message(t["role"], t["content"]) for t in turns]) for turns in _messages(folder)]
    tokenizer = Tokenizer.from_file(str(folder / "text" / "tokenizer.json"))

    def work() -> int:
        batches = (texts[at : at + 2000] for at in range(0, len(texts), 2000))
        return sum(len(one.ids) for b in batches for one in tokenizer.encode_batch(b, add_special_tokens=False))

    return work


def _trl(folder: Path) -> Callable[[], int]:
    """`SFTTrainer._prepare_dataset` itself, on an object with what it reads of the trainer."""
    import datasets
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    datasets.disable_caching()
    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder / "text"))
    trainer = object.__new__(SFTTrainer)
    for name, value in {
        "_tokenizer": tokenizer,
        "chat_template": CHAT,
        "completion_only_loss": False,
        "_is_vlm": False,
    }.items():
        setattr(trainer, name, value)
    config = SFTConfig(
        output_dir=str(folder / "trl"), max_length=LENGTH, packing=True, assistant_only_loss=True, bf16=False, report_to=[],
        dataset_num_proc=PROCESSES,
    )  # fmt: skip
    rows = datasets.Dataset.from_list([{"messages": turns} for turns in _messages(folder)])
    rows = _on_disk(rows, folder / "trl-rows")

    def work() -> int:
        made = trainer._prepare_dataset(rows, tokenizer, config, True, None, "train")
        print(json.dumps({"columns": made.column_names, "sequences": len(made)}), file=sys.stderr)
        return _tokens(made)

    return work


def _llama_factory(folder: Path) -> Callable[[], int]:
    """`align_dataset` and `_get_preprocessed_dataset` themselves, packing with positions (`neat_packing`).

    Audio is not used, and torchaudio not here: an empty module stands for it.
    """
    import importlib.machinery

    for name in ("torchaudio",):
        stub = types.ModuleType(name)
        stub.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules.setdefault(name, stub)
    import datasets
    from transformers import PreTrainedTokenizerFast

    datasets.disable_caching()
    datasets.disable_progress_bars()
    from llamafactory.data.converter import align_dataset
    from llamafactory.data.loader import _get_preprocessed_dataset
    from llamafactory.data.parser import DatasetAttr
    from llamafactory.data.template import TEMPLATES

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder / "text"))
    attributes = DatasetAttr(
        "file", "rows", formatting="sharegpt", messages="messages", role_tag="role", content_tag="content",
        user_tag="user", assistant_tag="assistant", system_tag="system",
    )  # fmt: skip
    data = types.SimpleNamespace(
        streaming=False, preprocessing_num_workers=PROCESSES, preprocessing_batch_size=1000, overwrite_cache=True,
        cutoff_len=LENGTH, packing=True, neat_packing=True, train_on_prompt=False, mask_history=False, media_dir=".",
        ignore_pad_token_for_loss=True,
    )  # fmt: skip
    training = types.SimpleNamespace(local_process_index=0, should_log=False, predict_with_generate=False)
    rows = datasets.Dataset.from_list([{"messages": turns} for turns in _messages(folder)])
    rows = _on_disk(rows, folder / "lf-rows")

    def work() -> int:
        aligned = align_dataset(rows, attributes, data, training)
        made = _get_preprocessed_dataset(aligned, data, training, "sft", TEMPLATES["chatml"], tokenizer)
        padding = tokenizer.pad_token_id
        print(json.dumps({"columns": made.column_names, "sequences": len(made)}), file=sys.stderr)
        return _tokens(made, padding)

    return work


def _on_disk(rows: object, folder: Path) -> object:
    """Mapped from a file, as a data set that was loaded is: rows in memory would be sent to the processes by pickle."""
    import datasets

    rows.save_to_disk(str(folder))  # type: ignore[attr-defined]
    return datasets.load_from_disk(str(folder))


def _tokens(made: object, padding: int | None = None) -> int:
    import pyarrow.compute as pc

    column = made.data.column("input_ids")  # type: ignore[attr-defined]
    count = sum(pc.sum(pc.list_value_length(chunk)).as_py() for chunk in column.chunks)
    if padding is None:
        return int(count)
    return int(count - sum(pc.sum(pc.equal(chunk.flatten(), padding)).as_py() for chunk in column.chunks))


CONTENDERS = {"ours": _ours, "raw": _raw, "trl": _trl, "llama-factory": _llama_factory}


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _one(name: str, folder: Path) -> None:
    work = CONTENDERS[name](folder)
    cpu, wall = _cpu(), time.perf_counter()
    tokens = work()
    wall = time.perf_counter() - wall
    if name == "ours":
        # The pool keeps its processes for the next call; their time counts once they have ended.
        from loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)
    print(json.dumps({"tokens": tokens, "wall": wall, "cpu": _cpu() - cpu}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--llama-factory", type=Path)
    parser.add_argument("--repeat", type=int, default=1, help="times each is run; the fastest counts")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        _one(options.one[0], Path(options.one[1]))
        return
    names = [name for name in CONTENDERS if name != "llama-factory" or options.llama_factory]
    results: dict[str, dict[str, float]] = {}
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), options.rows)
            for name in names:
                environment = {
                    **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
                    "TRL_EXPERIMENTAL_SILENCE": "1", "DISABLE_VERSION_CHECK": "1", "HF_DATASETS_CACHE": f"{folder}/cache",
                    "PYTHONPATH": os.pathsep.join(map(str, filter(None, [options.llama_factory, os.environ.get("PYTHONPATH")]))),
                }  # fmt: skip
                command = [sys.executable, __file__, "--one", name, folder]
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode:
                    sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
                found = json.loads(done.stdout.splitlines()[-1])
                if name not in results or found["cpu"] < results[name]["cpu"]:
                    results[name] = found
                print(name, found, done.stderr.splitlines()[-1:], flush=True)
    report = _report(options.rows, results)
    print(report)
    if options.out:
        options.out.write_text(report)


def _report(rows: int, results: dict[str, dict[str, float]]) -> str:
    ours = results["ours"]
    lines = [
        "# Tokenize, mask and pack",
        "",
        f"{rows:,} chat rows, {int(ours['tokens']):,} tokens, sequences of {LENGTH}, {PROCESSES} processes each, one run of "
        "`bench/data/tokenize.py`. Ours begins at the JSONL file and ends at shards in the store, tokens cached; raw is the library's "
        "encoding of rendered texts alone.",
        "",
        "| | tokens | seconds | CPU seconds | tokens/s | tokens/CPU s | ours is, by seconds | by CPU seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        rate, rate_cpu = one["tokens"] / one["wall"], one["tokens"] / one["cpu"]
        lines.append(
            f"| {name} | {int(one['tokens']):,} | {one['wall']:.1f} | {one['cpu']:.1f} | {rate:,.0f} | {rate_cpu:,.0f} "
            f"| {ours['tokens'] / ours['wall'] / rate:.2f}x | {ours['tokens'] / ours['cpu'] / rate_cpu:.2f}x |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    # The folder of this file holds modules with the names of libraries.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]
    main()
