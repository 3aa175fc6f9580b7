"""Rows to tensors. The masks are tested by decoding what is under them."""

import copy
import json
import re

import datasets
import pytest
import torch
from conftest import tiny

from lab.data import (PAIRS, SFT, DataError, decode_supervised, encode_all, encode_pair, encode_prompt, encode_sft, pack, pair_collator,
                      read, sft_collator)
from lab.models import supervised_logits
from lab.objectives import sequence_logprobs

ROW = {"prompt": "What is 2 + 2?", "response": "It is 4."}
TALK = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"},
                     {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you."}]}

# SmolLM2's own template adds a system message; Llama 2's has no end-of-turn newline and puts the prompt in brackets.
SMOLLM2 = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI "
           "assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
           "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
BRACKETS = ("{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% elif m['role'] == 'system' %}"
            "{{ m['content'] }}{% else %} {{ m['content'] }}<|im_end|>{% endif %}{% endfor %}")
FORGETFUL = ("{% for m in messages %}{% if m['role'] == 'user' or loop.last %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endif %}"
             "{% endfor %}")


def with_template(tokenizer, template):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [None, SMOLLM2, BRACKETS])
def test_the_mask_covers_the_response_and_its_end(tokenizer, template):
    tokenizer = with_template(tokenizer, template) if template else tokenizer
    example = encode_sft(ROW, tokenizer, 128)
    assert decode_supervised(tokenizer, example["labels"]).lstrip() == "It is 4.<|im_end|>"
    assert len(example["input_ids"]) == len(example["labels"])
    assert example["labels"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("template", [None, SMOLLM2, BRACKETS])
def test_every_turn_of_the_assistant_is_supervised_and_no_other(tokenizer, template):
    tokenizer = with_template(tokenizer, template) if template else tokenizer
    labels = encode_sft(TALK, tokenizer, 128)["labels"]
    assert re.sub("> ", ">", decode_supervised(tokenizer, labels).lstrip()) == "Hello!<|im_end|>See you.<|im_end|>"


@pytest.mark.parametrize("template", [None, SMOLLM2])
def test_the_ids_are_those_of_the_rendered_conversation(tokenizer, template):
    tokenizer = with_template(tokenizer, template) if template else tokenizer
    text = tokenizer.apply_chat_template(TALK["messages"], tokenize=False)
    assert tokenizer.decode(encode_sft(TALK, tokenizer, 200)["input_ids"]) == text.removesuffix("\n")


def test_training_sees_the_prompt_that_sampling_gives(tokenizer):
    prompt = encode_prompt(ROW["prompt"], tokenizer)
    assert encode_sft(ROW, tokenizer, 128)["input_ids"][: len(prompt)] == prompt


def test_the_mask_does_not_depend_on_the_pad_token(tokenizer):
    same = copy.deepcopy(tokenizer)
    same.pad_token = same.eos_token  # the classic trap: masking pads by their id would mask the end of the turn
    examples = [encode_sft(ROW, same, 128), encode_sft(TALK, same, 128)]
    batch = sft_collator(same)(examples)
    assert (batch["labels"][0] == same.eos_token_id).sum() == 1
    assert decode_supervised(same, batch["labels"][0]) == "It is 4.<|im_end|>"


def test_a_template_that_rewrites_history_is_refused(tokenizer):
    with pytest.raises(DataError, match="rewrites earlier turns"):
        encode_sft(TALK, with_template(tokenizer, FORGETFUL), 128)


def test_in_a_pair_only_the_last_turn_is_compared(tokenizer):
    pair = encode_pair({"prompt": TALK["messages"][:4], "chosen": "See you.", "rejected": "No."}, tokenizer, 128)
    assert decode_supervised(tokenizer, pair["chosen"]["labels"]) == "See you.<|im_end|>"
    assert decode_supervised(tokenizer, pair["rejected"]["labels"]) == "No.<|im_end|>"


# Batches


def test_pairs_are_stacked_chosen_first(tokenizer):
    pairs = [encode_pair({"prompt": "Hi", "chosen": c, "rejected": r}, tokenizer, 64) for c, r in [("A", "B"), ("C", "D and E")]]
    batch = pair_collator(tokenizer)([pair | {"reference": (-1.0, -2.0)} for pair in pairs])
    texts = [decode_supervised(tokenizer, row).removesuffix("<|im_end|>") for row in batch["labels"]]
    assert texts == ["A", "C", "B", "D and E"]
    assert batch["reference"].tolist() == [-1, -1, -2, -2] and batch["units"] == 2


def test_padding_changes_no_log_probability(tokenizer, model):
    examples = [encode_sft(row, tokenizer, 128) for row in (ROW, TALK)]
    collate = sft_collator(tokenizer)

    def logprobs(some):
        batch = collate(some)
        return sequence_logprobs(model(input_ids=batch["input_ids"]).logits, batch["labels"])

    assert torch.allclose(logprobs(examples), torch.cat([logprobs([e]) for e in examples]), atol=1e-4)


def test_packing_changes_no_log_probability(tokenizer):
    model = tiny(tokenizer)
    examples = [encode_sft({"prompt": f"Say {n}", "response": f"It is {n * 7}."}, tokenizer, 128) for n in range(9)]
    collate = sft_collator(tokenizer)
    windows = pack(examples, 120)
    assert len(windows) < len(examples) and all(len(w["input_ids"]) <= 120 for w in windows)

    def total(some):
        batch = collate(some)
        extra = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}
        return sequence_logprobs(*supervised_logits(model, batch["input_ids"], batch["labels"], **extra)).sum().item()

    assert total(windows) == pytest.approx(total(examples), rel=1e-5)


def test_in_a_packed_window_no_example_predicts_the_next():
    window = pack([{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [7, 8], "labels": [7, 8]}], 4)
    assert window == [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8], "position_ids": [0, 1, 0, 1]}]


# Bad input: one sentence, with the file and the row


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def message(call, *args, **options):
    with pytest.raises(DataError) as caught:
        call(*args, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


BAD_ROWS = [
    ({"promt": "Hi", "response": "Hello"}, SFT, "'prompt' is missing; did you mean 'promt'?"),
    ({"prompt": "Hi"}, SFT, "'response' is missing; the row has 'prompt'"),
    ({"prompt": "Hi", "response": "  "}, SFT, "'response' is empty"),
    ({"prompt": "Hi", "response": 7}, SFT, "'response' must be text, not int"),
    ({"prompt": "Hi", "choosen": "a", "rejected": "b"}, PAIRS, "'chosen' is missing; did you mean 'choosen'?"),
    ({"prompt": "Hi", "chosen": "a", "rejected": ""}, PAIRS, "'rejected' is empty"),
    ({"messages": [{"role": "user", "content": "Hi"}]}, SFT, "no message is the assistant's"),
    ({"messages": [{"role": "bot", "content": "Hi"}]}, SFT, "'bot' is not one of"),
    ({"messages": "Hi"}, SFT, "'messages' must be a list"),
    ({"messages": [{"role": "assistant", "content": ""}]}, SFT, "a message of the assistant is empty"),
]
GOOD = {SFT: ROW, PAIRS: {"prompt": "Hi", "chosen": "a", "rejected": "b"}}


@pytest.mark.parametrize("row, columns, wanted", BAD_ROWS)
def test_a_bad_row_is_named(row, columns, wanted):
    text = message(read, [GOOD[columns], row], columns)
    assert text.startswith("the given rows, row 2: ") and wanted in text


def test_a_bad_row_of_a_file_is_named(tmp_path):
    path = write(tmp_path / "rows.jsonl", [ROW, ROW, {"prompt": "Hi", "response": ""}])
    assert message(read, path, SFT) == f"{path}, row 3: 'response' is empty"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    rows, path = [ROW, {"prompt": "Hi, \"you\"", "response": "Hello,\nyou"}], str(tmp_path / f"rows{suffix}")
    table = datasets.Dataset.from_list(rows)
    {".jsonl": table.to_json, ".csv": table.to_csv, ".parquet": table.to_parquet,
     ".json": lambda path: open(path, "w").write(json.dumps(rows))}[suffix](path)
    assert read(path, SFT) == rows


def test_unreadable_sources(tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "Hi", "response"\n')
    assert "not a well-formed .jsonl file" in message(read, str(broken), SFT)
    assert "no such file" in message(read, str(tmp_path / "none.csv"), SFT)
    assert "no row" in message(read, [], SFT)
    offline = message(read, "some-owner/some-set", SFT)
    assert "'some-owner/some-set'" in offline and "Hub" in offline and "local file" in offline


def test_a_conversation_longer_than_the_context(tokenizer):
    long = {"prompt": "Hi", "response": "word " * 100}
    assert re.search(r"x.jsonl, row 2: the conversation has \d+ tokens and the context holds 64",
                     message(encode_all, [ROW, long], encode_sft, tokenizer, 64, "x.jsonl"))


def test_pairs_equal_after_truncation(tokenizer):
    same = {"prompt": "Hi", "chosen": "word " * 50 + "yes", "rejected": "word " * 50 + "no"}
    assert "row 1: chosen and rejected are equal once cut to 40 tokens" in message(encode_all, [same], encode_pair, tokenizer, 40)
    assert encode_all([same], encode_pair, tokenizer, 400)


def test_pairs_equal_from_the_start(tokenizer):
    assert "are equal, so" in message(encode_all, [{"prompt": "Hi", "chosen": "a", "rejected": "a"}], encode_pair, tokenizer, 64)


def test_a_prompt_that_leaves_no_room(tokenizer):
    row = {"prompt": "word " * 100, "chosen": "a", "rejected": "b"}
    assert "no room for a response" in message(encode_all, [row], encode_pair, tokenizer, 64)


def test_bad_rows_can_be_dropped_with_a_count(tokenizer, capsys):
    long = {"prompt": "Hi", "response": "word " * 100}
    assert len(encode_all([ROW, long, ROW], encode_sft, tokenizer, 64, drop=True)) == 2
    assert capsys.readouterr().out.startswith("1 of 3 rows dropped; the first: the given rows, row 2: the conversation has")
    assert "no row is left" in message(encode_all, [long], encode_sft, tokenizer, 64, drop=True)


def test_a_tokenizer_without_template_or_pad(tokenizer):
    bare = with_template(tokenizer, None)
    assert "chat template: set tokenizer.chat_template" in message(encode_all, [ROW], encode_sft, bare, 64)
    padless = copy.deepcopy(tokenizer)
    padless.pad_token = None
    assert "pad token: set tokenizer.pad_token" in message(encode_all, [ROW], encode_sft, padless, 64)


def test_an_example_with_nothing_supervised(tokenizer):
    empty = with_template(tokenizer, "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}")
    assert "no token of the example is supervised" in message(encode_all, [ROW], encode_sft, empty, 64)


def test_preference_sets_of_whole_conversations(tokenizer):
    user = {"role": "user", "content": "Hi"}
    row = {"chosen": [user, {"role": "assistant", "content": "Hello"}], "rejected": [user, {"role": "assistant", "content": "No"}]}
    read_row = read([row], PAIRS)[0]
    pair = encode_pair(read_row, tokenizer, 64)
    assert decode_supervised(tokenizer, pair["chosen"]["labels"]) == "Hello<|im_end|>"
