"""Supervised fine-tuning: the loss of the response given the prompt, over one training loop."""

from lab.data import SFT, encode_all, encode_sft, name_of, pack, read, sft_collator
from lab.models import supervised_logits
from lab.objectives import sft_loss
from lab.train import train


def sft(model, tokenizer, rows, *, lr, epochs=3, batch_size=32, seed=0, max_length=None, packing=False, drop=False, **loop):
    """Fine-tune `model` in place on instruction rows (see lab.data), and return the log.

    max_length  longest conversation in tokens; the model's context if not given.
    packing     fill windows of max_length with several conversations each; a batch is then of windows.
    drop        leave out rows that cannot be used, with a count, instead of stopping at the first.
    loop        what lab.train.train takes besides: accumulation, warmup, precision, out, ...
    """
    max_length = max_length or model.config.max_position_embeddings
    examples = encode_all(read(rows, SFT), encode_sft, tokenizer, max_length, name_of(rows), drop)
    if packing:
        examples = pack(examples, max_length)
    return train(model, examples, sft_collator(tokenizer), loss, lr=lr, epochs=epochs, batch_size=batch_size, seed=seed, **loop)


def loss(model, batch):
    """Equation eq-sft-loss on one batch."""
    return {"loss": sft_loss(*supervised_logits(model, **batch))}
