"""Chat templates are programs that come with a model: here they run in a sandbox that ends.

jinja's sandbox keeps a template from reaching Python. It doesn't keep one from looping for ever, or from asking for a
terabyte; a time limit alone can't, as one operation in C is enough. So the code that jinja compiles counts its loops
and calls (`tick`), and whatever makes a value asks first how large it will be (`template_sizes`).

`limit_transformers` puts it into transformers, so that TRL's, Unsloth's and PEFT's renderings go through it too.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import GenericAlias
from typing import Any

from jinja2 import Environment, nodes, pass_context
from jinja2.environment import Template
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fastft.data.template_code import CountingCode
from fastft.data.template_sizes import (
    FILTERS,
    METHODS,
    MOST_TEXT,
    SHALLOW_FILTERS,
    TEXT_METHODS,
    WHOLE_TESTS,
    Before,
    TemplateLimitError,
    before_date,
    before_operator,
    bytes_of,
    written_out,
)

MOST_STEPS = 2_000_000  # loop passes, calls and filters of one rendering
MOST_SECONDS = 20.0  # of one rendering; steps end it long before, unless each is slow
MOST_MADE = 1 << 30  # bytes of all values that one rendering makes
MOST_SOURCE = 1 << 20  # characters of a template
MOST_NODES = 20_000  # of its syntax tree; the largest known has 1,404, and compiling takes 0.1 ms for each
_TAKEN_AWAY = ("cycler", "joiner", "lipsum")  # jinja's own toys
_COUNTED = "fastft_counted"
_NOT_EVERY_TIME = 63  # the clock is looked at every 64 steps
_PLAIN = frozenset({str, int, float, bool, type(None)})
_HAND_ON = (Macro, BlockReference, LoopContext)  # what is called with values that it neither compares nor writes
_OF_LOOPS = frozenset({"first", "last", "index", "index0", "length", "previtem", "nextitem", "revindex", "revindex0"})
_DICT_METHODS = frozenset(dir(dict))


class _Budget(threading.local):
    """What is left to the rendering of this thread."""

    steps = MOST_STEPS
    made = MOST_MADE
    end = float("inf")

    def renew(self) -> None:
        self.steps, self.made, self.end = MOST_STEPS, MOST_MADE, time.monotonic() + MOST_SECONDS


class _LimitedTemplate(Template):
    """Each rendering has a budget of its own."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        self.environment.budget.renew()  # pyright: ignore[reportAttributeAccessIssue]
        return super().render(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Iterator[str]:
        self.environment.budget.renew()  # pyright: ignore[reportAttributeAccessIssue]
        written = 0
        for piece in super().generate(*args, **kwargs):
            written += len(piece)
            self.environment.keep(written, piece)  # pyright: ignore[reportAttributeAccessIssue]
            yield piece


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """transformers' environment for chat templates, with limits on steps, time and sizes."""

    code_generator_class = CountingCode
    template_class = _LimitedTemplate
    intercepted_binops = frozenset({"+", "-", "*", "**", "%"})

    def __init__(self, theirs: Environment) -> None:
        """`theirs` is the environment that transformers would render in."""
        extensions = [type(extension) for extension in theirs.extensions.values()]
        # Optimised, constants would be computed while compiling: outside of any budget.
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, optimized=False)
        self.budget = _Budget()
        self.finalize = pass_context(lambda _context, value: self.writable(value))
        self.globals |= {name: value for name, value in theirs.globals.items() if name not in self.globals}
        for name in _TAKEN_AWAY:
            self.globals.pop(name, None)
        known = {name: theirs.filters[name] for name in FILTERS}
        self.filters = {name: self._guarded(function, FILTERS[name], name) for name, function in known.items()}
        self.filters[_COUNTED] = self._counted
        self.tests = dict(theirs.tests)
        self.tests |= {name: self._guarded(theirs.tests[name], None) for name in WHOLE_TESTS}

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        if sum(1 for _ in source.find_all(nodes.Node)) > MOST_NODES:
            raise TemplateLimitError(f"it has more than {MOST_NODES:,} parts")
        for loop in source.find_all(nodes.For):
            if loop.test is not None:  # compiled into a generator, which has no block of code to count in
                loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None, lineno=loop.lineno)
        return super()._generate(source, *args, **kwargs)

    def tick(self, steps: int = 1) -> None:
        """So many steps more. Raises TemplateLimitError when there were too many, or they took too long."""
        budget = self.budget
        budget.steps = left = budget.steps - steps
        if left < 0:
            raise TemplateLimitError(f"it takes more than {MOST_STEPS:,} steps")
        if (steps > 1 or not left & _NOT_EVERY_TIME) and time.monotonic() > budget.end:
            raise TemplateLimitError(f"it takes longer than {MOST_SECONDS:g} seconds")

    def keep(self, size: int, value: Any) -> Any:
        """`value`, with `size` bytes counted. Raises TemplateLimitError if all that was made is too much."""
        self.budget.made = left = self.budget.made - size
        if left < 0:
            raise TemplateLimitError(f"it makes more than {MOST_MADE >> 20:,} MiB of values")
        return value

    def kept(self, value: Any) -> Any:
        return self.keep(bytes_of(value), value)

    def comparable(self, value: Any) -> Any:
        """A value that is about to be compared. Lists in lists in lists take exponential time otherwise."""
        kind = type(value)
        if kind is str:
            if len(value) > 1023:
                self.read(value)
        elif kind not in _PLAIN:
            self._count(value)
        return value

    def read(self, text: str) -> None:
        """A text that is about to be gone through: a step for each 1,024 characters."""
        if steps := len(text) >> 10:
            self.tick(steps)

    def keyed(self, pairs: tuple[tuple[Any, Any], ...]) -> dict[Any, Any]:
        """The dict of `pairs`. Hashing tuples in tuples in tuples takes exponential time, or all of the stack."""
        for key, _ in pairs:
            self.comparable(key)
        return self.kept(dict(pairs))

    def writable(self, value: Any) -> Any:
        """A value that is about to be written out."""
        if type(value) not in _PLAIN:
            self.keep(self._count(value), value)
        return value

    def _count(self, value: Any) -> int:
        parts, characters = written_out(value)
        self.tick(parts + (characters >> 10))
        return parts + characters

    def joined(self, values: tuple[Any, ...]) -> str:
        """What `~` makes of values."""
        return self.concat([str(self.writable(value)) for value in values])

    def concat(self, pieces: Iterable[str]) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One text of `pieces`, of which there may be no end."""
        taken, total = [], 0
        for piece in pieces:
            total += len(piece)
            self.tick()
            if total > MOST_TEXT:
                raise TemplateLimitError(f"it writes more than {MOST_TEXT:,} characters")
            taken.append(piece)
        return self.keep(total, "".join(taken))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":  # at most as large as both sides together
            return self.kept(left + right)
        if operator == "-":  # of what dicts hold, too, which compares
            return self.kept(self.comparable(left) - self.comparable(right))
        before_operator(operator, left, right)
        return self.kept(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        __self.tick()
        if not isinstance(__obj, _HAND_ON):
            method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
            args = __self._looked_at(method, args, kwargs)
        return __self.kept(super().call(__context, __obj, *args, **kwargs))

    def _looked_at(self, method: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        """The arguments `given` of a function or method, once neither they nor its result will be too large."""
        if any(type(value) not in _PLAIN for value in given):
            given = tuple(self._within_limits(value) for value in given)
        for value in named.values():
            self.comparable(value)
        of, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(of, str):
            self.read(of)
            if (before := TEXT_METHODS.get(name)) is not None:
                self.keep(before(of, *given, **named), None)
        elif isinstance(of, (list, tuple)):
            self.comparable(of)
        elif name in ("strftime", "strftime_now"):
            before_date(*given, *named.values())
        return given

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As jinja's, and of texts, numbers and lists only the methods that chat templates have a use for.

        Of a class none: `dict.update(message, …)` would change a message.
        """
        if isinstance(obj, (type, GenericAlias)):
            return False
        allowed = _methods_of(type(obj))
        return super().is_safe_attribute(obj, attr, value) if allowed is None else attr in allowed

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A message's fields directly: the sandbox tries attributes first, which raises and catches for each field."""
        kind = type(obj)
        if kind is dict and attribute in obj and attribute not in _DICT_METHODS:
            return obj[attribute]
        if kind is str and attribute in TEXT_METHODS and attribute != "format":  # which the sandbox wraps
            return getattr(obj, attribute)
        if kind is LoopContext and attribute in _OF_LOOPS:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A dict hashes what it is asked for, and an error writes it out."""
        if type(argument) is str and type(obj) is dict and argument in obj:
            return obj[argument]
        return super().getitem(obj, self.comparable(argument))

    def _guarded(self, function: Callable[..., Any], before: Before | None, name: str = "") -> Callable[..., Any]:
        """A filter or test that counts as a step, and looks at the sizes of what it is given and makes."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0  # context or environment come before the value
        shallow = name in SHALLOW_FILTERS

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            given = list(args)
            for index in range(first, len(given)):
                given[index] = self._within_limits(given[index], shallow and index == first)
            for value in kwargs.values():
                self.comparable(value)
            if before is not None:
                self.keep(before(*given[first:], **kwargs), None)
            made = function(*given, **kwargs)
            return self._counted(made) if isinstance(made, Iterator) else self.kept(made)

        return guarded

    def _within_limits(self, value: Any, shallow: bool = False) -> Any:
        if type(value) not in _PLAIN and isinstance(value, Iterator):
            value = list(self._counted(value))
        return value if shallow and type(value) is not str else self.comparable(value)

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.tick()
            yield self.kept(value) if type(value) is list else value  # of a batch, say


@functools.cache
def _methods_of(kind: type) -> frozenset[str] | None:
    """The methods of texts, numbers and lists that a template may call; None for what jinja alone decides on."""
    known = next((known for known in (*METHODS, int, float, bytes) if issubclass(kind, known)), None)
    return None if known is None else frozenset(METHODS.get(known, ()))


def compile_limited(chat_template: str) -> Template:
    """The template, ready to be rendered within limits. Raises jinja2.TemplateError."""
    if len(chat_template) > MOST_SOURCE:
        raise TemplateLimitError(f"it has {len(chat_template):,} characters, more than {MOST_SOURCE:,}")
    return LimitedEnvironment(_their_environment()).from_string(chat_template)


def limit_transformers() -> None:
    """Let every chat template that transformers renders in this process go through `compile_limited`."""
    from transformers.utils import chat_template_utils as theirs

    _their_environment()
    if theirs._cached_compile_jinja_template is not compile_limited:
        theirs._cached_compile_jinja_template = compile_limited
        theirs._compile_jinja_template.cache_clear()


@functools.cache
def _their_environment() -> Environment:
    """What transformers renders in: its extensions, its tojson, its clock."""
    from transformers.utils import chat_template_utils as theirs

    return theirs._cached_compile_jinja_template("").environment
