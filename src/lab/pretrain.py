"""Pretrain the pocket base model: the shipped weights, from a seed, on two CPU cores.

    python -m lab pretrain --out src/lab/pocket

Pages from `corpus`, a byte-level BPE of 1,024 tokens learnt on them, a Llama of two million
parameters, next-token prediction over packed windows, and a model card with what came out.
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lab import corpus, objectives
from lab.models import CHATML
from lab.train import train

VOCABULARY, CONTEXT = 1024, 192
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
PAGES, BATCH, LR, SEED = 140_000, 12, 3e-3, 0


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
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, initializer_range=0.02,
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


def pretrain(out, pages=PAGES, seed=SEED):
    """Make the pocket base model in the folder `out`; returns the training log. Interrupted, it resumes."""
    texts = corpus.pages(pages, seed)
    tokenizer = train_tokenizer(texts[:20_000])
    data = windows(texts, tokenizer)
    model = new_model(seed)
    log = train(
        model, data, lambda rows: {"input_ids": torch.stack(rows)}, _loss, lr=LR, batch_size=BATCH, seed=seed,
        warmup=0.02, weight_decay=0.05, betas=(0.9, 0.98), out=f"{out}.run", save_every=250,
    )  # fmt: skip
    place_chat_tokens(model, tokenizer, seed)
    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return log


def _loss(model, batch):
    ids = batch["input_ids"]
    return {"loss": objectives.sft_loss(model(input_ids=ids, use_cache=False).logits, ids)}
