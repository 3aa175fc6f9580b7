"""From rows of text to tensors: reading, validation, chat template, loss mask, truncation, packing, padding.

A row of instructions is {"prompt", "response"} or {"messages": [{"role", "content"}, ...]}.
A row of preferences is {"prompt", "chosen", "rejected"}; chosen and rejected may also be whole conversations.
Every row is checked before any training starts, and an error names the file and the row (counted from 1).
"""

import copy
import difflib
from pathlib import Path

import torch

from lab.objectives import IGNORE

SFT = ("prompt", "response")
PAIRS = ("prompt", "chosen", "rejected")
PROMPTS = ("prompt",)  # what only asks: for an evaluation, or for PPO
ROLES = ("system", "user", "assistant", "tool")
FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


class DataError(ValueError):
    """Something in the data that must not reach training, in one sentence."""


# Reading and checking


def read(source, columns):
    """Rows from a list of dicts, a .jsonl, .json, .csv or .parquet file, or a data set on the Hub; all checked.

    source   for the Hub "owner/name", or with a split "owner/name:train[:1000]" as `datasets` writes it.
    columns  SFT, PAIRS or PROMPTS.
    """
    rows, name = source if isinstance(source, (list, tuple)) else load(str(source)), name_of(source)
    if not rows:
        raise DataError(f"{name}: there is no row in it")
    return [check_row(as_prompt_and_sides(row), columns, f"{name}, row {i}") for i, row in enumerate(rows, 1)]


def name_of(source):
    """What messages call a source."""
    return "the given rows" if isinstance(source, (list, tuple)) else str(source)


def load(source):
    """The rows of a file or of a Hub data set, through `datasets`."""
    import datasets

    datasets.disable_progress_bars()
    suffix = Path(source).suffix
    if suffix in FORMATS and not Path(source).is_file():
        raise DataError(f"{source}: there is no such file")
    try:
        if suffix in FORMATS:
            rows = datasets.load_dataset(FORMATS[suffix], data_files=source, split="train")
        else:
            name, _, split = source.partition(":")
            rows = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # datasets raises its own, the Hub's, pyarrow's and pandas' errors
        raise DataError(unreadable(source, suffix, error)) from error
    return rows.to_list()


def unreadable(source, suffix, error):
    """Why a source could not be read, and what to do, in one sentence."""
    reason = str(error.__cause__ or error).strip().split("\n")[0]
    if suffix in FORMATS:
        return f"{source}: this is not a well-formed {suffix} file ({reason})"
    return (f"{source!r} is not a {', '.join(FORMATS)} file, and could not be loaded from the Hub either ({reason}): "
            "check the spelling; without a network, give a local file")


def as_prompt_and_sides(row):
    """Preference sets on the Hub often keep whole conversations in chosen and rejected: split off the last turn."""
    if not isinstance(row.get("chosen"), list) or not isinstance(row.get("rejected"), list):
        return row
    if not row["chosen"] or not row["rejected"]:
        return row | {"chosen": "", "rejected": ""}
    return {"prompt": row["chosen"][:-1], "chosen": row["chosen"][-1]["content"], "rejected": row["rejected"][-1]["content"]}


def check_row(row, columns, where):
    """A row that has these columns, each with some text; or a DataError that begins with `where`."""
    if columns == SFT and row.get("messages") is not None:
        return check_messages(row, where)
    for column in columns:
        if row.get(column) is None:
            raise DataError(f"{where}: {missing(column, row)}")
        if isinstance(row[column], list) and column == "prompt":
            continue
        if not isinstance(row[column], str):
            raise DataError(f"{where}: {column!r} must be text, not {type(row[column]).__name__}")
        if not row[column].strip():
            raise DataError(f"{where}: {column!r} is empty")
    return row


def missing(column, row):
    """What to say of a column that is not there: the nearest name, or all names."""
    present = [key for key, value in row.items() if value is not None]
    near = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the row has {', '.join(map(repr, present)) or 'nothing'}"
    return f"the column {column!r} is missing; {hint}"


def check_messages(row, where):
    """A row whose conversation can be learnt from; or a DataError that begins with `where`."""
    messages = row["messages"]
    if not isinstance(messages, list) or not all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages):
        raise DataError(f"{where}: 'messages' must be a list of {{'role': ..., 'content': ...}}")
    for message in messages:
        if message["role"] not in ROLES:
            raise DataError(f"{where}: the role {message['role']!r} is not one of {', '.join(ROLES)}")
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise DataError(f"{where}: a message of the {message['role']} is empty")
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"{where}: no message is the assistant's, so there is nothing to learn from")
    return row


# Template and loss mask


def check_tokenizer(tokenizer):
    """A tokenizer must have a chat template and a pad token, or say how to give it one."""
    if not tokenizer.chat_template:
        raise DataError("the tokenizer has no chat template: set tokenizer.chat_template = lab.models.CHATML, after "
                        "adding <|im_start|> and <|im_end|>, or start from a model that has one")
    if tokenizer.pad_token_id is None:
        raise DataError("the tokenizer has no pad token: set tokenizer.pad_token to a token that text does not use, "
                        "such as tokenizer.unk_token or a reserved one, best not the end-of-turn token")


def as_messages(prompt):
    """A prompt as a list of messages: a text is the user's first turn."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


# For a base model, which knows pages and no chat: the pages of the pocket world mark who asks and who answers.
MARKED = ("{% for message in messages %}{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + '\\n' }}{% else %}"
          "{{ ('<|endoftext|>' if loop.first else '') + 'Question: ' + message['content'] + '\\nAnswer:' }}{% endif %}{% endfor %}")


def marked(tokenizer):
    """The same tokenizer with a marked prompt in place of the chat template, so that a base model runs through the code of the others."""
    other = copy.deepcopy(tokenizer)
    other.chat_template = MARKED
    return other


def render(tokenizer, messages, prompt=False):
    """The conversation as one string; with `prompt` it ends where the assistant is to begin."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)


def tokenise(tokenizer, text):
    """The ids of a rendered text. The template has written the special tokens: none is added, or they would stand there twice."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_prompt(prompt, tokenizer, template=True):
    """The ids that a response is to follow. template=False takes the prompt as raw text, for a base model: the
    beginning of a page, after the token that separates pages, without which the model would guess at what came before."""
    if not template:
        start = tokenizer.get_vocab().get("<|endoftext|>")
        return ([] if start is None else [start]) + tokenise(tokenizer, prompt)
    return tokenise(tokenizer, render(tokenizer, as_messages(prompt), prompt=True))


def encode_messages(messages, tokenizer):
    """(ids, labels) of a conversation: labels are the ids in the assistant's turns, and -100 elsewhere.

    A turn is what the template adds after its own generation prompt, which is what the model will see when
    it has to answer; so this works for any template that only ever appends. It ends with the end-of-turn
    token, which is supervised: a model never shown it would not learn to stop.
    """
    ids, labels, done = [], [], ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(tokenizer, messages[:i], prompt=True)
        after = render(tokenizer, messages[: i + 1])
        if not (before.startswith(done) and after.startswith(before)):
            raise DataError("the chat template rewrites earlier turns when one is added, so the mask cannot be told "
                            "from it: use a template that only appends, such as lab.models.CHATML")
        context, turn = tokenise(tokenizer, before[len(done):]), tokenise(tokenizer, after[len(before):])
        spoken = supervised_length(turn, tokenizer.eos_token_id)
        ids += context + turn
        labels += [IGNORE] * len(context) + turn[:spoken] + [IGNORE] * (len(turn) - spoken)
        done = after
    end = max((i + 1 for i, label in enumerate(labels) if label != IGNORE), default=0)
    return ids[:end], labels[:end]  # what follows the last supervised token predicts nothing


def supervised_length(turn, end_of_turn):
    """How much of an assistant's turn counts: all up to its end-of-turn token, which most templates follow by a newline."""
    if end_of_turn not in turn:
        return len(turn)
    return len(turn) - turn[::-1].index(end_of_turn)


def decode_supervised(tokenizer, labels):
    """The text under the mask: what the loss is computed on. Look at it before every training.

    >>> decode_supervised(tokenizer, encode_sft({"prompt": "What is 2 + 2?", "response": "4."}, tokenizer, 64)["labels"])
    '4.<|im_end|>'
    """
    return tokenizer.decode([int(label) for label in labels if label != IGNORE], skip_special_tokens=False)


# Examples


def encode_sft(row, tokenizer, max_length):
    """{"input_ids", "labels"} of one row. A conversation that is too long is an error: cut, it would lose the
    end-of-turn token, and teach the model not to stop."""
    messages = row.get("messages") or as_messages(row["prompt"]) + [{"role": "assistant", "content": row["response"]}]
    ids, labels = encode_messages(messages, tokenizer)
    if len(ids) > max_length:
        raise DataError(f"the conversation has {len(ids)} tokens and the context holds {max_length}")
    if not any(label != IGNORE for label in labels[1:]):
        raise DataError("no token of the example is supervised, so it would teach nothing")
    return {"input_ids": ids, "labels": labels}


def encode_pair(row, tokenizer, max_length):
    """{"chosen": {"input_ids", "labels"}, "rejected": {...}} of one row. Long responses are cut at max_length."""
    pair = {}
    for side in ("chosen", "rejected"):
        ids, labels = encode_messages(as_messages(row["prompt"]) + [{"role": "assistant", "content": row[side]}], tokenizer)
        labels = [IGNORE] * first_of_last_turn(labels) + labels[first_of_last_turn(labels):]
        pair[side] = {"input_ids": ids[:max_length], "labels": labels[:max_length]}
        if not any(label != IGNORE for label in pair[side]["labels"][1:]):
            raise DataError(f"the prompt leaves no room for a response in a context of {max_length} tokens")
    if pair["chosen"] == pair["rejected"]:
        cut = "" if row["chosen"] == row["rejected"] else f" once cut to {max_length} tokens"
        raise DataError(f"chosen and rejected are equal{cut}, so the pair teaches nothing")
    return pair


def first_of_last_turn(labels):
    """Where the last supervised run begins: in a pair only the last turn is compared, the earlier ones are prompt."""
    start = len(labels)
    while start > 0 and labels[start - 1] != IGNORE:
        start -= 1
    return start


def encode_all(rows, encode, tokenizer, max_length, where="the given rows", drop=False):
    """Every row encoded. A row that cannot be is an error that names it, or with `drop` it is left out and counted."""
    check_tokenizer(tokenizer)
    examples, bad = [], []
    for i, row in enumerate(rows, 1):
        try:
            examples.append(encode(row, tokenizer, max_length))
        except DataError as error:
            bad.append(f"{where}, row {i}: {error}")
            if not drop:
                raise DataError(bad[0]) from error
    if not examples:
        raise DataError(f"no row is left to train on; the first reason: {bad[0]}")
    if bad:
        print(f"{len(bad)} of {len(rows)} rows dropped; the first: {bad[0]}")
    return examples


def pack(examples, max_length):
    """Fill windows of max_length with whole examples, so that fewer pads are computed.

    Position ids start anew in each example; transformers reads from them that an example must not attend to
    its neighbours, so the loss is that of the examples on their own. Longest first, into the first window
    with room.
    """
    windows = []
    for example in sorted(examples, key=lambda example: -len(example["input_ids"])):
        size = len(example["input_ids"])
        window = next((w for w in windows if len(w["input_ids"]) + size <= max_length), None)
        if window is None:
            window = {"input_ids": [], "labels": [], "position_ids": []}
            windows.append(window)
        window["input_ids"] += example["input_ids"]
        window["labels"] += [IGNORE] + example["labels"][1:]  # no example predicts the next one's first token
        window["position_ids"] += range(size)
    return windows


# Batches


def by_length(lengths, batch_size):
    """Indices in parts of at most batch_size, like lengths together: fewer pads.

    >>> by_length([30, 10, 20], batch_size=2)
    [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[k : k + batch_size] for k in range(0, len(order), batch_size)]


def as_rows(prompts, answers):
    """Token ids of prompts and of what was sampled after them, as rows whose labels are the sampled tokens.

    >>> as_rows([[5, 6]], [[7]])
    [{'input_ids': [5, 6, 7], 'labels': [-100, -100, 7]}]
    """
    return [{"input_ids": x + y, "labels": [IGNORE] * len(x) + y} for x, y in zip(prompts, answers, strict=True)]


def response_rows(tokenizer, prompts, responses):
    """One response (str) to each prompt as encoded rows. An empty response counts too: its end-of-turn token is there."""
    return [encode_sft({"prompt": x, "response": y}, tokenizer, 10**9) for x, y in zip(prompts, responses, strict=True)]


@torch.no_grad()
def over_rows(function, tokenizer, rows, device, batch_size=16):
    """function(input_ids, labels) -> (B,) of encoded rows, in batches of like length: (N,)."""
    collate, values = sft_collator(tokenizer), torch.empty(len(rows))
    for part in by_length([len(row["input_ids"]) for row in rows], batch_size):
        batch = collate([rows[i] for i in part])
        values[part] = function(batch["input_ids"].to(device), batch["labels"].to(device)).float().cpu()
    return values


def pad(lists, value):
    """Right padding: lists of ids -> (B, T). A pad stands after every real token, which under causal attention never
    sees it; so no attention mask is needed, and the fast attention kernel without a mask is used."""
    longest = max(map(len, lists))
    return torch.tensor([list(ids) + [value] * (longest - len(ids)) for ids in lists])


def sft_collator(tokenizer):
    """A function from encoded rows to a batch: input_ids and labels (B, T), and what the training loop counts."""

    def collate(examples):
        batch = {"input_ids": pad([e["input_ids"] for e in examples], tokenizer.pad_token_id),
                 "labels": pad([e["labels"] for e in examples], IGNORE)}
        if "position_ids" in examples[0]:
            batch["position_ids"] = pad([e["position_ids"] for e in examples], 0)
        units = int((batch["labels"][:, 1:] != IGNORE).sum())
        return batch | {"units": units, "tokens": sum(len(e["input_ids"]) for e in examples)}

    return collate


def pair_collator(tokenizer):
    """A function from encoded pairs to a batch: the B chosen sides first, then the B rejected ones, as (2B, T).

    One forward pass over both is cheaper than two. Reference log-probabilities (2B,) go along if present.
    """
    sides = sft_collator(tokenizer)

    def collate(pairs):
        batch = sides([pair["chosen"] for pair in pairs] + [pair["rejected"] for pair in pairs])
        if "reference" in pairs[0]:
            reference = [pair["reference"][0] for pair in pairs] + [pair["reference"][1] for pair in pairs]
            batch["reference"] = torch.tensor(reference)
        return batch | {"units": len(pairs)}

    return collate
