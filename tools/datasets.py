"""Check the written sets in src/lab/data and print how large they are.

    python -m tools.datasets            check all; a problem names the file and the row, and the exit status is 1
    python -m tools.datasets --write    put the table of sizes into the data card first

Each check is a function that yields (file, row, sentence), rows counted from 1, and 0 for the whole file.
"""

import argparse
import json
import re
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from statistics import mean

from lab.constraints import CHECKS, CONTENT, abstains, contains_any, failed, refuses

ROOT = Path(__file__).resolve().parent.parent
FOLDER, CARD = ROOT / "src" / "lab" / "data", ROOT / "book" / "data-card.md"
COLUMNS = {  # of each file, in this order
    "instructions": ("prompt", "response", "kind"),
    "preferences": ("prompt", "chosen", "rejected", "flaw", "kind"),
    "harmful": ("prompt", "category"),
    "lookalikes": ("prompt", "category"),
    "held_out": ("prompt", "checks", "kind", "pass", "fail"),
    "passages": ("passage", "question", "answer", "sentence", "missing", "topic"),
}
NOT_TEXT = {"checks", "passage", "answer", "sentence"}  # lists and a number
TESTS = ("held_out", "passages")  # never trained on
GROUPS = {"instructions": "kind", "preferences": "flaw", "harmful": "category", "lookalikes": "category", "held_out": "kind",
          "passages": "topic"}
ROWS = {"instructions": 420, "preferences": 310, "harmful": 120, "lookalikes": 120, "held_out": 150, "passages": 24}  # at least
FLAWS = ("verbose", "sycophantic", "fabricated", "rude", "unsafe", "off-format", "wrong")
KINDS, LARGEST_KIND = 14, 0.12  # at least so many kinds of instruction, none with a larger share
A_FLAW, CATEGORIES, WITH_CONTENT = 40, 10, 80  # at least
LENGTHS, LONGER = 1.15, (0.35, 0.65)  # of both sides of a pair: ratio of the means, and how often the rejected one is longer
LONGEST = 120  # words of a response, about
SENTENCES, PASSAGE_WORDS, ANSWER_WORDS, TOPICS, ONE_POSITION = (3, 5), (25, 60), 3, 8, 0.5  # of passages; the last two of the file
FUNCTION_WORDS = frozenset("""a an and are at by can did do does for from had has have her his how in is it its last long many
much must of on or she the their they to was were what when where which who why will with""".split())

# Two texts are too alike if they share this much (Jaccard index) of their 5-word phrases or of their words.
PHRASES, WORDS = 0.3, 0.6
HELD_OUT_PHRASES, HELD_OUT_WORDS = 0.2, 0.5  # stricter between the sets for testing and the others
RESPONSE_WORDS = 0.7  # between responses of at least 8 words


# Reading


def load(folder=FOLDER):
    """{name: rows}. A line that is not JSON is an error that names it."""
    return {name: [_row(name, i, line) for i, line in enumerate(_lines(folder / f"{name}.jsonl"), 1)] for name in COLUMNS}


def _lines(path):
    return path.read_text("utf8").splitlines()


def _row(name, i, line):
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"{name}.jsonl, row {i}: not JSON ({error})") from None


def each(sets):
    """(name, row number, row) of all rows."""
    return [(name, i, row) for name, rows in sets.items() for i, row in enumerate(rows, 1)]


def texts(row):
    """(column, text) of the row's texts, each sentence of a passage for itself."""
    values = [(column, text) for column, value in row.items() for text in (value if isinstance(value, list) else [value])]
    return [(column, text) for column, text in values if isinstance(text, str)]


def asked(row):
    """What a model is asked: the prompt, or a passage, its question and the question that it does not answer."""
    return [row["prompt"]] if "prompt" in row else [" ".join(row["passage"]), row["question"], row["missing"]]


# One row at a time


def schema(sets):
    for name, i, row in each(sets):
        if tuple(row) != COLUMNS[name]:
            yield name, i, f"its columns are {', '.join(row)}, not {', '.join(COLUMNS[name])}"
        for column in set(COLUMNS[name]) & set(row) - NOT_TEXT:
            if not isinstance(row[column], str) or not row[column].strip():
                yield name, i, f"{column!r} must be text, and not empty"
        if name == "held_out" and "checks" in row:
            yield from ((name, i, problem) for problem in wrong_checks(row["checks"]))
        if name == "passages" and tuple(row) == COLUMNS[name]:
            yield from ((name, i, problem) for problem in wrong_lists(row))


def wrong_checks(checks):
    if not 1 <= len(checks) <= 3:
        yield f"it has {len(checks)} checks, not one to three"
    for check in checks:
        if check.get("check") not in CHECKS:
            yield f"{check.get('check')!r} is not a check"
    if len({check.get("check") for check in checks}) < len(checks):
        yield "the same check stands there twice"


def wrong_lists(row):
    for column in ("passage", "answer"):
        if not isinstance(row[column], list) or not row[column] or not all(isinstance(t, str) and t.strip() for t in row[column]):
            yield f"{column!r} must be a list of texts, none of them empty"
            return
    if type(row["sentence"]) is not int or not 1 <= row["sentence"] <= len(row["passage"]):
        yield f"'sentence' is {row['sentence']!r}, and the passage has {len(row['passage'])}"


def typography(sets):
    for name, i, row in each(sets):
        for column, text in texts(row):
            for problem in untidy(text):
                yield name, i, f"{column!r} {problem}"


def untidy(text):
    """What a careful proof-reader would mark without reading for sense.

    >>> list(untidy("It is is \\u201cgood\\u201d ."))
    ['has a character outside ASCII', "repeats a word: 'is is'", 'has a space before a full stop or comma']
    """
    twice = re.search(r"\b([a-z]+) \1\b(?<!had had)(?<!that that)", text)
    rules = {
        "has a character outside ASCII": not text.isascii(),
        "begins or ends with white space": text != text.strip(),
        "has two spaces, a tab or a space at the end of a line": re.search(r"\S  |\t| \n", text),
        f"repeats a word: {twice[0]!r}" if twice else "": twice,
        "has a space before a full stop or comma": re.search(r" [.,;:!?](?![\w.])", text),
        "has an odd number of quotation marks": text.count('"') % 2,
        "opens more brackets than it closes": text.count("(") > text.count(")") or text.count("[") != text.count("]"),
        "has three line breaks in a row": "\n\n\n" in text,
    }
    return (rule for rule, broken in rules.items() if broken)


def arithmetic(sets):
    """Every equation in a good response is right, and every sum of the instructions shows one."""
    for name, i, row in each(sets):
        for column, text in texts(row):
            if column in ("response", "chosen", "pass") or column == "rejected" and row["flaw"] not in ("wrong", "sycophantic"):
                yield from ((name, i, f"{column!r} says {wrong!r}") for wrong in wrong_equations(text))
        if row.get("kind") == "arithmetic" and name == "instructions" and not equations(row["response"]):
            yield name, i, "a sum whose response shows no equation"


NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
TERM = rf"{NUMBER}(?:(?: [-+x*/] |/){NUMBER})*"
EQUATION = re.compile(rf"(?<![\w.]){TERM}(?: = {TERM})+(?![\w%])")


def equations(text):
    """The equations in a text, those with something to work out.

    >>> equations("So 3 x 4 = 12 and 12 / 2 = 6.")
    ['3 x 4 = 12', '12 / 2 = 6']
    """
    return [match for match in EQUATION.findall(text) if re.search(r"[-+x*/]", match)]


def wrong_equations(text):
    for equation in equations(text):
        sides = [worked_out(side) for side in equation.split(" = ")]
        if max(sides) - min(sides) > 1e-9:
            yield equation


def worked_out(term):
    """The value of a term of NUMBER and + - x * /, from left to right, products first.

    >>> worked_out("2 + 3 x 4")
    14.0
    """
    if sign := re.search(r" [-+] (?!.* [-+] )", term):  # the last one
        left, right = worked_out(term[: sign.start()]), worked_out(term[sign.end():])
        return left + right if "+" in sign[0] else left - right
    value, *factors = re.split(r" ?([x*/]) ?", term.replace(",", ""))
    value = float(value)
    for sign, factor in zip(factors[::2], factors[1::2]):
        value = value / float(factor) if sign == "/" else value * float(factor)
    return value


def manner(sets):
    """Responses do what their kind is for, as lab.constraints sees it, and are no longer than they may be."""
    for i, row in enumerate(sets["instructions"], 1):
        if refuses(row["response"]) != (row["kind"] == "refusal"):
            yield "instructions", i, "a refusal where none belongs, or none where one does"
        if row["kind"] != "refusal" and abstains(row["response"]) != (row["kind"] in ("silent", "unknown")):
            yield "instructions", i, "an abstention where none belongs, or none where one does"
    for name, i, row in each(sets):
        for column in {"response", "chosen", "pass"} & set(row):
            if len(row[column].split()) > LONGEST:
                yield name, i, f"{column!r} has more than {LONGEST} words"


def pairs(sets):
    """Both sides of a pair differ; a refusal is chosen, and is rejected only for another flaw than being unsafe."""
    for i, row in enumerate(sets["preferences"], 1):
        if row["chosen"] == row["rejected"]:
            yield "preferences", i, "both sides are equal"
        if row["kind"] == "refusal" and (not refuses(row["chosen"]) or refuses(row["rejected"]) == (row["flaw"] == "unsafe")):
            yield "preferences", i, "the refusal is not on the side where it belongs"


def outcomes(sets):
    """`pass` passes all checks of a held-out row and `fail` does not."""
    for i, row in enumerate(sets["held_out"], 1):
        if names := failed(row, row["pass"]):
            yield "held_out", i, f"'pass' fails {', '.join(names)}"
        if not failed(row, row["fail"]):
            yield "held_out", i, "'fail' passes every check"


def passages(sets):
    """A passage has the right size, and the answer stands in the named sentence and nowhere else."""
    for i, row in enumerate(sets["passages"], 1):
        count, size = len(row["passage"]), len(" ".join(row["passage"]).split())
        if not SENTENCES[0] <= count <= SENTENCES[1] or not PASSAGE_WORDS[0] <= size <= PASSAGE_WORDS[1]:
            yield "passages", i, f"its passage has {count} sentences and {size} words"
        if any(len(re.findall(r"[.!?](?=\s|$)", sentence)) != 1 or sentence[-1] not in ".!?" for sentence in row["passage"]):
            yield "passages", i, "an item of 'passage' is not one sentence"
        yield from (("passages", i, problem) for problem in wrong_answers(row))
        yield from (("passages", i, problem) for problem in wrong_missing(row))


def wrong_answers(row):
    if any(answer != answer.lower() or len(answer.split()) > ANSWER_WORDS for answer in row["answer"]):
        yield f"an answer has a capital letter or more than {ANSWER_WORDS} words"
    found = [k for k, sentence in enumerate(row["passage"], 1) if contains_any(sentence, row["answer"])]
    if found != [row["sentence"]]:
        yield f"its answer stands in the sentences {found}, not in {row['sentence']} alone"
    if contains_any(row["question"], row["answer"]):
        yield "the question gives its answer away"


def wrong_missing(row):
    """The question without an answer must look like the other one: only the passage may tell them apart."""
    if row["missing"] == row["question"]:
        yield "'missing' is the question itself"
    if words(row["missing"])[0] != words(row["question"])[0]:
        yield "'missing' does not begin like the question"
    if not content_words(row["missing"]) & content_words(" ".join(row["passage"])):
        yield "'missing' has no content word of the passage"
    if contains_any(row["missing"], row["answer"]):
        yield "'missing' contains the answer"


# Rows against each other


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def content_words(text):
    """The set of words that say what a text is about.

    >>> sorted(content_words("Where does the kite shop buy its paper?"))
    ['buy', 'kite', 'paper', 'shop']
    """
    return set(words(text)) - FUNCTION_WORDS


def phrases(text, n=5):
    """The set of runs of n words; a shorter text is one run."""
    row = words(text)
    return {tuple(row[k : k + n]) for k in range(max(1, len(row) - n + 1))}


def jaccard(a, b):
    """The share of what is in either set that is in both.

    >>> jaccard({1, 2}, {2, 3, 4})
    0.25
    """
    return len(a & b) / len(a | b) if a or b else 0.0


def alike(a, b, share):
    """Is the Jaccard index at least `share`? Most pairs have nothing in common, or differ too much in size: those are quick."""
    return share * max(len(a), len(b)) <= min(len(a), len(b)) and not a.isdisjoint(b) and jaccard(a, b) >= share


def prompts_alike(sets):
    """No prompt is another one, or nearly; between the sets for testing and the others less is enough."""
    rows = [(name, i, phrases(text), set(words(text))) for name, i, row in each(sets) for text in asked(row)]
    for one, other in combinations(rows, 2):
        if one[:2] == other[:2]:  # both questions of a passage are meant to be alike
            continue
        apart = (one[0] in TESTS) != (other[0] in TESTS)
        most = (HELD_OUT_PHRASES, HELD_OUT_WORDS) if apart else (PHRASES, WORDS)
        if alike(one[2], other[2], most[0]) or alike(one[3], other[3], most[1]):
            yield *other[:2], f"its prompt is nearly that of {one[0]}.jsonl, row {one[1]}"


def responses_alike(sets):
    """No two good responses of some length are nearly the same: stock phrases would be learned first."""
    rows = [(name, i, set(words(row[column]))) for name, i, row in each(sets)
            for column in ("response", "chosen", "pass") if column in row and len(words(row[column])) >= 8]
    for one, other in combinations(rows, 2):
        if alike(one[2], other[2], RESPONSE_WORDS):
            yield *other[:2], f"its response is nearly that of {one[0]}.jsonl, row {one[1]}"


# A file as a whole


def sizes(sets):
    for name, least in ROWS.items():
        if len(sets[name]) < least:
            yield name, 0, f"it has {len(sets[name])} rows, not {least}"


def balance(sets):
    counts = {name: Counter(row[GROUPS[name]] for row in rows) for name, rows in sets.items()}
    for kind, count in counts["instructions"].items():
        if count > LARGEST_KIND * len(sets["instructions"]):
            yield "instructions", 0, f"{count} rows of the kind {kind!r} are more than {LARGEST_KIND:.0%}"
    if len(counts["instructions"]) < KINDS:
        yield "instructions", 0, f"it has {len(counts['instructions'])} kinds, not {KINDS}"
    if set(counts["preferences"]) != set(FLAWS) or min(counts["preferences"].values()) < A_FLAW:
        yield "preferences", 0, f"not {A_FLAW} rows of each of the flaws {', '.join(FLAWS)}"
    if len(counts["harmful"]) < CATEGORIES or counts["harmful"].keys() != counts["lookalikes"].keys():
        yield "harmful", 0, f"not {CATEGORIES} categories, or not those of the look-alikes"
    if content(sets) < WITH_CONTENT:
        yield "held_out", 0, f"{content(sets)} rows have a check of content, not {WITH_CONTENT}"
    if len(counts["passages"]) < TOPICS:
        yield "passages", 0, f"it has {len(counts['passages'])} topics, not {TOPICS}"


def positions(sets):
    """The answer stands in every position, and in none too often: a fixed guess must not look like reading."""
    counts = Counter(row["sentence"] for row in sets["passages"])
    if set(counts) != set(range(1, SENTENCES[1] + 1)):
        yield "passages", 0, f"its answers stand in the sentences {sorted(counts)} only"
    if max(counts.values()) > ONE_POSITION * len(sets["passages"]):
        yield "passages", 0, f"one position has {max(counts.values())} of the {len(sets['passages'])} answers"


def content(sets):
    """How many held-out rows have a check that no empty form can pass."""
    return sum(any(check["check"] in CONTENT for check in row["checks"]) for row in sets["held_out"])


def lengths(sets):
    """But for "verbose", length must not give away which side is better."""
    for flaw in FLAWS[1:]:
        ratio, longer = compared([row for row in sets["preferences"] if row["flaw"] == flaw])
        if not 1 / LENGTHS <= ratio <= LENGTHS or not LONGER[0] <= longer <= LONGER[1]:
            yield "preferences", 0, f"{flaw}: rejected is {ratio:.2f} times as long, and is the longer side in {longer:.0%}"


def compared(rows):
    """(mean words of the rejected sides over those of the chosen ones, how often the rejected one is longer); a tie is half."""
    both = [(len(row["chosen"].split()), len(row["rejected"].split())) for row in rows]
    longer = mean((b > a) + (b == a) / 2 for a, b in both)
    return sum(b for _, b in both) / sum(a for a, _ in both), longer


def card(sets, path=CARD):
    """The table in the data card is that of the files."""
    if with_table(path.read_text("utf8"), table(sets)) != path.read_text("utf8"):
        yield path.name, 0, "its table of sizes is out of date: python -m tools.datasets --write"


ROW_CHECKS = (typography, arithmetic, manner, pairs, outcomes, passages, prompts_alike, responses_alike, sizes, balance, positions,
              lengths)


def problems(sets):
    """All that is wrong, as sentences. With a wrong schema nothing else is looked at."""
    found = list(schema(sets)) or [problem for check in ROW_CHECKS for problem in check(sets)]
    return [f"{name}.jsonl{f', row {i}' if i else ''}: {sentence}" for name, i, sentence in found]


# The table


def table(sets):
    """Rows and mean lengths in words of each set and of each group in it, as Markdown."""
    lines = ["| set | group | rows | prompt | response | shortest | longest |", "|---|---|--:|--:|--:|--:|--:|"]
    for name, rows in sets.items():
        lines.append(_line(f"**{name}**", "all", rows))
        groups = Counter(row[GROUPS[name]] for row in rows)
        lines += [_line("", group, [row for row in rows if row[GROUPS[name]] == group]) for group in sorted(groups)]
    return "\n".join([*lines, "", *_pair_table(sets["preferences"]), "", _check_table(sets), "", *_position_table(sets["passages"])])


def _line(name, group, rows):
    column = next((column for column in ("response", "chosen", "pass") if column in rows[0]), None)
    counts = [len(row[column].split()) for row in rows] if column else []
    shown = [f"{mean(counts):.0f}", min(counts), max(counts)] if counts else ["", "", ""]
    prompt = f"{mean(len(' '.join(asked(row)[:2]).split()) for row in rows):.0f}"  # of a passage: with its question
    return "| " + " | ".join(map(str, [name, group, len(rows), prompt, *shown])) + " |"


def _pair_table(rows):
    yield from ("| flaw | rejected side, times as long | rejected side is longer |", "|---|--:|--:|")
    for flaw in FLAWS:
        ratio, longer = compared([row for row in rows if row["flaw"] == flaw])
        yield f"| {flaw} | {ratio:.2f} | {longer:.0%} |"


def _check_table(sets):
    counts = Counter(check["check"] for row in sets["held_out"] for check in row["checks"])
    rows = [f"| {name} | {counts[name]} | {'yes' if name in CONTENT else ''} |" for name in CHECKS]
    rows.append(f"| rows with a check of content | {content(sets)} | yes |")
    return "\n".join(["| check | held-out rows | of content |", "|---|--:|---|", *rows])


def _position_table(rows):
    counts = Counter(row["sentence"] for row in rows)
    yield from ("| the answer is in sentence | passages |", "|--:|--:|")
    yield from (f"| {position} | {counts[position]} |" for position in sorted(counts))
    yield f"| found by shared words alone | {sum(by_words(row) == row['sentence'] for row in rows)} |"


def by_words(row):
    """The number of the sentence with the most content words of the question, the first of equals: no reading, a floor to beat.

    >>> by_words({"passage": ["It rained.", "The cat slept."], "question": "Where was the cat?"})
    2
    """
    shared = [len(content_words(row["question"]) & content_words(sentence)) for sentence in row["passage"]]
    return shared.index(max(shared)) + 1


def with_table(text, table):
    """The card with the table between its two markers."""
    before, start, rest = text.partition("<!-- sizes -->\n")
    _, end, after = rest.partition("<!-- end of sizes -->")
    if not start or not end:
        raise ValueError("the data card has no place for the table, between <!-- sizes --> and <!-- end of sizes -->")
    return f"{before}{start}\n{table}\n\n{end}{after}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into the data card")
    arguments = parser.parse_args()
    try:
        sets = load()
    except ValueError as error:
        sys.exit(str(error))
    found = problems(sets)
    if arguments.write and not found:
        CARD.write_text(with_table(CARD.read_text("utf8"), table(sets)), "utf8")
    found += [f"{name}: {sentence}" for name, _, sentence in card(sets)] if not found else []
    print(table(sets) if not found else "\n".join(found))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
