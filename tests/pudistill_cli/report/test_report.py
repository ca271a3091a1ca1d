"""`report.html`: whole, escaped, without a script or an address, and drawn where the figures are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pudistill_cli.report.charts import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, Point, curve, intervals
from tests.tiny import Ended, Tiny

Call = Callable[..., Ended]
HOSTILE = "<script>alert('&')</script>\"><img src=x onerror=1>"


class Page(HTMLParser):
    """Elements, attributes and text of a page; an element that is not closed is an error."""

    VOID = ("meta", "br", "img", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def page_of(tiny: Tiny) -> Page:
    return Page((tiny.run / "report.html").read_text(encoding="utf-8"))


def test_a_run_leaves_a_report_with_what_it_found(finished: Tiny) -> None:
    page = page_of(finished)
    results = json.loads((finished.run / "results.json").read_text())
    printed = finished.printed.out.splitlines()
    assert results["verdict"] in page.text
    for line in printed[: printed.index(results["verdict"])]:
        assert line in page.text
    assert page.text.index(printed[0]) < page.text.index(results["verdict"]) < page.text.index("On prompts that chose")
    for claim in results["claims"]:
        assert claim["measured"] in page.text
    for anchor, answer in finished.rows(
        "SELECT a.text, e.text FROM anchors AS a JOIN eval_answers AS e USING (prompt_key) "
        "WHERE split = 'test' AND temperature = 0"
    ):
        assert anchor in page.text
        assert answer in page.text
    for words in ("PU-RL - SFT", "Exports, loaded back", "adapter", "hf", "class prior", "loss, SFT", "max_new_tokens"):
        assert words in page.text
    assert [tag for tag, _ in page.elements].count("svg") == 4


def test_it_needs_no_network_and_runs_no_script(finished: Tiny) -> None:
    elements = page_of(finished).elements
    assert not {"script", "link", "img", "iframe", "object", "a"} & {tag for tag, _ in elements}
    assert not {"src", "href", "style"} & {name for _, attributes in elements for name in attributes}
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert "url(" not in (finished.run / "report.html").read_text()


def test_what_people_and_models_wrote_is_shown_and_not_obeyed(copied: Tiny, call: Call) -> None:
    with copied.changed_ledger() as db:
        db.execute("DELETE FROM sums WHERE name = 'results.json'")
        for table in ("eval_answers", "anchors"):
            db.execute(f"UPDATE {table} SET text = ?", (HOSTILE,))
        db.execute(
            "UPDATE prompts SET reference = ?, messages = ?",
            (HOSTILE, json.dumps([{"role": "user", "content": HOSTILE}])),
        )
    results = json.loads((copied.run / "results.json").read_text())
    (copied.run / "results.json").write_text(json.dumps({**results, "verdict": HOSTILE}))
    recipe = copied.run / "recipe.yaml"
    recipe.write_text(f"# {HOSTILE}\n{recipe.read_text()}")
    ended = call("report", "tiny", "--runs", str(copied.runs))
    assert ended.code == 0, ended.err
    page = page_of(copied)
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert page.text.count(HOSTILE) >= 4


def test_characters_that_hide_or_reorder_text_are_shown(copied: Tiny, call: Call) -> None:
    with copied.changed_ledger() as db:
        db.execute("UPDATE eval_answers SET text = ?", ("\x1b]52;c;QQ\x07 \u202egnp\u200b\n1",))
        db.execute("UPDATE anchors SET text = ?", ("\x9b1m\u2066",))
    db.close()
    assert call("report", "tiny", "--runs", str(copied.runs)).code == 0
    page = (copied.run / "report.html").read_text(encoding="utf-8")
    assert not set(page) & set("\x1b\x07\x9b\u202e\u200b\u2066")
    assert "␛]52;c;QQ␇ &lt;U+202E&gt;gnp&lt;U+200B&gt;\n1" in page
    assert "&lt;U+009B&gt;1m&lt;U+2066&gt;" in page


def test_the_command_writes_the_same_bytes_and_loads_no_model(
    copied: Tiny, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    before = copied.bytes_of("report.html")
    (copied.run / "report.html").unlink()
    monkeypatch.setattr(
        "pudistill_cli.backend_api.registry.backends", lambda: pytest.fail("a backend was looked for"), raising=False
    )
    ended = call("report", "tiny", "--runs", str(copied.runs))
    assert (ended.code, ended.out) == (0, f"{copied.run / 'report.html'}\n")
    assert copied.bytes_of("report.html") == before
    assert call("report", "tiny", "--runs", str(copied.runs), "--json").events == [
        {"event": "report", "path": str(copied.run / "report.html")}
    ]


def test_examples_begin_where_the_measure_tells_the_students_apart(copied: Tiny, call: Call) -> None:
    """Of six test prompts the last one of the file is the only one where it does, to the worse."""
    keys = [key for (key,) in copied.rows("SELECT key FROM prompts WHERE split = 'test' ORDER BY line")]
    with copied.changed_ledger() as db:
        db.execute("UPDATE eval_answers SET score = 1, text = 'the same'")
        db.execute("UPDATE eval_answers SET text = 'other words' WHERE system = 'sft' AND prompt_key = ?", (keys[2],))
        db.execute("UPDATE eval_answers SET score = 0 WHERE system LIKE 'round-%' AND prompt_key = ?", (keys[-1],))
    assert call("report", "tiny", "--runs", str(copied.runs)).code == 0
    messages = dict(copied.rows("SELECT key, messages FROM prompts"))
    asked = [json.loads(messages[key])[-1]["content"] for key in (keys[-1], keys[2], keys[0])]
    text = page_of(copied).text
    places = [text.index(words) for words in asked]
    assert places == sorted(places)


def test_eval_writes_it_anew(copied: Tiny, call: Call) -> None:
    assert call("eval", "tiny", "--runs", str(copied.runs), "--set", "eval.metric=chrf").code == 0
    assert "test: 6 prompts, chrf" in page_of(copied).text


def test_a_damaged_table_or_ledger_is_no_report(copied: Tiny, call: Call) -> None:
    results, ledger = copied.run / "results.json", copied.run / "ledger.sqlite"
    text = results.read_text()
    results.write_text(text.replace('"prompts": 6', '"prompts": 7', 1))
    ended = call("report", "tiny", "--runs", str(copied.runs))
    assert ended.code == 7
    assert "results.json is damaged: it has the SHA-256" in ended.flat
    assert f"Write it again: pudistill eval {copied.run}" in ended.flat
    assert call("eval", str(copied.run)).code == 0
    assert results.read_text() == text
    ledger.write_bytes(ledger.read_bytes()[:-1] + b"\x01")
    ended = call("report", "tiny", "--runs", str(copied.runs))
    assert (ended.code, "ledger.sqlite is damaged" in ended.flat) == (7, True)


@pytest.mark.parametrize("held", ["{", '{"measure": "json"}'])
def test_results_of_another_version_are_refused_with_how_to_go_on(held: str, copied: Tiny, call: Call) -> None:
    (copied.run / "results.json").write_text(held)
    ended = call("report", "tiny", "--runs", str(copied.runs))
    assert ended.code == 7
    assert "results.json is not as this version of pudistill writes it" in ended.flat
    assert f"pudistill eval {copied.run}" in ended.flat
    assert call("eval", str(copied.run)).code == 0
    assert call("report", str(copied.run)).code == 0


def test_a_run_without_rounds_metric_or_dev_has_a_report_too(tmp_path: Path, call: Call) -> None:
    tiny = Tiny.make(
        tmp_path,
        prompts={"train": None, "dev": None, "test": None, "path": "train.jsonl", "dev_share": 0.0},
        prefer={"rounds": 0},
        eval={"metric": "none"},
        export={"formats": ["adapter"]},
    )
    ended = call(*tiny.arguments())
    assert ended.code == 0, ended.err
    page = page_of(tiny)
    assert page.text.count("cannot be told") == 3
    assert [tag for tag, _ in page.elements].count("svg") == 1  # SFT's loss


# --- charts ---


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def of_class(root: ElementTree.Element, name: str) -> list[dict[str, str]]:
    return [element.attrib for element in root.iter() if element.get("class") == name]


def test_points_lie_where_their_values_are() -> None:
    """From 0 to 1, and a twentieth more at both ends: 0 is 1/22 of the way up, 1/2 the middle."""
    points = [Point("SFT", 0.0, 0.0, 0.0), Point("1", 0.5, 0.25, 1.0)]
    root = drawn(intervals(points, "about", reference=0.0))
    height, bottom = HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM
    first, second = of_class(root, "dot")
    assert float(first["cy"]) == pytest.approx(bottom - height / 22, abs=0.06)
    assert float(second["cy"]) == pytest.approx(bottom - height / 2, abs=0.06)
    assert float(first["cx"]) == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) / 4, abs=0.06)
    whisker = of_class(root, "whisker")[1]
    assert float(whisker["y1"]) - float(whisker["y2"]) == pytest.approx(height * 0.75 / 1.1, abs=0.11)
    (line,) = of_class(root, "reference")
    assert line["y1"] == line["y2"] == first["cy"]


def test_the_numbers_at_the_axis_are_round_and_inside() -> None:
    labels = [e.text for e in drawn(intervals([Point("1", 0.61, 0.52, 0.70)], "about")).iter() if e.tag == "text"]
    assert labels == ["0.55", "0.60", "0.65", "0.70", "1"]


def test_a_long_curve_is_averaged_and_keeps_its_mean() -> None:
    values = [float(i % 2) for i in range(10 * MOST_POINTS)]
    (line,) = of_class(drawn(curve(values, "about", marks=[5])), "curve")
    heights = {place.split(",")[1] for place in line["points"].split()}
    assert len(line["points"].split()) == MOST_POINTS
    assert heights == {f"{TOP + (HEIGHT - TOP - BOTTOM) / 2:.1f}"}  # every ten have the mean 1/2


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0], [1e-9, 3e-9], [1e6, 5e6]])
def test_any_curve_stays_on_the_paper(values: list[float]) -> None:
    root = drawn(curve(values, HOSTILE))
    assert root.get("aria-label") == HOSTILE
    places = re.findall(r"[-\d.]+", of_class(root, "curve")[0]["points"])
    for x, y in zip(places[::2], places[1::2], strict=True):
        assert LEFT <= float(x) <= WIDTH - RIGHT
        assert TOP <= float(y) <= HEIGHT - BOTTOM
