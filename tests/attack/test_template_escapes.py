"""A chat template reaches nothing beside the messages and its helpers: every way to an attribute, of every object in reach.

ATTACK_ESCAPES is how many of the combinations are tried beside those written by hand (1,500 by default; 0: all).
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter

import pytest

from dllm_fast.errors import DllmFastError
from dllm_fast.text.chat import ChatTemplate

ESCAPES = int(os.environ.get("ATTACK_ESCAPES", "1500"))
MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "bye"}]
CANARY = "canary-8d1f"

# What a template can lay hands on; `{}` is where it is used.
OBJECTS = {
    **{
        f"value {text}": text
        for text in ("''", "[]", "{}", "0", "1.5", "true", "none", "(1,)", "'%s'", "messages", "messages[0]")
    },
    **{
        f"helper {name}": name
        for name in ("range", "dict", "namespace", "raise_exception", "strftime_now", "self", "undefined")
    },
    **{f"made {text}": text for text in ("range(2)", "dict(a=1)", "namespace(a=1)", "strftime_now('')", "undefined_name")},
    **{f"method {text}": text for text in ("''.join", "''.format", "[].index", "{}.items", "{}.items()", "''.format_map")},
    **{
        f"result {text}": f"({text})"
        for text in (
            *("[1]|map('string')", "[1]|batch(1)", "'a'|escape", "'a'|safe", "([{'a': 1}]|groupby('a'))[0]", "'a'|list|sort"),
            *("[1]|select('odd')", "{'a': 1}|dictsort", "'a b'|urlize", "[1]|slice(1)", "'a'|tojson", "[2]|random"),
        )
    },
}
# Things that exist only inside of others.
INSIDE = {
    "loop": "{%% for item in [1] %%}%s{%% endfor %%}",
    "loop.cycle": "{%% for item in [1] %%}%s{%% endfor %%}",
    "loop.changed": "{%% for item in [1] recursive %%}%s{%% endfor %%}",
    "made": "{%% macro made(a) %%}{{ a }}{%% endmacro %%}%s",
    "varargs": "{%% macro made() %%}%s{%% endmacro %%}{{ made(1) }}",
    "kwargs": "{%% macro made() %%}%s{%% endmacro %%}{{ made(a=1) }}",
    "caller": "{%% macro made() %%}%s{%% endmacro %%}{%% call made() %%}x{%% endcall %%}",
    "self.block": "{%% block block %%}{%% endblock %%}%s",
    "super": "{%% block block %%}%s{%% endblock %%}",
}
# Not `__wrapped__`: that of a `format` is there, and jinja2 guards it again.
NAMES = [
    *("__class__", "__mro__", "mro", "__base__", "__bases__", "__subclasses__", "__init__", "__new__", "__dict__", "__doc__"),
    *("__globals__", "__builtins__", "__import__", "__getattribute__", "__reduce_ex__", "__self__", "__func__", "__code__"),
    *("func_globals", "func_code", "im_self", "im_func", "im_class", "__closure__", "__defaults__", "__call__"),
    *("__module__", "__html__", "__iter__", "__next__", "__len__", "__getitem__", "__setattr__", "__weakref__", "__slots__"),
    *("gi_frame", "gi_code", "cr_frame", "cr_code", "ag_frame", "ag_code", "tb_frame", "f_back", "f_globals"),
    *(
        "_undefined_exception",
        "_fail_with_undefined_error",
        "_environment",
        "_func",
        "_loop",
        "_iterable",
        "_iterator",
        "_recurse",
    ),
    *("_TemplateReference__context", "_Namespace__attrs", "_asdict", "_replace", "_make", "_fields", "_stack", "_context"),
]
WAYS = [
    "{{ X.N }}",
    "{{ X['N'] }}",
    "{{ X|attr('N') }}",
    "{{ X|attr('N'[:3] ~ 'N'[3:]) }}",
    "{{ X|attr(['N']|first) }}",
    "{{ X['NN'[:('N'|length)]] }}",
    "{{ ([X]|map(attribute='N')|list)[0] }}",
    "{{ ([X]|map('attr', 'N')|list)[0] }}",
    "{{ ([[X]]|map('map', 'attr', 'N')|map('list')|list)[0][0] }}",
    "{{ ([X]|map(**{'attribute': 'N'})|list)[0] }}",
    "{{ ([[X]]|map(attribute='0.N')|list)[0] }}",
    "{{ [X]|selectattr('N')|list|length }}",
    "{{ [X]|selectattr('N', 'defined')|list|length }}",
    "{{ ([X]|groupby('N'))[0].grouper }}",
    "{{ ([X]|groupby('N', default=''))[0][0] }}",
    "{{ [X]|sum(attribute='N') }}",
    "{{ '{0.N}'.format(X) }}",
    "{{ '{x.N}'.format(x=X) }}",
    "{{ '{0[0].N}'.format([X]) }}",
    "{{ '{0.N!r}'.format(X) }}",
    "{{ '{x.N}'.format_map({'x': X}) }}",
    "{{ ('{0.N}'|attr('format'))(X) }}",
    "{{ ('{0.N}'|safe).format(X) }}",
    "{{ ('{0.N}'|escape|attr('format'))(X) }}",
    "{{ (['{0.N}']|map(attribute='format')|first)(X) }}",
    "{{ ''.join([X]|map(attribute='N')|map('string')) }}",
    "{% set ns = namespace(f='{0.N}'.format) %}{{ ns.f(X) }}",
    "{% set f = '{0.N}'.format %}{{ f(X) }}",
    "{% set ns = namespace(x=X) %}{{ ns.x.N }}",
    "{% for x in [X] %}{{ x.N }}{% endfor %}",
    "{% with x = X %}{{ x['N'] }}{% endwith %}",
    "{% macro m(x) %}{{ x.N }}{% endmacro %}{{ m(X) }}",
    "{% if X.N is defined %}defined{% endif %}",
    "{% set x = X.N %}{{ x() }}",
    "{% filter attr('N') %}{{ X }}{% endfilter %}",
]
# Nothing was there; how it is written; how often it was found.
NOTHING = {"", "0", "None", "none", "[]", "Undefined"}


BY_HAND = [
    "{% include '/etc/passwd' %}",
    "{% include ['/etc/passwd', 'x'] ignore missing %}",
    "{% import 'os' as os %}{{ os.environ }}",
    "{% from 'os' import environ %}{{ environ }}",
    "{% extends '/etc/passwd' %}",
    "{% set x = cycler.__init__.__globals__.os.environ %}{{ x }}",
    "{{ lipsum.__globals__.os.environ }}{{ lipsum() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ get_flashed_messages.__globals__ }}{{ url_for.__globals__ }}{{ config }}{{ request }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ self._TemplateReference__context.eval_ctx.environment.globals }}",
    "{% debug %}",
    "{% do messages.append(1) %}",
    "{% trans x=messages.__class__ %}{{ x }}{% endtrans %}",
    "{{ gettext.__globals__ }}{{ ngettext.__globals__ }}{{ _('x').__class__ }}",
    "{% autoescape true %}{{ ''.__class__ }}{% endautoescape %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__class__.__mro__ }}",
    "{% set ns = namespace(__html__=raise_exception) %}{{ ns|escape }}",
    "{% set ns = namespace(**{'__class__': 1}) %}{{ ns }}",
    "{% set ns = namespace([('__call__', 1)]) %}{{ ns() }}",
    "{{ dict.mro() }}{{ dict|attr('mro') }}",
    "{{ dict.fromkeys([1]).__class__ }}",
    "{{ range.__class__(1) }}",
    "{{ raise_exception.__globals__['json'].codecs.sys.modules }}",
    "{{ strftime_now.__globals__['functools'] }}",
    "{{ strftime_now|attr('__globals__')|attr('get')('json') }}",
    "{{ (messages|map('string')).gi_frame.f_back.f_globals }}",
    "{{ (messages|map('string'))['gi_frame'] }}",
    "{% for m in messages %}{{ loop._iterable.__class__ }}{{ loop.__init__ }}{% endfor %}",
    "{% for m in messages recursive %}{{ loop(m.__class__.__mro__) }}{% endfor %}",
    "{% macro m() %}{{ caller.__init__.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% macro m() %}{{ m._func.__globals__ }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{% endmacro %}{{ m._environment.globals }}{{ m._func.__code__ }}",
    "{% block b %}{{ super.__init__ }}{{ super._context }}{% endblock %}",
    "{{ undefined_name._undefined_exception.__init__.__globals__ }}",
    "{{ undefined_name.__class__.__init__.__globals__ }}",
    "{{ ''.format.__self__.__class__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(namespace) }}",
    "{{ '{a.__class__}'.format_map(dict(a=1)) }}",
    "{{ '{0.__class__}'|format(1) }}{{ '%(a.__class__)s'|format(a=1) }}",
    "{{ ['{0.__class__}']|map('format', 1)|join }}",
    "{{ 'x'|attr('format')|attr('__self__') }}",
    "{{ {'a': ''.format}['a']('{0.__class__}', 1) }}",
    "{{ ('{0.__class__.__mro__}' ~ '').format(1) }}",
    "{{ ('a'|escape).__class__.format('{0.__class__}', 1) }}",
    "{{ ('a'|safe).__html_format__('{0}') }}",
    "{{ ('a'|safe).unescape.__func__ }}",
    "{{ 'a'.encode().__class__ }}{{ 'a'.encode().hex.__self__.__class__ }}",
    "{{ messages.__reduce_ex__(2) }}{{ messages[0].__reduce__() }}",
    "{{ messages.__getattribute__('__class__') }}",
    "{{ messages|tojson|attr('__class__') }}",
    "{{ [1]|sort(attribute='__class__')|list }}{{ [1]|unique(attribute='__class__')|map('attr', '__class__')|list }}",
    "{{ [messages]|max(attribute='__class__.__mro__') }}",
    "{{ messages|map('attr', '__class__')|map('attr', '__mro__')|list }}",
    "{{ messages|map('map')|list }}{{ [messages]|map('eval')|list }}",
    "{{ messages|select('callable')|list }}{{ ['os']|map('import')|list }}",
    "{{ 'os'|eval }}{{ eval('1') }}{{ __import__('os') }}{{ __builtins__ }}{{ open('/etc/passwd') }}",
    "{{ environment }}{{ context }}{{ template }}{{ blocks }}{{ caller }}{{ root }}",
    "{{ l_0_messages }}{{ t_1 }}{{ undefined(name='x').__class__ }}{{ resolve('x') }}",
    "{{ [1, 2]|random.__globals__ }}",
    "{% set x %}{{ ''.__class__ }}{% endset %}{{ x.__class__.__mro__ }}",
    "{% filter upper %}{{ ''.__class__.__mro__ }}{% endfilter %}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}{{ ''['\\u005f_class__'] }}",
    "{{ ''.\uff3f_class__ }}{{ ''|attr('__cla\u017fs__') }}",
    "{{ ''|attr('__class__\\x00') }}{{ ''|attr(' __class__') }}",
    "{{ messages.append(1) }}{{ messages[0].update(a=1) }}{{ messages.clear() }}{{ messages[0].pop('role') }}",
    "{{ messages.sort() }}{{ messages.__setitem__(0, 1) }}{{ {}.setdefault('a', 1) }}",
    "{{ (async_gen).ag_frame }}{% set x = messages|map('string') %}{{ x.cr_frame }}{{ x.ag_code }}{{ x.gi_running.real }}",
    "{{ namespace.__init__.__globals__ }}{{ namespace.__wrapped__ }}{{ dict.__wrapped__ }}{{ range.__wrapped__ }}",
    "{{ messages|tojson(indent=raise_exception.__globals__) }}{{ messages|tojson(separators=''.__class__.__mro__) }}",
    "{{ messages|tojson(default=raise_exception) }}{{ messages|tojson(cls=dict) }}",
    "{{ '%s'|format(''.__class__.__mro__) }}{{ ''.__class__.__mro__|string|pprint }}",
    "{{ ({'a': 1}|xmlattr).__class__.__mro__ }}{{ ('a'|urlize(rel='x')).__class__ }}",
]


def outcome(source: str) -> str:
    """What a template came to: an error of ours, or its text."""
    try:
        return ChatTemplate(source, "the template").render(MESSAGES, {"eos_token": "</s>"})
    except DllmFastError as error:
        return type(error).__name__


def combinations() -> list[str]:
    plain = itertools.product(OBJECTS.values(), NAMES, WAYS)
    inside = ((thing, name, way) for thing in INSIDE for name in NAMES for way in WAYS)
    made = [way.replace("X", thing).replace("N", name) for thing, name, way in plain]
    made += [INSIDE[thing] % way.replace("X", thing).replace("N", name).replace("%", "%%") for thing, name, way in inside]
    return made


SIGNS = (
    "<class",
    "<module",
    "<function",
    "<built-in",
    "<bound",
    "<frame",
    "<code",
    "<slot",
    "<method",
    " object at 0x",
    "root:",
    CANARY,
)


@pytest.mark.parametrize("source", BY_HAND)
def test_escapes_written_by_hand(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    before = [dict(message) for message in MESSAGES]
    text = outcome(source)
    assert not any(sign in text for sign in SIGNS), text
    assert before == MESSAGES


def test_every_way_to_every_attribute_of_every_object() -> None:
    sources = combinations()
    if ESCAPES:
        sources = random.Random(1).sample(sources, ESCAPES)
    found: Counter[str] = Counter()
    for source in sources:
        text = outcome(source).strip()
        # Errors of ours, or what is there where nothing is.
        kind = text if text.endswith("Error") else "nothing" if text in NOTHING else "text"
        found[kind] += 1
        assert kind != "text", f"{source}: {text}"
    print(len(sources), found)
    assert found["CheckpointError"] > len(sources) / 20
