"""Reading the data sets' pickled annotations without running code from them.

A pickle is a program. This loader lets it build plain containers, numbers, strings, bytes and NumPy arrays only.
What a pickle names is never handed to it: it gets stand-ins that check their arguments, and no method of NumPy is
run on what the file says (a forged dtype in `ndarray.__setstate__` would be enough to corrupt memory). Time and memory
stay in proportion to the file: it is walked through once before anything is built, and may name no array twice.
"""

import io
import math
import pickle
import pickletools
import re
from functools import partial
from pathlib import Path

import numpy as np

from agego_lib.files import read_bytes

MAX_BYTES = 1 << 30
MAX_OPCODES = 10_000_000  # a frame's annotation takes 50 to 200, and each may make an object
_MAX_DEPTH = 64
_SLACK = 1 << 20  # bytes that arrays and sets may take beyond the file's own size
_MAX_SCALAR = 4096  # bytes of a NumPy text
_DTYPE = re.compile(r"[<>|=]?(b1|i[1248]|u[1248]|f[248]|c8|c16|[SU]\d{1,9})")
_LEAVES = (type(None), bool, int, float, complex, str, bytes, bytearray)


class UnsafePickleError(ValueError):
    """A pickle that asks for something else than plain data; the message names the file and what it asked for."""


class DamagedPickleError(ValueError):
    """A file that is no pickle, or not a whole one; the message names it."""


class _Refused(Exception):
    """What a pickle asked for and does not get; `load` adds the file's name."""


class _Named:
    """Stands for one admitted global. Pickles can set attributes of what they hold, so this has none to set."""

    __slots__ = ("_call",)

    def __init__(self, call):
        object.__setattr__(self, "_call", call)

    def __call__(self, *args):
        return self._call(*args)

    def __setattr__(self, name, value):
        raise _Refused("a change to the loader itself")

    def __setstate__(self, state):
        raise _Refused("a change to the loader itself")


class _Dtype:
    """A dtype as pickled: its kind and size first, its byte order in the state that follows."""

    def __init__(self, text):
        self.value = np.dtype(text)

    def __setstate__(self, state):
        # (version, byte order, subarray, names, fields, ...): only plain dtypes, so the middle three are None.
        if any(part is not None for part in state[2:5]):
            raise _Refused("a structured numpy.dtype")
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """An array as pickled: empty first, filled by the state that follows. A view of the pickle's bytes, not a copy."""

    def __init__(self):
        self.value = np.zeros(0)

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        self.value = _filled(data, dtype, shape, "F" if fortran else "C")


class _Budget:
    """Bytes that arrays, sets and the like may still take. What is honest lies in the file once."""

    def __init__(self, size):
        self.size = self.left = size

    def spend(self, count):
        self.left -= count
        if self.left < 0:
            raise _Refused(f"more than {self.size} bytes of arrays and sets")


def _refuse(what):
    def call(*args):
        raise _Refused(f"a call of {what}")

    return call


_NDARRAY = _Named(_refuse("numpy.ndarray"))


def _dtype(text, *flags):
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise _Refused(f"numpy.dtype({text!r:.40})" if isinstance(text, str) else "numpy.dtype of no text")
    return _Dtype(text)


def _filled(data, dtype, shape, order):
    if not isinstance(dtype, _Dtype):
        raise _Refused("an array without a plain numpy.dtype")
    if isinstance(data, str):  # Python 2 pickles hold bytes as text
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise _Refused(f"an array made from a {type(data).__name__}")
    if type(shape) is not tuple or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("an array's shape is not a tuple of whole numbers")
    if math.prod(shape) * dtype.value.itemsize != len(data):
        raise ValueError("an array's bytes do not fill its shape")
    if not len(data):
        return np.zeros(shape, dtype.value)
    return np.frombuffer(data, dtype.value).reshape(shape, order=order)


def _copy(array):
    """In the machine's byte order, and to be written to."""
    return array.astype(array.dtype.newbyteorder("="))


def _reconstruct(kind, shape, code):
    if kind is not _NDARRAY or shape != (0,):
        raise _Refused("numpy _reconstruct of something else than an empty numpy.ndarray")
    return _Array()


def _scalar(dtype, data=b""):
    if isinstance(dtype, _Dtype) and dtype.value.itemsize > _MAX_SCALAR:
        raise _Refused(f"a NumPy scalar of {dtype.value.itemsize} bytes")
    return _copy(_filled(data, dtype, (), "C"))[()]


def _frombuffer(data, dtype, shape, order, axis_order=None):
    array = _Array()
    if order == "K" and axis_order is not None:
        array.value = _filled(data, dtype, shape, "C").transpose(axis_order)
    else:
        array.value = _filled(data, dtype, shape, "F" if order == "F" else "C")
    return array


def _encode(budget, text, encoding="latin1"):
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("_codecs.encode to something else than latin1")
    budget.spend(len(text))
    return text.encode("latin1")


def _bytes_like(kind):
    def call(budget, data=b""):
        if not isinstance(data, bytes):
            raise _Refused(f"{kind.__name__} of a {type(data).__name__}")
        budget.spend(len(data))
        return kind(data)

    return call


def _set_like(kind):
    def call(budget, items=()):
        budget.spend(100 * len(items))  # of a hash table, for each item
        return kind(items)

    return call


# What a pickle of plain data and arrays names, by NumPy 1 and 2, Python 2 and 3, protocols 0 to 5.
_ADMITTED = {("numpy", "ndarray"): _NDARRAY, ("numpy", "dtype"): _Named(_dtype)}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Named(_reconstruct)
    _ADMITTED[f"{_core}.multiarray", "scalar"] = _Named(_scalar)
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _Named(_frombuffer)
# These make something of what they are given, whose size counts.
_COUNTED = {("_codecs", "encode"): _encode}
for _builtins in ("builtins", "__builtin__"):
    _ADMITTED[_builtins, "complex"] = _Named(complex)
    for _kind in (set, frozenset):
        _COUNTED[_builtins, _kind.__name__] = _set_like(_kind)
    for _kind in (bytes, bytearray):
        _COUNTED[_builtins, _kind.__name__] = _bytes_like(_kind)


class _Unpickler(pickle.Unpickler):
    def __init__(self, data, budget):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._budget = budget

    def find_class(self, module, name):
        if (module, name) in _COUNTED:
            return _Named(partial(_COUNTED[module, name], self._budget))
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid):
        raise _Refused("a persistent object")


def _effect(opcode):
    """(objects taken off the stack, whether all down to the last mark are, objects put onto it) of an opcode."""
    before, marked = opcode.stack_before, pickletools.markobject in opcode.stack_before
    taken = before.index(pickletools.markobject) if marked else len(before)
    return taken, marked, len(opcode.stack_after)


_EFFECTS = {opcode.name: _effect(opcode) for opcode in pickletools.opcodes}
# They leave their first object where it is, and put the others into it.
_FILLING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")


def _check(data):
    """Walk through a pickle without building anything, and refuse what would take the process down.

    That is: more objects than MAX_OPCODES; memo numbers that no pickler gives, for which a table of that length is
    filled (up to 64 GiB for four bytes); nesting so deep that the hash of a tuple in it overflows the C stack.
    """
    stack, memo = [], {}  # of each object how deep it nests, in a list that all references to it share; None: a mark
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if count >= MAX_OPCODES:
            raise _Refused(f"more than {MAX_OPCODES} steps")
        if name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            number = len(memo) if name == "MEMOIZE" else argument
            if number > count:
                raise ValueError(f"memo number {number} at position {position}")
            memo[number] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(None)
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken, marked, put = _EFFECTS[name]
            parts = []
            if marked:
                while (part := stack.pop()) is not None:
                    parts.append(part)
            parts += [stack.pop() for _ in range(taken)]
            filled = parts.pop() if name in _FILLING else None
            depth = 1 + max((part[0] for part in parts if part), default=-1)
            if depth > 4 * _MAX_DEPTH:  # an array, a set or an object takes up to four steps
                raise _Refused(f"containers nested more than {_MAX_DEPTH} deep")
            if filled:
                filled[0] = max(filled[0], depth)
                stack.append(filled)
            elif put:
                stack.append([depth])


def _plain(value, done, budget, depth=0):
    """Replace the arrays' stand-ins and refuse whatever is not plain data. `done` keeps shared parts shared."""
    kind = type(value)
    if kind in _LEAVES or isinstance(value, np.generic):
        return value
    if kind is _Array:
        if id(value) not in done:
            budget.spend(value.value.nbytes)
            done[id(value)] = value, _copy(value.value)
        return done[id(value)][1]
    if kind is _Dtype:
        return value.value
    if kind in (set, frozenset):
        if not all(type(item) in _LEAVES or isinstance(item, np.generic) for item in value):
            raise _Refused("a set of something else than numbers and strings")
        return value
    if kind not in (list, tuple, dict):
        raise _Refused("a function in place of data" if kind is _Named else f"a {kind.__name__}")
    if id(value) in done:
        result = done[id(value)][1]
        if result is None:
            raise _Refused("a container that holds itself")
        return result
    if depth == _MAX_DEPTH:
        raise _Refused(f"containers nested more than {_MAX_DEPTH} deep")
    done[id(value)] = value, None  # keeps `value` alive, so that its id stays its own
    if kind is dict:
        if not all(type(key) in _LEAVES or isinstance(key, np.generic) for key in value):
            raise _Refused("a dict with keys other than numbers and strings")
        result = {key: _plain(item, done, budget, depth + 1) for key, item in value.items()}
    else:
        result = kind(_plain(item, done, budget, depth + 1) for item in value)
    done[id(value)] = value, result
    return result


def load(path, max_bytes=MAX_BYTES):
    """The plain data that the pickle at `path` holds: containers, numbers, strings, bytes, NumPy arrays and scalars.
    Arrays come in the machine's byte order.

    Raises FileNotFoundError, UnsafePickleError where the pickle names anything else (objects, functions, arrays of
    objects) or the file is larger than `max_bytes`, and DamagedPickleError where it is cut short or no pickle.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > max_bytes:
        raise UnsafePickleError(f"{path}: {size} bytes; expected a pickle of at most {max_bytes} bytes")
    try:
        data = read_bytes(path, max_bytes)
        _check(data)
        budget = _Budget(len(data) + _SLACK)
        return _plain(_Unpickler(data, budget).load(), {}, budget)
    except _Refused as refused:
        raise UnsafePickleError(
            f"{path}: this pickle asks for {refused}; refused, since only plain containers, numbers, strings and "
            "NumPy arrays are read. Check where the file comes from"
        ) from None
    except OSError:
        raise
    except Exception as error:  # a broken pickle makes the unpickler raise nearly anything, MemoryError included
        raise DamagedPickleError(
            f"{path}: not a whole pickle ({type(error).__name__}: {str(error)[:200]}); "
            "expected the pickled annotations. Download or copy the file again"
        ) from None
