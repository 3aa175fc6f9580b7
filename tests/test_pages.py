"""The built book as a reader sees it, without a network: links, pictures, equations, no raw markup, no overflow."""

import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from lab import calculator, memory
from lab.report import CLAIMS
from tools import api, chapters, colab, ledger, pages, plain

ROOT = Path(__file__).parent.parent
HTML = ROOT / "_build" / "html"
PAGES = sorted(path.relative_to(HTML).as_posix() for folder in ("book", "chapters") for path in (HTML / folder).rglob("*.html"))
SOURCES = chapters.sources(ROOT)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

if not PAGES:
    pytest.skip("the book is not built: run `make book` first", allow_module_level=True)

each_page = pytest.mark.parametrize("page", PAGES)
each_chapter = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def soup(page):
    return BeautifulSoup((HTML / page).read_text("utf8"), "html.parser")


def article(page):
    return soup(page).select_one("article")


# --- from the files alone --------------------------------------------------------------------------------------------


def foreign(html):
    """Whatever the page would load from another server."""
    tags = [(tag, tag.get("src") or tag.get("href") or "") for tag in html.select("script, img, iframe, source, link[rel~=stylesheet], link[rel~=preload]")]
    inline = " ".join(script.get_text() for script in html.select("script:not([src])"))
    return [address for _, address in tags if re.match(r"(https?:)?//", address)] + re.findall(r"https?://[^\s\"']+", inline)


@each_page
def test_nothing_is_loaded_from_another_server(page):
    assert foreign(soup(page)) == []


def broken_links(page, html):
    """Internal links to a file or an anchor that is not there."""
    broken = []
    for address in {tag["href"] for tag in html.select("a[href]")}:
        parts = urlsplit(address)
        target = (HTML / page).parent / unquote(parts.path) if parts.path else HTML / page
        if parts.scheme:
            continue
        if not target.exists() or (parts.fragment and target.suffix == ".html" and not anchor(target, unquote(parts.fragment))):
            broken.append(address)
    unresolved = [tag.get_text() for tag in html.select(".xref") if not tag.find_parent("a")]  # what Sphinx found nothing for, it leaves as text
    return sorted(broken) + unresolved


ANCHORS = {}


def anchor(path, name):
    if path.resolve() not in ANCHORS:
        ANCHORS[path.resolve()] = {tag["id"] for tag in BeautifulSoup(path.read_text("utf8"), "html.parser").select("[id]")}
    return name in ANCHORS[path.resolve()]


@each_page
def test_links_lead_somewhere(page):
    assert broken_links(page, soup(page)) == []


@each_page
def test_pictures_are_there_and_described(page):
    for picture in article(page).select("img"):
        assert (HTML / page).parent.joinpath(unquote(picture["src"])).is_file()
        alt = picture.get("alt", "")
        assert len(alt) > 10 and alt != picture["src"] and not alt.startswith("../"), f"no alt text: {picture}"


def raw(html):
    """Markup that a reader would see: roles, directives, unfilled values, unknown references, tracebacks."""
    errors = [tag.get_text()[:200] for tag in html.select(".output.traceback, .output.stderr, .problematic, .system-message")]
    for code in html.select("code, pre, script, style, .math"):
        code.decompose()
    return errors + re.findall(r"\{[\w:+.-]+\}`|`{3,}|:{3,}\{|\{\{ |\(\?\)|\[\?\]|Traceback \(most", html.get_text())


@each_page
def test_nothing_raw_and_no_errors_on_the_page(page):
    assert raw(article(page)) == []


@pytest.mark.parametrize("bad, check", [
    ('<script src="https://cdn.example.org/x.js"></script>', foreign), ('<script>load("https://example.org/x")</script>', foreign),
    ("<p>{eq}`x`</p>", raw), ("<p>{{ rate }}</p>", raw), ('<div class="output traceback">ZeroDivisionError</div>', raw),
    *((link, lambda html: broken_links("book/ledger.html", html)) for link in (
        '<a href="#nowhere">x</a>', '<a href="gone.html">x</a>', '<a href="api/training.html#api-dpo-gone">x</a>', '<span class="xref std std-ref">x</span>'))])
def test_the_checks_notice_a_bad_page(bad, check):
    assert check(BeautifulSoup(bad, "html.parser"))


@each_chapter
def test_a_page_shows_what_its_notebook_stores(source):
    """Every recorded value is on the page, and the equations have the numbers that the notebook gives them."""
    html, notebook = article(f"chapters/{source.stem}.html"), chapters.read_notebook(source.with_suffix(".ipynb"))
    shown = html.get_text()
    assert [text for text in chapters.values(notebook).values() if text not in shown] == []
    tags = re.findall(r"\\tag\{(\d+)\}", "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown"))
    assert [number.get_text().strip("()#¶") for number in html.select(".eqno")] == tags
    tables = [len(shown) for shown in chapters.recorded(notebook, chapters.VALUES_MIME)]
    assert len(html.select(".cell_output details > table")) == sum(count > pages.FEW for count in tables)  # long ones are folded
    assert len(html.select(".cell_output img")) == sum("image/png" in output.get("data", {}) for cell in chapters.code_cells(notebook) for output in cell.outputs)


@each_chapter
def test_a_chapter_has_a_button_for_colab_and_one_for_its_exercises(source):
    address = colab.repository(ROOT)
    wanted = [colab.link(address, f"{folder}/{source.stem}.ipynb") for folder in ("chapters", "exercises")]
    assert [tag["href"] for tag in article(f"chapters/{source.stem}.html").select("a.sd-badge") if "colab" in tag["href"]] == [link for link in wanted if link]


def links(page):
    """The internal links of a page, as paths from the book's root."""
    return {os.path.normpath(Path(page).parent / tag["href"]) for tag in article(page).select("a[href]") if not urlsplit(tag["href"]).scheme}


def test_the_ledger_has_every_claim_and_its_measurements():
    cells = [row.select("td")[0].get_text() for row in article("book/ledger.html").select("tbody tr")]
    assert cells == list(CLAIMS)
    shown = article("book/ledger.html").get_text().replace("’", "'")  # Sphinx sets apostrophes as printers do
    for _, _, row in ledger.measured(ROOT):
        assert row["measured"] in shown and row["experiment"] in shown and row["note"] in shown


def test_the_ledger_and_the_chapters_are_linked_both_ways():
    there = links("book/ledger.html")
    for source, label, row in ledger.measured(ROOT):
        assert f"chapters/{source.stem}.html#{label}" in there
        assert f"book/ledger.html#ledger-{row['id'].lower()}" in links(f"chapters/{source.stem}.html")


def test_the_ledger_and_the_code_are_linked_both_ways():
    shown = ledger.documented(ROOT)
    back = {page: links(page) for page in PAGES if page.startswith("book/api/")}
    there = " ".join(links("book/ledger.html"))
    for id, functions in ledger.measured_with(ROOT).items():
        known = [(module, name) for module, name in (function.split(".") for function in functions) if name in shown.get(module, ())]
        assert known, f"no function of the package stands beside {id}"
        for module, name in known:
            place = f"#{api.label(module, name)}".replace("_", "-")
            page = next(page for page in back if f"{page}{place}" in there)
            assert f"book/ledger.html#ledger-{id.lower()}" in back[page]


def test_the_status_page_has_every_chapter():
    rows = article("book/status.html").select("tbody tr")
    _, titles = plain.index(SOURCES)
    assert [row.select("td")[0].get_text() for row in rows] == list(titles.values())


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: the rendered pages were not looked at")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=180_000)
        yield browser
        browser.close()


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CUT = "[...document.querySelectorAll('div.math mjx-container')].filter(e => e.scrollWidth > e.clientWidth + 4).map(e => e.parentElement.id || e.textContent.slice(0, 40))"
TYPESET = "async () => { if (window.MathJax && MathJax.startup) await MathJax.startup.promise }"


def look(browser, path, width):
    """(page, complaints): the page opened with the network off, and what went wrong on the way."""
    page = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
    page.set_default_timeout(180_000)  # a busy machine is slow, not wrong
    complaints = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on("request", lambda request: complaints.append(f"asked for {request.url}") if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    page.evaluate(TYPESET)
    if excess := page.evaluate(OVERFLOW):
        complaints.append(f"{excess} pixels too wide")
    return page, complaints


@pytest.mark.parametrize("width", [1280, 390])
@each_page
def test_a_page_renders_offline(browser, page, width):
    opened, complaints = look(browser, HTML / page, width)
    assert complaints == []
    assert opened.locator(".math").count() == opened.locator(".math:has(mjx-container)").count(), "an equation is not rendered"
    assert opened.locator("mjx-merror, [data-mjx-error], [data-mml-node=merror]").count() == 0, "an equation has an error"
    assert width < 1280 or opened.evaluate(CUT) == [], "on a wide screen an equation is wider than its place: break it into lines"
    opened.context.close()


@each_chapter
def test_a_chapter_has_rendered_equations(browser, source):
    opened, _ = look(browser, HTML / "chapters" / f"{source.stem}.html", 1280)
    assert opened.locator("mjx-container svg").count() > 0
    opened.context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_calculator_gives_the_numbers_of_the_function(browser, width):
    page, complaints = look(browser, HTML / "chapters" / "03-lora.html", width)
    form = page.locator("#lab-memory")
    for model, method, r, bits, b, t, adam, checkpointing in (
            ("SmolLM2-135M", "lora", 8, 4, 4, 128, 32, 0), ("Llama 2 7B", "full", 8, 32, 1, 512, 8, 0), ("Llama 3.1 70B", "lora", 64, 4, 2, 4096, 32, 1)):
        for name, value in {"model": model, "method": method, "bits": str(bits), "adam": str(adam), "ckpt": str(checkpointing)}.items():
            form.locator(f"[name={name}]").select_option(value)
        for name, value in {"r": r, "b": b, "t": t}.items():
            form.locator(f"[name={name}]").evaluate(f"field => {{ field.value = {value}; field.dispatchEvent(new Event('input', {{bubbles: true}})) }}")
        shown = json.loads(form.locator("output").get_attribute("data-values"))
        shape = calculator.SHAPES[model]
        rank = None if method == "full" else r
        expected = memory.predict(shape, bits=bits, r=rank, batch=b, length=t, adam_bits=adam, checkpointing=bool(checkpointing))
        expected["trained"] = memory.parameters(shape) if rank is None else memory.adapter_parameters(shape, r)
        assert shown == pytest.approx(expected)
        assert f"{shown['peak'] / 1e9:.2f} GB" in form.inner_text()
    form.locator("[name=method]").select_option("full")
    form.locator("[name=bits]").select_option("4")
    assert "cannot be trained" in form.inner_text()
    assert complaints == []
    page.context.close()


def test_the_browser_notices_a_bad_page(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="gone.png"><div style="width: 3000px">wide</div><script>undefined_name</script><script src="https://example.org/x.js"></script>')
    _, complaints = look(browser, bad, 390)
    for words in ("failed: file", "pixels too wide", "undefined_name is not defined", "asked for https://example.org"):
        assert any(words in complaint for complaint in complaints), (words, complaints)

