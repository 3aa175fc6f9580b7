"""Public data sets by their name on the Hub: what each is expected to look like, and its rows as rows of this course.

SETS is the table. A set can change after this was written, so its licence, its columns, the names of the roles and each row
are checked on load, and an error says in one sentence what was expected and what was found.

    rows = load("alpaca", 500)                              # from the Hub, for SFT
    rows = load("alpaca", 500, source="alpaca.jsonl")       # from a local file with the same columns: no network
"""

from collections import defaultdict
from collections.abc import Callable
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from lab import data, hub
from lab.data import PAIRS, PROMPTS, SFT, DataError

SAME = {role: role for role in data.ROLES}
SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "system": "system"}
OASST = {"prompter": "user", "assistant": "assistant"}
TRANSCRIPT = {"Human": "user", "Assistant": "assistant"}


# One row of a set -> one row of the course


def flan(row, roles):
    return {"prompt": row["inputs"], "response": row["targets"]}


def self_instruct(row, roles):
    return {"prompt": row["prompt"].strip(), "response": row["completion"].replace("<|endoftext|>", "").strip()}


def alpaca(row, roles):
    """The input, where there is one, goes below the instruction.

    >>> alpaca({"instruction": "Name the colour.", "input": "ripe lemon", "output": "Yellow."}, {})
    {'prompt': 'Name the colour.\\n\\nripe lemon', 'response': 'Yellow.'}
    """
    return {"prompt": "\n\n".join(filter(None, [row["instruction"], row["input"]])), "response": row["output"]}


def sharegpt(row, roles):
    """Long conversations were cut into pieces, some of which begin with an answer: it has lost its question, and is left out."""
    turns = [{"role": role(turn["from"], roles), "content": turn["value"]} for turn in row["conversations"]]
    first = next((i for i, turn in enumerate(turns) if turn["role"] != "assistant"), len(turns))
    return {"messages": turns[first:]}


def oasst(row, roles):
    """A conversation that `threads` put together."""
    return {"messages": [{"role": role(turn["role"], roles), "content": turn["text"]} for turn in row["thread"]]}


def llama_nemotron(row, roles):
    system = [{"role": "system", "content": row["system_prompt"]}] if row["system_prompt"] else []
    said = [{"role": role(turn["role"], roles), "content": turn["content"]} for turn in row["input"]]
    return {"messages": [*system, *said, {"role": "assistant", "content": row["output"]}]}


def nemotron(row, roles):
    """Calls of tools become text in the assistant's turn, so that they are learned like any other text."""
    if any(turn["role"] == "user" and turn["content"].strip() == "-" for turn in row["messages"]):
        raise DataError("the question is left out: it belongs to another set")
    return {"messages": [{"role": role(turn["role"], roles), "content": spoken(turn)} for turn in row["messages"]]}


def spoken(turn):
    calls = [f'<tool_call>{{"name": "{call["function"]["name"]}", "arguments": {call["function"]["arguments"]}}}</tool_call>'
             for call in turn.get("tool_calls") or []]
    return "\n".join(filter(None, [turn["content"], *calls]))


def conversations(row, roles):
    """chosen and rejected are whole conversations that differ in the last turn."""
    sides = [[{"role": role(turn["role"], roles), "content": turn["content"]} for turn in row[side]] for side in ("chosen", "rejected")]
    return split_pair(*sides)


def hh(row, roles):
    """chosen and rejected are transcripts that differ in the last turn."""
    return split_pair(transcript(row["chosen"], roles), transcript(row["rejected"], roles))


def transcript(text, roles):
    """The turns of a transcript. A speaker is marked by an empty line, a name and a colon, and a text may have such lines too:
    only the names of the roles count.

    >>> transcript("\\n\\nHuman: Hi\\n\\nAssistant: Hello.\\n\\nNote: no.", TRANSCRIPT)
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello.\\n\\nNote: no.'}]
    """
    turns = []
    for part in text.split("\n\n"):
        name, colon, said = part.partition(":")
        if colon and name in roles:
            turns.append({"role": roles[name], "content": said})
        elif turns:
            turns[-1]["content"] += "\n\n" + part
        elif part.strip():
            raise DataError(f"the transcript begins with {part[:20]!r}, not with {' or '.join(roles)} and a colon")
    return [turn | {"content": turn["content"].strip()} for turn in turns]


def split_pair(chosen, rejected):
    """Two conversations -> {"prompt", "chosen", "rejected"}: the turns that both have, and the last one of each."""
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1]:
        raise DataError("the two sides are not one conversation that differs in its last turn")
    if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        raise DataError("the last turn, which is compared, is not the assistant's")
    return {"prompt": chosen[:-1], "chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]}


def safer(row, roles):
    """The answer that was labelled the safer one is chosen. The labels for the more helpful one are in `better_response_id`."""
    if row["safer_response_id"] not in (0, 1):
        raise DataError(f"'safer_response_id' is {row['safer_response_id']!r}, not 0 or 1")
    sides = row["response_0"], row["response_1"]
    return {"prompt": row["prompt"], "chosen": sides[row["safer_response_id"]], "rejected": sides[1 - row["safer_response_id"]]}


def ask(row, roles):
    return {"prompt": row["prompt"], "category": row["category"]}


def role(name, roles):
    """The course's name of a role."""
    if name not in roles:
        raise DataError(f"the role {name!r} is not one of {', '.join(roles)}")
    return roles[name]


def threads(messages, language="en"):
    """One conversation for each tree of messages: from the root, at each turn, the reply that people ranked best.

    A message names its parent. Siblings that were compared have a rank, and 0 is the best; those without one come last. A
    conversation ends with an answer, so a last question that nobody answered is left out.
    """
    roots, replies = [], defaultdict(list)
    for message in messages:
        if message["deleted"]:
            continue
        if message["parent_id"] is not None:
            replies[message["parent_id"]].append(message)
        elif message["lang"] == language:
            roots.append(message)
    for root in roots:
        thread = [root]
        while answers := replies[thread[-1]["message_id"]]:
            thread.append(min(answers, key=lambda reply: float("inf") if reply["rank"] is None else reply["rank"]))
        if thread[-1]["role"] == "prompter":
            thread.pop()
        if thread:
            yield {"thread": thread}


# The table


class PublicSet(NamedTuple):
    """What is known of one set.

    licence   in the Hub's spelling, as the card of the set named it; None: it named none
    columns   that must be there; a set may have more
    gives     SFT, PAIRS or PROMPTS: what kind of rows it becomes
    group     for a set whose rows are parts of conversations: all its rows -> the conversations
    stream    read row by row, because the whole set is large; nothing of it is kept in the Hub's cache
    where     what datasets.load_dataset takes besides: name (of a configuration), revision, data_dir
    note      what a user has to know, besides the licence
    """

    hub: str
    licence: str | None
    columns: tuple
    to_row: Callable
    gives: tuple = SFT
    roles: dict = SAME
    group: Callable | None = None
    split: str = "train"
    stream: bool = False
    where: dict = {}
    note: str = ""


TREE = ("message_id", "parent_id", "text", "role", "lang", "rank", "deleted")

# Read off copies of the sets' cards and of code that uses them. Not seen in a card, only in such code: the columns of flan,
# sharegpt, llama_nemotron and saferlhf, and the spelling of all roles but oasst's. Two versions of alpaca's card name two
# licences, the stricter one (not for commercial use) is here.
SETS = {
    "flan": PublicSet("Muennighoff/flan", None, ("inputs", "targets"), flan, stream=True,
                      note="It is made of some sixty older sets, each with a licence of its own."),
    # The main branch needs a script, which `datasets` no longer runs; the Hub keeps a Parquet copy in a branch of its own.
    "self_instruct": PublicSet("yizhongw/self_instruct", "apache-2.0", ("prompt", "completion"), self_instruct,
                               where={"revision": "refs/convert/parquet", "data_dir": "self_instruct"}),
    "alpaca": PublicSet("tatsu-lab/alpaca", "cc-by-nc-4.0", ("instruction", "input", "output"), alpaca,
                        note="Not for commercial use, and its maker's terms forbid training a competing model on its answers."),
    "sharegpt": PublicSet("Aeala/ShareGPT_Vicuna_unfiltered", "apache-2.0", ("conversations",), sharegpt, roles=SHAREGPT,
                          where={"data_files": "ShareGPT_V4.3_unfiltered_cleaned_split.json"},  # beside it lies another edition of the same
                          note="Vicuna's makers did not publish their data: this is a collection by others. The licence is the "
                               "uploader's word: the conversations are other people's, and were not given for this use."),
    "oasst1": PublicSet("OpenAssistant/oasst1", "apache-2.0", TREE, oasst, roles=OASST, group=threads),
    "oasst2": PublicSet("OpenAssistant/oasst2", "apache-2.0", TREE, oasst, roles=OASST, group=threads),
    "llama_nemotron": PublicSet("nvidia/Llama-Nemotron-Post-Training-Dataset", "cc-by-4.0", ("input", "output", "system_prompt"),
                                llama_nemotron, split="chat", stream=True, where={"name": "SFT"}),
    "nemotron": PublicSet("nvidia/Nemotron-Post-Training-Dataset-v1", "cc-by-4.0", ("messages",), nemotron, split="tool_calling",
                          stream=True, note="In the splits chat and code the questions are left out: they belong to other sets."),
    "ultrafeedback": PublicSet("HuggingFaceH4/ultrafeedback_binarized", "mit", ("chosen", "rejected"), conversations, PAIRS,
                               split="train_prefs", stream=True),
    "hh": PublicSet("Anthropic/hh-rlhf", "mit", ("chosen", "rejected"), hh, PAIRS, TRANSCRIPT,
                    note="For reward models: its makers ask not to train an assistant on it by SFT. It has offensive text."),
    "saferlhf": PublicSet("PKU-Alignment/PKU-SafeRLHF", "cc-by-nc-4.0", ("prompt", "response_0", "response_1", "safer_response_id"),
                          safer, PAIRS, note="Not for commercial use. It has harmful text: the safer of two answers may still be unsafe."),
    "or_bench": PublicSet("bench-llm/or-bench", "cc-by-4.0", ("prompt", "category"), ask, PROMPTS, where={"name": "or-bench-hard-1k"},
                          note="Harmless requests that sound harmful, as in lab's lookalikes: for measuring, not for training."),
}


# Loading


def load(name, n=None, *, split=None, licence=None, drop=False, source=None):
    """The first n rows of a public set (all, without n) as checked rows of the course.

    split     instead of the set's usual one.
    licence   what you have read in the set's card and accept, if it is not the one in SETS.
    drop      leave out rows that cannot be used, with a count, instead of stopping at the first.
    source    a local file with the set's columns, instead of the Hub.
    """
    public = known(name)
    if n is not None and n < 1:
        raise DataError(f"n must be at least 1, not {n}")
    if source is not None:
        if Path(source).suffix not in data.FORMATS:
            raise DataError(f"{source}: source is a local file, whose name ends in {', '.join(data.FORMATS)}")
        return convert(public, data.load(str(source)), n, drop, str(source))
    if public.stream and n is None:
        raise DataError(f"{public.hub} is too large to load as a whole: say how many rows, as in load({name!r}, 1000)")
    with hub.in_one_sentence(public.hub):
        print(f"{public.hub}: licence {check_licence(public, hub.card_licence(public.hub), licence)}. {public.note}".rstrip())
        return convert(public, fetch(public, split or public.split), n, drop, public.hub)


def known(name):
    if name not in SETS:
        near = get_close_matches(name, SETS, n=1)
        raise DataError(f"{name!r} is not in the table of public sets: " + (f"did you mean {near[0]!r}?" if near else f"it has {', '.join(SETS)}"))
    return SETS[name]


HOPELESS = 1000  # so many more bad rows than good ones, and the rest of a large set is not read


def convert(public, raw, n, drop, where):
    """At most n rows of the course from a set's own rows; an error names the row, counted from 1."""
    rows, bad, seen = [], [], 0
    raw = public.group(checked(public, raw, where)) if public.group else checked(public, raw, where)
    for seen, row in enumerate(raw, 1):
        place = f"{where}, {'conversation' if public.group else 'row'} {seen}"
        try:
            rows.append(data.check_row(named(place, public.to_row, row, public.roles), public.gives, place))
        except DataError as error:
            bad.append(error)
            if not drop:
                raise
            if len(bad) - len(rows) >= HOPELESS:
                raise DataError(f"{where}: {len(bad)} of the first {seen} rows cannot be used, so this is given up; the last reason: {error}") from error
        if n is not None and len(rows) >= n:
            break
    if not rows:
        raise DataError(f"{where}: there is no row to use" + (f"; the first reason: {bad[0]}" if bad else " in it"))
    if bad:
        print(f"{len(bad)} of {seen} rows dropped; the first: {bad[0]}")
    return rows


def checked(public, raw, where):
    """The rows, once the first of them has been seen to have all columns."""
    for i, row in enumerate(raw):
        if i == 0:
            check_columns(public, row, where)
        yield row


def check_columns(public, row, where):
    absent = [column for column in public.columns if column not in row]
    if absent:
        raise DataError(f"{where}: the column {absent[0]!r} of {public.hub} is missing; there is {', '.join(map(repr, row))}. "
                        "If the set has changed, its entry in lab.public.SETS must change too")


def named(place, function, *arguments):
    """function(*arguments), and an error of it with the place in front. A field of the wrong type is an error in the data too."""
    try:
        return function(*arguments)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{place}: a field is missing or of the wrong type ({type(error).__name__}: {error})") from error


def check_licence(public, found, accepted=None):
    """The licence of the card, if it is the accepted one; else an error that says what to do."""
    found = found or "not stated"
    if found != (accepted or public.licence or "not stated"):
        raise DataError(f"{public.hub}: the licence in its card is {found!r}, not {accepted or public.licence or 'not stated'!r} as expected: "
                        f"read the card, decide whether you may use the set, and if so pass licence={found!r}")
    return found


def fetch(public, split):
    """The rows of one split: streamed, or downloaded with every file's hash checked and kept in the cache."""
    import datasets

    datasets.disable_progress_bars()
    if public.stream:
        return datasets.load_dataset(public.hub, split=split, streaming=True, **public.where)
    builder = datasets.load_dataset_builder(public.hub, **public.where)
    for url in chain(*(builder.config.data_files or {}).values()):
        hub.check_hash(public.hub, url)
    builder.download_and_prepare()  # which finds the files in the cache
    rows = builder.as_dataset(split)
    return rows.select_columns(list(public.columns)) if set(public.columns) <= set(rows.column_names) else rows  # or the check will tell
