"""MyST to plain Markdown, so that a chapter's notebook reads well in Jupyter and on Colab.

The book understands directives and roles; a plain notebook does not. Each has one small function here that gives it a
plain form; one without a plain form is an error, so nothing raw can slip through. Equations keep the numbers they have
in the book (counted on each page); everything else is referred to by its title.
"""

import ast
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pybtex.database import parse_file
from pybtex.richtext import Text

FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,}|:{3,})(?P<info>.*)$")
INFO = re.compile(r"\s*\{(?P<name>[\w:.-]+)\}\s*(?P<argument>.*)$")
MATH = re.compile(r"(?ms)^(?P<indent>[ \t]*)\$\$(?P<body>.+?)\$\$[ \t]*(?:\((?P<label>[\w:.-]+)\))?[ \t]*$")
LABEL = re.compile(r"(?m)^\((?P<label>[\w:.-]+)\)=[ \t]*\n+(?:#+ (?P<title>.+))?")
ROLE = re.compile(r"(?s)\{(?P<role>[\w:+.-]+)\}(?P<tick>`+)(?P<text>.+?)(?P=tick)|(?P<code>`+).+?(?P=code)")
LINK = re.compile(r"\]\((?P<path>\d\d-[\w-]+)\.md(?=[)#])")
LEFTOVER = re.compile(r"(?m)(?<!`)\{[\w:+.-]+\}`|\{\{ |^\([\w:.-]+\)=\s*$")

ADMONITIONS = {"note", "tip", "hint", "important", "warning", "caution", "attention", "danger", "error", "seealso"}
ASIDES = {"admonition", "margin", "sidebar", "topic"}


@dataclass
class Directive:
    """One fenced directive: ```{name} argument, its options and its body."""
    name: str
    argument: str
    body: str
    indent: str = ""
    options: dict = field(default_factory=dict)

    @property
    def label(self):
        return self.options.get("label") or self.options.get("name")


@dataclass
class Page:
    """The page being converted, and what it may refer to."""
    path: Path
    index: dict  # label -> (path of the page that defines it, its text)
    titles: dict  # path of a page -> its title
    bibliography: dict  # key -> (authors, year, address)


def convert(text, page):
    """One Markdown cell of a chapter as plain Markdown."""
    parts = [part if is_code(part) else _text(part, page) if isinstance(part, str) else _indent(_directive(part, page), part.indent)
             for part in split(text)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).strip("\n")


def leftovers(text):
    """Raw directives, roles, labels and unfilled values that a plain reader would see. Code is not looked at."""
    found = []
    for part in split(text):
        if isinstance(part, Directive):
            found.append(f"{{{part.name}}}")
        elif not is_code(part):
            found += [match.group().strip() for match in LEFTOVER.finditer(part)]
    return found


# --- reading ---------------------------------------------------------------------------------------------------------


def split(text):
    """The text as runs of ordinary lines (str), fenced code (str that starts with a fence) and `Directive`s.

    >>> [type(part).__name__ for part in split("a\\n```{note}\\nb\\n```\\nc")]
    ['str', 'Directive', 'str']
    """
    parts, lines = [[]], iter(text.split("\n"))
    for line in lines:
        opened = FENCE.match(line)
        if not opened:
            parts[-1].append(line)
            continue
        body = list(_until_closed(lines, opened["fence"]))
        parts += [_fenced(line, opened, body), []]
    return ["\n".join(part) if isinstance(part, list) else part for part in parts if part]


def is_code(part):
    return isinstance(part, str) and bool(FENCE.match(part.split("\n", 1)[0]))


def _until_closed(lines, fence):
    for line in lines:
        if re.fullmatch(rf"\s*{re.escape(fence[0])}{{{len(fence)},}}\s*", line):
            return
        yield line


def _fenced(line, opened, body):
    directive = INFO.match(opened["info"])
    if not directive:
        return "\n".join([line, *body, opened["indent"] + opened["fence"]])
    indent = opened["indent"]
    options, body = _options([text.removeprefix(indent) for text in body])
    return Directive(directive["name"], directive["argument"].strip(), "\n".join(body).strip("\n"), indent, options)


def _options(body):
    """A directive's options, written as `:key: value` lines or between `---` lines, and the body that is left."""
    if body and body[0].strip() == "---":
        end = next(i for i, line in enumerate(body[1:], 1) if line.strip() == "---")
        return yaml.safe_load("\n".join(body[1:end])) or {}, body[end + 1 :]
    options = {}
    while body and (match := re.match(r":([\w-]+):\s*(.*)$", body[0])):
        options[match[1]], body = match[2].strip(), body[1:]
    return options, body


def walk(text):
    """Every labelled thing of a page, in order: ("text", match) for labels and math in prose, ("directive", d)."""
    for part in split(text):
        if isinstance(part, Directive):
            yield part
            if part.name not in {"code-cell", "math", "code-block", "literalinclude"}:
                yield from walk(part.body)
        elif not is_code(part):
            yield from sorted([*MATH.finditer(part), *LABEL.finditer(part)], key=lambda match: match.start())


def index(paths):
    """({label: (page, text)}, {page: title}) of all pages, for references between them."""
    labels, titles = {}, {}
    for path in paths:
        text = path.read_text("utf8")
        titles[path] = next(iter(re.findall(r"(?m)^# (.+)$", text)), path.stem)
        labels |= {label: (path, name) for label, name in _labels(text, titles[path])}
    return labels, titles


def _labels(text, title):
    equations, exercises = 0, {}
    for item in walk(text):
        is_directive = isinstance(item, Directive)
        label = item.label if is_directive else item["label"]
        if not label:
            continue
        if is_directive and item.name != "math":
            exercises[label] = _name(item)
            yield label, exercises[label]
        elif is_directive or "body" in item.groupdict():
            equations += 1
            yield label, f"({equations})"
        else:
            yield label, item["title"] or title


def _name(directive):
    """What a reference to this directive says: its kind and its title."""
    kind = directive.name.split(":")[-1].removesuffix("-start").capitalize()
    if directive.name in {"figure", "image"}:
        return f"the figure “{directive.body.split('.')[0]}”" if directive.body else "the figure"
    return f"{kind} ({directive.argument})" if directive.argument else kind


def bibliography(path):
    """{key: (authors, year, address)} of a BibTeX file."""
    entries = parse_file(str(path)).entries if path.is_file() else {}
    return {key: (_authors(entry.persons.get("author", [])), entry.fields.get("year", ""), _address(entry.fields))
            for key, entry in entries.items()}


def _authors(people):
    names = [str(Text.from_latex(" ".join(person.prelast_names + person.last_names))) for person in people]
    return names[0] + " et al." if len(names) > 2 else " and ".join(names)


def _address(fields):
    return f"https://doi.org/{fields['doi']}" if "doi" in fields else fields.get("url", "")


# --- prose: math, labels, roles, links -------------------------------------------------------------------------------


def _text(text, page):
    text = re.sub(r"(?m)^(%.*|\+\+\+.*)\n?", "", text)
    text = LABEL.sub(lambda m: f"{m.group().split('=', 1)[1].lstrip()}", text)
    text = MATH.sub(lambda m: _indent(_math(m["body"], m["label"], page), m["indent"]), text)
    text = ROLE.sub(lambda m: _role(m["role"], m["text"], page) if m["role"] else m.group(), text)
    return LINK.sub(r"](\g<path>.ipynb", text)


def _math(body, label, page):
    body = body.strip()
    if r"\\" in body and r"\begin" not in body:  # the book's builder aligns such lines by itself
        body = rf"\begin{{aligned}}{body}\end{{aligned}}"
    tag = rf" \tag{{{page.index[label][1].strip('()')}}}" if label else ""
    return f"$$\n{body}{tag}\n$$"


def _role(role, text, page):
    text = " ".join(text.split())
    if role in ROLES:
        return ROLES[role](text, page)
    raise ValueError(f"{page.path.name}: the role {{{role}}} has no plain form; add one to tools/plain.py or write it without")


def _target(text):
    """("shown", "label") of a role's text: `shown <label>` or `label`, then shown is empty."""
    match = re.fullmatch(r"(.*?)\s*<(.+)>", text)
    return (match[1], match[2]) if match else ("", text)


def _reference(text, page):
    shown, label = _target(text)
    if label not in page.index:
        raise ValueError(f"{page.path.name}: nothing has the label {label!r}")
    path, name = page.index[label]
    return (shown or name) if path == page.path else f"{shown or name} in {_page_link(path, page)}"


def _document(text, page):
    shown, name = _target(text)
    root = page.path.parent.parent
    path = (root / name.lstrip("/") if name.startswith("/") else page.path.parent / name).with_suffix("")
    return _page_link(Path(os.path.normpath(path)).with_suffix(".md"), page, shown)


def _page_link(path, page, shown=""):
    if path not in page.titles:
        raise ValueError(f"{page.path.name}: there is no page {path.name}")
    name = os.path.relpath(path, page.path.parent).replace(os.sep, "/")
    name = name.removesuffix(".md") + ".ipynb" if path.parent == page.path.parent else name
    return f"[{shown or page.titles[path]}]({name})"


def _cite(text, page, form):
    links = []
    for key in re.split(r"\s*,\s*", text):
        if key not in page.bibliography:
            raise ValueError(f"{page.path.name}: no entry {key!r} in references.bib")
        authors, year, address = page.bibliography[key]
        shown = form.format(authors=authors, year=year)
        links.append(f"[{shown}]({address})" if address else shown)
    return "; ".join(links)


ROLES = {
    "eq": _reference, "ref": _reference, "numref": _reference, "prf:ref": _reference, "doc": _document,
    "cite": lambda text, page: f"({_cite(text, page, '{authors}, {year}')})",
    "cite:p": lambda text, page: f"({_cite(text, page, '{authors}, {year}')})",
    "cite:t": lambda text, page: _cite(text, page, "{authors} ({year})"),
    "term": lambda text, page: _target(text)[0] or text,
    "math": lambda text, page: f"${text}$",
    "abbr": lambda text, page: text,
    **dict.fromkeys(["code", "kbd", "func", "class", "mod", "meth", "py:func", "py:class", "py:mod", "py:meth"],
                    lambda text, page: f"`{_target(text)[1].lstrip('~')}`"),
}


# --- directives ------------------------------------------------------------------------------------------------------


def _directive(directive, page):
    if directive.name.startswith("prf:"):
        return _quote(_heading(directive, page), directive, page)
    if directive.name in ADMONITIONS | ASIDES:
        return _admonition(directive, page)
    if directive.name in DIRECTIVES:
        return DIRECTIVES[directive.name](directive, page)
    raise ValueError(f"{page.path.name}: the directive {{{directive.name}}} has no plain form; "
                     "add one to tools/plain.py or write it without")


def _heading(directive, page):
    return f"**{_text(_name(directive), page)}.**"


def _quote(heading, directive, page):
    """A block quote. Display math goes on one line in it: Jupyter takes the `>` of a second line for a relation sign."""
    body = convert(directive.body, page)
    body = re.sub(r"(?s)\$\$\n(.+?)\n\$\$", lambda m: f"$$ {' '.join(m[1].split())} $$", body)
    return "\n" + "\n".join(f"> {line}".rstrip() for line in f"{heading} {body}".strip().split("\n")) + "\n"


def _admonition(directive, page):
    if "dropdown" in str(directive.options.get("class", "")):
        return _dropdown(directive, page)
    title = directive.argument or ("See also" if directive.name == "seealso" else directive.name.capitalize())
    if directive.name in ADMONITIONS and directive.argument:  # ```{note} text: the argument is the first line of the text
        directive = Directive(directive.name, "", f"{directive.argument}\n{directive.body}", directive.indent, directive.options)
        title = directive.name.capitalize()
    return _quote(f"**{_text(title, page).rstrip('.')}.**", directive, page)


def _dropdown(directive, page, title=None):
    title = title or _text(directive.argument or "More", page)
    return f"\n<details><summary>{title}</summary>\n\n{convert(directive.body, page)}\n\n</details>\n"


def _solution(directive, page):
    _, name = page.index.get(directive.argument, (None, directive.argument))
    title = f"Solution of {name[0].lower()}{name[1:]}"
    if "dropdown" in str(directive.options.get("class", "")):
        return _dropdown(directive, page, title)
    return _quote(f"**{title}.**", directive, page)


def _figure(directive, page):
    picture = f"![{directive.options.get('alt', '')}]({directive.argument})"
    return f"\n{picture}\n\n{convert(directive.body, page)}\n"


def _table(directive, page):
    return f"\n**{_text(directive.argument, page)}**\n\n{convert(directive.body, page)}\n"


def _code(directive, page):
    return f"\n```{directive.argument}\n{directive.body}\n```\n"


def _literalinclude(directive, page):
    """The source of one function or class (:pyobject:), or of a whole file."""
    source = (page.path.parent / directive.argument).read_text("utf8")
    wanted = directive.options.get("pyobject")
    if wanted:
        nodes = [node for node in ast.walk(ast.parse(source)) if getattr(node, "name", None) == wanted.split(".")[-1]]
        if not nodes:
            raise ValueError(f"{page.path.name}: no {wanted} in {directive.argument}")
        source = ast.get_source_segment(source, nodes[0])
    return f"\n```{directive.options.get('language', 'python')}\n{source.rstrip()}\n```\n"


DIRECTIVES = {
    "math": lambda d, page: "\n" + _math(f"{d.argument}\n{d.body}", d.label, page) + "\n",
    "exercise": lambda d, page: _quote(_heading(d, page), d, page),
    "exercise-start": lambda d, page: f"\n{_heading(d, page)}\n",
    "solution": _solution,
    "solution-start": lambda d, page: f"\n**Solution of {page.index[d.argument][1]}.**\n",
    "exercise-end": lambda d, page: "", "solution-end": lambda d, page: "", "bibliography": lambda d, page: "",
    "dropdown": _dropdown, "figure": _figure, "image": _figure, "table": _table,
    "code-block": _code, "code": _code, "literalinclude": _literalinclude,
}


def _indent(text, indent):
    return "\n".join((indent + line).rstrip() for line in text.split("\n")) if indent else text
