"""A real JupyterLab in a real browser: open the last notebook, run it, type, move a slider, upload a broken file, and
read what is shown; then the offline report page. Not here: what a widget computes (test_widgets.py).

Where chromium is missing the tests are skipped with that reason, but on CI (CI=true) they fail.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from kit import lab as kit_lab

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CHROMIUM = next(
    (
        path
        for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
        if Path(path).exists()
    ),
    None,
)
pytestmark = [pytest.mark.browser, pytest.mark.slow]
if CHROMIUM is None and os.environ.get("CI") != "true":
    pytestmark.append(pytest.mark.skip(reason="no chromium here: apt-get install chromium"))
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
]
SETTINGS = {  # cells are drawn also where they are not in view
    "notebook-extension/tracker": '{"windowingMode": "none"}'
}


@pytest.fixture(scope="module")
def out(tmp_path_factory, phantom, smoke_run):
    """A notebook's output folder in which everything is trained: the smoke run, also as the AbM arm (same weights)."""
    folder = tmp_path_factory.mktemp("browser") / "out"
    folder.mkdir()
    (folder / "data").symlink_to(phantom)
    for name, alignment in (("mcr-mba", "mba"), ("mcr-abm", "abm")):
        shutil.copytree(smoke_run, folder / name)
        config = folder / name / "config.yaml"
        config.write_text(config.read_text().replace("alignment: mba", f"alignment: {alignment}"))
    return folder


@pytest.fixture(scope="module")
def lab(out):
    """The address of a JupyterLab as `make lab` starts it, elsewhere; the last of its copies writes to `out`."""
    workspace = out.parent / "workspace"
    kit_lab.lay_out(workspace)
    notebook = load_notebook_node(str(NOTEBOOKS / "06_explore.ipynb"))
    for cell in notebook.cells:
        cell.metadata.pop("jupyter", None)  # solutions unfolded: the last of them ends the run
    nbformat.write(
        parameterize_notebook(notebook, {"profile": "smoke", "out": str(out), "device": "cpu"}),
        workspace / "06_explore.ipynb",
    )
    for name, content in SETTINGS.items():
        path = out.parent / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "HOME": str(out.parent),
        "JUPYTER_CONFIG_DIR": str(out.parent / "config"),
        "JUPYTER_RUNTIME_DIR": str(out.parent / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(out.parent / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(out.parent / "workspaces"),
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        *kit_lab.arguments(workspace),
        "--no-browser",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
    ]
    log = (out.parent / "lab.log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(480):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5).read()
                break
            except OSError:
                assert server.poll() is None, (out.parent / "lab.log").read_text()
                time.sleep(0.25)
        yield address
    finally:
        server.terminate()  # it shuts its kernel down, too
        server.wait(120)
        log.close()


@pytest.fixture(scope="module")
def browser():
    """Chromium by playwright, which downloads nothing."""
    assert CHROMIUM, (
        "chromium is missing, and on CI this test may not be skipped: apt-get install chromium"
    )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


def watched(browser, **settings):
    """A new page, and the list to which its console errors are added."""
    page = browser.new_page(viewport={"width": 1400, "height": 1100}, **settings)
    page.set_default_timeout(
        180_000
    )  # where nothing else runs the test takes a minute; CI machines can be busy
    errors = []
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page, errors


def test_the_lab_opens_the_first_lesson_and_asks_nothing(lab, browser):
    page, errors = watched(browser)
    page.goto(lab)
    page.get_by_role("heading", name="00 · Start here").wait_for()
    page.get_by_text(re.compile("Python 3.*Idle")).wait_for()
    assert page.get_by_text("official Jupyter news").count() == 0 and errors == []
    page.close()


def test_the_explorer_in_jupyterlab(lab, browser, out):
    page, errors = watched(browser)
    page.goto(f"{lab}/lab/tree/06_explore.ipynb?reset")
    page.get_by_text(re.compile("Python 3.*Idle")).wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.get_by_text(
        re.compile("as it is:.*mirrored:")
    ).last.wait_for()  # what the last cell prints
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0

    explorer = (
        page.locator(".jp-OutputArea-output")
        .filter(has=page.get_by_label("Sentence", exact=True))
        .first
    )
    explorer.scroll_into_view_if_needed()
    status, cards = explorer.get_by_role("status"), explorer.locator("figure img")
    assert "the best 5 of" in status.inner_text() and cards.count() == 5
    found = [card.get_attribute("alt") for card in cards.all()]
    page.screenshot(path=out.parent / "1-opened.png")

    sentence = explorer.get_by_label("Sentence", exact=True)  # the label belongs to the input
    sentence.fill("Sternotomy wires and a pacemaker.")
    sentence.press("Enter")
    explorer.get_by_text("Query: Sternotomy").wait_for()
    assert [card.get_attribute("alt") for card in cards.all()] != found

    handle = explorer.get_by_role("slider").first  # K, by keyboard
    handle.focus()
    handle.press("ArrowRight")
    explorer.get_by_text("the best 6 of").wait_for()
    assert cards.count() == 6
    page.screenshot(path=out.parent / "2-asked.png")

    explorer.get_by_role("button", name="MbA, masked").click()
    explorer.locator("span[title=masked]").first.wait_for()
    explorer.get_by_role("button", name="AbM", exact=True).click()
    explorer.locator("span[title=masked]").first.wait_for(state="detached")

    def upload(file):
        with page.expect_file_chooser() as chooser:
            explorer.get_by_role("button", name="or upload an image").click()
        chooser.value.set_files(file)

    upload({"name": "broken.png", "mimeType": "image/png", "buffer": b"not an image"})
    explorer.get_by_text("broken.png cannot be used as an image").wait_for()
    assert cards.count() == 6  # the last answer stays
    page.screenshot(path=out.parent / "3-refused.png")
    upload(next((out / "data" / "images").glob("*.png")))
    explorer.locator("img[alt='your image']").wait_for()
    page.screenshot(path=out.parent / "4-answered.png")

    page.keyboard.press("Control+s")
    page.wait_for_timeout(1000)
    assert errors == []
    page.close()


def test_the_report_page_offline(out, browser):
    """The page of what the notebook above left, with the network off: pictures there, links work, nothing missing."""
    from benchmarks.page import write_notebook_page, write_page

    saved = out.parent / "workspace" / "06_explore.ipynb"
    (out / "notebooks").mkdir()
    shutil.copy(saved, out / "notebooks")
    write_notebook_page(saved, out / "notebooks" / "06_explore.html")
    index = write_page(
        out,
        {"profile": "smoke"},
        [
            {
                "name": "06_explore",
                "title": "06 · Explore",
                "seconds": 1.0,
                "error": None,
                "html": "notebooks/06_explore.html",
                "ipynb": "notebooks/06_explore.ipynb",
            }
        ],
    )

    page, errors = watched(browser, offline=True)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(index.as_uri())
    page.screenshot(path=out.parent / "5-page.png", full_page=True)
    assert_pictures_are_there(page, at_least=3)
    page.set_viewport_size({"width": 390, "height": 800})  # a phone: nothing to be pushed sideways
    for fold in page.locator("summary").all():
        fold.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1400, "height": 1100})
    page.get_by_role("link", name="read it").first.click()
    page.get_by_text(
        "Retrieval explorer"
    ).first.wait_for()  # the static view in place of the widget
    assert_pictures_are_there(page, at_least=8)
    page.screenshot(path=out.parent / "6-notebook.png", full_page=True)
    assert errors == [] and all(url.startswith(("file:", "data:")) for url in asked)
    page.close()


def assert_pictures_are_there(page, at_least: int) -> None:
    images = page.locator("img").all()
    assert len(images) >= at_least
    assert all(image.evaluate("e => e.complete && e.naturalWidth > 0") for image in images)
    assert all(image.get_attribute("alt") for image in images)
