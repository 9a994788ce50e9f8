"""Templates that loop, grow or reach for Python are stopped; those of real models are rendered as transformers does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pytest

from fastft.data.sandbox import compile_limited, limit_transformers
from fastft.data.template_sizes import TemplateLimitError
from fastft.data.templates import named_template, template_names
from fastft.data.tokenizer import ChatTokenizer
from fastft.errors import ModelError

_MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
_BIG = "{% set big = 'a' * 60000000 %}"
_DOUBLED = "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"
_OTHER = _DOUBLED.replace("ns", "os")
_TUPLES = "{% set ns = namespace(t=(1,)) %}{% for i in range(60) %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}"
_DEEP = "{% set ns = namespace(t=(1,)) %}{% for i in range(99999) %}{% set ns.t = (ns.t,) %}{% endfor %}"
_DICT = "{% set d = dict(range(99998)|map('string')|batch(2)) %}{% set ns = namespace(l=0) %}"
_HEX = "{% set n = 0x" + "f" * 500_000 + " %}{% set ns = namespace(l=0) %}"

ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long range": "{% for a in range(10**9) %}x{% endfor %}",
    "a loop over a text": _BIG + "{% for c in big %}{% endfor %}",
    "a filtered loop": _BIG + "{% for i in range(9) %}{% for c in big if c == 'b' %}{% endfor %}{% endfor %}",
    "a macro in a macro": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "two macros each": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(90) }}",
    "a recursive loop": "{% set l = [1] %}{% for a in l recursive %}{{ loop(l) }}{% endfor %}",
    "a text times": "{{ 'a' * 10**10 }}",
    "times a text": "{{ 10**10 * 'a' }}",
    "a list times": "{{ ([1] * 10**9)|length }}",
    "a text doubled": "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "joined by ~": "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "much output": _BIG + "{% for i in range(9) %}{{ big }}{% endfor %}",
    "much in a block": _BIG + "{% set x %}{% for i in range(9) %}{{ big }}{% endfor %}{% endset %}",
    "much in all": _BIG + "{% for i in range(99) %}{% set x = big.upper() %}{% endfor %}",
    "slices": _BIG + "{% set n = namespace(l=0) %}{% for i in range(99) %}{% set n.l = [n.l, big[1:]] %}{% endfor %}",
    "a power": "{{ 10 ** (10**10) }}",
    "a product": "{% set ns = namespace(n=9) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "%": "{{ '%1000000000d' % 1 }}",
    "% of an argument": "{{ '%*d' % (10**9, 1) }}",
    "% with %s": _BIG + "{{ '%s%s%s' % (big, big, big) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format of an argument": "{{ '{:{}}'.format(1, 10**9) }}",
    "format twice": _BIG + "{{ '{0}{0}{0}'.format(big) }}",
    "|format": "{{ '%1000000000d'|format(1) }}",
    "|center": "{{ 'a'|center(10**9) }}",
    "center": "{{ 'a'.center(10**9) }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "expandtabs": "{{ ('\\t' * 9999).expandtabs(99999) }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "replace nothing": "{{ ('a' * 99999).replace('', 'b' * 99999) }}",
    "|replace": "{{ ('a' * 99999)|replace('a', 'b' * 99999) }}",
    "|join": _BIG + "{{ ([1] * 999)|join(big) }}",
    "join": _BIG + "{{ big.join([1|string] * 999) }}",
    "|indent": "{{ ('a\\n' * 99999)|indent(99999) }}",
    "|batch": "{{ [1]|batch(10**9, 'x')|list }}",
    "|slice": "{{ [1]|slice(10**9)|list }}",
    "|round": "{{ 1.5|round(10**9, 'floor') }}",
    "|sum of lists": "{{ (range(99999)|batch(1)|list)|sum(start=[])|length }}",
    "|list of a text": _BIG + "{{ (big|list)|length }}",
    "|map of a text": _BIG + "{{ big|map('upper')|list|length }}",
    "|map center": "{{ ['a']|map('center', 10**9)|list }}",
    "split": _BIG + "{{ big.split('a')|length }}",
    "doubled lists written": _DOUBLED + "{{ ns.l }}",
    "doubled lists in JSON": _DOUBLED + "{{ ns.l|tojson }}",
    "doubled lists joined": _DOUBLED + "{{ ns.l|join }}",
    "doubled lists in a text": _DOUBLED + "{{ '%s' % (ns.l,) }}",
    "doubled lists compared": _DOUBLED + _OTHER + "{{ ns.l == os.l }}",
    "doubled lists tested": _DOUBLED + _OTHER + "{{ ns.l is eq(os.l) }}",
    "doubled lists sought": _DOUBLED + _OTHER + "{{ ns.l in [os.l] }}",
    "doubled lists selected": _DOUBLED + _OTHER + "{{ [ns.l]|select('eq', os.l)|list|length }}",
    "doubled lists in a dict's values": _DOUBLED + "{{ {'a': ns.l}.values() }}",
    "doubled lists in a dict's items": _DOUBLED + "{{ {'a': ns.l}.items() ~ '' }}",
    "doubled lists in a namespace": _DOUBLED + "{{ ns }}",
    "doubled lists in a namespace in a text": _DOUBLED + "{{ '%s' % ns }}",
    "doubled lists in views compared": _DOUBLED + _OTHER + "{{ {'a': ns.l}.items() == {'a': os.l}.items() }}",
    "doubled lists sought in a view": _DOUBLED + _OTHER + "{{ os.l in {'a': ns.l}.values() }}",
    "doubled lists counted": _DOUBLED + _OTHER + "{{ [ns.l].count(os.l) }}",
    "doubled lists found": _DOUBLED + _OTHER + "{{ [ns.l].index(os.l) }}",
    "doubled lists changed": _DOUBLED + _OTHER + "{% for l in [ns.l, os.l] %}{{ loop.changed(l) }}{% endfor %}",
    "doubled lists in an error": _DOUBLED + "{{ raise_exception(ns.l) }}",
    "doubled lists in another": _DOUBLED + "{{ [][ns.l].x }}",
    "doubled tuples for a key": _TUPLES + "{% set x = {ns.t: 1} %}",
    "doubled tuples asked for": _TUPLES + "{{ {}[ns.t] }}",
    "doubled tuples got": _TUPLES + "{{ {}.get(ns.t) }}",
    "doubled tuples in dict()": _TUPLES + "{% set x = dict([(ns.t, 1)]) %}",
    "doubled tuples taken away": _TUPLES + "{% set x = {'a': ns.t}.items() - [] %}",
    "doubled tuples for a filter": _TUPLES + "{{ [1]|map(ns.t)|list }}",
    "doubled tuples for a test": _TUPLES + "{{ ns.t is filter }}",
    "a deep tuple for a key": _DEEP + "{{ {}.get(ns.t) }}",
    "a range joined": _BIG + "{{ range(99)|join(big) }}",
    "a dict joined": _BIG + "{{ big.join(dict(range(99998)|map('string')|batch(2))) }}",
    "a generator joined": _BIG + "{{ big.join(range(99)|map('string')) }}",
    "|batch kept": "{% set ns = namespace(l=0) %}{% for i in range(99999) %}"
    "{% set ns.l = [ns.l, [1]|batch(99999, 'x')|list] %}{% endfor %}",
    "|wordcount": "{{ ('ab ' * 20000000)|wordcount }}",
    "|title": "{{ ('a-' * 30000000)|title|length }}",
    "a large number": _HEX,
    "a number doubled": "{% set n = namespace(n=1) %}{% for i in range(9999) %}{% set n.n = n.n + n.n %}{% endfor %}",
    "a number read": "{% set n = ('f' * 60000000)|int(base=16) %}",
    "namespaces": _DICT + "{% for i in range(99999) %}{% set ns.l = [ns.l, namespace(d)] %}{% endfor %}",
    "sets": _DICT + "{% for i in range(99999) %}{% set ns.l = [ns.l, d.keys() - []] %}{% endfor %}",
    "texts compared": _BIG + "{% set b = 'a' * 60000000 %}{{ [" + "b == big, " * 4000 + "] }}",
    "lists compared": "{% set a = range(99999)|list %}{% set b = range(99999)|list %}{{ [" + "a == b, " * 4000 + "] }}",
    "a text counted in": _BIG + "{% for i in range(99999) %}{{ big.count('b') }}{% endfor %}",
    "a long date": "{{ strftime_now('%c' * 9999999) }}",
    "many parts": "{{ [" + "a == b, " * 99999 + "] }}",
    "wide JSON": "{{ [[1] * 99999] | tojson(indent=99999) }}",
    "a namespace in itself": "{% set n = namespace() %}{% set n.a = n %}{{ n.a|tojson }}",
}  # fmt: skip

# What they would reach, if anything came of it, is a function or a module of Python.
REACHING = {
    "a class": "{{ ''.__class__.__mro__ }}",
    "a class by item": "{{ ''['__class__'] }}",
    "a class by filter": "{{ ''|attr('__class__') }}",
    "a class by format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "a class by format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "a class by map": "{{ ['']|map(attribute='__class__')|list }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals of messages": "{{ messages.__init__.__globals__ }}",
    "globals of range": "{{ range.__init__.__globals__ }}",
    "globals of namespace": "{{ namespace.__init__.__globals__['os'] }}",
    "cycler": "{{ cycler.__init__.__globals__.os }}",
    "lipsum": "{{ lipsum.__globals__.os.popen('id').read() }}",
    "joiner": "{{ joiner.__init__.__globals__ }}",
    "self": "{{ self.__init__.__globals__ }}",
    "self's context": "{{ self._TemplateReference__context.environment }}",
    "the clock's": "{{ strftime_now.__self__ }}",
    "a loop's": "{% for a in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "a macro's": "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "a macro's function": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "an include": "{% include '/etc/passwd' %}",
    "an import": "{% import '/etc/passwd' as p %}",
    "inheritance": "{% extends '/etc/passwd' %}",
    "a change of messages": "{{ messages.append(1) }}",
    "a change by a class": "{{ dict.update(messages[0], {'content': 'else'}) }}",
    "a change by an alias": "{{ dict['a'].update(messages[0], {'content': 'else'}) }}",
    "a change by a map": "{{ messages|map('attr', 'update')|list and dict|attr('clear') }}",
    "a change of a message": "{{ messages[0].update({'content': 'else'}) }}",
    "bytes": "{{ 'a'.encode() }}",
    "bytes of a number": "{{ (5).to_bytes(10**9, 'big') }}",
}  # fmt: skip


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS.keys())
def test_what_has_no_end_is_stopped(template: str) -> None:
    compile_limited("")  # imports transformers
    before = time.monotonic()
    with pytest.raises((TemplateLimitError, RecursionError, OverflowError, TypeError)):
        compile_limited(template).render(messages=_MESSAGES, strftime_now=datetime.now().strftime)
    assert time.monotonic() - before < 25


@pytest.mark.parametrize("template", REACHING.values(), ids=REACHING.keys())
def test_nothing_of_python_is_reached(template: str) -> None:
    messages = json.loads(json.dumps(_MESSAGES))
    try:
        written = compile_limited(template).render(messages=messages)
    except (jinja2.TemplateError, AttributeError, TypeError, LookupError):
        written = ""
    assert written in ("", "[Undefined]")  # which is what jinja makes of what isn't there
    assert messages == _MESSAGES


def test_limits_hold_in_threads_and_begin_anew_with_each_rendering() -> None:
    template = compile_limited("{% for a in range(n) %}{% for b in range(99999) %}{% endfor %}{% endfor %}done")
    found: list[str] = []

    def render() -> None:
        for n in (8, 2000, 8):
            try:
                found.append(template.render(n=n))
            except TemplateLimitError:
                found.append("stopped")

    threads = [threading.Thread(target=render) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["done"] * 4 + ["stopped"] * 2


def test_a_limit_is_one_error_for_people(tiny: Path, tmp_path: Path) -> None:
    for file in tiny.iterdir():
        shutil.copy(file, tmp_path)
    plain = (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").write_text("{{ 'a' * 10**10 }}" + plain)
    with pytest.raises(ModelError, match=r"the chat template was stopped: it repeats a value 10,000,000,000 times"):
        ChatTokenizer.load(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ 1 / 0 }}" + plain)
    with pytest.raises(ModelError, match="the chat template refuses the messages: division by zero"):
        ChatTokenizer.load(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(" " * (2 << 20) + plain)
    with pytest.raises(ModelError, match=r"it has 2,09[\d,]+ characters, more than 1,048,576"):
        ChatTokenizer.load(tmp_path)


def test_what_transformers_renders_is_limited_too(tiny: Path) -> None:
    from transformers import AutoTokenizer

    limit_transformers()
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    plain = tokenizer.apply_chat_template(_MESSAGES, tokenize=False)
    assert plain == ChatTokenizer.load(tiny).render(_MESSAGES)
    with pytest.raises(TemplateLimitError):
        tokenizer.apply_chat_template(_MESSAGES, tokenize=False, chat_template="{{ 'a' * 10**10 }}")


_CONVERSATIONS: list[list[dict[str, Any]]] = [
    _MESSAGES,
    [{"role": "system", "content": "Be kind."}, *_MESSAGES, {"role": "user", "content": "More "}],
    [*_MESSAGES, {"role": "user", "content": "?"}, {"role": "assistant", "content": "<think>a</think>\n\nb"}],
    [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}],
        },
        {"role": "tool", "name": "f", "tool_call_id": "abcdefghi", "content": "{}"},
        {"role": "assistant", "content": "Sunny.", "reasoning_content": "why"},
    ],
]
_TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}

_RENDER_ALL = """
import json, sys
from transformers.utils.chat_template_utils import _cached_compile_jinja_template as unlimited
from fastft.data.sandbox import compile_limited

def written(template, given):
    try:
        return template.render(**given, bos_token="<s>", eos_token="</s>", strftime_now=lambda form: "today")
    except Exception as error:
        return f"{type(error).__name__}: {error}"

given = json.load(sys.stdin)
differing, written_out = [], 0
for name, source in given["templates"].items():
    pair = unlimited(source), compile_limited(source)
    for each in given["conversations"]:
        one, other = (written(template, each) for template in pair)
        written_out += not one.partition(": ")[0].endswith("Error")
        differing += [name] * (one != other)
print(json.dumps([differing, written_out]))
"""


@pytest.mark.slow
def test_every_known_template_is_written_as_without_limits() -> None:
    """In a process of its own, where transformers is still as it comes."""
    templates = {name: named_template(name) for name in template_names()}
    tools = [None, [{"type": "function", "function": _TOOL}]]
    given = [
        {"messages": messages, "tools": tool, "add_generation_prompt": asked, "documents": None}
        for messages in _CONVERSATIONS
        for tool in tools
        for asked in (False, True)
    ]
    done = subprocess.run(
        [sys.executable, "-c", _RENDER_ALL],
        input=json.dumps({"templates": templates, "conversations": given}),
        capture_output=True,
        text=True,
        check=True,
    )
    differing, written_out = json.loads(done.stdout)
    assert differing == []
    assert len(templates) > 150
    assert written_out > 1800
