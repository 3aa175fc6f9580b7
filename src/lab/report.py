"""What an experiment reports: named values for the prose, and rows for the claims ledger.

A chapter never types a measured number. Its code calls `show(win_rate=...)`, its prose says `{{ win_rate }}`,
and the build puts the one into the other. `claim("A2", ...)` does the same for the ledger page.

>>> show(loss=0.69314)
name  value
loss  0.693
"""

from typing import NamedTuple

VALUES_MIME = "application/vnd.lab.values+json"
CLAIM_MIME = "application/vnd.lab.claim+json"


class Claim(NamedTuple):
    sentence: str
    chapter: str  # the source, in chapters/, that holds the experiment


CLAIMS = {
    "A1": Claim("A base model only continues a prompt; after SFT it answers.", "02-instruction-tuning"),
    "A2": Claim("SFT alone goes a long way, and preference optimisation improves on it.", "06-dpo"),
    "A3": Claim("A reward model learns to predict which of two outputs people prefer.", "04-preferences"),
    "A4": Claim("Without the KL penalty, optimising the reward ruins the policy.", "05-rlhf"),
    "A5": Claim("DPO is simpler and more stable than PPO.", "05-rlhf"),
    "A6": Claim("LoRA trains a tiny share of the weights in a fraction of the memory.", "03-lora"),
    "A7": Claim("An adapter can be merged into its base, or swapped for another, at inference.", "03-lora"),
    "A8": Claim("LoRA reaches the quality of full fine-tuning.", "03-lora"),
    "A9": Claim("Alignment improves helpfulness, safety and calibration probes, and leaves some failures.", "08-evaluation"),
    "A10": Claim("Every alignment metric can be gamed.", "08-evaluation"),
    "A11": Claim("Mixed precision, accumulation, checkpointing and 4-bit weights make training fit in memory.", "03-lora"),
    "A12": Claim("More computation at test time buys better answers.", "07-test-time"),
    "A13": Claim("The aligned model can answer from retrieved passages, and says so when they lack the answer.", "12-report-card"),
    "B1": Claim("For instruction data, quality beats quantity.", "02b-instruction-data"),
    "B2": Claim("Data sampled from a stronger model teaches a base model to chat.", "02b-instruction-data"),
    "B3": Claim("A set written by people matches one distilled from a stronger model.", "02b-instruction-data"),
    "B4": Claim("SFT on tool calls and to-do lists makes a model act as an agent.", "10-before-and-beyond"),
    "B5": Claim("Length and style can win a comparison without any gain in capability.", "08-evaluation"),
    "B6": Claim("SFT on facts the base does not know teaches it to invent, and so does a demanded reference.", "09-over-optimisation"),
    "B7": Claim("Safety tuning trades violations for false refusals, and a few examples are enough.", "09-over-optimisation"),
    "B8": Claim("Instruction data mixed into the end of pretraining (mid-training) helps.", "10-before-and-beyond"),
    "B9": Claim("RLHF has four steps: sampling, ranking, reward modelling and optimisation.", "05-rlhf"),
    "B10": Claim("The people who annotate shape the model, and expert labour is dear.", "04-preferences"),
    "B11": Claim("PPO needs a reward model and fresh samples; DPO needs neither.", "05-rlhf"),
    "B12": Claim("Optimising a learned reward for too long lowers the true one.", "09-over-optimisation"),
    "B13": Claim("Preference optimisation makes the outputs less diverse.", "09-over-optimisation"),
    "B14": Claim("RLHF makes a model less well calibrated.", "08-evaluation"),
    "B15": Claim("A model rates answers better than it writes them.", "04-preferences"),
}


def show(**values):
    """Display named values as a table and record them for `{{ name }}` in the prose.

    Floats get three significant digits and large numbers a separator; pass a string to choose another form.
    """
    texts = {name: _text(value) for name, value in values.items()}
    width = max(map(len, texts), default=0)
    plain = "\n".join(f"{name:<{width}}  {text}" for name, text in {"name": "value", **texts}.items())
    rows = "".join(f"<tr><td><code>{n}</code></td><td>{_html(t)}</td></tr>" for n, t in texts.items())
    html = f"<table><thead><tr><th>name</th><th>value</th></tr></thead><tbody>{rows}</tbody></table>"
    _emit({"text/plain": plain, "text/html": html, VALUES_MIME: texts})


def claim(id, *, measured, held, experiment, note=""):
    """Display one measured claim and record it as a row of the ledger.

    id: a key of CLAIMS. measured: the value with its interval. held: whether the claim held here.
    experiment: what was compared, in a few words. note: the reason where it did not hold, or a caution.
    """
    if id not in CLAIMS:
        raise KeyError(f"no claim {id!r}: the ids are {', '.join(CLAIMS)}")
    row = {"id": id, "measured": _text(measured), "held": bool(held), "experiment": experiment, "note": note}
    verdict = "It held." if held else "It did not hold."
    lines = [CLAIMS[id].sentence, f"Measured: {row['measured']} ({experiment}). {verdict}"] + [note] * bool(note)
    plain = f"Claim {id}. " + "\n".join(lines)
    html = f"<p><strong>Claim {id}.</strong> " + "<br>".join(map(_html, lines)) + "</p>"
    _emit({"text/plain": plain, "text/html": html, CLAIM_MIME: row})


def _text(value):
    """A value as it appears in a sentence.

    >>> _text(0.123456), _text(2048), _text(True), _text("74%")
    ('0.123', '2,048', 'yes', '74%')
    """
    value = value.item() if hasattr(value, "item") and not isinstance(value, tuple) else value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return str(value)


def _html(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _emit(bundle):
    """Show a MIME bundle in a notebook; in plain Python print its text."""
    try:
        from IPython import get_ipython
    except ImportError:
        get_ipython = lambda: None
    if get_ipython() is None:
        print(bundle["text/plain"])
    else:
        from IPython.display import display
        display(bundle, raw=True)
