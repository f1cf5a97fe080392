"""Figures as PNG files: painted by the browser that is here, without a network, and refused with the remedy."""

from __future__ import annotations

import io
import json
import shutil

import pytest
from PIL import Image

from dashboards import pictures
from dashboards.drawings import Drawing
from dashboards.figure_parts import blank, line
from headroom import picturing, planning
from loadgen.errors import ConfigError, RunFolderError
from tests.runs import synthetic_run

pytestmark = pytest.mark.aside

needs_browser = pytest.mark.skipif(picturing.find_browser() is None, reason="no browser here to paint with")


def drawing(name="a-line", title="Tokens, per minute"):
    figure = blank("s", "tokens", height=200)
    figure.add_scatter(**line([0, 1], [0, 5], "</script><script>alert(1)</script>", "#2f7ebc", "solid"))
    return Drawing(name, title, figure)


@needs_browser
@pytest.mark.long
def test_each_figure_is_painted_at_twice_its_size(tmp_path):
    sections = {"load": [drawing()], "quota": [drawing("another")], "heat": []}
    written = picturing.write_pngs(sections, tmp_path / "new" / "png")
    assert [path.name for path in written] == ["a-line.png", "another.png"]
    for path in written:
        picture = Image.open(path)
        assert picture.size == (2 * pictures.WIDTH_PX, 2 * (200 + pictures.TITLE_PX))
        blue = sum(n for n, colour in picture.convert("RGB").getcolors(1 << 20) if colour == (0x2F, 0x7E, 0xBC))
        assert blue > 1_000  # the line is there


def test_report_has_them_written_beside_the_page_and_names_all_files(tmp_path, capsys, monkeypatch):
    def write_pngs(drawings, folder):
        return [folder / f"{each.name}.png" for section in drawings.values() for each in section]

    run = synthetic_run(tmp_path, n=40)
    monkeypatch.setattr(planning, "write_pngs", write_pngs)
    planning.report(run.folder, tmp_path / "page.html", png=tmp_path / "png")
    page, *pictured = capsys.readouterr().out.splitlines()
    assert page == str(tmp_path / "page.html")
    assert {str(tmp_path / "png" / f"{name}.png") for name in ("headroom", "heat", "cost", "outcomes")} <= set(pictured)


def test_a_title_that_someone_else_wrote_is_shown_and_not_obeyed():
    page = pictures.painting_page([drawing(title="<b>x</b></script><script>alert(2)</script>")])
    assert page.count("<script") == page.count("</script>") == 3  # its own
    figure = json.loads(page.partition('data-picture="a-line">')[2].partition("</script>")[0])
    assert figure["layout"]["title"]["text"].startswith("&lt;b&gt;x&lt;/b&gt;")
    assert "connect-src" not in pictures.POLICY and pictures.POLICY.startswith("default-src 'none'")


def test_what_a_browser_printed_is_taken_only_where_it_is_a_picture():
    page = '<img alt="one" src="data:image/png;base64,iVBORw=="><img alt="../two" src="data:image/png;base64,AA==">'
    assert pictures.painted(page) == {"one": b"\x89PNG"}


def test_without_a_browser_kaleido_paints_where_it_is_installed(tmp_path, monkeypatch):
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "PNG")
    monkeypatch.setattr(picturing, "find_browser", lambda: None)
    monkeypatch.setattr(picturing, "find_spec", lambda name: name)
    monkeypatch.setattr("plotly.graph_objects.Figure.to_image", lambda self, **how: picture.getvalue())
    (path,) = picturing.write_pngs({"load": [drawing()]}, tmp_path)
    assert path.read_bytes() == picture.getvalue()


@pytest.mark.parametrize("installed", [None, "kaleido"], ids=["not installed", "without its browser"])
def test_with_neither_the_remedy_is_named(tmp_path, monkeypatch, installed):
    def no_browser(self, **how):
        raise RuntimeError("Kaleido requires Google Chrome to be installed.")

    monkeypatch.setattr(picturing, "find_browser", lambda: None)
    monkeypatch.setattr(picturing, "find_spec", lambda name: installed)
    monkeypatch.setattr("plotly.graph_objects.Figure.to_image", no_browser)
    with pytest.raises(ConfigError, match=r"--png: no Chromium.*apt install chromium.*pip install kaleido"):
        picturing.write_pngs({"load": [drawing()]}, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "said"), [("exit 3", "painted no a-line.*exit code 3"), ("exec sleep 30", "did not paint")]
)
def test_a_browser_that_fails_or_hangs_is_named_and_nothing_is_written(tmp_path, monkeypatch, script, said):
    browser = tmp_path / "chromium"
    browser.write_text(f"#!/bin/sh\n{script}\n")
    browser.chmod(0o755)
    monkeypatch.setattr(picturing, "find_browser", lambda: str(browser))
    monkeypatch.setattr(picturing, "PAINTED_WITHIN_S", 0.5)
    with pytest.raises(ConfigError, match=said):
        picturing.write_pngs({"load": [drawing()]}, tmp_path / "png")
    assert not (tmp_path / "png").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(picturing, "_painted", lambda drawings: {"a-line": b"png"})
    with pytest.raises(RunFolderError, match=r"cannot write figures to .*file/png: Not a directory"):
        picturing.write_pngs({"load": [drawing()]}, tmp_path / "file" / "png")


def test_a_browser_is_found_by_any_of_its_usual_names(tmp_path, monkeypatch):
    (tmp_path / "google-chrome").write_text("#!/bin/sh\n")
    (tmp_path / "google-chrome").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(picturing, "ON_A_MAC", ())
    assert picturing.find_browser() == str(tmp_path / "google-chrome") == shutil.which("google-chrome")
    (tmp_path / "google-chrome").unlink()
    assert picturing.find_browser() is None
