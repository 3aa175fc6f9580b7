"""What all tests share: no network, no progress bars, and a tiny random model with a tokenizer made on the spot."""

import os

os.environ["TQDM_DISABLE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lab.models import CHATML

SPECIAL = ["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = ["user\nWhat is the capital of Peru?", "assistant\nThe capital of Peru is Lima.", "Name a colour. Red is one.",
        "What is two plus two? It is four.", "I do not know that. Please tell me more about it."] * 4


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE of 320 tokens with the special tokens of the pocket model."""
    core = Tokenizer(BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(TEXT, BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|pad|>", eos_token="<|im_end|>", chat_template=CHATML)


def tiny(tokenizer, seed=0, **settings):
    torch.manual_seed(seed)
    config = dict(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True,
                  pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    return LlamaForCausalLM(LlamaConfig(**(config | settings)))


@pytest.fixture
def model(tokenizer):
    """A Llama of two layers with random weights, new for each test."""
    return tiny(tokenizer)


@pytest.fixture(scope="session")
def folder(tokenizer, tmp_path_factory):
    """The tiny model and its tokenizer, saved as a folder that lab.models.load takes."""
    path = tmp_path_factory.mktemp("tiny")
    tiny(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


ROWS = [{"prompt": f"What is {a} plus {b}?", "response": f"It is {a + b}."} for a in range(4) for b in range(4)]
PAIR_ROWS = [{"prompt": row["prompt"], "chosen": row["response"], "rejected": "I do not know."} for row in ROWS]


@pytest.fixture
def rows():
    return [dict(row) for row in ROWS]


@pytest.fixture
def pairs():
    return [dict(row) for row in PAIR_ROWS]
