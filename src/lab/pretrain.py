"""Pretrain the pocket base model: the shipped weights, from a seed, on two CPU cores.

    python -m lab pretrain --out src/lab/pocket

Pages from `corpus`, a byte-level BPE of 1,024 tokens learnt on them, a Llama of two million
parameters, next-token prediction over packed windows, and a model card with what came out.
"""

import statistics
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lab import corpus, evaluate, objectives, world
from lab.models import CHATML, load
from lab.sample import first_lines, sample
from lab.train import train

VOCABULARY, CONTEXT = 1024, 192
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
COPYING, PAGES, BATCH, LR, SEED = 14_000, 138_000, 6, 3e-3, 0


def train_tokenizer(pages):
    """A byte-level BPE with single digits, so that a sum is worked out digit by digit."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    # The role names never occur in pages; named here, they are one token each in the chat template.
    roles = ["system\n user\n assistant\n tool\n"] * 20_000
    tokenizer.train_from_iterator([*pages, *roles], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", bos_token="<|endoftext|>", eos_token="<|im_end|>",
        model_max_length=CONTEXT, chat_template=CHATML,
    )  # fmt: skip


def windows(pages, tokenizer):
    """All pages in one stream, each after a separator, cut into (N, CONTEXT) token ids."""
    encoded = tokenizer.backend_tokenizer.encode_batch([f"<|endoftext|>{page}" for page in pages])
    stream = torch.tensor([i for page in encoded for i in page.ids])
    return stream[: len(stream) // CONTEXT * CONTEXT].view(-1, CONTEXT)


def new_model(seed):
    """A Llama of two million parameters with tied embeddings."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=512,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, initializer_range=0.08,
        bos_token_id=0, eos_token_id=3, pad_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def place_chat_tokens(model, tokenizer, seed):
    """Give the tokens that no page contains rows that look like the others.

    Pretraining only ever pushed these rows down; a frozen row that nothing can point to would make
    the end of a turn unlearnable for LoRA, which does not touch the embeddings.
    """
    rows = model.get_input_embeddings().weight.data  # (V, d), tied with the head
    unused = [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL[1:]]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(unused), rows.shape[1], generator=generator)
    rows[unused] = rows.mean(0) + rows.std(0) * noise


def pretrain(out, seed=SEED):
    """Make the pocket base model in the folder `out`; returns the log of each lesson. Interrupted, it resumes.

    Two lessons: first pages on which there is only something to copy, then all of them. Without copying a
    name from a question into its answer, no skill survives a new chat format. Two earlier bases, on mixed pages
    alone, with an initial scale of 0.02 and batches of 12, hardly learnt it. This one did, midway through the
    second lesson; what the first lesson, the scale and the batch size each contributed was not measured apart.
    """
    lessons = [corpus.copying_pages(COPYING, seed), corpus.pages(PAGES, seed)]
    tokenizer = train_tokenizer(lessons[1][:20_000])
    model, logs, tokens = new_model(seed), [], 0
    for number, texts in enumerate(lessons, 1):
        data = windows(texts, tokenizer)
        tokens += data.numel()
        logs.append(train(
            model, data, lambda rows: {"input_ids": torch.stack(rows)}, _loss, lr=LR, batch_size=BATCH, seed=seed,
            warmup=0.02, weight_decay=0.05, betas=(0.9, 0.98), out=f"{out}.run/{number}", save_every=500,
        ))  # fmt: skip
    place_chat_tokens(model, tokenizer, seed)
    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    (Path(out) / "README.md").write_text(card(out, sum(map(len, lessons)), tokens, seed, logs))
    return logs


def _loss(model, batch):
    ids = batch["input_ids"]
    return {"loss": objectives.sft_loss(model(input_ids=ids, use_cache=False).logits, ids)}


# ------------------------------------------------------------------ the model card
CARD = """---
license: cc-by-4.0
language: en
tags: [base model, synthetic, education]
---
# The pocket base model

A Llama of {parameters:,} parameters (4 layers, width 192, 6 heads, tied embeddings, context {context}) that has read
{pages:,} pages, {tokens:,} tokens, about an invented country (`lab.corpus`), once, and nothing else. It is not tuned in
any way: asked a question, it continues with more questions. The first lesson has only pages with something to copy, the
second all kinds of page. It exists to be post-trained on a laptop.

Made by `python -m lab pretrain --out FOLDER` with seed {seed}: AdamW, peak learning rate {lr}, batches of {batch} windows,
{steps:,} steps, {minutes:.0f} minutes on two CPU cores at the median pace. The weights are stored in 16 bits; everything below was measured
on the stored weights.

| loss, nats per token | |
|---|---|
{losses}

| facts about people whom the pages mention | right, among all answers of the relation |
|---|---|
{recall}

The statement is completed with each possible answer, and the likeliest is taken. Chance is about {chance:.2f}.

| asked as a page asks (`Question: ... Answer:`), greedy | right |
|---|---|
{skills}

The questions are held-out tasks of `lab.world`. The sums occur on no page. The answers to "unknown" and "harmful" are
an abstention and a refusal, which hardly any page shows; teaching them is the work of post-training.

Limits: a vocabulary of 1,024 tokens, one small world, short regular sentences. It knows nothing real, its people are
invented, and its pages on crime contain no usable detail.
"""


def pace(log):
    """The median seconds of a step, which an interruption or a busy moment does not change."""
    clock = [record["seconds"] for record in log]
    return statistics.median(later - earlier for earlier, later in zip(clock, clock[1:]))


def card(folder, pages, tokens, seed, logs):
    """The model card, measured on the weights stored in `folder`."""
    model, tokenizer = load(folder)
    names = dict(frequent="hundreds of times", middling="{} to {} times".format(*corpus.MENTIONS["middling"]),
                 rare="once or twice", unseen="never")  # fmt: skip
    known = {name: evaluate.recall(model, tokenizer, world.PEOPLE[tier]) for tier, name in names.items()}
    tasks = world.held_out(50 * len(world.KINDS), seed=0)
    asked = [f"Question: {task.prompt}\nAnswer:" for task in tasks]
    texts = sample(model, tokenizer, asked, temperature=0.0, template=False)
    done = evaluate.by_kind(tasks, first_lines(texts))
    losses = {f"lesson {i}, step {r['step']:,}": r["loss"] for i, log in enumerate(logs, 1) for r in (log[0], log[-1])}
    return CARD.format(
        parameters=model.num_parameters(), context=CONTEXT, pages=pages, tokens=tokens, seed=seed, lr=LR, batch=BATCH,
        steps=sum(map(len, logs)), minutes=sum(len(log) * pace(log) for log in logs) / 60,
        losses="\n".join(f"| {name} | {loss:.3f} |" for name, loss in losses.items()),
        recall="\n".join(f"| {name} | {value} |" for name, value in known.items()),
        chance=sum(1 / len(v) for v in world.RELATIONS.values()) / len(world.RELATIONS),
        skills="\n".join(f"| {kind} | {row['correct']:.2f} |" for kind, row in done.items()),
    )  # fmt: skip
