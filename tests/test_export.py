"""An exported folder: plain transformers loads it, and it says what our own model says."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab import models
from lab.__main__ import main
from lab.data import encode_prompt
from lab.export import export
from lab.sample import sample_ids

PROMPTS = ["Where does Anna Brook live?", "What is 7 plus 12?", "Name three animals.", "How do I bake bread?"]
ROOM = 96  # new tokens: half of the pocket model's context


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter on the 4-bit pocket model that changes what it says. Of several seeds, one where every response ends by itself and no
    greedy choice is close, so that the last digits of another machine do not matter."""
    folder = tmp_path_factory.mktemp("adapter")
    model, tokenizer = models.load(models.POCKET, bits=4)
    model = models.add_lora(model)
    generator = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = 0.1 * torch.randn(p.shape, generator=generator)
    models.save_adapter(model, folder, tokenizer)
    return folder


@pytest.fixture(scope="module")
def exported(adapter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "model"
    assert main(["export", "--model", str(adapter), "--out", str(folder)]) == 0
    return folder


def ours(name, bits=4):
    """Greedy tokens by the course's own sampler."""
    model, tokenizer = models.load(name, bits)
    return sample_ids(model, tokenizer, [encode_prompt(prompt, tokenizer) for prompt in PROMPTS], max_new_tokens=ROOM, temperature=0)


def theirs(folder):
    """Greedy tokens by plain transformers, as anybody would write it: one batch, and nothing said that the folder does not say."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    batch = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True)
    rows = model.generate(**batch)[:, batch["input_ids"].shape[1]:].tolist()
    return [[token for token in row if token != tokenizer.pad_token_id] for row in rows]


def test_plain_transformers_says_the_same_token_for_token(adapter, exported):
    expected = ours(adapter)
    assert all(with_it != without for with_it, without in zip(expected, ours(models.POCKET)))  # so a lost adapter would show
    assert all(len(row) < ROOM for row in expected)  # and so would a lost stop token
    assert theirs(exported) == expected


def test_the_folder_is_complete_and_holds_no_adapter_and_no_pickle(exported):
    files = {path.name for path in exported.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= files
    assert not [name for name in files if name.startswith("adapter") or name.endswith((".bin", ".pt", ".pkl"))]
    config = json.loads((exported / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"


def test_it_stops_where_our_sampler_stops(exported):
    generation, tokenizer = json.loads((exported / "generation_config.json").read_text()), AutoTokenizer.from_pretrained(exported)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in generation["eos_token_id"]
    assert generation["pad_token_id"] == tokenizer.pad_token_id and generation["max_new_tokens"] == ROOM


def test_the_template_renders_as_before_without_the_marks_for_trl(exported):
    plain, marked = AutoTokenizer.from_pretrained(exported), models.load(models.POCKET)[1]
    talk = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Bye."}]
    assert "generation %}" in marked.chat_template and "generation %}" not in plain.chat_template
    for prompt in (True, False):
        assert len({t.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt) for t in (plain, marked)}) == 1


def test_our_own_functions_take_the_folder(adapter, exported):
    assert ours(exported, bits=32) == ours(adapter)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_of_the_space(adapter, exported, tmp_path, dtype):
    export(adapter, tmp_path / "half", bits=4, dtype=dtype)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", exported)]
    assert 0.49 < sizes[0] / sizes[1] < 0.51
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto")
    assert model.dtype == getattr(torch, dtype)
    whole = AutoModelForCausalLM.from_pretrained(exported).state_dict()
    for name, p in model.state_dict().items():
        torch.testing.assert_close(p.float(), whole[name], rtol=2**-8, atol=1e-6)


def test_a_model_without_an_adapter_is_exported_as_it_is(tmp_path):
    export(models.POCKET, tmp_path / "base", bits=32)
    expected, found = (models.load(name)[0].state_dict() for name in (models.POCKET, tmp_path / "base"))
    assert all(torch.equal(p, found[name]) for name, p in expected.items())


def test_what_cannot_be_exported_is_one_sentence(adapter, exported, tmp_path, capsys):
    for model, out, word in ((adapter, exported, "is there already"), (adapter / "nowhere", tmp_path / "x", "not a folder here")):
        assert main(["export", "--model", str(model), "--out", str(out)]) == 2
        assert word in capsys.readouterr().err
    (tmp_path / "head.safetensors").touch()
    with pytest.raises(models.ModelError, match="reward model"):
        export(tmp_path, tmp_path / "y")
    with pytest.raises(models.ModelError, match="dtype"):
        export(adapter, tmp_path / "z", dtype="int8")
    assert not list(tmp_path.glob("[xyz]*"))
