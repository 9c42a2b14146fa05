"""A small folder of photos as a person has them: uneven, rotated, damaged, copied."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("längs", "quer", "Punkte & Ähnliches")  # stripes down, stripes across, dots
LEFT_OUT = {
    "längs/kaputt.jpg": "damaged",
    "quer/leer.png": "not a JPEG",
    "längs/doppelt.png": "the same image in different classes",
    "quer/doppelt (1).png": "the same image in different classes",
}
_ROTATED = 6  # EXIF: turn by 270 degrees to see it upright


def make_photos(root: Path, count: int, *, side: int = 16) -> Path:
    """Write `count` grey photos of three classes, two of which differ only in their direction."""
    generator = np.random.default_rng(3)
    counts = (count // 2, count // 3, count - count // 2 - count // 3)
    for label, number in zip(CLASSES, counts, strict=True):
        (root / label).mkdir(parents=True)
        for index in range(number):
            image = _draw(label, side, generator).convert("RGB" if index % 2 else "L")
            path = root / label / f"Bild {index:03d}.png"
            if index % 5 == 4:  # stored lying on its side
                exif = Image.Exif()
                exif[0x112] = _ROTATED
                image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
            else:
                image.save(path)
    down, across = root / CLASSES[0], root / CLASSES[1]
    _draw(CLASSES[0], side, generator).save(down / "kaputt.jpg", quality=95)
    (down / "kaputt.jpg").write_bytes((down / "kaputt.jpg").read_bytes()[:-150])
    (across / "leer.png").write_bytes(b"")
    _draw(CLASSES[0], side, generator).save(down / "doppelt.png")
    (across / "doppelt (1).png").write_bytes((down / "doppelt.png").read_bytes())
    (root / "Thumbs.db").write_bytes(b"x")
    return root


def _draw(label: str, side: int, generator: np.random.Generator) -> Image.Image:
    phase, period = generator.integers(0, 8), generator.integers(3, 6)
    lines = ((np.arange(side) + phase) // period % 2 * 150).astype(float)
    down = np.tile(lines, (side, 1))
    patterns = {CLASSES[0]: down, CLASSES[1]: down.T, CLASSES[2]: down * down.T / 150}
    pixels = patterns[label] + generator.normal(50, 15, (side, side))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
