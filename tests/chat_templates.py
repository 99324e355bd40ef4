"""Chat templates in the style of the families that people use, and templates that attack whoever renders them."""

from __future__ import annotations

USER = {"role": "user", "content": "What is 17 * 3?\n  And why? <b>é😀</b>"}
TALK = [
    {"role": "system", "content": "  Be brief.  "},
    USER,
    {"role": "assistant", "content": "<think>\nthree times seventeen\n</think>\n\n51", "reasoning_content": None},
    {"role": "user", "content": "Thanks."},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "its name"}, "days": {"type": "integer", "enum": [1, 3]}},
            "required": ["city"],
        },
    },
}
CALLS = [
    USER,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "days": 3}}}],
    },
    {"role": "tool", "content": "sunny"},
    {"role": "tool", "content": "then rain"},
]

LLADA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

LLAMA = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The system message #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\\n\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {%- for arg_name, arg_val in tool_call.arguments | items %}
            {{- arg_name + '="' ~ arg_val ~ '"' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- endif %}
        {%- endfor %}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a "
    "helpful assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nYou are provided with function signatures within <tools></tools> XML tags:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""  # noqa: E501, as it is published

CODER = """{% macro render_extra_keys(json_dict, handled_keys) %}
    {%- if json_dict is mapping %}
        {%- for json_key in json_dict if json_key not in handled_keys %}
            {%- if json_dict[json_key] is mapping or (json_dict[json_key] is sequence and json_dict[json_key] is not string) %}
                {{- '\\n<' ~ json_key ~ '>' ~ (json_dict[json_key] | tojson | safe) ~ '</' ~ json_key ~ '>' }}
            {%- else %}
                {{-'\\n<' ~ json_key ~ '>' ~ (json_dict[json_key] | string) ~ '</' ~ json_key ~ '>' }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{% endmacro %}
{%- if tools is iterable and tools | length > 0 %}
    {%- for tool in tools %}
        {%- set tool = tool.function %}
        {{- "\\n<function>\\n<name>" ~ tool.name ~ "</name>" }}
        {{- '\\n<description>' ~ (tool.description | trim) ~ '</description>' }}
        {%- for param_name, param_fields in tool.parameters.properties|items %}
            {{- '\\n<name>' ~ param_name ~ '</name>' }}
            {%- set handled_keys = ['name', 'type', 'description'] %}
            {{- render_extra_keys(param_fields, handled_keys) }}
        {%- endfor %}
        {{- render_extra_keys(tool.parameters, ['type', 'properties']) }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content | default('', true)) }}
    {%- if message.tool_calls is defined and message.tool_calls is iterable %}
        {%- for tool_call in message.tool_calls %}
            {%- for args_name, args_value in tool_call.function.arguments|items %}
                {{- '<parameter=' + args_name + '>\\n' }}
                {%- set args_value = args_value | tojson | safe if args_value is mapping or (args_value is sequence and args_value is not string) else args_value | string %}
                {{- args_value }}
            {%- endfor %}
        {%- endfor %}
    {%- endif %}
    {%- if loop.previtem and loop.previtem.role == "user" %}{{ '.' }}{% endif %}
    {%- if not loop.last and loop.nextitem.role == "tool" %}{{ '!' }}{% endif %}
{%- endfor %}
"""  # noqa: E501, as it is published

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model\\n'}}{%- endif -%}
"""

SYSTEM_LAST = """{%- set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | list -%}
{%- set others = messages | rejectattr('role', 'equalto', 'system') | list -%}
{{ (system | join('\\n') | trim) if system else 'none' }}
{%- for key, value in {'b': 1, 'a': [1, 2]} | dictsort %}{{ key }}={{ value }};{% endfor %}
{%- set ns = namespace(text='', found=false) -%}
{%- for m in others -%}
    {%- if m.content is none %}{% continue %}{% endif -%}
    {%- set ns.text = ns.text ~ '[' ~ m.role | upper ~ '] ' ~ m.content.replace('\\n', ' ') | indent(2) ~ '\\n' -%}
{%- endfor -%}
{{ ns.text }}{{ others | length // 2 }}{{ others[0].get('name', 'nobody') }}{{ others[-1].keys() | list | sort | first }}
{{ '-' * 3 }}{{ (others | first).content[:4] | title }}{{ 7 % 4 + 2 ** 3 - 1 }}{{ -1 if 1 < 2 else '' }}
{%- generation %}{{ eos_token }}{% endgeneration %}
"""

ORDINARY = {
    "LLaDA": LLADA,
    "Llama 3": LLAMA,
    "Dream, Qwen 2": QWEN2,
    "SDAR, Qwen 3": QWEN3,
    "Qwen 3 Coder": CODER,
    "Gemma": GEMMA,
    "system last": SYSTEM_LAST,
}

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
# Messages and further variables.
CONVERSATIONS = [
    (TALK, {}),
    ([USER], {"add_generation_prompt": False, "enable_thinking": False}),
    (CALLS, {"tools": [TOOL, TOOL], "builtin_tools": ["code_interpreter", "search"]}),
    (TALK * 8, {"tools": [TOOL]}),
]


def _loop(first: str, rounds: int, then: str, end: str) -> str:
    """`ns.x` after so many rounds, and what is done with it."""
    return f"{{% set ns = namespace(x={first}) %}}{{% for i in range({rounds}) %}}{{% set ns.x = {then} %}}{{% endfor %}}{end}"


def _ends(*ends: str) -> list[str]:
    """Each with a deep tuple, a deep list, and a list that is small and endless to write. What survives meets a last limit."""
    starts = (("1", 100_000, "(ns.x,)"), ("1", 100_000, "[ns.x]"), ("1", 99, "[ns.x, ns.x]"))
    return [_loop(*start, end + "{{ 'x' * 10**8 }}") for start in starts for end in ends]


def _long(count: int) -> list[str]:
    """What parsers and compilers go into, or through, again and again."""
    after = "{{ 'x' * 10**8 }}"
    return [
        *("{{ " + "(" * count + "1" + ")" * count + " }}" + after, "{{ " + "[" * count + "]" * count + " }}" + after),
        *(
            "{{ " + "(" * count,
            "{{ " + "{1:" * count,
            "{{ " + "not " * count + "1 }}" + after,
            "{{ " + "-" * count + "1 }}" + after,
        ),
        *("{{ 1" + f" {operator} 1" * count + " }}" + after for operator in ("+", "**", "~", "<", "and", "in", "if 1 else")),
        *("{{ a" + part * count + " }}" for part in (".a", "[0]", "[0:1]", "()", "(1)")),
        *("{{ a" + part * count + " }}" + after for part in ("|d", " is defined", "|d(1)")),
        *("{% if 1 %}" * (count // 2), "{% if 1 %}" * (count // 4) + "{% endif %}" * (count // 4) + after),
        "{% for a in b %}" * (count // 4) + "{% endfor %}" * (count // 4) + after,
        "{% macro a() %}" * (count // 4) + "{% endmacro %}" * (count // 4) + after,
        "{% if 1 %}" + "{% elif 1 %}" * (count // 2) + "{% endif %}" + after,
        *("{% set " + "a, " * count + "b = 1 %}", "{{ f(" + "a=1, " * count + ") }}", "{% set " + "(" * count),
        "{% macro f(" + ", ".join(f"a{i}" for i in range(count // 4)) + ") %}{% endmacro %}{{ f() }}" + after,
        *("{{ '" + "\\" * (2 * count + 1), "{{ " + "'a'" * count + "+", "{{ " + "9" * count + " }}" + after),
        *("{{ 0x" + "f" * count + " }}" + after, "{{ 1" + "_1" * count + " }}" + after, "{{ 1" + "e1" * count + " }}"),
        *("{#" * count, "{% raw %}" * (count // 8), "{%" + " " * count, "{{" * count, "{%-" + "\n" * count),
        "{% generation %}" * (count // 4) + after,
    ]


# Each must be an error about the template, whoever renders it, in seconds and without memory.
ATTACKS = (
    # The first that were found.
    "{% set ns = namespace(x=1) %}{% for j in range(20) %}{% for i in range(10**5) %}{% set ns.x = (ns.x,) %}{% endfor %}"
    "{% endfor %}{{ {ns.x: 1} }}",
    _loop("[]", 10**4, "ns.x + ['a' * 10**7]", "{{ ns.x | length }}"),
    "{{ ('\\t' * 10**6).expandtabs(10**6) }}",
    "{{ [[1]] | tojson(indent=10**6) * 1000 }}",
    "{{ ([1] * 10**5) | tojson(indent=10**6) }}",
    "{{ range(10**5) | map('string') | map('center', 10**6) | join }}",
    "{{ ('a\\n' * 10**5) | indent(10**6) }}",
    "{{ ('a' * 10**6).encode().replace('a'.encode(), ('b' * 10**6).encode()) | length }}",
    "{% for i in range(10**5) %}{{ 2 in [1] * 10**7 }}{% endfor %}",
    "{% set l = [1] * 10**7 %}{% for i in range(10**5) %}{{ 2 in l }}{% endfor %}",
    # Deep or shared values, hashed, compared, written.
    *_ends("{{ {ns.x: 1} }}", "{{ ns.x in {} }}", "{{ ns.x == [ns.x] }}", "{{ [ns.x] == [[ns.x]] }}", "{{ ns.x }}"),
    *_ends("{{ ns.x | tojson }}", "{{ 'a' ~ ns.x }}", "{{ ns.x | string | length }}", "{{ [ns.x] | unique | list }}"),
    *_ends("{{ [ns.x, ns.x] | sort }}", "{{ ns.x | pprint }}"),
    _loop("{}", 100_000, "{'a': ns.x}", "{{ ns.x }}{{ 'x' * 10**8 }}"),
    _loop("1", 99, "{1: ns.x, 2: ns.x}", "{{ ns.x == ns.x }}{{ ns.x | tojson }}"),
    _loop("1", 40, "(ns.x, ns.x)", "{% set a = ns.x %}" + _loop("1", 40, "(ns.x, ns.x)", "{{ a == ns.x }}{{ {a: 1} }}"))
    + "{{ 'x' * 10**8 }}",
    "{% set ns = namespace(l=[]) %}{% set ns.l = [ns] %}{% set ns.m = ns.l %}{{ ns.l }}{{ ns }}{{ 'x' * 10**8 }}",
    "{% set n = (2**61 - 1) %}{% set ns = namespace(l=[]) %}{% for i in range(10**4) %}{% set ns.l = ns.l + [(i * n, 1)] %}"
    "{% endfor %}{% for i in range(10**5) %}{{ dict(ns.l) | length }}{% endfor %}",
    # Sizes.
    "{{ 'x'.center(10**9) }}",
    "{% for i in range(10**5) %}{% set a = 'x'.ljust(10**6) %}{{ a | length }}{% set b = a.zfill(10**6) ~ a %}{% endfor %}"
    "{{ 'x' * 10**8 }}",
    "{{ ('%' + '9' * 9 + 'd') % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%*d' | format(10**9, 1) }}",
    "{{ '%.999999999f' | format(1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '{0:{1}}'.format(1, 999999999) }}",
    "{{ '{a:{b}}'.format_map({'a': 1, 'b': 999999999}) }}",
    "{% set s = 'a' * 10**6 %}{{ s.replace('', s) | length }}",
    "{% set s = 'a' * 10**6 %}{{ s.translate({97: s}) | length }}",
    "{% set s = 'a' * 10**6 %}{{ s.join(s) | length }}",
    "{% set s = 'a' * 10**6 %}{{ s | join(s) | length }}",
    "{% set s = 'a' * 10**6 %}{% for i in range(10**5) %}{{ s.rfind('b' + s[1:]) }}{% endfor %}",
    "{% set s = 'ab' * 10**6 %}{% for i in range(10**5) %}{{ s.strip('xyz' * 10**5 ~ 'ab') | length }}{% endfor %}",
    "{% set s = 'a ' * 10**6 %}{% for i in range(10**5) %}{{ s.split() | length }}{% endfor %}",
    "{% set s = '\\n' * 10**6 %}{% for i in range(10**5) %}{{ s.splitlines() | length }}{% endfor %}",
    "{% for i in range(10**5) %}{% set x = ('a' * 10**7) | upper %}{% endfor %}",
    _loop("'aaaa'", 99, "ns.x ~ ns.x", "{{ ns.x | length }}"),
    _loop("'aaaa'", 99, "ns.x + ns.x", "{{ ns.x | length }}"),
    _loop("'aaaa'", 99, "ns.x * 9", "{{ ns.x | length }}"),
    _loop("[1]", 99, "ns.x + ns.x", "{{ ns.x | length }}"),
    _loop("'a'", 10**6, "ns.x + 'a' * 1000", "{{ ns.x | length }}"),
    _loop("9", 99, "ns.x * ns.x", "{{ ns.x }}"),
    "{{ 9 ** 64 ** 64 }}",
    "{{ 10 ** 64 ** 64 }}{{ (10 ** 64) ** 64 ** 3 }}",
    "{{ 1 " + "* 10 ** 60 " * 100 + "}}{{ 'x' * 10**8 }}",
    "{{ " + "9" * 900_000 + " }}",
    "{{ 0x" + "f" * 900_000 + " }}{{ 'x' * 10**8 }}",
    "{{ ('9' * 10**6) | int }}{{ ('9' * 10**6) | int(base=36) }}{{ 'x' * 10**8 }}",
    "{{ 1 | round(-10**9) }}{{ 'x' * 10**8 }}",
    "{{ 1.5 | round(10**6, 'ceil') }}",
    "{% macro f() %}{% for i in range(10**5) %}" + "x" * 100_000 + "{% endfor %}{% endmacro %}{{ f() | length }}",
    "{% set x %}{% for i in range(10**5) %}" + "x" * 100_000 + "{% endfor %}{% endset %}{{ x | length }}",
    "{% for i in range(10**5) %}" + "x" * 100_000 + "{% endfor %}",
    # Filters.
    "{{ range(10**5) | batch(1, 'x' * 10**6) | list | length }}{{ [1] | batch(10**9, 1) | list }}",
    "{{ [1] | batch(10**9, 'x') | list | length }}",
    "{{ [1] | slice(10**9) | list | length }}",
    "{% for i in range(10**5) %}{{ range(10**5) | groupby('x') | list | length }}{% endfor %}",
    "{% for i in range(10**5) %}{{ range(10**5) | sort | length }}{% endfor %}",
    "{% for i in range(10**5) %}{{ range(10**5) | unique | list | length }}{% endfor %}",
    "{% for i in range(10**5) %}{{ range(10**5) | sum }}{{ range(10**5) | max }}{% endfor %}",
    "{% for i in range(10**5) %}{{ range(10**5) | map('string') | list | length }}{% endfor %}",
    "{{ messages | sort(attribute='" + "a." * 100_000 + "a') | list }}{{ 'x' * 10**8 }}",
    "{{ range(10**5) | map(attribute='" + "real." * 10_000 + "real') | list | length }}{{ 'x' * 10**8 }}",
    "{% set d = dict(a='x' * 10**6) %}{% for i in range(10**5) %}{{ d | xmlattr | length }}{% endfor %}",
    "{% for i in range(10**5) %}{{ ('http://a.b/' * 10**5) | urlize | length }}{% endfor %}",
    "{% for i in range(10**5) %}{{ ('<' * 10**6) | striptags | length }}{{ ('<!--' * 10**5) | striptags }}{% endfor %}",
    "{% for i in range(10**5) %}{{ ('a ' * 10**5) | wordwrap(1) | length }}{% endfor %}",
    "{{ ('a' * 10**6) | wordwrap(1, wrapstring='x' * 10**6) | length }}",
    "{% for i in range(10**5) %}{{ ('a ' * 10**6) | title | wordcount }}{% endfor %}",
    "{% for i in range(10**5) %}{{ ('&<>' * 10**6) | e | length }}{% endfor %}",
    "{% for i in range(10**5) %}{{ ('é' * 10**6) | urlencode | length }}{% endfor %}",
    "{{ ('a' * 10**6) | truncate(10**9, true, 'x' * 10**7) }}{{ 'x' * 10**8 }}",
    "{{ 1 | filesizeformat }}{{ 'x' | center(10**8) }}",
    "{% filter center(10**8) %}x{% endfilter %}",
    "{% filter replace('', 'x' * 10**6) %}" + "y" * 10_000 + "{% endfilter %}",
    "{{ range(10**5) | tojson(separators=('x' * 10**5, 'y')) }}",
    # Loops and calls.
    "{% for a in range(10**5) %}{% for b in range(10**5) %}{% endfor %}{% endfor %}",
    "{% for k in range(10**5) recursive %}{{ loop(range(10**5)) if loop.depth < 4 }}{% endfor %}",
    "{% for k in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(35) }}",
    "{% macro f(x) %}{{ f(varargs) }}{% endmacro %}{{ f(1, 2, 3) }}",
    "{% macro f(x) %}{{ caller(x) }}{% endmacro %}{% call(x) f(1) %}{{ f(1) }}{% endcall %}",
    "{% set m %}{% for i in range(10**5) %}{{ range(10**5) | list | length }}{% endfor %}{% endset %}",
    "{% for i in range(10**5) %}{% if 'a' in range(10**5) %}{% endif %}{% endfor %}",
    "{% for i in range(10**5) %}" + "{% if i %}{% endif %}" * 5_000 + "{% endfor %}{{ 'x' * 10**8 }}",
    "{{ range(10**9) | list }}",
    "{{ range(10**5) | list * 1000 }}",
    "{% for i in range(10**5) if i in range(10**5) | list %}{% endfor %}",
    "{% set c = cycler(1, 2) %}{% for i in range(10**5) %}{{ c.next() }}{% endfor %}",
    "{{ lipsum(n=10**6) }}",
    "{% set j = joiner('x' * 10**6) %}{{ j() }}{% for i in range(10**5) %}{{ j() }}{% endfor %}",
    "{% for i in range(10**5) %}{{ loop.cycle(*range(10**5)) }}{{ loop.changed([1] * 10**6) }}{% endfor %}",
    "{% set g = range(10**5) | map('string') %}{% for i in range(10**5) %}{% set h = g | map('upper') | list %}{% endfor %}"
    "{{ 'x' * 10**8 }}",
    _loop("range(10**5) | map('string')", 100_000, "ns.x | map('upper')", "{{ ns.x | list | length }}"),
    "{{ namespace(**dict(a=1)).b.c }}",
    # Other templates, and what lies outside.
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{% import 'x' as y %}",
    "{% from 'x' import y %}",
    "{% include ['a'] * 10**7 ignore missing %}{{ 'x' * 10**8 }}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% autoescape true %}{% for i in range(10**5) %}{{ '<' * 10**5 }}{% endfor %}{% endautoescape %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ raise_exception.__globals__.x }}",
    "{{ messages.append(1) }}",
    "{{ strftime_now('%99999999Y') }}{{ 'x' * 10**8 }}",
    "{{ strftime_now('%Y' * 10**6) * 100 }}{{ 'x' * 10**8 }}",
    # The parser and the compiler: a text of half a megabyte, and one that even the strict evaluator takes.
    *_long(100_000),
    *_long(4_000),
    "x" * 1_000_001,
)
