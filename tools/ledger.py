"""The claims ledger: an entry for each claim of the course, made from what the executed chapters recorded, from the record of the run on
a real model, and from the code. And the ways back to it, from a claim's box in a chapter and from a function's reference.
"""

import ast
import json
import re
from collections import defaultdict

from lab import report
from lab.report import CLAIM_MIME
from tools import api, chapters, colab, markdown, provenance
from tools.markdown import escape

# What of the record stands beside a claim: parts of the names of its measures, the one for the table first.
REAL = {
    "A1": ("held-out rows: all checks passed", "words of an answer"),
    "A2": ("held-out rows: all checks passed", "the right one more probable"),
    "A3": ("reward model",),
    "A4": ("KL of PPO",),
    "A5": ("seconds of training",),
    "A9": ("held-out rows: all checks passed", "what cannot be known", "harmful requests: refused", "look-alikes: refused", "ECE"),
    "A12": ("held-out rows: all checks passed",),
    "A13": ("passages: ",),
    "B7": ("harmful requests: refused", "look-alikes: refused"),
    "B11": ("seconds of training", "KL of PPO"),
    "B13": ("samples: different ones", "entropy of a response"),
    "B14": ("ECE", "Brier score"),
}


def measured(root):
    """[(chapter's path, label of the claim's box, row)] of all claims that the executed chapters recorded."""
    stored = {source: chapters.read_notebook(source.with_suffix(".ipynb")) for source in chapters.sources(root)}
    rows = {source: chapters.claims(notebook) for source, notebook in stored.items() if notebook}
    return [(source, label, row) for source, found in rows.items() for label, row in zip(labels(source.stem, found), found)]


def labels(stem, rows):
    """The label of each claim's box in a chapter.

    >>> labels("03-lora", [{"id": "A6"}, {"id": "A8"}, {"id": "A8"}])
    ['claim-03-lora-a6-1', 'claim-03-lora-a8-1', 'claim-03-lora-a8-2']
    """
    ids = [row["id"] for row in rows]
    return [f"claim-{stem}-{id.lower()}-{ids[: i + 1].count(id)}" for i, id in enumerate(ids)]


def box(bundle, label):
    """A claim's output as MyST: what the notebook shows, with a label to come to and a link to the claim's entry."""
    id = bundle[CLAIM_MIME]["id"]
    lines = [escape(line) for line in bundle["text/plain"].removeprefix(f"Claim {id}. ").split("\n")]
    return f"({label})=\n**{{ref}}`Claim {id}. <ledger-{id.lower()}>`** " + "\\\n".join(lines)


# --- the page --------------------------------------------------------------------------------------------------------


def page(root):
    """What the ledger page is filled with."""
    rows, record = measured(root), read_record(root)
    functions, shown, tested = measured_with(root), documented(root), tests(root)
    entries = [entry(id, rows, record, code_list(functions[id], shown, tested)) for id in report.CLAIMS]
    return {"ledger_summary": summary(rows), "ledger_real": real_note(record), "ledger_table": table(rows, record),
            "ledger_entries": "\n\n".join(entries)}


def summary(rows):
    ids, failed = {row["id"] for *_, row in rows}, {row["id"] for *_, row in rows if not row["held"]}
    return (f"{len(ids)} of {len(report.CLAIMS)} claims have been measured so far: {len(ids - failed)} held, "
            f"{len(failed)} did not hold in at least one experiment.")


def table(rows, record):
    """The overview: a row for each claim."""
    lines = [(f"{{ref}}`{id} <ledger-{id.lower()}>`", escape(claim.sentence), _verdict(id, rows), _real_cell(id, rows, record))
             for id, claim in report.CLAIMS.items()]
    return markdown.table(("id", "claim", "did it hold?", "on a real model"), lines)


def _verdict(id, rows):
    held = [row["held"] for *_, row in rows if row["id"] == id]
    if len(set(held)) == 2:
        return f"in {sum(held)} of {len(held)}"
    return ("yes" if held[0] else "**no**") if held else "not yet measured"


def entry(id, rows, record, code):
    """All about one claim: its experiments, the real model, the code and its tests."""
    mine = [(source, label, row) for source, label, row in rows if row["id"] == id]
    planned = f"Not yet measured; planned for chapter {int(report.CLAIMS[id].chapter[:2])}."
    parts = [f"(ledger-{id.lower()})=\n### {id}. {escape(report.CLAIMS[id].sentence)}", *(_experiment(*one) for one in mine)]
    return "\n\n".join(filter(None, [*parts, "" if mine else planned, _real_list(id, record), code]))


def _experiment(source, label, row):
    verdict = "It held" if row["held"] else "It did not hold"
    note = f" {escape(row['note'])}" if row["note"] else ""
    return f"**{verdict}:** {escape(row['measured'])}.\n\n*Experiment:* {escape(row['experiment'])}; in {{ref}}`{_title(source)} <{label}>`.{note}"


def _title(source):
    return next(line[2:] for line in source.read_text("utf8").splitlines() if line.startswith("# "))


# --- the real model --------------------------------------------------------------------------------------------------


def read_record(root):
    """The record of `make real-model`, or None."""
    path = root / "src" / "lab" / "records" / "real-model.json"
    return json.loads(path.read_text("utf8")) if path.is_file() else None


def real_note(record):
    """What the column comes from."""
    if not record:
        return "`make real-model`, which would fill most of the column on a real model, has not been run yet: there is no record of it."
    return f"{escape(record['started from'])} The record is of {record['date']}: one seed, {escape(record['machine']['device'])}."


def measures(record):
    """{measure: {model, comparison or stage: text}} of the record."""
    found = defaultdict(dict)
    for part, sign in (("results", ""), ("differences", "+")):
        for column, values in record[part].items():
            for measure, value in values.items():
                found[measure] |= {column: _interval(value, sign)} if value else {}
    found["ECE of a choice between two answers (what luck alone gives)"] = {
        name: f"{one['ECE']:.2f} ({one['ECE by luck']:.2f})" for name, one in record["calibration"].items()}
    found["reward model: the better of two responses has the higher reward"] = {
        {"pairs": "unseen pairs", "held_out": "held-out rows"}.get(name, name): _interval(one) for name, one in record["reward model"].items()}
    found["seconds of training"] = {name: f"{record['stages'][name]['seconds']:.0f}" for name in record["training"]}
    if updates := record["training"].get("ppo"):
        found["KL of PPO from the SFT model, nats a response"] = {f"update {one['update']}": f"{one['kl']:.2f}" for one in (updates[0], updates[-1])}
    return {measure: columns for measure, columns in found.items() if columns}


def _interval(one, sign=""):
    return f"{one['mean']:{sign}.2f} [{one['low']:{sign}.2f}, {one['high']:{sign}.2f}]".replace(" ", "\N{NO-BREAK SPACE}")


def _beside(id, record):
    """[(measure, {column: text})] of the record that stand beside a claim."""
    known = measures(record) if record else {}
    return [(measure, columns) for part in REAL.get(id, ()) for measure, columns in known.items() if part in measure]


def _real_cell(id, rows, record):
    """The first measure for each model; or where else a real model was measured."""
    if found := _beside(id, record):
        measure, columns = found[0]
        return "<br>".join([f"{escape(measure)}:", *(f"{column} {escape(text)}" for column, text in columns.items() if " against " not in column)])
    if any("SmolLM2" in row["experiment"] + row["measured"] for *_, row in rows if row["id"] == id):
        return f"{{ref}}`SmolLM2-135M, in the chapter <ledger-{id.lower()}>`"
    return "not run yet" if id in REAL and not record else "–"


def _real_list(id, record):
    lines = [f"- {escape(measure)}: " + "; ".join(f"{name} {escape(text)}" for name, text in columns.items()) for measure, columns in _beside(id, record)]
    return "\n".join(["**On a real model:**\n", *lines]) if lines else ""


# --- code and tests --------------------------------------------------------------------------------------------------


def measured_with(root):
    """{claim: functions of the package} over all chapters, from the code that the stored notebooks ran."""
    found = defaultdict(set)
    for source in {source for source, *_ in measured(root)}:
        cells = chapters.code_cells(chapters.read_notebook(source.with_suffix(".ipynb")))
        for id, functions in provenance.claims("\n".join(cell.source for cell in cells)).items():
            found[id] |= functions
    return found


def used_for(root):
    """{function: [claims]}: those that were measured with it, directly or through a function that calls it."""
    calls, found = provenance.calls(root / "src" / "lab"), defaultdict(list)
    with_what = measured_with(root)
    for id in filter(with_what.get, report.CLAIMS):
        for name in provenance.reached(with_what[id], calls):
            found[name].append(id)
    return found


def documented(root):
    """{module: [functions and classes]} that the pages of the package show."""
    pages = "".join(path.read_text("utf8") for path in (root / "book" / "api").glob("*.md"))
    return {name: [node.name for node in api.members(ast.parse(module_file(name, root).read_text("utf8")))] for name in re.findall(r"\{\{ api\.(\w+) \}\}", pages)}


def module_file(name, root):
    """The file of lab.name."""
    path = root / "src" / "lab" / name
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def code_list(functions, shown, tested):
    """The functions that a claim was measured with, by module, and the tests of these modules. shown, tested: of `documented` and `tests`."""
    lines = []
    for module in sorted({name.split(".")[0] for name in functions} & shown.keys()):
        links = [f"{{ref}}`{name} <{api.label(module, name)}>`" for name in shown[module] if f"{module}.{name}" in functions]
        lines.append(f"- {{ref}}`lab.{module} <{api.label(module)}>`{': ' * bool(links)}{', '.join(links)}. Tests: {tested[module]}.")
    return "\n".join([":::{dropdown} Code and tests", *lines, ":::"]) if lines else ""


def tests(root):
    """{module: its own test file, or where it has none all that import it}, as links into the repository if that is on GitHub."""
    importing = {path.name: provenance.modules(path.read_text("utf8")) for path in sorted((root / "tests").glob("test_*.py"))}
    files = {name: [f"test_{name}.py"] if f"test_{name}.py" in importing else [file for file, modules in importing.items() if name in modules]
             for name in documented(root)}
    return {name: ", ".join(f"[{file}]({link})" if (link := _on_github(f"tests/{file}", root)) else file for file in found) or "none of its own"
            for name, found in files.items()}


def _on_github(path, root):
    plain, branch = colab.split(colab.repository(root))
    return f"{plain}/blob/{branch or colab.BRANCH}/{path}" if colab.GITHUB.fullmatch(plain) else ""


def reference(name, root, equations, claims, shown, tested):
    """The reference of lab.name, with labels to come to, its tests, and what each function is used for. claims, shown, tested: what `used_for`,
    `documented` and `tests` give."""
    notes = {node: "Used for the claims " + ", ".join(f"{{ref}}`{id} <ledger-{id.lower()}>`" for id in claims[f"{name}.{node}"]) + "."
             for node in shown[name] if claims.get(f"{name}.{node}")}
    return f"({api.label(name)})=\nTests: {tested[name]}.\n\n{api.reference(module_file(name, root), equations, name, notes)}"
