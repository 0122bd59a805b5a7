"""What a foreign pickle holds, read without running any of it.

A pickle is a program: it names functions and says what to call them with, and even numpy's own, given numbers that do
not fit, read and write memory that is not theirs. Here its steps are only written down (`pickletools.genops`, which
makes nothing but numbers, texts and bytes), and what it wants made stays a `_Wanted`; arrays are then made of its bytes
after every piece was checked.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass

import numpy as np

MOST_STEPS = 500_000  # a batch of CIFAR-10 has 60,000; each step makes at most one small thing
_LEAF = (int, float, str, bytes, type(None))  # True and False are int
# Kinds of what a step leaves; a number of over 255 bytes, LONG4, is none that a batch needs.
_LEAF_STEPS = {"int", "int_or_bool", "float", "str", "bytes", "bytes_or_str", "bytearray"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# What makes an array in protocols 0 to 4, and in 5; what Python 3 writes for bytes in protocols 0 to 2.
_ARRAY, _ARRAY_5, _BYTES = "numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer", "_codecs.encode"
_NAMES = (_ARRAY, _ARRAY_5, _BYTES, "numpy.ndarray", _DTYPE := "numpy.dtype")


@dataclass
class _Wanted:
    """Something that a pickle wants made: the name of what makes it, its arguments, the state that it is given."""

    name: str
    arguments: tuple = ()
    state: object = None


def read_plain(data: bytes) -> object:
    """What a pickle holds: a number, a text, bytes, a flat list of these, a uint8 array, or a dictionary of all these.

    Texts of Python 2 come as Latin-1. Raises ValueError, with the cause, for a pickle of anything else: one that names
    another function, lists in lists, over `MOST_STEPS` steps, a damaged one.
    """
    try:
        held = _Machine().run(data)
        return {key: _value(value) for key, value in held.items()} if isinstance(held, dict) else _value(held)
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(str(error)[:200] or type(error).__name__) from None


class _Machine:
    """Follows the steps of a pickle on a stack of plain values; however deep the pickle, nothing here calls itself."""

    def __init__(self) -> None:
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self, data: bytes) -> object:
        for count, (step, argument, _) in enumerate(pickletools.genops(data)):
            if count == MOST_STEPS:
                raise ValueError(f"it has over {MOST_STEPS:,} steps")
            self._do(step.name, [kind.name for kind in step.stack_after], argument)
        return self.stack.pop()

    def _do(self, step: str, after: list[str], argument: object) -> None:
        stack = self.stack
        if step in ("PROTO", "FRAME", "STOP"):
            return
        if argument is not None and step != "LONG4" and after and _LEAF_STEPS.issuperset(after):
            stack.append(argument)
        elif step in _CONSTANTS:
            stack.append(_CONSTANTS[step])
        elif step in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if step == "MEMOIZE" else int(str(argument))] = stack[-1]
        elif step in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(str(argument))])
        elif step == "MARK":
            self.marks.append(len(stack))
        elif step in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if step == "EMPTY_LIST" else {})
        elif step in ("LIST", "DICT"):
            values = self._top()
            stack.append([] if step == "LIST" else {})
            self._extend(values)
        elif step in ("APPENDS", "SETITEMS"):
            self._extend(self._top())
        elif step in ("APPEND", "SETITEM"):
            self._extend(self._top(1 if step == "APPEND" else 2))
        elif step in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._top(int(step[5:] or -1))))
        elif step in ("GLOBAL", "STACK_GLOBAL"):
            name = str(argument).replace(" ", ".") if step == "GLOBAL" else ".".join(self._top(2))
            name = name.replace("numpy._core.", "numpy.core.")  # as numpy 2 calls it
            if name not in _NAMES:
                raise ValueError(f"it names {name[:80]}, which has no place in a batch of images")
            stack.append(_Wanted(name))
        elif step == "REDUCE":
            wanted, arguments = self._top(2)
            name = wanted.name  # an error for a plain value, which has none
            made = arguments[0].encode("latin-1") if name == _BYTES else _Wanted(name, tuple(arguments))
            stack.append(made)
        elif step == "BUILD":
            state = stack.pop()
            stack[-1].state = state  # likewise
        else:
            raise ValueError(f"it has a step {step}, which has no place in a batch of images")

    def _top(self, count: int = -1) -> list:
        """Takes the last `count` values off the stack, by default those since the last mark."""
        place = self.marks.pop() if count < 0 else len(self.stack) - count
        if place < 0:
            raise ValueError("it is damaged")
        values = self.stack[place:]
        del self.stack[place:]
        return values

    def _extend(self, values: list) -> None:
        """Adds values to the list or, as keys and values, to the dictionary on the stack."""
        into = self.stack[-1]
        if isinstance(into, list) and all(isinstance(value, _LEAF) for value in values):
            into.extend(values)
        elif isinstance(into, dict) and all(isinstance(key, str) for key in values[::2]):
            into.update(zip(values[::2], values[1::2], strict=True))
        else:
            raise ValueError("it has lists of other things than numbers and texts, or keys that are no text")


def _value(held: object) -> object:
    """What a pickle holds, if it is plain, or the uint8 array that it describes as numpy does."""
    if isinstance(held, (*_LEAF, list)):
        return held
    if isinstance(held, _Wanted) and held.name == _ARRAY and isinstance(held.state, tuple) and len(held.state) == 5:
        _, shape, kind, by_columns, content = held.state
    elif isinstance(held, _Wanted) and held.name == _ARRAY_5 and len(held.arguments) == 4:
        content, kind, shape, by_columns = (*held.arguments[:3], held.arguments[3] == "F")
    else:
        raise ValueError("it holds something that is neither plain nor an array")
    if not isinstance(kind, _Wanted) or kind.name != _DTYPE or kind.arguments[:1] not in (("u1",), ("|u1",)):
        raise ValueError("it holds an array of other numbers than uint8")
    content = content.encode("latin-1") if isinstance(content, str) else content
    sides = isinstance(shape, tuple) and len(shape) < 9 and all(isinstance(side, int) and side >= 0 for side in shape)
    if not isinstance(content, bytes | bytearray) or not sides or math.prod(shape) != len(content):
        raise ValueError("it holds an array whose bytes do not fit its shape")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")
