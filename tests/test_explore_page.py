"""The explorer as a page of its own, in a real browser: token, filters, negation, upload, history, no code, no network.

Not here: what each input does (test_widgets.py), the explorer in JupyterLab (test_browser.py).
"""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from test_browser import browser, pytestmark, watched  # noqa: F401 (fixture and marks of a real browser)


@pytest.fixture(scope="module")
def address(smoke_run, phantom, tmp_path_factory):
    """Where the page is served, with its token; its server ends with the module."""
    folder = tmp_path_factory.mktemp("page")
    command = [sys.executable, "-m", "kit.explore_page", "--run", smoke_run, "--data", phantom]
    environment = os.environ | {"HOME": str(folder), "TOKENIZERS_PARALLELISM": "false"}
    log = folder / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--no-browser"], env=environment, stdout=output, stderr=output
        )
    try:
        for _ in range(240):
            found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\w+", log.read_text())
            if found:
                break
            assert server.poll() is None, log.read_text()
            try:
                server.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
        assert found, log.read_text()
        yield found[0]
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.parametrize("path", ["", "api/kernels", "voila/render/explore.ipynb"])
def test_nobody_comes_in_without_the_token(address, path):
    shown = urllib.request.urlopen(address.split("?")[0] + path, timeout=60)
    assert "/login?" in shown.url and "Sentence" not in shown.read().decode()


def test_the_page_answers_and_runs_no_code(address, browser, phantom, tmp_path):  # noqa: F811
    page, errors = watched(browser)
    asked = []
    page.on("requestfinished", lambda request: asked.append(request.url))
    page.goto(address)
    sentence = page.get_by_label("Sentence", exact=True)
    sentence.wait_for()
    status, films = page.get_by_role("status"), page.locator("figure img")
    assert "not for clinical use" in page.inner_text("body")
    assert "findings of these data; chance" in page.inner_text("body")

    sentence.fill("Large left pneumothorax.")
    sentence.press("Enter")
    page.get_by_text("Query: Large left pneumothorax").wait_for()
    assert films.count() == 5
    everything = [film.get_attribute("alt") for film in films.all()]

    where = page.get_by_label("only where")
    where.fill("split=test; view=frontal")
    where.press("Enter")
    page.wait_for_function(
        "before => [...document.querySelectorAll('figure img')].map(i => i.alt).join() != before",
        arg=",".join(everything),
    )
    filtered = [film.get_attribute("alt") for film in films.all()]
    where.fill("ward=7")
    where.press("Enter")
    page.get_by_text("no column 'ward'").wait_for()
    assert [film.get_attribute("alt") for film in films.all()] == filtered, "the last answer stays"
    where.fill("")
    where.press("Enter")
    page.wait_for_function(
        "before => [...document.querySelectorAll('figure img')].map(i => i.alt).join() == before",
        arg=",".join(everything),
    )

    films.first.click()  # to enlarge
    assert films.first.bounding_box()["height"] > 900
    films.first.evaluate("film => film.blur()")
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save these hits").click()
    assert Path(saved.value.path()).read_text().count("Large left pneumothorax") >= 0
    assert saved.value.suggested_filename == "hits.csv"

    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="or upload an image").click()
    chooser.value.set_files(next((phantom / "images").glob("*.png")))
    page.locator("img[alt='your image']").wait_for()
    assert films.count() == 6, "the image, and the film beside each of five reports"
    page.get_by_label("Asked earlier").select_option(index=2)
    page.get_by_text("Query: Large left pneumothorax").wait_for()
    assert "⚠" not in status.inner_text()
    page.screenshot(path=tmp_path / "page.png", full_page=True)

    told = kernel_replies(page, "print('it' + 'ran')")
    assert "execute_reply" not in told and "itran" not in told, (
        "the page's kernel runs no code of a visitor"
    )
    elsewhere = [
        url for url in asked if not url.startswith((address.split("?")[0], "data:", "blob:"))
    ]
    assert elsewhere == []
    unexpected = [error for error in errors if "Content Security Policy" not in error]
    assert not unexpected, unexpected
    page.close()


def kernel_replies(page, code: str) -> str:
    """What a kernel of the page answers within three seconds to a visitor's request to run code."""
    message = {
        "header": {
            "msg_id": "x",
            "username": "",
            "session": "x",
            "msg_type": "execute_request",
            "version": "5.3",
        },
        "parent_header": {},
        "metadata": {},
        "content": {"code": code, "silent": False},
        "channel": "shell",
    }
    return page.evaluate(
        """async message => {
          const kernel = window.__kernel || performance.getEntriesByType('resource').map(e => e.name)
            .map(n => n.match(/kernels\\/([0-9a-f-]{36})/)).filter(Boolean).map(m => m[1])[0]
            || JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId;
          const socket = new WebSocket(`ws://${location.host}/api/kernels/${kernel}/channels`);
          let told = '';
          socket.onmessage = event => { told += event.data; };
          await new Promise((done, failed) => { socket.onopen = done; socket.onerror = failed; });
          socket.send(message);
          await new Promise(done => setTimeout(done, 3000));
          socket.close();
          return told;
        }""",
        json.dumps(message),
    )
