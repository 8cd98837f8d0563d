"""Explorers to play with in a notebook, and the one for retrieval. Here and in explorers.py is all that imports
ipywidgets.

An explorer only binds inputs to a `draw` method from their values to HTML, which tests call without a browser. Every
input has a label, and what goes wrong is said in a status line, for exceptions in callbacks are seen by nobody. Where
no kernel answers (papermill, exported HTML, a page on the web) the same picture stands as plain HTML. Not here: how a
question is answered (explore.py), how HTML is made (markup.py)."""

from __future__ import annotations

import time
from contextlib import contextmanager

import ipywidgets as widgets
from markupsafe import Markup

from data_prep.conditions import HELP, split_conditions
from data_prep.errors import KitError
from data_prep.images import read_upload

from .explore import WHOLE, Searcher
from .front_end import interactive
from .markup import readable_labels, render

IMAGE_FILES = ".png,.jpg,.jpeg,.dcm,.dicom"
MAX_CHOICES = 500  # a longer list cannot be read
WIDE = widgets.Layout(width="100%", max_width="860px")
STATUS = Markup('<div role="status" style="color:{}">{}</div>')


class Explorer(widgets.VBox):
    """Inputs, a status line, a picture. A subclass names its inputs and has `draw(**values) -> (html, note)`."""

    served = False  # on a page whose visitors find a kernel, though nobody sits before a notebook

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
        """The live view where a kernel answers, and beside it a static one, for wherever none does."""
        live = self.served or interactive()
        bundle = super()._repr_mimebundle_(**kwargs) if live else {}
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
    """Type a sentence, choose or upload an image, or both: the best K with their scores, the words
    and patches that match; only where conditions hold, and without what is not wanted.
    `RetrievalExplorer(index, model, tokenizer)` for one model, or several by name to switch
    between: `RetrievalExplorer({"MbA": Searcher(index, model, tokenizer), "MbA, masked": …})`."""

    REMEMBERED = ("ask", "sentence", "without", "image", "where", "per", "k")

    def __init__(self, search, model=None, tokenizer=None, *, sentence: str = "", k: int = 5):
        one = not isinstance(search, dict)
        self.searchers = {"model": Searcher(search, model, tokenizer)} if one else search
        self.words: list[str] = []
        self._quiet = False
        narrow, field = widgets.Layout(width="auto"), widgets.Layout(width="420px")
        line = {"continuous_update": False, "layout": field}
        super().__init__(
            "Retrieval explorer",
            ask=widgets.ToggleButtons(
                options=["sentence", "image", "both"],
                value="sentence" if sentence else "image",
                description="Ask with",
                style={"button_width": "auto"},
                layout=widgets.Layout(width="max-content"),
            ),
            sentence=widgets.Text(
                sentence,
                description="Sentence",
                placeholder="a finding, then Enter",
                continuous_update=False,
                layout=WIDE,
            ),
            without=widgets.Text("", description="but not like", placeholder="a finding", **line),
            image=widgets.Dropdown(options=self._images(), description="or gallery image"),
            upload=widgets.FileUpload(
                accept=IMAGE_FILES, description="or upload an image", layout=narrow
            ),
            where=widgets.Text("", description="only where", placeholder=HELP, **line),
            per=widgets.Dropdown(
                options=[("pair", None), ("patient", "patient_id"), ("study", "study_id")],
                description="one hit per",
            ),
            k=widgets.IntSlider(k, 1, 50, description="K"),
            model=widgets.ToggleButtons(
                options=list(self.searchers),
                description="Model",
                style={"button_width": "auto"},
                layout=widgets.Layout(width="max-content"),
            ),
            word=widgets.Dropdown(options=[("the whole text", WHOLE)], description="Light up"),
            glow=widgets.Checkbox(True, description="glow", indent=False, layout=narrow),
            earlier=widgets.Dropdown(options=[("–", None)], description="Asked earlier"),
        )

    def _images(self) -> list[tuple[str, int]]:
        """The gallery's images to choose from, as (name, row)."""
        table = next(iter(self.searchers.values())).index.table.head(MAX_CHOICES)
        names = table["pair_id"] + " · " + table["labels"].map(readable_labels).str.slice(0, 50)
        return list(zip(names, range(len(table)), strict=True))

    def refresh(self, change=None) -> None:
        """Answer the question as it stands now; what was changed last says how it is asked."""
        if self._quiet:
            return
        changed = next((n for n, c in self.inputs.items() if change and c is change.owner), None)
        with self._silently():
            self._follow(changed)
        other_words = changed not in ("k", "word", "glow")
        if other_words:
            self._offer([])
        super().refresh(change)
        if other_words:
            self._offer(self.words)
            self._remember()

    @contextmanager
    def _silently(self):
        """Inputs may be set without an answer to each."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _follow(self, changed: str | None) -> None:
        """Bring the other inputs in line with the one that was changed; what is stale is cleared."""
        ask, upload = self.inputs["ask"], self.inputs["upload"]
        if changed == "earlier" and self.inputs["earlier"].value:
            for name, value in self.inputs["earlier"].value.items():
                self.inputs[name].value = value
        elif changed == "sentence" and ask.value == "image":
            ask.value = "sentence"
        elif changed in ("image", "upload") and ask.value == "sentence":
            ask.value = "image"
        if changed == "image" or ask.value == "sentence":
            upload.value = ()

    def _remember(self) -> None:
        """Put the question on the list of earlier ones, the newest first."""
        now = {name: self.inputs[name].value for name in self.REMEMBERED}
        what = now["sentence"] if now["ask"] != "image" else self.inputs["image"].label
        name = " · ".join(filter(None, [f"{now['ask']}: {what}", now["without"], now["where"]]))
        older = [
            option for option in self.inputs["earlier"].options if option[1] not in (None, now)
        ]
        with self._silently():
            self.inputs["earlier"].options = [("–", None), (name[:90], now), *older[:19]]

    def _offer(self, words: list[str]) -> None:
        self.words = words
        with self._silently():
            self.inputs["word"].options = [("the whole text", WHOLE), *numbered(words)]

    def draw(
        self, ask, sentence, without, image, upload, where, per, k, model, word, glow, earlier
    ):
        """What the searcher answers → (html, note)."""
        searcher = self.searchers[model]
        how = {"where": split_conditions(where), "per": per, "glow": glow}
        if ask != "sentence" and upload:
            file = read_upload(upload[0]["name"], bytes(upload[0]["content"]))
            image = searcher.square(file)
        if ask == "image":
            answer = searcher.for_image(image, k, word, **how)
        else:
            both = {"image": image} if ask == "both" else {}
            answer = searcher.for_text(sentence, k, word, without=without, **both, **how)
        self.words = answer.words
        found = f"the best {len(answer.hits)} of {len(searcher.index)} pairs"
        return answer.html, "; ".join([found, *answer.notes])


def numbered(words: list[str]) -> list[tuple[str, int]]:
    """Options to choose from, told apart where a word comes twice."""
    return [(f"{number}. {word}", number - 1) for number, word in enumerate(words, start=1)]
