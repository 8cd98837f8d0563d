"""Explorers to play with in a notebook, and the one for retrieval. The only module of mcr_lib that imports ipywidgets.

An explorer only binds inputs to a `draw` method from their values to HTML, which tests call without a browser. Every
input has a label, and what goes wrong is said in a status line, for exceptions in callbacks are seen by nobody. Where
no kernel answers (papermill, exported HTML, a page on the web) the same picture stands as plain HTML. Not here: how a
question is answered (explore.py), how HTML is made (markup.py)."""

from __future__ import annotations

import time

import ipywidgets as widgets
from markupsafe import Markup

from data_prep.errors import KitError
from data_prep.images import read_upload

from .explore import WHOLE, Searcher
from .markup import readable_labels, render

IMAGE_FILES = ".png,.jpg,.jpeg,.dcm,.dicom"
MAX_CHOICES = 500  # a longer list cannot be read
WIDE = widgets.Layout(width="100%", max_width="860px")
STATUS = Markup('<div role="status" style="color:{}">{}</div>')


class Explorer(widgets.VBox):
    """Inputs, a status line, a picture. A subclass names its inputs and has `draw(**values) -> (html, note)`."""

    def __init__(self, title: str, **inputs: widgets.Widget):
        self.title, self.inputs = title, inputs
        self.status = widgets.HTML()
        self.picture = widgets.HTML(layout=widgets.Layout(width="100%"))
        for control in inputs.values():
            if control.style.has_trait("description_width"):
                control.style.description_width = "initial"  # else long labels are cut
        row = widgets.HBox(list(inputs.values()), layout=widgets.Layout(flex_flow="row wrap"))
        super().__init__([row, self.status, self.picture])
        for control in inputs.values():
            control.observe(self.refresh, "value")
        self.refresh()

    def refresh(self, change=None) -> None:
        """Draw again; whatever goes wrong is shown, and the last picture stays."""
        start = time.perf_counter()
        values = {name: control.value for name, control in self.inputs.items()}
        try:
            html, note = self.draw(**values)
        except Exception as error:
            known = isinstance(error, KitError)
            self._say(f"⚠ {error}" if known else f"⚠ {type(error).__name__}: {error}", "#b00020")
            return
        self.picture.value = str(html)
        self._say(f"{note} ({1000 * (time.perf_counter() - start):.0f} ms)")

    def _say(self, text: str, colour: str = "inherit") -> None:
        self.status.value = str(STATUS.format(colour, text))

    def _repr_mimebundle_(self, **kwargs):
        """Beside the live view a static one, for wherever no kernel answers."""
        bundle = super()._repr_mimebundle_(**kwargs)
        chosen = "; ".join(
            f"{control.description}: {getattr(control, 'label', None) or control.value}"
            for control in self.inputs.values()
            if not isinstance(control, widgets.FileUpload)
        )
        status, picture = Markup(self.status.value), Markup(self.picture.value)
        bundle["text/plain"] = f"{self.title} ({chosen})"
        bundle["text/html"] = str(
            render("static.html", title=self.title, chosen=chosen, status=status, picture=picture)
        )
        return bundle


class RetrievalExplorer(Explorer):
    """Type a sentence, or choose or upload an image: the best K, their scores, the words and
    patches that match. `RetrievalExplorer(index, model, tokenizer)` for one model, or several by
    name to switch between: `RetrievalExplorer({"MbA": Searcher(index, model, tokenizer), "MbA,
    masked": …})`."""

    def __init__(self, search, model=None, tokenizer=None, *, sentence: str = "", k: int = 5):
        one = not isinstance(search, dict)
        self.searchers = {"model": Searcher(search, model, tokenizer)} if one else search
        self.asked = "sentence" if sentence else "image"
        self.words: list[str] = []
        self._quiet = False
        narrow = widgets.Layout(width="auto")
        super().__init__(
            "Retrieval explorer",
            sentence=widgets.Text(
                sentence,
                description="Sentence",
                placeholder="a finding, then Enter",
                continuous_update=False,
                layout=WIDE,
            ),
            image=widgets.Dropdown(options=self._images(), description="or gallery image"),
            upload=widgets.FileUpload(
                accept=IMAGE_FILES, description="or upload an image", layout=narrow
            ),
            k=widgets.IntSlider(k, 1, 10, description="K"),
            model=widgets.ToggleButtons(
                options=list(self.searchers),
                description="Model",
                style={"button_width": "auto"},
                layout=widgets.Layout(width="max-content"),
            ),
            word=widgets.Dropdown(options=[("the whole text", WHOLE)], description="Light up"),
        )

    def _images(self) -> list[tuple[str, int]]:
        """The gallery's images to choose from, as (name, row)."""
        table = next(iter(self.searchers.values())).index.table.head(MAX_CHOICES)
        names = table["pair_id"] + " · " + table["labels"].map(readable_labels).str.slice(0, 50)
        return list(zip(names, range(len(table)), strict=True))

    def refresh(self, change=None) -> None:
        """Answer what was asked last: the sentence, the chosen image or the uploaded one."""
        if self._quiet:
            return
        changed = next((n for n, c in self.inputs.items() if change and c is change.owner), None)
        if changed in ("sentence", "image", "upload"):
            self.asked = changed
        other_words = changed not in ("k", "word")
        if other_words:
            self._offer([])
        super().refresh(change)
        if other_words:
            self._offer(self.words)

    def _offer(self, words: list[str]) -> None:
        self._quiet, self.words = True, words
        self.inputs["word"].options = [("the whole text", WHOLE), *numbered(words)]
        self._quiet = False

    def draw(self, sentence, image, upload, k, model, word) -> tuple[str, str]:
        """What the searcher answers → (html, note)."""
        searcher = self.searchers[model]
        if self.asked == "sentence":
            answer = searcher.for_text(sentence, k, word)
        elif self.asked == "upload" and upload:
            file = read_upload(upload[0]["name"], bytes(upload[0]["content"]))
            answer = searcher.for_image(searcher.square(file), k, word)
        else:
            answer = searcher.for_image(image, k, word)
        self.words = answer.words
        found = f"the best {len(answer.hits)} of {len(searcher.index)} pairs"
        return answer.html, "; ".join([found, *answer.notes])


def numbered(words: list[str]) -> list[tuple[str, int]]:
    """Options to choose from, told apart where a word comes twice."""
    return [(f"{number}. {word}", number - 1) for number, word in enumerate(words, start=1)]
