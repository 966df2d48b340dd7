"""Makes the starter base model: a tokenizer and a small Llama, trained from nothing on `data.starter_text`.

The laptop edition ships no weights and downloads none, so its base model is built once, in a minute or two, and cached.
The length is a number of steps, never a time, and every draw is seeded: the same seed, steps and threads give the same
bytes, so the base's digest can be pinned like that of any other model. (Another number of threads sums in another order
and gives another model; two threads on a busy machine are also many times slower than one.)
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ftplatform.data.starter_text import documents
from ftplatform.training.shards import document_mask

VOCABULARY = 1536
CONTEXT = 512
"""Positions of the model; longer inputs are outside of what it can be asked."""
WIDTH, INNER, LAYERS, HEADS = 192, 512, 2, 4
ROW_TOKENS, ROWS_PER_STEP = 128, 8
"""A thousand tokens a step: with so few tokens in all, many small steps learn more than few large ones."""
PEAK_LR = 4e-3
PROMPT_WEIGHT = 0.1
"""Loss weight of what the user says: small, because a question cannot be guessed; chosen, not measured."""
STEPS = 360

END_OF_DOCUMENT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Word pieces never join letters, digits, punctuation and line breaks; a digit stands alone, so that numbers are spelt.
_PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
CHAT_TEMPLATE = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{{- message['content'] + '<|im_end|>' }}
{%- endgeneration %}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
"""


def build_starter(
    out_dir: Path, *, seed: int, steps: int = STEPS, threads: int, progress: Callable[[int, int, float], None]
) -> dict:
    """Train the starter and write it as an ordinary Hugging Face folder; returns what a manifest wants to know.

    `progress(step, steps, loss)` is called after every step; `threads` are torch's, restored afterwards.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            chats = list(documents(steps * ROWS_PER_STEP * 5, seed))
            tokenizer = _train_tokenizer(chats)
            model = LlamaForCausalLM(_config(tokenizer))
            loss = _pretrain(model, _rows(tokenizer, chats, steps * ROWS_PER_STEP), steps, progress)
    finally:
        torch.set_num_threads(before)
    _write(out_dir, model, tokenizer)
    return {
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "steps": steps,
        "tokens": steps * ROWS_PER_STEP * ROW_TOKENS,
        "loss": loss,
        "seed": seed,
        "threads": threads,
    }


def _segments(chat: list[dict[str, str]]) -> Iterator[tuple[str, float]]:
    """The chat as its template renders it, cut where the loss weight changes."""
    for message in chat:
        own = message["role"] == "assistant"
        yield f"{TURN_START}{message['role']}\n", PROMPT_WEIGHT
        yield f"{message['content']}{TURN_END}", 1.0 if own else PROMPT_WEIGHT
        yield "\n", PROMPT_WEIGHT
    yield END_OF_DOCUMENT, PROMPT_WEIGHT


def _train_tokenizer(chats: list[list[dict[str, str]]]) -> PreTrainedTokenizerFast:
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
    core.train_from_iterator((f"{m['role']}\n{m['content']}" for chat in chats for m in chat), trainer)
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


def _rows(tokenizer: PreTrainedTokenizerFast, chats: list, count: int) -> tuple[torch.Tensor, ...]:
    """The chats end to end, cut into `count` rows of ROW_TOKENS: token ids, loss weights, positions in the chat."""
    texts, weights = zip(*(segment for chat in chats for segment in _segments(chat)), strict=True)
    encoded = tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ids = [token for encoding in encoded for token in encoding.ids]
    losses = [weight for encoding, weight in zip(encoded, weights, strict=True) for _ in encoding.ids]
    position, positions = 0, []
    for token in ids:
        positions.append(position)
        position = 0 if token == tokenizer.pad_token_id else position + 1
    size = count * ROW_TOKENS
    if len(ids) < size:
        raise RuntimeError(f"{len(chats)} chats hold {len(ids)} tokens, {size} are needed")
    return tuple(torch.tensor(column[:size]).view(count, ROW_TOKENS) for column in (ids, losses, positions))


def _pretrain(model: LlamaForCausalLM, rows: tuple, steps: int, progress: Callable[[int, int, float], None]) -> float:
    ids, weights, positions = rows
    # Muon is meant for hidden matrices alone; embeddings and norms stay with AdamW. It came in together with the set
    # opening words of answers, and the two were not measured apart.
    hidden = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [model.model.embed_tokens.weight, *(p for p in model.parameters() if p.ndim == 1)]
    optimizers = (
        torch.optim.Muon(hidden, lr=PEAK_LR, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.0),
    )
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _rate(step / steps)) for o in optimizers]
    model.train()
    last = float("nan")
    for step in range(steps):
        part = slice(step * ROWS_PER_STEP, (step + 1) * ROWS_PER_STEP)
        mask = document_mask(positions[part])
        logits = model(input_ids=ids[part], attention_mask=mask, position_ids=positions[part], use_cache=False).logits[
            :, :-1
        ]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[part][:, 1:], reduction="none")
        weight = weights[part][:, 1:]
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        model.zero_grad()
        last = float(loss.detach())
        progress(step + 1, steps, last)
    return last


def _rate(done: float) -> float:
    """Share of the peak learning rate when `done` of the steps are behind: a short warm-up and a long way down."""
    return min(1.0, 0.02 + done / 0.05, (1.0 - done) / 0.6)


def _write(out_dir: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False, max_new_tokens=64
    )
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
