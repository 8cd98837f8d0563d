"""The packed store, damaged: the pixels are right, or it is refused; after `pack` they are right."""

import os
import shutil

import numpy as np
import pandas as pd
from PIL import Image

from data_prep import pack
from data_prep.errors import DataError

from . import Kind, Loss
from .damage import damage

SIZE, COUNT = 16, 12


class Store(Kind):
    name, cases = "packed store", 6_000

    def __init__(self, folder):
        super().__init__(folder)
        self.whole, self.data = folder / "whole", folder / "data"
        (self.whole / "images").mkdir(parents=True)
        self.table = pd.DataFrame({"image_path": [f"images/{i}.png" for i in range(COUNT)]})
        for number, path in enumerate(self.table.image_path):
            self.draw(self.whole / path, number)
        pack.pack(self.whole, SIZE, 1, table=self.table)
        self.pixels = np.array(pack.open_store(self.whole, SIZE, table=self.table))
        shutil.copytree(self.whole, self.data, copy_function=shutil.copy2)

    def draw(self, path, seed):
        """An image of its own, always of as many bytes."""
        pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE), np.uint8)
        Image.fromarray(pixels).save(path, compress_level=0)

    def case(self, rng):
        for file in (self.whole / "store").glob(f"{SIZE}.*"):
            shutil.copy2(file, self.data / "store" / file.name)
        path = self.data / "store" / f"{SIZE}.{rng.choice(('npy', 'npy', 'rows', 'json'))}"
        about = path.stat()
        path.write_bytes(damage(rng, path.read_bytes()))
        if rng.random() < 0.5:
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
        refused = False
        try:
            self.compare(rng.random() < 0.3)
        except DataError:
            refused = True
        self.compare(thorough=True)
        return refused

    def compare(self, thorough: bool) -> None:
        pack.pack(self.data, SIZE, 1, table=self.table, thorough=thorough)
        if not (np.array(pack.open_store(self.data, SIZE, table=self.table)) == self.pixels).all():
            raise Loss("other pixels")


KINDS = [Store]
