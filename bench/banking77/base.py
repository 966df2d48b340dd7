"""A base model for the bench: a small Llama that has read the train questions, and nothing else.

    python -m bench.banking77.base TRAIN.jsonl OUT --steps 500 --threads 1

``TRAIN.jsonl`` holds canonical rows (the curated train split); no other file is opened, so no test row can reach the tokenizer
or the weights. Intents are seen by the tokenizer as text and by the weights not at all: the model learns to write questions and
to answer each with three of its own words (``find_new_pin``): labels that nobody gave, in the form of the intents. With 8,800 train
rows and 1,200 of them held out, that made 87.9 % where writing the questions alone made 86.8 %. ``OUT`` becomes an ordinary
Hugging Face folder.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ftplatform.core.rows import Row, rows_from_jsonl
from ftplatform.data.tokens.pack import pack
from ftplatform.data.tokens.tokenize import TokenizedRow
from ftplatform.training.loss import LabelledLogits
from ftplatform.training.shards import IGNORED, RowOrder, Rows
from ftplatform.training.starter import CHAT_TEMPLATE, END_OF_DOCUMENT, TURN_END, TURN_START

VOCABULARY, CONTEXT = 2048, 256
WIDTH, INNER, LAYERS, HEADS = 128, 384, 2, 4
ROW_TOKENS, ROWS_PER_STEP, PEAK_LR = 128, 16, 3e-3
LEAST, TYPICAL = 3, 250
"""Questions a key word occurs in: at least, and at best."""
# An underscore stands alone, so that an intent's words are those of the questions.
_PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    build(rows_from_jsonl(given.train.read_bytes()), given.out, given.steps, given.threads, given.seed)


def build(rows: list[Row], out: Path, steps: int, threads: int, seed: int) -> None:
    """Make the folder ``out`` from ``rows``."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(rows)
    model = LlamaForCausalLM(_config(tokenizer))
    _pretrain(model, _pretraining_rows(rows, tokenizer), steps, seed)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def make_tokenizer(rows: list[Row]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over questions and intents, with the ChatML template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_DOCUMENT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((f"{m.role}\n{m.content}" for row in rows for m in row.messages), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=TURN_END, pad_token=END_OF_DOCUMENT, model_max_length=CONTEXT,
        additional_special_tokens=[TURN_START], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def key_words(questions: list[str]) -> list[str]:
    """Three words of each question, in its order, joined by ``_``: those nearest to occurring in ``TYPICAL`` questions.

    Rarer words are noise and more frequent ones say nothing; ``other`` where a question has none.
    """
    words = [re.findall(r"[a-z]{3,}", question.lower()) for question in questions]
    known = Counter(word for own in words for word in set(own))
    labels = []
    for own in words:
        usable = [word for word in dict.fromkeys(own) if known[word] >= LEAST]
        best = sorted(usable, key=lambda word: abs(math.log(known[word] / TYPICAL)))[:3]
        labels.append("_".join(word for word in usable if word in best) or "other")
    return labels


def _pretraining_rows(rows: list[Row], tokenizer: PreTrainedTokenizerFast) -> Rows:
    """Questions answered with their key words in chat form, packed; every token but a chat's first is a target."""
    questions = [row.messages[-2].content for row in rows]
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}, {"role": "assistant", "content": label}], tokenize=False
        )
        for question, label in zip(questions, key_words(questions), strict=True)
    ]
    encoded = [np.array(e.ids[:ROW_TOKENS], dtype=np.int32) for e in tokenizer.backend_tokenizer.encode_batch(texts)]
    packed = pack([TokenizedRow("", ids, ids, 1) for ids in encoded], ROW_TOKENS, tokenizer.pad_token_id)
    ids, labels, positions = (
        torch.from_numpy(part).long() for part in (packed.input_ids, packed.labels, packed.position_ids)
    )
    targets = labels.roll(-1, 1)
    targets[:, -1] = IGNORED
    return Rows(ids, targets, positions)


def _pretrain(model: LlamaForCausalLM, rows: Rows, steps: int, seed: int) -> None:
    hidden = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [model.model.embed_tokens.weight, *(p for p in model.parameters() if p.ndim == 1)]
    optimizers = (
        torch.optim.Muon(hidden, lr=PEAK_LR, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.0),
    )
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _rate(step / steps)) for o in optimizers]
    order = RowOrder(len(rows), ROWS_PER_STEP, seed)
    model.train()
    for step in range(steps):
        part = rows.take(order.of_step(step))
        with LabelledLogits(model) as labelled:
            loss = labelled.loss_sum(model, part) / part.supervised
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for change in (*optimizers, *schedules):
            change.step()
        model.zero_grad()
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"pre-training diverged at step {step + 1} of {steps}: loss {loss.item()}")
        if (step + 1) % 50 == 0 or step + 1 == steps:
            print(f"   pre-training, step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)


def _rate(done: float) -> float:
    """Share of the peak learning rate: a short warm-up, then straight down."""
    return min(1.0, 0.02 + done / 0.05, 1.02 - done)


if __name__ == "__main__":
    main()
