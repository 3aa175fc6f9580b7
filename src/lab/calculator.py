"""The memory calculator: a form in the page, whose JavaScript is printed from the formulas of `lab.memory`.

Nothing is written twice. `memory.predict` is evaluated once for each choice of the form, with the rank, the batch and
the length left as symbols, and sympy translates the expressions that come out.
"""

import itertools
import json

import sympy

from lab import memory

# Published configurations, so that no model has to be downloaded to be counted.
SHAPES = {
    "pocket, 2M": memory.Shape(192, 4, 6, 6, 32, 512, 1024, True),
    "SmolLM2-135M": memory.Shape(576, 30, 9, 3, 64, 1536, 49152, True),
    "Llama 3.2 1B": memory.Shape(2048, 16, 32, 8, 64, 8192, 128256, True),
    "Llama 2 7B": memory.Shape(4096, 32, 32, 32, 128, 11008, 32000, False),
    "Llama 3.1 70B": memory.Shape(8192, 80, 64, 8, 128, 28672, 128256, False),
}
R, B, T = sympy.symbols("r b t", integer=True, positive=True)


def formulas():
    """{"model|rank or full|bits|bits of Adam|checkpointing": {part: JavaScript in r, b and t}}."""
    choices = itertools.product(SHAPES, (R, None), (32, 16, 4), (32, 8), (0, 1))
    return {"|".join(map(str, (model, "full" if r is None else "lora", *rest))): _parts(SHAPES[model], r, *rest)
            for model, r, *rest in choices if r is not None or rest[0] != 4}


def _parts(shape, r, bits, adam_bits, checkpointing):
    trained = memory.parameters(shape) if r is None else memory.adapter_parameters(shape, r)
    parts = memory.predict(shape, bits=bits, r=r, batch=B, length=T, adam_bits=adam_bits, checkpointing=checkpointing)
    return {part: sympy.jscode(sympy.expand(value)) for part, value in {"trained": trained, **parts}.items()}


def html():
    """The form with its style and its script, for IPython.display.HTML."""
    totals = {model: memory.parameters(shape) for model, shape in SHAPES.items()}
    options = "".join(f"<option>{model}</option>" for model in SHAPES)
    return PAGE.replace("MODELS", options).replace("TOTALS", json.dumps(totals)).replace("FORMULAS", json.dumps(formulas()))


PAGE = """
<style>
#lab-memory {display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; max-width: 44rem}
#lab-memory label {display: flex; flex-direction: column; font-size: .85rem; justify-content: flex-end}
#lab-memory select, #lab-memory input {font-size: 1rem; padding: .2rem; width: 100%; box-sizing: border-box}
#lab-memory output {grid-column: 1 / -1}
#lab-memory .bar {display: flex; height: 1.6rem; margin: .4rem 0}
#lab-memory td {padding: .1rem .8rem .1rem 0; text-align: left}
#lab-memory td + td {text-align: right; font-variant-numeric: tabular-nums}
</style>
<form id="lab-memory" onsubmit="return false">
<label>model<select name="model">MODELS</select></label>
<label>what is trained<select name="method"><option value="lora">LoRA adapter</option><option value="full">all weights</option></select></label>
<label>rank r<input name="r" type="number" min="1" value="8"></label>
<label>bits of the base<select name="bits"><option>32</option><option>16</option><option>4</option></select></label>
<label>sequences in a batch<input name="b" type="number" min="1" value="8"></label>
<label>tokens in each<input name="t" type="number" min="1" value="512"></label>
<label>bits of Adam's states<select name="adam"><option>32</option><option>8</option></select></label>
<label>activation checkpointing<select name="ckpt"><option value="0">no</option><option value="1">yes</option></select></label>
<output></output>
</form>
<script>
(() => {
const formulas = FORMULAS, totals = TOTALS, form = document.getElementById("lab-memory"), field = form.elements;
const colours = {weights: "#0072B2", adapter: "#D55E00", optimiser: "#009E73", gradients: "#CC79A7", activations: "#56B4E9", logits: "#E69F00"};
const bytes = n => n >= 1e9 ? (n / 1e9).toFixed(2) + " GB" : n >= 1e6 ? (n / 1e6).toFixed(2) + " MB" : (n / 1e3).toFixed(1) + " kB";
const count = n => n.toLocaleString("en-US");
function update() {
  const model = field.model.value, full = field.method.value === "full", r = +field.r.value, b = +field.b.value, t = +field.t.value;
  field.r.disabled = full;
  const found = formulas[[model, field.method.value, field.bits.value, field.adam.value, field.ckpt.value].join("|")];
  const out = form.querySelector("output");
  if (!found) { out.textContent = "Weights of 4 bits cannot be trained themselves: choose a LoRA adapter."; return; }
  if (![r, b, t].every(n => Number.isInteger(n) && n > 0)) { out.textContent = "Rank, sequences and tokens must be whole numbers above zero."; return; }
  const value = Object.fromEntries(Object.entries(found).map(([part, code]) => [part, Function("r", "b", "t", "return " + code)(r, b, t)]));
  const parts = Object.keys(colours), sum = parts.reduce((total, part) => total + value[part], 0);
  out.innerHTML = `<strong>${bytes(value.peak)}</strong> at the peak; ${count(value.trained)} trained of ${count(totals[model])} weights (${(100 * value.trained / totals[model]).toPrecision(3)}%)`
    + `<div class="bar">` + parts.map(part => `<div style="background:${colours[part]};width:${100 * value[part] / sum}%"></div>`).join("") + `</div><table>`
    + parts.map(part => `<tr><td><span style="color:${colours[part]}">&#9632;</span> ${part}</td><td>${bytes(value[part])}</td></tr>`).join("") + `</table>`;
  out.dataset.values = JSON.stringify(value);
}
form.addEventListener("input", update);
update();
})();
</script>
"""
