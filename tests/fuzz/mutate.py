"""Ways to damage bytes, texts and trees of values. All of them take the random numbers that decide."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random

# Texts that programs take for something else: missing values, numbers, dates, paths, markup, control characters.
TEXTS = (
    *(
        "None",
        "NA",
        "N/A",
        "nan",
        "NaN",
        "null",
        "NULL",
        "-",
        "?",
        "#N/A",
        "",
        " ",
        "0",
        "1",
        "-1",
        "001",
        "1_0",
        "0x1F",
    ),
    *("1e5", "1e999", "inf", "-inf", "1.", ".5", "1,5", "12345678901234567890", "True", "true", "FALSE", "yes", "no"),
    *(
        "9-Mar",
        "3-9",
        "2024-01-02",
        "00:10",
        "a,b",
        "a;b",
        "a\tb",
        'a"b',
        '"',
        "'",
        "a\nb",
        "a\rb",
        "a\r\nb",
        "a|b",
        "=1+1",
    ),
    *(
        "\u00e4",
        "a\u0308",
        "\ufeffx",
        "\u202ex",
        "\U0001f600",
        "\u00a0",
        "x\u2028y",
        "\x00",
        "\x1b[31m",
        "\x7f",
        "x" * 300,
    ),
    *(
        "..",
        "../x",
        "/x",
        "C:\\x",
        "~",
        "$HOME",
        "file:///x",
        "%s",
        "{}",
        "<b>",
        "&amp;",
        "*",
        "[",
        "\\",
        "Male",
        "20-29",
    ),
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53 + 1,
    2**63,
    10**30,
)


def text(rng: Random) -> str:
    """One of the odd texts, or some letters."""
    return rng.choice(TEXTS) if rng.random() < 0.8 else "".join(rng.choices("abcXYZ019 _-.", k=rng.randint(1, 9)))


def damaged(rng: Random, data: bytes, times: int | None = None, start: int = 0, end: int | None = None) -> bytes:
    """Bytes after one to three accidents: flipped, cut, zeroed, repeated, other numbers in it; in `start` … `end`."""
    for _ in range(times or rng.choice((1, 1, 1, 2, 3))):
        end = min(len(data), len(data) if end is None else end)
        at = rng.randrange(start, max(end, start + 1))
        some = rng.choice((1, 2, 4, 16, 64, 512, rng.randint(1, max(len(data), 1))))
        match rng.randrange(11):
            case 0 | 1 | 2:
                flipped = data[at] ^ 1 << rng.randrange(8) if at < len(data) else 1
                data = data[:at] + bytes([flipped]) + data[at + 1 :]
            case 3:
                data = data[:at] + rng.randbytes(some)[: len(data) - at] + data[at + some :]
            case 4:
                data = data[:at]
            case 5:
                data = data[:at] + data[at + some :]
            case 6:
                data = data[:at] + bytes(min(some, len(data) - at)) + data[at + some :]
            case 7:
                data = data[:at] + data[at : at + some] + data[at:]
            case 8:
                number = rng.choice(NUMBERS) & 0xFFFFFFFF
                data = data[:at] + struct.pack(rng.choice("<>") + "I", number)[: rng.choice((2, 4))] + data[at + 4 :]
            case 9:
                data += rng.choice((b"\0" * some, rng.randbytes(some), data[:some]))
            case 10 if rng.random() < 0.2:
                data = rng.choice((b"", b"\0", b"PK\x03\x04", b"\xff\xd8\xff", b"<html>404</html>", rng.randbytes(99)))
    return data


def value(rng: Random, depth: int = 2) -> object:
    """A value of any kind that JSON and YAML know."""
    match rng.randrange(8 if depth else 6):
        case 0:
            return None
        case 1:
            return rng.random() < 0.5
        case 2:
            return rng.choice(NUMBERS) * rng.choice((1, 1, -1))
        case 3:
            return rng.choice((0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"), 1e5))
        case 4 | 5:
            return text(rng)
        case 6:
            return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
        case _:
            return {text(rng): value(rng, depth - 1) for _ in range(rng.randrange(4))}


def places(tree: object, path: tuple = ()) -> list[tuple]:
    """The ways to every value of a tree of dictionaries and lists."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(found for key, part in inner for found in places(part, (*path, key)))]


def changed(rng: Random, tree: object, times: int | None = None) -> object:
    """A copy of a tree with values replaced, removed, renamed, repeated or wrapped."""
    tree = json.loads(json.dumps(tree))
    for _ in range(times or rng.choice((1, 1, 1, 2, 4))):
        path = rng.choice(places(tree))
        if not path:
            if rng.random() < 0.1:
                tree = value(rng)
            continue
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        key, old = path[-1], parent[path[-1]]
        match rng.randrange(8):
            case 0 | 1 | 2:
                parent[key] = value(rng)
            case 3:
                del parent[key]
            case 4:
                parent[key] = rng.choice(([old], {"x": old}, str(old), [old, old], None))
            case 5 if isinstance(parent, dict):
                parent[text(rng)] = value(rng) if rng.random() < 0.5 else parent.pop(key)
            case 5:
                parent.insert(key, value(rng))
            case 6 if isinstance(old, int | float):
                parent[key] = rng.choice((old + 1, -old, float(old), old * 10**9, not old))
            case 6 if isinstance(old, str):
                parent[key] = rng.choice((old + " ", old.upper(), old[:-1], old * 50, old + "\n"))
            case 7:
                for _ in range(rng.choice((3, 60))):
                    old = [old] if rng.random() < 0.7 else {"a": old}
                parent[key] = old
    return tree


def written(rng: Random, text: str) -> bytes:
    """A text as a file, now and then in another encoding or damaged."""
    match rng.randrange(16):
        case 0:
            return text.encode(rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7")), "replace")
        case 1:
            return text.encode(rng.choice(("latin-1", "cp1252", "cp949", "shift_jis", "ascii")), "replace")
        case 2:
            return damaged(rng, text.encode("utf-8", "replace"))
        case 3:
            return text.encode("utf-8", "replace") + rng.choice(
                (b"\x1a", b"\0\0\0", b"\n\n\n", b"\xff", b"{}", b"---\n")
            )
        case 4 if rng.random() < 0.4:
            return rng.choice(("[" * 90_000, '{"a":' * 90_000, "[" * 400 + "]" * 400)).encode()
    return text.encode("utf-8", "surrogatepass")


def struck(rng: Random, file: Path) -> None:
    """A file is damaged, gone, or a folder by now."""
    if rng.random() < 0.1:
        file.unlink()
        if rng.random() < 0.5:
            file.mkdir()
    else:
        file.write_bytes(damaged(rng, file.read_bytes()))
