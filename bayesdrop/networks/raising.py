"""Branches of a forward that only raise, such as ``if x.ndim != 4: raise ValueError(...)``.

What is asked there has one answer with which forward goes on. A graph goes on with it, and asserts
that it is the answer.
"""

from __future__ import annotations

import dis
import linecache
from types import CodeType, FrameType
from typing import Any

_ENDS = ("JUMP", "RETURN", "YIELD", "FOR_ITER", "SEND", "RERAISE", "EXC")
"""What is in the names of instructions that lead elsewhere than to the next one."""


def only_answer(frame: FrameType | None) -> bool | None:
    """Return with which truth of a value forward goes on; None if it does with both.

    Args:
        frame: Where a value is asked for its truth. Functions of ``torch.fx`` and of this package
            are left out.
    """
    while frame is not None and _is_tracing(frame):
        frame = frame.f_back
    if frame is None:
        return None
    steps = list(dis.get_instructions(frame.f_code))
    places = {step.offset: i for i, step in enumerate(steps)}
    here = places[frame.f_lasti]
    here += steps[here].opname == "TO_BOOL"  # an instruction of its own since Python 3.13
    jump = steps[here]
    if not (jump.opname.startswith("POP_JUMP") and jump.opname.endswith(("IF_TRUE", "IF_FALSE"))):
        return None
    after = (here + 1, places[jump.argval])
    next_raises, jump_raises = (_only_raises(steps[i:], frame.f_code) for i in after)
    if next_raises == jump_raises or _is_asked_by_python(frame) or _may_be_caught(frame.f_back):
        return None
    return jump.opname.endswith("IF_TRUE") == next_raises


def asked_at(frame: FrameType | None) -> str:
    """Return the line in which a value is asked for its truth."""
    while frame is not None and _is_tracing(frame):
        frame = frame.f_back
    if frame is None:
        return ""
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()


def _is_tracing(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    return name.startswith(("torch.fx.", "bayesdrop."))


def _only_raises(steps: list[dis.Instruction], code: CodeType) -> bool:
    for step in steps:
        if step.opname == "RAISE_VARARGS":
            return not _is_caught(code, step.offset)
        if any(end in step.opname for end in _ENDS):
            return False
    return False


def _may_be_caught(frame: FrameType | None) -> bool:
    """Return whether a function that calls the one which raises may go on all the same."""
    while frame is not None and frame.f_code.co_name != "_traced":
        name = frame.f_globals.get("__name__", "")
        own = name.startswith(("torch.", "bayesdrop."))  # these catch nothing of a forward's
        if not own and (_is_caught(frame.f_code, frame.f_lasti) or _is_asked_by_python(frame)):
            return True
        frame = frame.f_back
    return False


def _is_asked_by_python(frame: FrameType) -> bool:
    """Return whether a method is one whose error Python itself takes for an answer."""
    return frame.f_code.co_name in ("__getattr__", "__getattribute__", "__getitem__", "__next__")


def _is_caught(code: CodeType, offset: int) -> bool:
    entries: Any = dis.Bytecode(code)  # whose type stubs do not know them
    for entry in entries.exception_entries:
        if entry.start <= offset < entry.end and not _is_finally(code, entry.target):
            return True
    return False


def _is_finally(code: CodeType, target: int) -> bool:
    """Return whether a handler raises again whatever it gets."""
    for step in dis.get_instructions(code):
        if step.offset < target:
            continue
        if step.opname == "RERAISE":
            return True
        if step.opname in ("CHECK_EXC_MATCH", "CHECK_EG_MATCH", "WITH_EXCEPT_START", "POP_EXCEPT"):
            return False
    return False
