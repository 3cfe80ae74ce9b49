"""Chat templates and conversations, rendered by jinja2 in the environment transformers makes for apply_chat_template.

DeepSeek-V3's template comes from its tokenizer_config.json and is not stored (its cases name it "@deepseek_v3"); the other
model templates here are written for this project after the models' documented prompt formats.
"""
import json

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
import jinja2.ext
import jinja2.nodes

V2 = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif -%}
{{ bos_token }}
{%- for m in messages %}
    {%- if m['role'] == 'user' %}{{ 'User: ' ~ m['content'] ~ '\\n\\n' }}
    {%- elif m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token }}
    {%- elif m['role'] == 'system' %}{{ m['content'] + '\\n\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

R1 = """{%- set ns = namespace(system='', first=true, open_tools=false) -%}
{%- for m in messages if m.role == 'system' -%}
  {%- set ns.system = ns.system + ('' if loop.first else '\\n\\n') + m.content -%}
{%- endfor -%}
{{- bos_token }}{{ ns.system }}
{%- for m in messages if m['role'] != 'system' -%}
  {%- if m['role'] == 'user' -%}
    {{- '<｜User｜>' + m['content'] -}}
  {%- elif m['role'] == 'assistant' -%}
    {%- set content = m['content'] -%}
    {%- if content is string and '</think>' in content -%}
      {%- set content = content.split('</think>')[-1] -%}
    {%- endif -%}
    {{- '<｜Assistant｜>' -}}
    {%- if m.get('tool_calls') -%}
      {{- content if content else '' -}}{{ '<｜tool▁calls▁begin｜>' }}
      {%- for call in m.tool_calls -%}
        {{- '<｜tool▁call▁begin｜>' ~ call.type ~ '<｜tool▁sep｜>' ~ call.function.name ~ '\\n```json\\n' -}}
        {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}
        {{- '\\n```<｜tool▁call▁end｜>' -}}{{- '' if loop.last else '\\n' -}}
      {%- endfor -%}
      {{- '<｜tool▁calls▁end｜>' -}}
    {%- else -%}
      {{- content -}}
    {%- endif -%}
    {{- eos_token -}}
  {%- elif m['role'] == 'tool' -%}
    {{- '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' -}}
  {%- else -%}
    {{- raise_exception('unknown role ' + m['role']) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<｜Assistant｜>' -}}{{- '<think>\\n' if thinking is not defined or thinking else '</think>' -}}
{%- endif -%}"""

KIMI = """{%- macro parts(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content is not none -%}
    {%- for part in content -%}
      {%- if part.type == 'text' -%}{{ part['text'] }}{%- else -%}<|media_start|>{{ part.type }}<|media_content|><|media_pad|><|media_end|>{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
  <|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>
{%- endif -%}
{%- for message in messages -%}
  {%- if loop.first and messages[0]['role'] != 'system' -%}
    <|im_system|>system<|im_middle|>You are a helpful assistant.<|im_end|>
  {%- endif -%}
  {%- set name = message.get('name') or message['role'] -%}
  {%- if message['role'] == 'user' -%}
    <|im_user|>{{ name }}<|im_middle|>
  {%- elif message['role'] == 'assistant' -%}
    <|im_assistant|>{{ name }}<|im_middle|>
  {%- else -%}
    <|im_system|>{{ name }}<|im_middle|>
  {%- endif -%}
  {%- if message['role'] == 'assistant' and message.get('tool_calls') -%}
    {%- if message['content'] -%}{{ message['content'] }}{%- endif -%}
    <|tool_calls_section_begin|>
    {%- for call in message['tool_calls'] -%}
      <|tool_call_begin|>{{ call['id'] }}<|tool_call_argument_begin|>{% if call['function']['arguments'] is string %}{{ call['function']['arguments'] }}{% else %}{{ call['function']['arguments'] | tojson }}{% endif %}<|tool_call_end|>
    {%- endfor -%}
    <|tool_calls_section_end|>
  {%- elif message['role'] == 'tool' -%}
    ## Return of {{ message.tool_call_id }}
    {{ message['content'] }}
  {%- else -%}
    {{- parts(message['content']) -}}
  {%- endif -%}
  <|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}
  <|im_assistant|>assistant<|im_middle|>
{%- endif -%}"""

CALL = {'id': 'functions.weather:0', 'type': 'function',
        'function': {'name': 'weather', 'arguments': '{"city": "Zürich", "unit": "°C"}'}}
OBJECT_CALL = {'id': 'functions.add:1', 'type': 'function',
               'function': {'name': 'add', 'arguments': {'b': 2.5, 'a': [1, None, True], 'text': 'a<b>&"\'\u2028'}}}
TOOLS = [{'type': 'function', 'function': {'name': 'weather', 'description': 'Says the weather, <b>now</b>',
                                           'parameters': {'type': 'object', 'properties': {'city': {'type': 'string'}},
                                                          'required': ['city']}}}]


def user(text):
    return {'role': 'user', 'content': text}


def assistant(text, **more):
    return {'role': 'assistant', 'content': text, **more}


def system(text):
    return {'role': 'system', 'content': text}


CONVERSATIONS = {
    'one': [user('What is 2+2?')],
    'system': [system('You are terse.'), user('Hi 👋')],
    'turns': [system('Be kind.\nAlways.'), user('你好'), assistant('你好！'), user('  spaced  \n')],
    'two_systems': [system('A'), system('B'), user('x'), assistant('y'), user('z')],
    'thinking': [user('Why?'), assistant('<think>\nhm, so\n</think>\n\nBecause.'), user('And?')],
    'tools': [user('Weather?'), assistant(None, tool_calls=[CALL, CALL]), {'role': 'tool', 'tool_call_id': 'functions.weather:0', 'content': '12°'},
              {'role': 'tool', 'tool_call_id': 'functions.weather:1', 'content': '13°'}, assistant('Cold.'), user('Thanks')],
    'ends_in_tool': [user('Weather?'), assistant(None, tool_calls=[CALL]), {'role': 'tool', 'tool_call_id': 'a', 'content': '12°'}],
    'object_arguments': [user('Add'), assistant('Sure. ', tool_calls=[OBJECT_CALL]), {'role': 'tool', 'tool_call_id': 'b', 'content': '3.5'}],
    'parts': [user([{'type': 'text', 'text': 'Look: '}, {'type': 'image', 'image': 'x'}, {'type': 'text', 'text': '?'}])],
    'named': [{'role': 'user', 'name': 'Ann', 'content': 'I am Ann.'}, assistant('Hello Ann.')],
    'odd_role': [{'role': 'critic', 'content': 'bad'}],
    'empty': [],
}

DATA = {'n': 7, 'neg': -7, 'f': 2.5, 's': 'Hello Wörld', 'empty': '', 'nothing': None, 'yes': True, 'no': False,
        'items': [3, 1, 2], 'words': ['b', 'A', 'c', 'a'], 'd': {'x': 1, 'y': [1, 2], 'items': 'shadowed'},
        'rows': [{'k': 'a', 'v': 1, 'on': True}, {'k': 'b', 'v': 2, 'on': False}, {'k': 'c', 'v': 3, 'on': True}],
        'nested': {'a': {'b': {'c': 'deep'}}}, 'quote': 'it\'s "q"', 'multi': 'one\ntwo\n\nthree\n', 'cjk': '中文字符串'}

# Each is one template over DATA; together they use every feature of the language that is supported.
FEATURES = [
    '{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1.5 * 2 }} {{ -n }} {{ +n }}',
    '{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1e3 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 100000.0 }} {{ 1_000 }} {{ 123456789012345678.0 }}',
    '{{ "a" ~ 1 ~ none ~ true ~ 2.0 ~ undefined_name }}|{{ "a" + "b" * 3 }}|{{ [1] + [2, "x"] }}|{{ [0] * 2 }}|{{ (1, 2) + (3,) }}',
    '{{ 1 < 2 <= 2 < 3 }} {{ 1 == 1.0 }} {{ "a" < "b" }} {{ 1 != 2 }} {{ true == 1 }} {{ [1, 2] == [1, 2] }} {{ (1,) == [1] }} {{ {"a": 1} == {"a": 1.0} }}',
    '{{ 1 in items }} {{ 9 not in items }} {{ "ell" in s }} {{ "x" in d }} {{ "z" in d }} {{ 1 in undefined_name }} {{ "" in "" }} {{ (1, 2) in [(1, 2)] }}',
    '{{ yes and "A" or "B" }} {{ no or empty or "last" }} {{ not yes }} {{ not not yes }} {{ yes and no }} {{ nothing or 0 }}',
    '{{ "a" if yes else "b" }} {{ "a" if no }}| {{ "a" if no else "b" if no else "c" }} {{ ("x" if yes) ~ "y" }}',
    '{{ s[0] }} {{ s[-1] }} {{ s[1:3] }} {{ s[::-1] }} {{ s[:-3] }} {{ s[7:] }} {{ items[1:] }} {{ items[::2] }} {{ items[-2:] }} {{ cjk[1:3] }} {{ s[99:] }}|{{ items[5] }}|',
    '{{ items[::-1] }} {{ items[2:0:-1] }} {{ items[:100] }} {{ items[-100:2] }} {{ (1, 2, 3)[1:] }} {{ s[3:1] }}|{{ s[-3:-1] }}',
    '{{ d.x }} {{ d["y"][1] }} {{ nested.a.b.c }} {{ nested["a"]["b"].c }} {{ d.missing }}|{{ d["missing"] }}|{{ rows.0.k }} {{ d["items"] }} {{ s.nope }}|{{ nothing.x }}|',
    '{{ s | length }} {{ cjk | count }} {{ items | length }} {{ d | length }} {{ undefined_name | length }} {{ "Ab-c 中" | upper | lower | length }}',
    '{{ "aBc" | upper }} {{ "aBc" | lower }} {{ "hELLO wOrld" | capitalize }} {{ "  x y \t\n" | trim }}| {{ "xxaxx" | trim("x") }} {{ 5 | string + "1" }}',
    '{{ undefined_name | default("d") }} {{ nothing | default("d") }} {{ nothing | default("d", true) }} {{ empty | d("e", boolean=true) }} {{ undefined_name | default }}|{{ n | default(1) }}',
    '{{ words | join(", ") }} {{ items | join }} {{ rows | join("-", attribute="k") }} {{ "abc" | join(".") }} {{ d | join("/") }} {{ [1, none, true] | join(" ") }}',
    '{{ items | first }} {{ items | last }} {{ [] | first }}|{{ "xyz" | last }} {{ d | first }} {{ words | reverse | list }} {{ "abc" | reverse }}',
    '{{ "a-b-c" | replace("-", "+") }} {{ "a-b-c" | replace("-", "+", 1) }} {{ "aaa".replace("a", "bb", 2) }} {{ 101 | replace("1", "x") }}',
    '{{ "42" | int }} {{ "x" | int }} {{ "x" | int(5) }} {{ "3.9" | int }} {{ 3.9 | int }} {{ " 7 " | int }} {{ "2.5" | float }} {{ "x" | float }} {{ true | int }} {{ -3 | abs }} {{ -2.5 | abs }}',
    '{{ "abc" | list }} {{ d | list }} {{ (1, 2) | list }} {{ d | items | list }} {{ undefined_name | items | list }} {{ undefined_name | list }}',
    '{{ rows | selectattr("on") | map(attribute="k") | join(",") }} {{ rows | rejectattr("on") | map(attribute="k") | list }} {{ rows | selectattr("v", "gt", 1) | list | length }} {{ rows | selectattr("k", "equalto", "b") | first }}',
    '{{ items | select("odd") | list }} {{ items | reject("odd") | list }} {{ [0, 1, "", "a"] | select | list }} {{ words | map("upper") | join }} {{ rows | map(attribute="zz", default="-") | join }} {{ [1, 5] | map("string") | join("|") }}',
    '{{ items | sort }} {{ words | sort }} {{ items | sort(reverse=true) }} {{ words | sort(case_sensitive=true) }} {{ rows | sort(attribute="v", reverse=true) | map(attribute="k") | join }} {{ ["a", "A", "b"] | unique | list }}',
    '{{ d | tojson }} {{ rows | tojson(indent=2) }} {{ quote | tojson }} {{ "<>&\\u2028é\\x01\\n" | tojson }} {{ [] | tojson(indent=4) }} {{ {} | tojson }} {{ nothing | tojson }} {{ 1.0 | tojson }} {{ cjk | tojson(ensure_ascii=true) }}',
    '{{ {"b": 1, "a": [2, {"c": none}]} | tojson(sort_keys=true) }} {{ {"b": 1, "a": [1, 2]} | tojson(separators=(",", ":")) }} {{ {"b": [], "a": {}} | tojson(indent=1, sort_keys=true) }} {{ "😀" | tojson(ensure_ascii=true) }} {{ {1: 2, none: 3} | tojson }}',
    '{{ multi | indent }}|{{ multi | indent(2, true) }}|{{ multi | indent(2, blank=true) }}|{{ "a\\nb" | indent("> ") }}|{{ "" | indent(2, true) }}|',
    '{{ "a b  c".split() }} {{ "a,b,,c".split(",") }} {{ "a,b,c".split(",", 1) }} {{ " x y ".split(None, 1) }} {{ "a</think>b".split("</think>")[-1] }} {{ "a,b,c".rsplit(",", 1) }} {{ "".split(",") }} {{ "".split() }}',
    '{{ "  a ".strip() }}|{{ "  a ".lstrip() }}|{{ "  a ".rstrip() }}|{{ "\\n\\na\\n".strip("\\n") }}|{{ "xyaxy".strip("yx") }}|{{ "aab".lstrip("a") }}|',
    '{{ s.startswith("Hell") }} {{ s.endswith(("x", "ld")) }} {{ "abc".upper() }} {{ "ABC".lower() }} {{ "abc".find("c") }} {{ "中文".find("文") }} {{ "abc".find("z") }} {{ "aXbX".count("X") }} {{ ",".join(["a", "b"]) }} {{ "12".isdigit() }} {{ "a\\nb\\r\\nc\\n".splitlines() }} {{ "prefix-x".removeprefix("prefix-") }} {{ "x.py".removesuffix(".py") }} {{ "abc".capitalize() }}',
    '{{ d.get("x") }} {{ d.get("zz") }} {{ d.get("zz", 5) }} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {{ d.keys() | list }} {{ d.values() | list }} {{ items.index(1) }} {{ [1, 1].count(1) }}',
    '{% for x in items %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ loop.previtem }}/{{ loop.nextitem }}/{{ loop.cycle("o", "e") }} {% endfor %}',
    '{% for x in [] %}x{% else %}none{% endfor %} {% for x in items if x > 1 %}{{ loop.index }}:{{ x }} {% else %}none{% endfor %} {% for x in items if x > 9 %}x{% else %}none{% endfor %} {% for c in "añ中" %}[{{ c }}]{% endfor %}{% for k in d %}{{ k }}{% endfor %}',
    '{% for a, b in [(1, 2), [3, 4]] %}{{ a + b }} {% endfor %}{% for r in rows %}{% for w in words %}{{ loop.index }}{% endfor %}{{ loop.index }}{{ r.k }} {% endfor %}{% for x in range(3) %}{{ x }}{% endfor %} {{ range(1, 10, 3) | list }} {{ range(3, 0, -1) | list }}',
    '{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}',
    '{% set x = 1 %}{% for i in items %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }} {% set ns = namespace(t=0, l=[]) %}{% for i in items %}{% set ns.t = ns.t + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.t }} {{ ns.l }} {{ ns.zz }}|',
    '{% if yes %}{% set inside = 5 %}{% endif %}{{ inside }} {% set a, b = 1, 2 %}{{ a }}{{ b }} {% set (c, e) = [3, 4] %}{{ c }}{{ e }} {% set t = 1, %}{{ t }}',
    '{% set block %}  text {{ n }}\n{% endset %}[{{ block }}] {% set q = dict(a=1, b="x") %}{{ q }} {{ q.b }} {{ dict() }} {{ namespace(a=1).a }}',
    '{% if n > 10 %}big{% elif n > 5 %}mid{% elif n %}small{% else %}zero{% endif %} {% if not items %}e{% else %}f{% endif %} {% if d.missing is defined and d.missing > 1 %}a{% else %}b{% endif %}',
    '{{ x1 is defined }} {{ n is defined }} {{ x1 is undefined }} {{ nothing is none }} {{ n is not none }} {{ s is string }} {{ d is mapping }} {{ items is iterable }} {{ items is sequence }} {{ s is sequence }} {{ d is sequence }} {{ n is sequence }} {{ n is number }} {{ f is number }} {{ yes is number }} {{ yes is boolean }}',
    '{{ yes is true }} {{ n is true }} {{ no is false }} {{ 0 is false }} {{ n is integer }} {{ yes is integer }} {{ f is float }} {{ n is float }} {{ n is odd }} {{ n is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ n is equalto 7 }} {{ n is eq(8) }} {{ n is ne 8 }} {{ n is gt 3 }} {{ n is lessthan 3 }} {{ n is in [7] }} {{ n is not in(items) }} {{ nothing is sameas none }} {{ "abc" is lower }} {{ "ABC" is upper }} {{ "1" is lower }} {{ x1 is iterable }} {{ x1 is string }} {{ x1 is sequence }} {{ range is callable }}',
    '{{ yes }} {{ no }} {{ nothing }} {{ [1, "a", none, true, 2.0, [], {}, (1,), ()] }} {{ d }} {{ quote }} {{ [quote, "it\'s", "q\\"q", "n\\n\\t\\\\", "é中\\x07"] }} {{ {1: "a", "b": 2} }} {{ (1, 2) }}',
    'a {%- if yes %} b {% endif -%} c {{- n -}} d {{ n }}  {#- comment -#}  e {# c #} f\n{# alone #}\ng',
    '  {% if yes %}\n  indented\n  {% endif %}\n  {%+ if yes %}\n  plus\n  {%+ endif %}\nend\n\n',
    'line1\n    {%- for i in items %}\n  - {{ i }}\n    {%- endfor %}\nline2\r\nline3\rline4',
    '{% raw %}{{ not }} {% this %}{% endraw %} x\n  {%- raw -%}  y {{ z }} {%- endraw -%}  w {% raw %}\nkept\n{% endraw %}\nq',
    '{{ "}}" }} {{ {"a": {"b": 1}}["a"]["b"] }} {{ "%}" }} {% set z = {"k": {"l": "%}"}} %}{{ z.k.l }} {{ "{{" }} { { } } {a} {%if yes%}t{%endif%} {{"x"}}',
    "{{ 'it\\'s' }} {{ \"q\\\"q\" }} {{ 'a\\nb\\tc' }} {{ '\\u4e2d\\x41\\U0001F600' }} {{ '\\\\' }} {{ '\\d' }} {{ 'a' 'b' }} {{ 'line\ncontinued' }}",
    '{% macro greet(name, mark="!", n=2) %}Hi {{ name }}{{ mark * n }}{% endmacro %}{{ greet("Bo") }} {{ greet("Al", n=1) }} {{ greet(mark="?", name="Cy") }} {{ greet() }} {{ greet("x") | upper }} {{ greet is callable }}',
    '{% macro fact(k) %}{% if k <= 1 %}1{% else %}{{ k * (fact(k - 1) | int) }}{% endif %}{% endmacro %}{{ fact(10) }} {% macro outer() %}{{ glob }}{{ inner() }}{% endmacro %}{% macro inner() %}in{% endmacro %}{% set glob = "G" %}{{ outer() }}',
    '{% generation %}x {{ n }}{% endgeneration %} {{ n if n is defined else 0 }} {{ (n, s)[0] }} {{ (n) }} {{ () }} {{ 1, 2 }} {{ [1, 2,] }} {{ {"a": 1,} }}',
    '{{ -1 ** 2 }} {{ not 1 == 2 }} {{ (1 + 2) ~ 3 }} {{ (2 * 3 ~ 4) | int + 1 }} {{ "a" ~ "b" | upper }} {{ -1 | abs }} {{ (1 + 2) | string ~ "x" }} {{ 10 - 2 - 3 }} {{ 2 ** 3 ** 2 }} {{ "x" if 1 == 1 and not no else "y" }}',
    '{{ messages_undefined }}{% for m in messages_undefined %}x{% endfor %}{{ undefined_name is defined }}{{ undefined_name == undefined_other }}{{ undefined_name | upper }}|{{ [undefined_name] | length }}|{{ undefined_name or "dflt" }}',
    "{{ '   a b'.split(' ') }} {{ 'x'.replace('y', 'z') }} {{ ''.join(['a', 'b']) }} {{ 'é' < 'z' }} {{ '😀' > '\\uffff' }} {{ 'a' * 0 }}| {{ cjk | length }} {{ cjk[-2:] }} {{ cjk.startswith('中') }}",
    '{%- for r in rows -%}\n{{ r.k }}: {{ r["v"] }}\n{%- if not loop.last %}, {% endif -%}\n{%- endfor -%}\n{{ "\\n" }}end',
    '{{ true and none }} {{ 0 or [] or {} }} {{ 0.0 or "z" }} {{ "0" and 1 }} {{ none == none }} {{ none != 0 }} {{ [] == () }} {{ "1" == 1 }} {{ [1] < [2] }} {{ (1, "b") > (1, "a") }}',
    '{{ "x" | safe }} {{ 3.0 }} {{ 1e22 }} {{ 123456.789e3 }} {{ 5 // 2.0 }} {{ 3 % -2 }} {{ -3 % -2 }} {{ 6 / 3 }} {{ 1 / 3 }} {{ 2 ** 0.5 }} {{ 1.0 == 1 }} {{ 9007199254740993 }}',
]

# Each must fail in jinja2, and here.
ERRORS = [
    '{{ undefined_name.x }}', '{{ undefined_name["x"] }}', '{{ undefined_name + 1 }}', '{{ undefined_name() }}', '{{ d.missing.deeper }}', '{{ 1 + "a" }}',
    '{{ "a" < 1 }}', '{{ 1 / 0 }}', '{{ 1 % 0 }}', '{{ n() }}', '{{ nothing | length }}', '{{ n | join }}', '{% for x in n %}{% endfor %}', '{{ raise_exception("no") }}',
    '{{ items.append(1) }}', '{{ d.update({"a": 1}) }}', '{{ items | nofilter }}', '{{ n is notest }}', '{% if %}{% endif %}', '{% for x in items %}', '{{ n ', '{% endif %}',
    '{% unknown %}', '{{ 1 in n }}', '{{ "a" | tojson }}{{ undefined_name | tojson }}', '{% set n.x = 1 %}', '{% set undefined_name.x = 1 %}', '{{ (1, 2', '{{ "abc }}', '{# open',
    '{% for a, b in [1] %}{% endfor %}', '{% for a, b in [(1, 2, 3)] %}{% endfor %}', '{{ range(1000000) }}', '{{ {[1]: 2} }}', '{{ s.split("") }}', '{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}',
    '{% macro m(a) %}{% endmacro %}{{ m(b=1) }}', '{{ [1, "a"] | sort }}', '{{ -s }}', '{{ a b }}', '{{ undefined_name < 1 }}', '{% break %}', '{{ "x".index_of("y") }}', '{{ ]  }}', '{{ items[::0] }}',
]


class Generation(jinja2.ext.Extension):
    """transformers' {% generation %} marks text for training masks; it renders its body unchanged."""
    tags = {'generation'}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(['name:endgeneration'], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method('_body'), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise TemplateError(message)

    env.filters['tojson'] = tojson
    env.globals['raise_exception'] = raise_exception
    return env


def render(env, source, context):
    """The text, or None when jinja2 fails."""
    try:
        return env.from_string(source).render(**context)
    except Exception:  # whatever Python raises is a failure of the template
        return None


BASE = {'tools': None, 'documents': None, 'bos_token': '<｜begin▁of▁sentence｜>', 'eos_token': '<｜end▁of▁sentence｜>'}
VARIANTS = [{'add_generation_prompt': True}, {'add_generation_prompt': False},
            {'add_generation_prompt': True, 'thinking': False, 'tools': TOOLS}]


def conversation_cases(env, v3_template):
    templates = {'@deepseek_v3': v3_template, 'v2': V2, 'r1': R1, 'kimi': KIMI}
    for name, source in templates.items():
        for talk, messages in CONVERSATIONS.items():
            for variant in range(len(VARIANTS)):
                context = {'messages': messages, **BASE, **VARIANTS[variant]}
                yield {'template': name, 'conversation': talk, 'variant': variant,
                       'expected': render(env, source, context)}


def render_all(v3_template):
    env = environment()
    cases = list(conversation_cases(env, v3_template))
    for source in FEATURES:
        expected = render(env, source, DATA)
        assert expected is not None, source
        cases.append({'source': source, 'expected': expected})
    for source in ERRORS:
        assert render(env, source, DATA) is None, source
        cases.append({'source': source, 'expected': None})
    return {'templates': {'v2': V2, 'r1': R1, 'kimi': KIMI}, 'conversations': CONVERSATIONS, 'base': BASE,
            'variants': VARIANTS, 'data': DATA, 'cases': cases}
