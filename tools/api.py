"""A module's reference as MyST Markdown, read from its source without importing it.

Docstrings are plain text: a paragraph that is aligned by spaces, or is a Python prompt, is shown as it stands. Functions
without a docstring are details and are left out. "Equation eq-name" becomes a link to that equation.
"""

import ast
import re
import textwrap


def reference(path, labels, module, notes):
    """The module's docstring, then each public function and class with its signature. labels: those that the book defines.
    notes: {function: Markdown} to stand below its docstring."""
    tree = ast.parse(path.read_text("utf8"))
    shown = [_member(node, labels, label(module, node.name), notes.get(node.name, "")) for node in members(tree)]
    return "\n\n".join([_prose(ast.get_docstring(tree), labels), *shown])


def members(tree):
    """The public functions and classes of a module that have a docstring."""
    return [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and ast.get_docstring(node)]


def label(module, name=""):
    """What a link to a module's or a function's reference names. Sphinx does not tell a class Fit from a function fit, so it is said here.

    >>> label("overopt", "fit"), label("overopt", "Fit")
    ('api-overopt-fit', 'api-overopt-class-fit')
    """
    return "-".join(filter(None, ["api", module, "class" * name[:1].isupper(), name])).lower()


def _member(node, labels, label, note):
    parts = [f"({label})=\n### `{node.name}`", f"```python\n{_signature(node)}\n```", _prose(ast.get_docstring(node), labels), note]
    return "\n\n".join(filter(None, parts))


def _signature(node):
    if isinstance(node, ast.FunctionDef):
        inside = ast.unparse(node.args)
    else:
        inside = ", ".join(ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign))
    return textwrap.fill(f"{node.name}({inside})", width=84, subsequent_indent=" " * 4)


def _prose(text, labels):
    return "\n\n".join(_paragraph(paragraph, labels) for paragraph in re.split(r"\n\s*\n", text))


def _paragraph(text, labels):
    """One paragraph: Python, aligned text, or prose.

    >>> _paragraph("lr  the peak", {})
    '```text\\nlr  the peak\\n```'
    """
    if text.lstrip().startswith(">>> "):
        return f"```pycon\n{text}\n```"
    if re.search(r"(?m)^ |\S {2,}\S", text):
        return f"```text\n{text}\n```"
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(piece if piece.startswith("`") else _escape(piece, labels) for piece in pieces)


def _escape(text, labels):
    text = re.sub(r"([*_<$\[{|])", r"\\\1", text)
    return re.sub(r"\beq-[\w-]+", lambda match: f"{{eq}}`{match.group()}`" if match.group() in labels else match.group(), text)
