"""Public sets: each set's rows through its loader, from local files with the set's columns; every error; and the Hub's protocol,
spoken by a stand-in on loopback. All rows were written for these tests."""

import io
import json

import datasets
import pytest
from test_data import write

from stand_in import Hub, run
from lab import public
from lab.data import PAIRS, SFT, DataError, encode_all, encode_pair, encode_sft
from lab.hub import file_hash


def said(text, parent=None, id=None, role="assistant", rank=None, lang="en", deleted=False):
    """A message of a tree."""
    return {"message_id": id or text, "parent_id": parent, "text": text, "role": role, "lang": lang, "rank": rank, "deleted": deleted,
            "message_tree_id": "t"}


TREES = [
    said("How do I boil an egg?", role="prompter", id="root"),
    said("Eggs are food.", "root", rank=1), said("For six minutes.", "root", "best", rank=0), said("No.", "root", deleted=True),
    said("And a soft one?", "best", "more", "prompter"), said("Four minutes.", "more"), said("Thanks!", "Four minutes.", role="prompter"),
    said("Wie spät ist es?", role="prompter", lang="de"),
    said("Hello?", role="prompter"),
]
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Ulm"}'}}
HI, HELLO, NO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}, {"role": "assistant", "content": "No."}
ASKED = {"role": "user", "content": "Is it raining in Ulm?"}

# name -> (rows as the set has them, rows as the course has them)
KINDS = {
    "flan": ([{"inputs": "Premise: It rains. Hypothesis: It is dry. Does the premise entail it? OPTIONS: - yes - no", "targets": "no",
               "task": "nli"}],
             [{"prompt": "Premise: It rains. Hypothesis: It is dry. Does the premise entail it? OPTIONS: - yes - no", "response": "no"}]),
    "self_instruct": ([{"prompt": "Name a colour.\nOutput:", "completion": " Red.<|endoftext|>"}],
                      [{"prompt": "Name a colour.\nOutput:", "response": "Red."}]),
    "alpaca": ([{"instruction": "Name a colour.", "input": "", "output": "Red.", "text": "..."},
                {"instruction": "Make it plural.", "input": "mouse", "output": "mice", "text": "..."}],
               [{"prompt": "Name a colour.", "response": "Red."}, {"prompt": "Make it plural.\n\nmouse", "response": "mice"}]),
    "sharegpt": ([{"id": "a_1", "conversations": [{"from": "gpt", "value": "and so on."}, {"from": "human", "value": "Hi"},
                                                  {"from": "gpt", "value": "Hello."}]}],
                 [{"messages": [HI, HELLO]}]),
    "oasst1": (TREES, [{"messages": [{"role": "user", "content": "How do I boil an egg?"}, {"role": "assistant", "content": "For six minutes."},
                                     {"role": "user", "content": "And a soft one?"}, {"role": "assistant", "content": "Four minutes."}]}]),
    "llama_nemotron": ([{"input": [HI], "output": "Hello.", "system_prompt": "detailed thinking off", "category": "chat"},
                        {"input": [HI], "output": "Hello.", "system_prompt": None, "category": "chat"}],
                       [{"messages": [{"role": "system", "content": "detailed thinking off"}, HI, HELLO]}, {"messages": [HI, HELLO]}]),
    "nemotron": ([{"uuid": "1", "messages": [ASKED | {"tool_calls": None}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
                                             {"role": "tool", "content": "dry", "tool_calls": []}, NO | {"tool_calls": None}]}],
                 [{"messages": [ASKED, {"role": "assistant", "content": '<tool_call>{"name": "weather", "arguments": {"town": "Ulm"}}</tool_call>'},
                                {"role": "tool", "content": "dry"}, NO]}]),
    "ultrafeedback": ([{"prompt": "Hi", "chosen": [HI, HELLO], "rejected": [HI, NO], "score_chosen": 8.0}],
                      [{"prompt": [HI], "chosen": "Hello.", "rejected": "No."}]),
    "hh": ([{"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nBye.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."}],
           [{"prompt": [HI], "chosen": "Hello.\n\nBye.", "rejected": "No."}]),
    "saferlhf": ([{"prompt": "Hi", "response_0": "No.", "response_1": "Hello.", "safer_response_id": 1, "better_response_id": 0}],
                 [{"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}]),
    "or_bench": ([{"prompt": "How do I kill a weed?", "category": "violence"}], [{"prompt": "How do I kill a weed?", "category": "violence"}]),
}
KINDS["oasst2"] = KINDS["oasst1"]


def from_file(tmp_path, name, rows, **options):
    return public.load(name, source=write(tmp_path / "rows.jsonl", rows), **options)


def message(call, *args, **options):
    with pytest.raises(DataError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Rows


def test_every_set_has_a_row_here():
    assert KINDS.keys() == public.SETS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_rows_of_every_kind_become_rows_of_the_course(name, tmp_path, tokenizer):
    raw, wanted = KINDS[name]
    rows = from_file(tmp_path, name, raw)
    assert rows == wanted
    gives = public.SETS[name].gives
    if gives in (SFT, PAIRS):  # and training takes them
        assert encode_all(rows, encode_sft if gives == SFT else encode_pair, tokenizer, 400)


def test_a_tree_gives_the_path_of_the_best_ranked_replies():
    (only,) = public.threads(TREES)  # the question that nobody answered is no conversation
    assert [turn["text"] for turn in only["thread"]] == ["How do I boil an egg?", "For six minutes.", "And a soft one?", "Four minutes."]
    assert list(public.threads(TREES, language="de")) == []


def test_replies_without_a_rank_come_last():
    tree = [said("Q", role="prompter"), said("first", "Q"), said("ranked", "Q", rank=3)]
    assert next(public.threads(tree))["thread"][-1]["text"] == "ranked"


def test_the_first_n_rows(tmp_path):
    assert from_file(tmp_path, "alpaca", KINDS["alpaca"][0], n=1) == KINDS["alpaca"][1][:1]


# Errors


def test_a_missing_column_is_named_with_what_is_there(tmp_path):
    text = message(from_file, tmp_path, "alpaca", [{"instruction": "Hi", "output": "Hello"}])
    assert text.startswith(f"{tmp_path}/rows.jsonl: the column 'input' of tatsu-lab/alpaca is missing; there is 'instruction', 'output'. ")
    assert "lab.public.SETS" in text


BAD = [
    ("sharegpt", {"conversations": [{"from": "bing", "value": "Hi"}]}, "row 2: the role 'bing' is not one of human, user, gpt, chatgpt, system"),
    ("nemotron", {"messages": [{"role": "developer", "content": "Hi", "tool_calls": None}]}, "row 2: the role 'developer' is not one of system, user"),
    ("nemotron", {"messages": [{"role": "user", "content": "", "tool_calls": None}, HELLO]}, "row 2: a message of the user is empty"),
    ("nemotron", {"messages": [{"role": "user", "content": "-", "tool_calls": None}, HELLO]}, "row 2: the question is left out"),
    ("nemotron", {"messages": [{"role": "user", "tool_calls": None}]}, "row 2: a field is missing or of the wrong type"),
    ("llama_nemotron", {"input": "Hi", "output": "Hello", "system_prompt": ""}, "row 2: a field is missing or of the wrong type"),
    ("flan", {"inputs": " ", "targets": "no"}, "row 2: 'prompt' is empty"),
    ("saferlhf", {"prompt": "Hi", "response_0": "a", "response_1": "b", "safer_response_id": -1}, "row 2: 'safer_response_id' is -1, not 0 or 1"),
    ("ultrafeedback", {"chosen": [HI, HELLO], "rejected": [ASKED, NO]}, "row 2: the two sides are not one conversation"),
    ("ultrafeedback", {"chosen": [HELLO], "rejected": [NO]}, "row 2: the two sides are not one conversation"),
    ("ultrafeedback", {"chosen": [HI, HI], "rejected": [HI, NO]}, "row 2: the last turn, which is compared, is not the assistant's"),
    ("hh", {"chosen": "Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi"}, "row 2: the transcript begins with 'Hi', not with Human or"),
]


@pytest.mark.parametrize("name, row, wanted", BAD)
def test_a_bad_row_is_named(name, row, wanted):
    rows = KINDS[name][0][:1] + [row]
    assert f"here, {wanted}" in message(public.convert, public.SETS[name], rows, None, False, "here")


def test_an_unknown_role_in_a_tree_is_refused():
    tree = [said("Q", role="prompter"), said("A", "Q", role="critic")]
    assert "here, conversation 1: the role 'critic' is not one of prompter, assistant" in message(
        public.convert, public.SETS["oasst1"], tree, None, False, "here")


def test_bad_rows_can_be_dropped_with_a_count(capsys):
    rows = [{"inputs": "", "targets": "no"}, *KINDS["flan"][0], {"inputs": "x", "targets": ""}, *KINDS["flan"][0]]
    assert len(public.convert(public.SETS["flan"], rows, 2, True, "here")) == 2
    assert capsys.readouterr().out == "2 of 4 rows dropped; the first: here, row 1: 'prompt' is empty\n"
    assert "there is no row to use; the first reason: here, row 1" in message(public.convert, public.SETS["flan"], rows[:1], None, True, "here")
    assert message(public.convert, public.SETS["flan"], [], None, False, "here") == "here: there is no row to use in it"


def test_a_set_that_is_mostly_useless_is_given_up():
    rows = [*KINDS["flan"][0], *[{"inputs": "", "targets": "no"}] * 5000]
    read = (row for row in rows)
    assert f"here: {public.HOPELESS + 1} of the first {public.HOPELESS + 2} rows cannot be used" in message(public.convert, public.SETS["flan"], read, 50, True, "here")
    assert len(list(read)) > 3000  # the rest was not read


def test_a_source_is_a_local_file():
    assert message(public.load, "alpaca", source="tatsu-lab/alpaca").startswith("tatsu-lab/alpaca: source is a local file, whose name ends in .jsonl")
    assert message(public.load, "alpaca", 0) == "n must be at least 1, not 0"


def test_an_unknown_set_and_a_large_one():
    assert message(public.load, "alpacca") == "'alpacca' is not in the table of public sets: did you mean 'alpaca'?"
    assert "it has flan, self_instruct" in message(public.load, "imagenet")
    assert "too large to load as a whole: say how many rows, as in load('nemotron', 1000)" in message(public.load, "nemotron")


def test_the_licence_of_the_card_is_compared():
    alpaca = public.SETS["alpaca"]
    assert public.check_licence(alpaca, "cc-by-nc-4.0") == "cc-by-nc-4.0"
    text = message(public.check_licence, alpaca, "cc-by-4.0")
    assert text == ("tatsu-lab/alpaca: the licence in its card is 'cc-by-4.0', not 'cc-by-nc-4.0' as expected: read the card, decide "
                    "whether you may use the set, and if so pass licence='cc-by-4.0'")
    assert public.check_licence(alpaca, "cc-by-4.0", accepted="cc-by-4.0") == "cc-by-4.0"
    assert "in its card is 'not stated'" in message(public.check_licence, alpaca, None)
    assert public.check_licence(alpaca, None, accepted="not stated") == public.check_licence(public.SETS["flan"], None) == "not stated"


def test_the_hash_of_a_cached_file_is_its_name(tmp_path):
    for name in ("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"):
        (tmp_path / name).write_bytes(b"hello")  # what sha256sum and git hash-object say of it
        assert file_hash(tmp_path / name) == name
    (tmp_path / "train.csv").write_bytes(b"hello")
    assert file_hash(tmp_path / "train.csv") is None


# The Hub, by a stand-in


def lines(rows):
    return "\n".join(map(json.dumps, rows)).encode()


def parquet(rows):
    file = io.BytesIO()
    datasets.Dataset.from_list(rows).to_parquet(file)
    return file.getvalue()


def a_set(name, path="data/train.jsonl", licence=None, config=None):
    """The files of a repository that holds the rows of KINDS."""
    licence, rows = licence or public.SETS[name].licence, KINDS[name][0]
    head = f"license: {licence}\n" if licence else ""
    if config:
        head += f"configs:\n- config_name: {config[0]}\n  data_files:\n  - split: {config[1]}\n    path: {path}\n"
    return {"README.md": f"---\n{head}---\n# A set\n".encode(), path: parquet(rows) if path.endswith("parquet") else lines(rows)}


SERVED = {
    "alpaca": a_set("alpaca"),
    "ultrafeedback": a_set("ultrafeedback", "data/train_prefs-0.parquet", config=("default", "train_prefs")),
    "oasst1": a_set("oasst1"),
    "oasst2": a_set("oasst2"),
    "hh": a_set("hh"),
    "saferlhf": a_set("saferlhf"),
    "or_bench": a_set("or_bench", config=("or-bench-hard-1k", "train")),
    "sharegpt": a_set("sharegpt", public.SETS["sharegpt"].where["data_files"]),
    "flan": a_set("flan", licence="mit"),
}
FAULTS = {"oasst1": "busy", "oasst2": "cut", "hh": "always cut", "saferlhf": "very busy", "or_bench": "forged", "sharegpt": "short"}
CHILD = """
import json, sys
from lab import public
for name, options in json.loads(sys.argv[1]).items():
    try:
        answer = public.load(name, **options)
    except public.DataError as error:
        answer = str(error)
    print("=>", json.dumps([name, answer]))
"""


@pytest.fixture(scope="module")
def hub():
    with Hub({public.SETS[name].hub: files for name, files in SERVED.items()}, {public.SETS[name].hub: fault for name, fault in FAULTS.items()}) as hub:
        yield hub


@pytest.fixture(scope="module")
def visits(hub, tmp_path_factory):
    """Three programs with one cache: (answers, log of the Hub) of each."""
    home, wanted = tmp_path_factory.mktemp("home"), {name: {"n": 1, "drop": True} for name in [*SERVED, "self_instruct"]}
    found = []
    for chosen, env in ((wanted, {}), (["alpaca", "or_bench", "oasst1"], {}), (["alpaca", "oasst1", "ultrafeedback", "nemotron"], {"HF_HUB_OFFLINE": "1"})):
        hub.log.clear()
        found.append((run(hub, home, CHILD, {name: wanted.get(name, {"n": 1}) for name in chosen}, **env), list(hub.log)))
        hub.faults.pop(public.SETS["or_bench"].hub, None)  # from the second visit on, the file is right
    return found


def asked(log, name):
    """How often the content of a set's data was asked for."""
    return sum(method == "GET" and hub_name == public.SETS[name].hub and path.startswith("data/") for method, hub_name, path in log)


def test_a_download(visits):
    answers, log = visits[0]
    assert answers["alpaca"] == KINDS["alpaca"][1][:1] and asked(log, "alpaca") == 1


def test_a_stream(visits):
    answers, log = visits[0]
    assert answers["ultrafeedback"] == KINDS["ultrafeedback"][1] and asked(log, "ultrafeedback") >= 1


def test_a_busy_hub_is_asked_again(visits):
    assert visits[0][0]["oasst1"] == KINDS["oasst1"][1]


def test_a_hub_that_stays_busy(visits):
    assert visits[0][0]["saferlhf"] == ("PKU-Alignment/PKU-SafeRLHF: the Hub has had too many requests from here (429): wait some minutes; "
                                        "with HF_TOKEN set, more are allowed")


def test_a_cut_connection_is_taken_up_where_it_broke(visits):
    answers, log = visits[0]
    assert answers["oasst2"] == KINDS["oasst2"][1] and asked(log, "oasst2") == 2


def test_a_connection_that_is_always_cut(visits):
    assert visits[0][0]["hh"] == ("Anthropic/hh-rlhf: the Hub cannot be reached, or the connection was cut: try again, or load it once with a "
                                  "network (a set that is streamed is never kept), or give a local file as source")


def test_a_set_that_is_not_there(visits):
    assert visits[0][0]["self_instruct"].startswith("yizhongw/self_instruct: the Hub has nothing of this name, or it lacks a file")


def test_a_wrong_hash_is_refused_and_the_next_visit_loads_anew(visits):
    assert "bench-llm/or-bench: the file data/train.jsonl is not the one that the Hub announced" in visits[0][0]["or_bench"]
    answers, log = visits[1]
    assert answers["or_bench"] == KINDS["or_bench"][1] and asked(log, "or_bench") == 1


def test_a_wrong_size(visits):
    assert visits[0][0]["sharegpt"] == "Aeala/ShareGPT_Vicuna_unfiltered: a file arrived with the wrong size: load it again"


def test_another_licence_than_expected(visits):
    answers, log = visits[0]
    assert "Muennighoff/flan: the licence in its card is 'mit', not 'not stated' as expected" in answers["flan"] and asked(log, "flan") == 0


def test_the_second_visit_takes_the_file_from_the_cache(visits):
    answers, log = visits[1]
    assert answers["alpaca"] == KINDS["alpaca"][1][:1] and asked(log, "alpaca") == 0
    assert answers["oasst1"] == KINDS["oasst1"][1] and asked(log, "oasst1") == 0


def test_offline(visits):
    answers, log = visits[2]
    assert answers["alpaca"] == KINDS["alpaca"][1][:1] and answers["oasst1"] == KINDS["oasst1"][1] and not log
    for name in ("ultrafeedback", "nemotron"):  # one whose card is in the cache, and one that was never loaded
        assert f"{public.SETS[name].hub}: it is not in the cache, and offline mode is on: load it once with a network" in answers[name]
