#!/usr/bin/env python3
"""Writes tests/data/chat_template/vectors.json: templates, what they see, and what jinja2 makes of them as transformers
calls it; or the error, where there is one.

Needs: jinja2==3.1.6 transformers==5.17.0
"""
import datetime
import json
import pathlib
import re
import sys

import jinja2
from transformers.utils import chat_template_utils

VARIABLES = {
    "n": 7, "f": 2.5, "zero": 0, "big": 123456789012, "neg": -3, "t": True, "no": False, "nil": None,
    "s": "Hello World", "empty": "", "space": "  padded\t\n", "multi": "one\ntwo\r\nthree\n\nfive", "uni": "Größe ñ 日本語 😀 İ ΑΣ",
    "html": "<b class=\"x\">Tom & 'Jerry'</b>",
    "l": [3, 1, 2], "words": ["banana", "Apple", "cherry", "apple"], "nested": [[1, 2], [3, [4, 5]]], "el": [],
    "d": {"b": 1, "a": {"x": [1, 2, {"y": "z"}]}, "items": "shadow"}, "ed": {},
    "users": [{"name": "Bob", "age": 30, "tags": ["x"]}, {"name": "alice", "age": 25, "tags": []},
              {"name": "Carl", "age": 30, "tags": ["y", "z"]}, {"age": 1}],
    "tree": [{"v": 1, "c": [{"v": 2, "c": []}, {"v": 3, "c": [{"v": 4, "c": []}]}]}, {"v": 5, "c": []}],
    "schema": {"type": "object", "properties": {"q": {"type": "string", "description": "A \"query\" é \u2028 </s>"},
                                                "n": {"type": ["integer", "null"], "minimum": 1.5, "enum": [1, 2.0, 1e22, None]}},
               "required": ["q"], "empty": {}, "none": []},
}

# Expressions, with | between them; a | before a filter's name belongs to it.
SNIPPETS = r"""
# literals
1|1_000|0x1F|0b101|0o17|1.5|1e3|1.5e-7|1e16|1e22|123456789.0|0.1|1_0.5|.5
1e15, 1e16, 123456789012345680.0, 1e-4, 1e-5, 0.00012345, 5e-324, 1.7976931348623157e308
'a' "b" 'c'|'it''s'|"q\"q"|'q\'q'|'\n\t\\x\x41\u00e9\U0001F600\101'|'\q \é \日'|true|True|false|False|none|None
[]|[1, 'a', none, true, 1.0]|(1,)|(1, 2)|()|1, 2|{}|{'a': 1, "b": [2], 3: 4, none: 5, true: 6, 1: 7}|{'a': 1, 'a': 2}|[1, 2,]|{'a': 1,}
# arithmetic
1 + 2 * 3|(1 + 2) * 3|7 / 2|7 // 2|-7 // 2|7 % 3|-7 % 3|7 % -3|2 ** 10|2 ** -1|2 ** 3 ** 2|-2 ** 2|2 * -3|- 3|+ 3|--3|not 3|7.5 // 2|-7.5 // 2|7.5 % 2|-7.5 % 2|7.5 % -2|1 / 3|6 / 3
true + 1|true * 3|-true|1 - 0.9|0.1 + 0.2|1e308 * 10|2 ** 0.5|10 % 3.5|1 // 0|1 / 0|1 % 0|1.0 / 0|0 ** -1|'a' + 1|1 + 'a'|[] + ()|none + 1|'a' - 'b'
'ab' * 3|3 * 'ab'|[1] * 2|(1, 2) * 2|'a' * -1|[1] + [2]|(1,) + (2,)|'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1]|'x' ~ undefined_thing ~ 'y'|1 ~ 2 + 3|'%s-%d' % ('a', 3)|'%05.2f|%x|%r' % (3.14159, 255, 'q')|'%(a)s' % {'a': 1}|'%s' % 'x'|'%s' % [1]|'%%'|'%d' % 'x'|'%s %s' % 'x'|'%s' % (1, 2)|'%-5s|' % 'a'|'%5s|' % 'a'|'%+d % d' % (1, 2)|'%c%c' % (65, 'b')|'%e %g %G' % (12345.678, 0.00001, 1e20)|'%.3s' % 'abcdef'|'%5.1f%%' % 99.55
# comparisons
1 < 2|1 < 2 < 3|1 < 3 < 2|1 == 1.0|1 == true|'a' < 'b'|'a' == 1|[1, 2] < [1, 3]|(1, 2) == [1, 2]|[1] == [1]|{'a': 1} == {'a': 1.0}|1 != 2|2 >= 2|2 <= 1|1 in [1, 2]|3 not in [1, 2]|'a' in 'cat'|'a' in d|'b' in d|1 in 'a'|1 in 5|'x' in none|1 < 'a'|none < 1|[1] < ['a']|nil == none|not (1 == 2)|not 1 == 2|1 == 2 or 3|0 or ''|1 and 2|0 and 1|nothing == nada|nothing == none|nothing == ''|1 < nothing|'a' in nothing|nothing in [1]|(nothing in [nothing])
1 if true|1 if false|1 if false else 2|1 if 0 else 2 if 0 else 3|(1 if false) is undefined|(1 if true else 2) + 1|[1 if true else 2, 3]
# attributes and items
d.b|d['b']|d.a.x[2].y|d['a']['x'][-1]['y']|d['items']|d.missing|d['missing']|d.missing.more|d['missing']['more']|l[0]|l[-1]|l[5]|l.0|l['x']|s[0]|s[-1]|s[100]|s.nope|n.nope|none.x|nil.x|nothing.x|nothing['x']|nothing()|s()|d()|l.append|l.append(1)|d.update({})|d.pop('b')|d.__class__|s.__class__.__mro__|l.__len__|l|d.keys()|d.values()|d.items()|ed.items()|ed.keys()|nested[1][1][0]|d[[1]]|l[1.5]|l[none]|l[true]|users[0].name|users[0]['name']|range(3)[1]|range(5)[-1]|'abc'.0|(1, 2).1|d.a['x'].0|n.real|f.is_integer()|n.bit_length()
l[1:]|l[:2]|l[::-1]|l[::2]|l[-2:]|l[5:]|l[:-1]|s[1:4]|s[::-1]|s[-3:]|s[::2]|s[8:2:-2]|uni[0:5]|uni[::-1]|uni[-3:]|(1, 2, 3)[1:]|range(10)[2:5]|range(10)[::3]|range(10)[::-2]|l[1:2, 3]|l[none:2]|l['a':]|d[1:]|nothing[1:]|l[::0]|l[1:1]|l[100:200]|l[-100:100]
# names
nothing|nothing ~ ''|nothing + 1|nothing.a|-nothing|nothing|length|nothing|list|nothing|join|nothing|default('x')|nothing|upper|nothing|int|nothing is defined|d.x is defined|d.b is defined|loop|super|true.x|varargs|caller|kwargs
# tests
n is odd|n is even|n is divisibleby 7|n is divisibleby(2)|n is defined|x is undefined|nil is none|n is none|t is boolean|n is boolean|t is integer|n is integer|f is float|n is number|t is number|s is number|s is string|d is mapping|l is mapping|l is sequence|s is sequence|d is sequence|n is sequence|l is iterable|s is iterable|n is iterable|nothing is iterable|range(3) is iterable|range(3) is sequence|d.items() is sequence|d.items() is iterable|range is callable|s is callable|nothing is callable|nil is sameas none|1 is sameas 1|1 is sameas true|s is lower|'abc' is lower|'ABC' is upper|'1' is upper|n is eq 7|n is equalto(7)|n is ne 7|n is gt 3|n is lt 3|n is ge 7|n is le 7|n is greaterthan 3|n is lessthan 3|n is in [7, 8]|'x' is in 'xyz'|'upper' is filter|'nope' is filter|'odd' is test|'nope' is test|t is true|t is false|no is false|1 is true|n is not odd|n is not none|not n is odd|n is odd and n is defined|n is odd or false|'x' is escaped|('x'|safe) is escaped|s is odd|n is divisibleby 0|n is nosuchtest|n is eq(7) is true|n is none is none|d.b is defined and d.b is number|l is sameas l|n is number is true|n is
# filters on texts
s|upper|s|lower|s|title|s|capitalize|'hello wORLD-foo (bar) [baz] {q} <x> it''s'|title|space|trim|'xxaxx'|trim('x')|'xyaxy'|trim('yx')|s|replace('l', 'L')|s|replace('l', 'L', 2)|s|replace('', '-')|n|replace(7, 8)|s|replace('o')|s|center(20)|'ab'|center(5)|s|length|uni|length|uni|upper|uni|lower|uni|title|uni|capitalize|'ß ŉ ﬁ'|upper|'ΑΣ ΣΑΣ Σ'|lower|multi|indent|multi|indent(2, true)|multi|indent(width=3, first=true, blank=true)|multi|indent('>> ')|n|indent|''|indent|'foo bar baz qux quux'|truncate(9)|'foo bar baz qux quux'|truncate(9, true)|'foo bar baz'|truncate(9)|'foo bar baz'|truncate(9, leeway=0)|'foo bar baz qux'|truncate(11, end='..', leeway=0)|s|truncate(2)|'a b  c\n d'|wordcount|s|string|n|string|nil|string|html|escape|html|e|(html|safe)|escape|html|safe|html|striptags|'<p>a <!-- x --> b</p> &amp; &lt;c&gt; &#65;'|striptags|html|forceescape|s|urlencode|'a b/c?d=é&'|urlencode|{'a b': 'c/d', 'x': 1}|urlencode|[('k', 'v w')]|urlencode|{'class': 'a b', 'id': none, 'x': 1, 'y': nothing, 'z': '<'}|xmlattr|{'a b': 1}|xmlattr|'%s is %d'|format('x', 3)|'%(a)s!'|format(a='b')|'%s'|format('a', b=1)|('<a>'|safe) ~ '<b>'|('<a>'|safe) + '<b>'|('<a>'|safe)|upper|s|reverse|l|reverse|list|uni|reverse|s|first|s|last|''|first|s|list|s|d|s|nosuchfilter|s|upper|lower|s|upper()|s|upper(1)|s.upper()|upper
# filters on numbers
f|int|'42'|int|' -42 '|int|'42.9'|int|'x'|int|'x'|int(5)|'0x1F'|int(base=16)|'1F'|int(0, 16)|'101'|int(base=2)|'0b11'|int(base=0)|'1_000'|int|'1__0'|int|none|int|true|int|[]|int|'1e3'|int|'inf'|int|'3.5'|float|'x'|float|'x'|float(1.5)|n|float|'1e3'|float|'nan'|float|'-inf'|float|'1_0.5'|float|none|float|-3|abs|neg|abs|(-2.5)|abs|'x'|abs|2.5|round|3.5|round|2.567|round(2)|2.567|round(1, 'floor')|2.1|round(method='ceil')|1234|round(-2)|1250|round(-2)|1350|round(-2)|1234.5|round(-2)|5|round|5|round(1)|'a'|round|2.5|round(method='x')|2.675|round(2)|1e300|round(2)|0.5|round|-0.5|round|1000|filesizeformat|1|filesizeformat|999|filesizeformat|123456789|filesizeformat|1024|filesizeformat(true)|1500000000000|filesizeformat
# filters on sequences
l|sort|l|sort(reverse=true)|words|sort|words|sort(case_sensitive=true)|words|sort(true)|users[:3]|sort(attribute='name')|map(attribute='name')|list|users[:3]|sort(attribute='age,name')|map(attribute='name')|list|users[:3]|sort(attribute='age', reverse=true)|map(attribute='name')|join(',')|users|sort(attribute='name')|[1, 'a']|sort|[1]|sort|nested|sort|[[2, 1], [1, 2]]|sort|[none, 1]|sort|{'b': 1, 'a': 2}|sort|d|dictsort|{'b': 1, 'A': 2, 'c': 0}|dictsort|{'b': 1, 'A': 2, 'c': 0}|dictsort(true)|{'b': 1, 'A': 2}|dictsort(by='value')|{'b': 1, 'A': 2}|dictsort(false, 'value', true)|{'b': 1}|dictsort(by='x')|l|dictsort|l|first|l|last|[]|first|[]|last|([]|first).x|d|first|d|last|d.items()|last|d.items()|first|l|join|l|join(', ')|users|join(', ', attribute='age')|[1, none, true, nothing, 'a']|join('-')|'abc'|join('.')|5|join|l|sum|users|sum(attribute='age')|l|sum(start=10)|[0.1, 0.2]|sum|['a']|sum|[[1], [2]]|sum(start=[])|l|min|l|max|words|min|words|max|words|max(true)|[]|min|users|max(attribute='age')|[1, 'a']|min|words|unique|list|words|unique(true)|list|users|unique(attribute='age')|list|length|[1, 1.0, true, 'a']|unique|list|[[1]]|unique|list|l|length|d|length|n|length|nil|length|d|count|range(4)|length|d|list|d.items()|list|s|list|n|list|none|list|l|batch(2)|list|l|batch(2, 'x')|list|range(7)|slice(3)|list|range(7)|slice(3, 'x')|list|range(2)|slice(3)|list|[1]|slice(0)|list|d|items|list|nothing|items|list|l|items|list|users|groupby('age')|users|groupby('age')|map(attribute='grouper')|list|(users|groupby('age'))[0].list|length|users|groupby('name', default='zz')|map('first')|list|users|groupby('name')|map('first')|list|words|groupby(0)|list|users|map(attribute='name')|list|users|map(attribute='name', default='?')|list|users|map(attribute='tags.0')|list|words|map('upper')|list|words|map('replace', 'a', 'o')|join|words|map('nosuch')|list|words|map('nosuch')|length|words|map|list|words|map(attribute='x', y=1)|list|[[1, 2], [3]]|map('sum')|list|l|map('string')|join('+')|l|select('odd')|list|l|select|list|[0, 1, '', 'a', none]|select|list|[0, 1, '']|reject|list|l|reject('odd')|list|l|select('gt', 1)|list|l|select('in', [1, 3])|list|users|selectattr('name')|list|length|users|selectattr('name', 'defined')|map(attribute='name')|list|users|selectattr('age', 'equalto', 30)|map(attribute='name')|list|users|rejectattr('age', 'eq', 30)|list|length|users|rejectattr('tags')|list|length|users|selectattr|list|l|select('nosuch')|list|users|selectattr('age', '>', 20)|list|length|nothing|map('upper')|list|n|map('upper')|list|0|map('upper')|list|d|attr('b')|d|attr('keys')() |list|s|attr('upper')()|n|default(1)|nothing|default(1)|nothing|default|''|default('x')|''|default('x', true)|none|default('x')|none|default('x', boolean=true)|nothing|d('y')|nothing.x|default('z')|d.q|default('z')|d.q.r|default('z')
l|tojson|schema|tojson|schema|tojson(indent=2)|schema|tojson(indent=4, ensure_ascii=true)|schema|tojson(sort_keys=true)|schema|tojson(separators=(',', ':'))|schema|tojson(indent=0)|schema|tojson(indent='--')|schema|tojson(true)|d|tojson|[]|tojson(indent=2)|{}|tojson(indent=2)|{'a': []}|tojson(indent=2)|'é😀\u2028\x7f\x01"\\/<'|tojson|'é😀\u2028\x7f\x01"\\/<'|tojson(ensure_ascii=true)|nothing|tojson|range(2)|tojson|(1, 2)|tojson|{1: 2, none: 3, true: 4, 1.5: 5}|tojson|{(1, 2): 3}|tojson|1e22|tojson|1.0|tojson|'inf'|float|tojson|'nan'|float|tojson|namespace()|tojson|{'b': 1, 'a': 2}|tojson(sort_keys=true, indent=1)|{'b': 1, 2: 3}|tojson(sort_keys=true)|none|tojson|'x'|tojson|length|d.items()|tojson|d.items()|list|tojson|words|map('upper')|tojson|users|tojson(indent=none)|big|tojson
# methods of texts
s.upper()|s.lower()|s.title()|s.capitalize()|s.swapcase()|"they're bill's".title()|s.split()|s.split('o')|s.split('o', 1)|s.split(maxsplit=1)|' a  b '.split()|' a  b '.split(' ')|''.split()|''.split(',')|'a,b,c'.rsplit(',', 1)|' a b c '.rsplit(none, 1)|' a b c '.split(none, 1)|'a'.split('')|multi.splitlines()|multi.splitlines(true)|'a\x0bb\x1cc\u2028d\x85e'.splitlines()|space.strip()|space.lstrip()|space.rstrip()|'xxaxx'.strip('x')|'abcba'.lstrip('ab')|'abcba'.rstrip('ab')|'\u3000a\u00a0'.strip()|s.startswith('He')|s.startswith(('x', 'H'))|s.startswith('W', 6)|s.endswith('d')|s.endswith(('x', 'ld'))|s.endswith('lo', 0, 5)|s.startswith(1)|s.startswith(['H'])|s.find('o')|s.find('o', 5)|s.find('zz')|s.rfind('o')|s.index('o')|s.index('zz')|uni.find('ñ')|uni.find('😀')|uni.rfind('e')|s.count('o')|s.count('')|s.count('l', 3)|s.replace('l', 'L')|s.replace('l', 'L', 1)|'aaa'.replace('', '-')|'aaa'.replace('', '-', 2)|s.replace('l')|', '.join(['a', 'b'])|', '.join([1])|','.join('abc')|','.join(words|map('upper'))|'abc'.join('')|s.partition(' ')|s.rpartition('o')|s.partition('zz')|s.rpartition('zz')|'abc'.isalpha()|'a1'.isalnum()|'12'.isdigit()|'½'.isnumeric()|'²'.isdigit()|'²'.isdecimal()|'abc'.islower()|'ABC'.isupper()|'Abc Def'.istitle()|' \t'.isspace()|''.isspace()|'a_1'.isidentifier()|'é'.isascii()|'a\n'.isprintable()|'7'.zfill(3)|'-7'.zfill(4)|'a'.ljust(3, '.')|'a'.rjust(3) ~ '|'|'ab'.center(5, '*')|'abc'.center(6, '*')|'prefix-x'.removeprefix('prefix-')|'x.txt'.removesuffix('.txt')|'a\tb'.expandtabs(4)|'ß'.casefold()|'{} {}'.format(1, 'a')|'{0} {1} {0}'.format('a', 'b')|'{a} {b[0]} {c.x}'.format(a=1, b=[2], c={'x': 3})|'{:>5}|{:<5}|{:^5}|'.format('a', 'b', 'c')|'{:05d} {:+d} {:,} {:x} {:#x} {:b} {:e} {:.2f} {:%}'.format(42, 7, 1234567, 255, 255, 5, 12345.678, 3.14159, 0.25)|'{!r} {!s}'.format('a', 'b')|'{{}}'.format()|'{}'.format()|'{a}'.format()|'{:d}'.format('a')|'{:*^9}'.format('mid')|'{:{}}|'.format('a', 5)|'{:.3}'.format('abcdef')|'{:g} {:g} {:G}'.format(0.0001, 1e10, 1e-10)|'{}{}'.format(true, none)|'{:>6.2f}'.format(1.005)|'{:_}'.format(1000000)|'{0}{}'.format(1, 2)|'{'.format()|'{:10}|'.format(5)|'{a}'.format_map({'a': 1})|'{:.0f} {:.1f} {:g}'.format(2.5, 0.25, 100000.0)|'{} {}'.format(1.0, 1e20)|'{:c}'.format(65)|'{.x}'.format({'x': 1})|s.nope()|s.upper(1)
# methods of lists and dicts
l.index(1)|l.index(9)|l.count(3)|l.copy()|(1, 2, 1).count(1)|(1, 2).index(2)|d.get('b')|d.get('x')|d.get('x', 5)|d.get('x', default=5)|d.get()|d.get([1])|d.copy()|d.keys()|list|d.values()|list|d.items()|length|{}.fromkeys([1, 2], 3)|l.sort()|l.reverse()|d.clear()|d.setdefault('a', 1)|l.extend([1])|l.insert(0, 1)|('b' in d.keys())|(1 in d.values())|d.keys() == d.keys()|d.items() is mapping
# functions
range(5)|range(5)|list|range(1, 5)|list|range(5, 0, -2)|list|range(0)|list|range(1, 2, 0)|range(100001)|range('a')|range(1.5)|range(true)|list|dict(a=1, b=2)|dict({'a': 1}, b=2)|dict([('a', 1)])|dict(1)|namespace(a=1)|namespace(a=1).a|namespace({'x': 2}).x|namespace().q|namespace(a=1).q.r|raise_exception('my message é')|raise_exception(1)|raise_exception()|strftime_now('%Y-%m-%d %H:%M:%S')|strftime_now('%d %b %Y|%A|%j|%B|%p|%%|%f')|strftime_now()|cycler('a', 'b').next()|cycler()|joiner()()|range(*[1, 4])|list|dict(**{'a': 1})|range(**{'a': 1})|dict(a=1, **{'a': 2})|range(*5)|range(3, start=1)|[range(3)]
"""

# Templates of several statements, or of text around them.
TEMPLATES = r"""
text only
a {{ 1 }} b
{# comment #}x{#- c -#} y {#+ d +#} z
a
{%- if true -%}
  b
{%- endif -%}
c
===
{% if true %}
  x
{% endif %}
  y
===
  {% if true %}z{% endif %}
  {%+ if true %}z{% endif %}
	{% if true +%}
q{% endif %}
===
a  {{- 1 -}}  b {{+ 2 }} {{- -3 }}
===
{% raw %}{{ x }} {% if %}{% endraw %}|{%- raw -%} {{ y }} {%- endraw -%} z
===
{{ '{{' }} {{ "}}" }} {{ '%}' }} {{ {'a': {'b': 1}}.a.b }} {{ {'a':{}} }}
===
{% for x in l %}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}
===
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }}|{% endfor %}
===
{% for x in [] %}a{% else %}none{% endfor %}{% for x in [1] %}a{% else %}b{% endfor %}{% for x in [1] %}{% continue %}{% else %}c{% endfor %}{% for x in [1] %}{% break %}{% else %}d{% endfor %}
===
{% for x in range(10) if x is odd %}{{ x }}:{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% endfor %}
===
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'añ😀' %}<{{ c }}>{% endfor %}
===
{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for a, b in [(1, 2), (3, 4)] if a > 1 %}{{ a }}{{ b }}{% endfor %}
===
{% for a, b in [1] %}{% endfor %}
===
{% for a, b in [(1,)] %}{% endfor %}
===
{% for a, b in [(1, 2, 3)] %}{% endfor %}
===
{% for x in 5 %}{% endfor %}
===
{% for x in none %}{% endfor %}
===
{% for x in nothing %}a{% else %}b{% endfor %}
===
{% for n in tree recursive %}[{{ n.v }}@{{ loop.depth }}{% if n.c %}{{ loop(n.c) }}{% endif %}]{% endfor %}
===
{% for n in tree recursive %}{{ n.v }}{{ loop(n.c) }}{% else %}-{% endfor %}
===
{% for x in l %}{{ loop(l) }}{% endfor %}
===
{% for x in l %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{% endfor %}{% for x in l %}{{ loop.cycle() }}{% endfor %}
===
{% for x in [1, 2, 3, 4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}
===
{% for x in l %}{% for y in l %}{{ loop.index }}{% if y == 1 %}{% break %}{% endif %}{% endfor %};{{ loop.index }}{% endfor %}
===
{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}
===
{% for i in l %}{% set y = i %}{% endfor %}[{{ y }}]
===
{% for i in [1] %}{{ x }}{% endfor %}{% set x = 5 %}{{ x }}
===
{% for i in [1] %}{{ s }}{% endfor %}{% set s = 5 %}{{ s }}
===
{{ s }}{% set s = 5 %}{{ s }}
===
{% if false %}{% set s = 5 %}{% endif %}{{ s }}{% for i in [1, 2] %}{% if loop.first %}{% set s = i %}{% endif %}{{ s }}{% endfor %}{{ s }}
===
{% set ns = namespace(x=0, found=false) %}{% for i in l %}{% set ns.x = ns.x + i %}{% set ns.y = i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.found }}{{ ns }}
===
{% set ns = {'x': 1} %}{% set ns.x = 2 %}
===
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}{% set x = 1, 2 %}{{ x }}
===
{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}
===
{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]{% set y | upper | replace('A', 'x') %}a{{ 1 }}b{% endset %}[{{ y }}]
===
{% set x %}{% set inner = 1 %}{{ inner }}{% endset %}{{ x }}{{ inner }}
===
{% with %}{% set a = 1 %}{{ a }}{% endwith %}{{ a }}{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}{% set a = 5 %}{% with a = 6, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}
===
{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 3) }}|{{ m(1, c=4) }}|{{ m() }}|{{ m(b=1, a=2) }}
===
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
===
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(x=2) }}
===
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}{{ m }}
===
{% macro m(a) %}{{ caller(a) }}!{% endmacro %}{% call(x) m(3) %}<{{ x }}{{ s }}>{% endcall %}{% call m(3) %}{% endcall %}
===
{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}
===
{% macro m() %}{{ caller is defined }}{% if caller %}{{ caller() }}{% endif %}{% endmacro %}{{ m() }}{% call m() %}in{% endcall %}
===
{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{{ x }}{% endmacro %}{% set x = 1 %}{{ a() }}
===
{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
===
{% set x = 1 %}{% macro m() %}{% set x = 2 %}{{ x }}{% endmacro %}{{ m() }}{{ x }}{% for i in [1] %}{% macro q() %}{{ i }}{% endmacro %}{{ q() }}{% endfor %}{{ q is defined }}
===
{% macro m(a) %}{% endmacro %}{{ m(1) }}[{{ m(1) is string }}]{{ m is callable }}
===
{% macro outer(x) %}{% macro inner() %}{{ x }}{% endmacro %}{{ inner() }}{% endmacro %}{{ outer(1) }}{{ outer(2) }}
===
{% macro m(x) %}{% for i in range(2) %}{{ x }}{{ i }}{{ loop.index }}{% endfor %}{% endmacro %}{% for i in [7, 8] %}{{ m(i) }}{{ loop.index }};{% endfor %}
===
{% macro m(a, a) %}{% endmacro %}
===
{% macro m(a=1, b) %}{% endmacro %}
===
{% call 5 %}{% endcall %}
===
{% filter upper %}a{{ 1 }}b{% endfilter %}{% filter replace('a', 'x') | upper %}abc{% endfilter %}
===
{% filter indent(width=2) %}a
b
{% endfilter %}
===
{% block a %}A{{ x }}{{ s }}{% endblock %}{% set x = 1 %}{% block b %}{{ x }}{% endblock b %}{% for i in [1] %}{% block c %}[{{ i }}]{% endblock %}{% block e scoped %}[{{ i }}]{% endblock %}{% endfor %}
===
{% block a %}{% endblock %}{% block a %}{% endblock %}
===
{% generation %}hello {{ s }}{% set q = 1 %}{% endgeneration %}[{{ q }}]
===
{% for m in users %}{% if m.name %}{% generation %}{{ m.name }}{% endgeneration %}{% else %}?{% endif %}{% endfor %}
===
{% print 1, 'a' %}{% print s %}
===
{% if n == 7 and (s or none) %}yes{% elif x %}maybe{% else %}no{% endif %}{% if nothing %}a{% elif n %}b{% endif %}{% if [] %}{% elif '' %}{% else %}c{% endif %}
===
{% if 1 %}a{% endif %}{% if (1 if true else 0) %}b{% endif %}{% if not nothing %}c{% endif %}
===
{% include 'x' %}
===
{% if false %}{% include 'x' %}{% import 'y' as z %}{% from 'a' import b %}{% endif %}ok
===
{% import 'x' as y %}
===
{% extends 'x' %}
===
{% autoescape false %}{{ html }}{% endautoescape %}
===
{% if false %}{{ 1|nosuch }}{{ 1 is nosuch }}{% endif %}ok{{ 1 if true else 1|nosuch }}
===
{% if true %}{% for x in [] %}{{ 1|nosuch }}{% endfor %}{% endif %}
===
{% if false %}{% for x in [] %}{{ 1|nosuch }}{% endfor %}{% endif %}
===
{% if true %}{{ 1|nosuch }}{% endif %}
===
{% set g = l|map('string') %}{{ g|join }}|{{ g|join }}|{{ g is iterable }}{% for x in l|select('odd') %}{{ x }}{{ loop.length }}{% endfor %}
===
{% for g in users|groupby('age') %}{{ g.grouper }}:{{ g.list|length }}{{ g[0] }} {% endfor %}{% for age, us in users|groupby('age') %}{{ age }}{{ us|length }}{% endfor %}
===
{% set c = cycler('a', 'b', 'c') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}{% set j = joiner(', ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}
===
{% for x in l %}{{ loop }}{% endfor %}{{ range(3) }}{{ range(1, 9, 2) }}{{ d.keys() }}{{ d.values() }}
===
{{ x
===
{{ }}
===
{% %}
===
{% if %}{% endif %}
===
{% nosuch %}
===
{% endif %}
===
{% for x in l %}
===
{% if true %}{% for x in l %}{% endif %}{% endfor %}
===
{% if true %}{% else %}{% elif 1 %}{% endif %}
===
{{ 1 + }}
===
{{ (1 }}
===
{{ [1) }}
===
{{ 'abc }}
===
{{ a.b. }}
===
{{ a ! b }}
===
{# open
===
{% raw %}x
===
{% set 1 = 2 %}
===
{% set true = 2 %}
===
{% set x %}
===
{% for loop in l %}{% endfor %}
===
{% for x in l %}{% set loop = 1 %}{% endfor %}
===
{% break %}
===
{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
===
{{ f(a=1, 2) }}
===
{{ f(a=1, a=2) }}
===
{{ 012 }}
===
{{ 1 is odd is even }}
===
{{ a b }}
===
{{ '\x4' }}
===
{{ ² }}
===
{{ naïve }}{% set naïve = 1 %}{{ naïve }}{% set 変数 = 2 %}{{ 変数 }}
===
{{ not }}
===
{{ x if }}
===
{{ 'a' 'b' "c" }}{{ ('a' 'b')|upper }}{{ 'a'.upper()|lower }}{{ -1|abs }}{{ -(1)|abs }}{{ 2 ** 3|string }}{{ not true|string }}{{ 1 + 2|string|int }}
===
{{ l|first + 1 }}{{ (l|first) }}{{ l|map('string')|join(',')|upper }}{{ l[0]|string + 'a' }}{{ s|replace('o','0')|replace('0','o') == s }}
===
line1
{{ 1 }}
line3

===
{% set x = 1 -%}
   text {{- ' a ' -}} text
{%- set y = 2 %}

end
===
	  {%- if true %} a {%- else %} b {% endif -%}   c
{{ raise_exception('at line 2') }}
===
{% set content = messages is defined and messages[0] or 'none' %}{{ content }}{% set o = {'a': [1, {'b': none}], 'c': (1, 'x')} %}{{ o }}{{ o.c }}{{ [nothing, 'a\'b', "q\"", 'both\'"', '\n\x00\x7fé\xa0\u200b😀'] }}
===
{{ [1.0, 1e100, -0.0, true, none, {}] }}{{ {'k': {'n': [()]}} }}{{ ('<a>'|safe, '<b>'|escape) }}
===
{% for i in range(3) %}{% set ns = namespace(v=i) %}{% for j in range(2) %}{% set ns.v = ns.v + 1 %}{% endfor %}{{ ns.v }}{% endfor %}
===
{% set t = 'x' %}{% macro show() %}{{ t }}{% endmacro %}{% set t = 'y' %}{{ show() }}{% if true %}{% set t = 'z' %}{% endif %}{{ show() }}
===
{% macro render(items, depth=0) -%}{%- for i in items %}{{ '  ' * depth }}- {{ i.v }}
{{ render(i.c, depth + 1) }}{%- endfor %}{%- endmacro -%}
{{ render(tree) }}
===
{% set text %}
  multi
  line
{% endset %}[{{ text }}][{{ text | trim }}][{{ text.strip().split('\n') | map('trim') | join('|') }}]
===
{%- set ns = namespace(last=-1) -%}{%- for m in users -%}{%- if m.name is defined and m.name.startswith('C') -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}{{ ns.last }}{{ users[ns.last].tags[::-1] }}{{ users[:ns.last]|length }}
"""

MESSAGES = [
    {"role": "system", "content": "You are a helper.\n  Be brief."},
    {"role": "user", "content": "What's 2 + 2? <|im_end|> é 日本"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "calc", "arguments": {"expr": "2 + 2", "n": 1.0, "o": None}}}]},
    {"role": "tool", "tool_call_id": "call_1", "name": "calc", "content": "{\"result\": 4}"},
    {"role": "assistant", "content": "<think>\nsimple\n</think>\n\n4", "reasoning_content": "simple"},
    {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "image"}, {"type": "text", "text": "this?"}]},
]
TOOLS = [{"type": "function", "function": {"name": "calc", "description": "Computes \"things\".", "parameters": {
    "type": "object", "properties": {"expr": {"type": "string", "description": "What?"},
                                     "n": {"type": "number", "default": 1e-7}}, "required": ["expr"]}}}]

# Templates in the manner of those that models ship.
CHATS = [
    r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- "# Tools\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- elif message.content is iterable and message.content is not mapping %}
        {%- set content %}{% for part in message.content %}{{ part.text if part.type == 'text' else '<image>' }}{% endfor %}{% endset %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = message.reasoning_content if message.reasoning_content is string else '' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<think>\n' ~ reasoning.strip('\n') ~ '\n</think>\n\n' }}
        {%- endif %}
        {{- content }}
        {%- for tool_call in message.tool_calls %}
            {%- set tool_call = tool_call.function if tool_call.function else tool_call %}
            {{- '\n<tool_call>\n{"name": "' ~ tool_call.name ~ '", "arguments": ' }}
            {{- tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != "tool" %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}""",
    r"""{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content']|trim %}{% set messages = messages[1:] %}{% else %}{% set system = "" %}{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday Date: " + date_string + "\n\n" + system }}
{%- if tools is not none %}
{%- for t in tools %}
{{ t | tojson(indent=4) }}
{% endfor %}
{%- endif %}{{ "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {%- if message.content is string %}{{ message.content | trim }}{% else %}{% for c in message.content if c.type == 'text' %}{{ c.text }}{% endfor %}{% endif %}
        {{- '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("This model only supports single tool-calls at once!") }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", ' }}{{- '"parameters": ' }}{{- call.arguments | tojson }}{{- "}" }}{{- "<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{% else %}{{- message.content }}{% endif %}{{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}""",
    r"""{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}""",
    r"""{%- macro describe(spec, level=0) -%}
{%- if spec.type == 'object' -%}
{
{%- for key, value in spec.properties.items() %}
{{ '  ' * (level + 1) }}{{ key }}{{ '' if key in spec.required|default([]) else '?' }}: {{ describe(value, level + 1) }}{{ ',' if not loop.last }}
{%- endfor %}
{{ '  ' * level }}}
{%- elif spec.enum is defined -%}{{ spec.enum | map('tojson') | join(' | ') }}
{%- else -%}{{ spec.type }}{% if spec.default is defined %} = {{ spec.default | tojson }}{% endif %}
{%- endif -%}
{%- endmacro -%}
{%- for tool in (tools or []) | map(attribute='function') -%}
// {{ tool.description }}
type {{ tool.name }} = (_: {{ describe(tool.parameters) }}) => any;
{% endfor -%}
{%- for role, group in messages | groupby('role') %}{{ role }}: {{ group | length }}; {% endfor %}
{%- call(m) each(messages | selectattr('content', 'string')) -%}[{{ m.role | upper }}] {{ m.content | replace('\n', ' ') | truncate(12, True) }}
{% endcall -%}
{%- macro each(items) -%}{%- for item in items -%}{{ caller(item) }}{%- endfor -%}{%- endmacro -%}""",
]
CONTEXTS = {
    "values": VARIABLES,
    "whole": {"messages": MESSAGES, "tools": TOOLS, "bos_token": "<s>", "add_generation_prompt": True},
    "plain": {"messages": MESSAGES[:2], "tools": None, "bos_token": "<s>", "add_generation_prompt": True,
              "enable_thinking": False},
    "answered": {"messages": MESSAGES[1:2] + [{"role": "assistant", "content": " ok "}], "tools": None,
                 "add_generation_prompt": False},
    "none": {"messages": [], "tools": [], "add_generation_prompt": True},
}
FILTERS = set(jinja2.filters.FILTERS) | {"nosuchfilter"}


class Clock(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 4, 5, 6, 7)


chat_template_utils.datetime = Clock


def kind_of(error):
    if isinstance(error, jinja2.exceptions.SecurityError):
        return "security"
    if isinstance(error, jinja2.exceptions.UndefinedError):
        return "undefined"
    if isinstance(error, jinja2.exceptions.TemplateSyntaxError):
        return "syntax"
    if isinstance(error, jinja2.exceptions.TemplateError):
        return "template"
    return "python"


def case(text, context):
    entry = {"template": text, "context": context}
    try:
        entry["output"] = chat_template_utils._cached_compile_jinja_template(text).render(**CONTEXTS[context])
    except Exception as error:  # noqa: BLE001: whatever a template raises is what is compared
        entry["kind"] = kind_of(error)
        entry["error"] = str(getattr(error, "message", None) or error)
    return entry


def expressions(line):
    """The expressions of a line of SNIPPETS."""
    pieces = [""]
    depth, quote, escaped = 0, "", False
    for c in line:
        if escaped:
            escaped = False
        elif quote:
            escaped = c == "\\"
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        else:
            depth += (c in "([{") - (c in ")]}")
        if c == "|" and depth == 0 and not quote:
            pieces.append("")
        else:
            pieces[-1] += c
    out = []
    for piece in pieces:
        name = re.match(r"\w*", piece).group()
        filters = name in FILTERS and name not in VARIABLES or piece.startswith("d(")
        if out and filters:
            out[-1] += "|" + piece
        else:
            out.append(piece)
    return out


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/chat_template")
    out.mkdir(parents=True, exist_ok=True)
    cases = []
    for line in SNIPPETS.strip().split("\n"):
        if not line.startswith("# "):
            cases += [case("{{ " + text.strip() + " }}", "values") for text in expressions(line)]
    cases += [case(text, "values") for text in TEMPLATES.strip("\n").split("\n===\n")]
    cases += [case(text, name) for text in CHATS for name in CONTEXTS if name != "values"]
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in cases)
    contexts = json.dumps(CONTEXTS, ensure_ascii=False, indent=1)
    (out / "vectors.json").write_text(f'{{"contexts": {contexts},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
