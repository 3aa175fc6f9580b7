"""Models of the Hub, by a stand-in on loopback: a download, the cache, offline mode, and whatever can go wrong on the way."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny

from stand_in import Hub, git_hash, run, sha256
from lab import hub as lab_hub
from lab import models
from lab.data import DataError
from lab.models import ModelError

CHILD = """
import json, sys, torch
from lab import models
for name in json.loads(sys.argv[1]):
    try:
        model, tokenizer = models.load(name)
        answer = [model.name_or_path, tokenizer.chat_template, model(input_ids=torch.arange(4, 44)[None]).logits[0, -1].tolist()]
    except models.ModelError as error:
        answer = str(error)
    print("=>", json.dumps([name, answer]))
"""
FAULTS = {"lab/cut": "cut", "lab/broken": "always cut", "lab/busy": "very busy", "lab/down": "down", "lab/gated": "gated", "lab/forged": "forged",
          "lab/short": "short"}
STRANGE = {"model_type": "strange", "auto_map": {"AutoConfig": "strange.Config", "AutoModelForCausalLM": "strange.Model"}}


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def pickled(folder):
    found = files(folder)
    return found | {"pytorch_model.bin": found.pop("model.safetensors")}


def adapter(folder, tokenizer):
    """An adapter on the pocket model, whose B is not 0."""
    model = models.add_lora(models.load(models.POCKET)[0], r=1)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.fill_(0.01)
    models.save_adapter(model, folder, tokenizer)
    return folder


@pytest.fixture(scope="module")
def sources(folder, tokenizer, tmp_path_factory):
    """{name: a folder here with the same model}: whole, in several files, and an adapter."""
    home = tmp_path_factory.mktemp("sources")
    tiny(tokenizer, seed=1).save_pretrained(home / "shards", max_shard_size="200KB")
    tokenizer.save_pretrained(home / "shards")
    return {"lab/whole": folder, "lab/shards": str(home / "shards"), "lab/adapter": str(adapter(home / "adapter", models.load(models.POCKET)[1]))}


@pytest.fixture(scope="module")
def hub(sources, folder):
    served = {name: files(source) for name, source in sources.items()} | dict.fromkeys(FAULTS, files(folder))
    served["lab/whole"] |= {"pytorch_model.bin": b"pickle", "onnx/model.safetensors": b"other weights", "README.md": b"A model."}
    served["lab/pickled"] = pickled(folder)
    served["lab/strange"] = files(folder) | {"config.json": json.dumps(STRANGE).encode(), "strange.py": b"raise SystemExit(9)"}
    with Hub(served, dict(FAULTS)) as hub:
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def visits(hub, home):
    """Three programs with one cache: (answers, log of the Hub) of each."""
    found = []
    for chosen, env in (([*hub.repositories, "lab/none", "a/b/c"], {}), (["lab/whole", "lab/shards", "lab/adapter", "lab/forged", "lab/cut"], {}),
                        (["lab/whole", "lab/shards", "lab/broken", "lab/none"], {"HF_HUB_OFFLINE": "1"})):
        hub.log.clear()
        found.append((run(hub, home, CHILD, chosen, **env), list(hub.log)))
        if len(found) == 1:
            leftovers = [path.relative_to(home).as_posix() for path in home.rglob("*")]
            found[0] += (leftovers,)
        hub.faults |= {"lab/forged": None, "lab/cut": "down"}  # at the second visit the file is right, and a Hub that gave a model is down
    return found


def asked(log, name):
    """Which files with weights were asked for."""
    return sorted(path for method, owner, path in log if method == "GET" and owner == name and path.endswith((".safetensors", ".bin")))


def is_same(answer, name, source):
    model, tokenizer = models.load(source)
    shown, template, logits = answer
    with torch.no_grad():
        expected = model(input_ids=torch.arange(4, 44)[None]).logits[0, -1]
    return shown == (models.POCKET if name == "lab/adapter" else name) and template == tokenizer.chat_template and torch.allclose(torch.tensor(logits), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["lab/whole", "lab/shards", "lab/adapter"])
def test_a_download_is_the_same_model_and_comes_once(visits, sources, name):
    answers, log, _ = visits[0]
    assert is_same(answers[name], name, sources[name])
    assert asked(log, name) == sorted(file for file in files(sources[name]) if file.endswith(".safetensors"))  # no pickle, no other weights
    answers, log = visits[1]
    assert is_same(answers[name], name, sources[name]) and asked(log, name) == []


@pytest.mark.parametrize("name", ["lab/whole", "lab/shards"])
def test_offline_takes_it_from_the_cache(visits, sources, name):
    answers, log = visits[2]
    assert is_same(answers[name], name, sources[name]) and not log


def test_a_cut_connection_is_taken_up_where_it_broke(visits, folder):
    answers, log, _ = visits[0]
    assert is_same(answers["lab/cut"], "lab/cut", folder) and asked(log, "lab/cut") == ["model.safetensors"] * 2


def test_a_hub_that_is_down_takes_nothing_away(visits, folder):
    answers, log = visits[1]
    assert is_same(answers["lab/cut"], "lab/cut", folder) and asked(log, "lab/cut") == []


WRONG = [
    ("lab/none", "the Hub has nothing of this name, or it lacks a file: check the spelling"),
    ("a/b/c", "a name on the Hub is owner/name, and this is none"),
    ("lab/busy", "the Hub has had too many requests from here (429): wait some minutes"),
    ("lab/down", "the Hub answered with an error (503): try again later, or load it once with a network, or take a local folder"),
    ("lab/gated", "the Hub does not give it without a login: set HF_TOKEN, after accepting its terms"),
    ("lab/broken", "the Hub cannot be reached, or the connection was cut: try again"),
    ("lab/short", "a file arrived with the wrong size: load it again"),
    ("lab/forged", "the file model.safetensors is not the one that the Hub announced"),
]


@pytest.mark.parametrize("name, wanted", WRONG)
def test_what_goes_wrong_is_one_sentence(visits, name, wanted):
    answer = visits[0][0][name]
    assert answer.startswith(f"the model {name!r} is not a folder here, and the Hub did not give it: {wanted}")
    assert "\n" not in answer


def test_nothing_half_written_stays(visits):
    there = visits[0][2]
    weights = [path for path in there if path.endswith("model.safetensors")]
    assert {path.split("/")[1] for path in weights} == {"models--lab--whole", "models--lab--adapter", "models--lab--cut", "models--lab--strange"}
    assert not [path for path in there if path.endswith(".incomplete")]


def test_the_next_visit_loads_a_forged_file_anew(visits, folder):
    answers, log = visits[1]
    assert is_same(answers["lab/forged"], "lab/forged", folder) and asked(log, "lab/forged") == ["model.safetensors"]


@pytest.mark.parametrize("name", ["lab/none", "lab/broken"])
def test_offline_and_not_in_the_cache_or_not_all_of_it(visits, name):
    assert visits[2][0][name].startswith(f"the model {name!r} is not a folder here, and the Hub did not give it: it is not in the cache, "
                                         "and offline mode is on: load it once with a network, or take a local folder, 'pocket' or 'smollm2', which need none")


def test_a_pickle_is_not_even_downloaded(visits):
    answers, log, _ = visits[0]
    assert answers["lab/pickled"].startswith("'lab/pickled' holds no .safetensors file") and asked(log, "lab/pickled") == []


def test_a_program_is_not_even_downloaded(visits):
    answers, log, _ = visits[0]
    assert re.fullmatch("the model 'lab/strange' cannot be loaded \\(The repository [^ ]+ contains custom code .*: its type must be .* is never run", answers["lab/strange"])
    assert not [entry for entry in log if entry[2].endswith(".py")]


# Without a Hub


def message(name):
    with pytest.raises(ModelError) as caught:
        models.load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_program_in_a_folder_is_not_run(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "strange")
    (path / "config.json").write_text(json.dumps(STRANGE))
    (path / "strange.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "contains custom code" in message(path)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_beside_other_safetensors_is_not_loaded(folder, tokenizer, tmp_path):
    path = shutil.copytree(folder, tmp_path / "pickled")
    (path / "model.safetensors").rename(path / "other.safetensors")
    torch.save(tiny(tokenizer).state_dict(), path / "pytorch_model.bin")
    assert "cannot be loaded" in message(path)


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(path.read_bytes()[:-10]), lambda path: path.write_bytes(b"x" * 100),
                                    lambda path: (path.parent / "tokenizer.json").unlink(), lambda path: (path.parent / "config.json").write_text("{")],
                         ids=["cut", "garbage", "no tokenizer", "no config"])
def test_a_broken_folder_is_one_sentence(folder, tmp_path, change):
    path = shutil.copytree(folder, tmp_path / "broken")
    change(path / "model.safetensors")
    assert message(path).startswith(f"the model {str(path)!r} cannot be loaded (")


@pytest.mark.parametrize("body", [b"hello", b"hellp"])
@pytest.mark.parametrize("hash_of", [git_hash, sha256])
def test_a_file_of_a_cache_with_a_shared_store(tmp_path, body, hash_of):
    """Snapshot, blob and store are three places with three names: the blob's, in the middle, is the hash that was announced."""
    store, blob, file = tmp_path / ("0" * 64), tmp_path / "blobs" / hash_of(b"hello"), tmp_path / "snapshots" / "model.safetensors"
    store.write_bytes(body)
    for link, target in ((blob, store), (file, blob)):
        link.parent.mkdir()
        link.symlink_to(os.path.relpath(target, link.parent))
    if body == b"hello":
        return lab_hub.check_file("lab/x", file.name, file)
    with pytest.raises(DataError, match="the file model.safetensors is not the one that the Hub announced"):
        lab_hub.check_file("lab/x", file.name, file)
    assert not any(os.path.lexists(path) for path in (store, blob, file))
