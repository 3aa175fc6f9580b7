"""Small pieces of Markdown that several pages are made of."""

import re


def table(header, rows):
    """A Markdown table.

    >>> print(table(("a", "b"), [(1, "x|y")]))
    | a | b |
    | --- | --- |
    | 1 | x\\|y |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\|", str(cell)).replace("\n", " ") for cell in line) + " |" for line in lines)


def escape(text):
    """Text that Markdown shows as it stands.

    >>> escape("a_b [0, 1]")
    'a\\\\_b \\\\[0, 1\\\\]'
    """
    return re.sub(r"([\\`*_{}\[\]<>$|#~])", r"\\\1", text)
