"""Ways in which files are damaged, or made to do damage: of any bytes, and of text with entries."""

import random

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
WORDS = (  # in the place of a value
    "null", "NaN", "-1", "1e999", "99999999999999999999", "true", "[]", "{}", '""', '"\\ud800"', "[[[[]]]]",
    "0.1", "*a", "&a [*a]", "!!python/object/apply:os.system [x]", "../../x", "'", '"', "\x00", "\x1b[31m", "é",
)  # fmt: skip


def flip(rng: random.Random, content: bytes) -> bytes:
    """Some bits are others."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_number(rng: random.Random, content: bytes) -> bytes:
    """One, two or four bytes are an extreme number."""
    width, order = rng.choice((1, 2, 4)), rng.choice(("big", "little"))
    number = rng.choice(EXTREMES) % 256**width
    at = rng.randrange(max(1, min(len(content), rng.choice((64, 512, len(content))))))
    return content[:at] + number.to_bytes(width, order) + content[at + width :]


def cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def drop(rng: random.Random, content: bytes) -> bytes:
    first, last = _part(rng, content)
    return content[:first] + content[last:]


def double(rng: random.Random, content: bytes) -> bytes:
    first, last = _part(rng, content)
    return content[:last] + content[first:]


def put_in(rng: random.Random, content: bytes) -> bytes:
    """Foreign bytes in between."""
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice((1, 2, 16, 300))) + content[at:]


def zeros(rng: random.Random, content: bytes) -> bytes:
    """As a file system leaves a block that it had not written."""
    first, last = _part(rng, content)
    return content[:first] + bytes(last - first) + content[last:]


def _part(rng: random.Random, content: bytes) -> tuple[int, int]:
    first = rng.randrange(len(content))
    return first, min(len(content), first + rng.choice((1, 4, 50, 5000)))


DAMAGES = (flip, flip, set_number, set_number, cut, drop, double, put_in, zeros)


def damage(rng: random.Random, content: bytes) -> bytes:
    """Damaged in one way, seldom in two."""
    for _ in range(rng.choice((1, 1, 1, 2))):
        content = rng.choice(DAMAGES)(rng, content or b"\0")
    return content


def damage_text(rng: random.Random, text: str) -> bytes:
    """A text of entries: a value is another, a line is gone or twice, or the bytes are damaged."""
    way = rng.randrange(5)
    if way == 0:
        return damage(rng, text.encode())
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    if way == 1:
        lines.pop(at)
    elif way == 2:
        lines.insert(at, rng.choice(lines))
    elif way == 3:
        lines.insert(at, rng.choice(WORDS) * rng.choice((1, 1, 2000)))
    else:
        separator = rng.choice((":", ",", " "))
        fields = lines[at].split(separator)
        fields[rng.randrange(len(fields))] = rng.choice(WORDS)
        lines[at] = separator.join(fields)
    return "\n".join(lines).encode("utf-8", "surrogatepass")
