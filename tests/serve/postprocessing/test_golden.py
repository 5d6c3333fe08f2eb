"""What each rule makes of code: `‸` is the cursor, and what the model wrote becomes what is shown.

`CASES` are short and made for the purpose. `written.jsonl` is what a SmolLM2-135M, tuned for minutes on other code,
wrote at places of this repository (`benchmarks.rules --keep`), with the rule that decides there.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve.postprocessing.pipeline import process
from serve.postprocessing.rules import ALL, NAMES, without

# rule, file with the cursor, completion, what is left of it
CASES = [
    # Python
    ("scope", "def f(x):\n    ‸\n\n\nprint(f(1))\n", "return x + 1\n\n\ndef g():\n    pass\n", "return x + 1"),
    ("scope", "def add(a, b):‸\n\nx = 1\n", "\n    return a + b\n\ndef sub(a):\n    return a\n", "\n    return a + b"),
    ("scope", "if x:‸\n", "\n    a()\nelse:\n    b()\nc()\n", "\n    a()\nelse:\n    b()"),
    ("scope", "import os\n\n\n‸", "def f():\n    return 1\n\n\ndef g():\n    return 2\n", "def f():\n    return 1"),
    ("scope", "print(na‸)\n", 'me, end="")\nprint(2)', 'me, end=""'),
    ("scope", "print(‸)\n", 'f"{x})", (1, 2))\n', 'f"{x})", (1, 2)'),
    ("scope", 'print("he‸")\n', 'llo (world")\nx', "llo (world"),
    ("scope", 'def f():\n    """‸"""\n    return 1\n', 'Give one."""\n    return 1', "Give one."),
    ("scope", "foo(bar(‸)\n", "x))\n", "x)"),
    ("scope", "def f():\n    # don't ‸\n    x = (1)\n", "stop (now)\ny = 1\n", "stop (now)"),
    (
        "scope",
        "def f():\n    ‸\n\nx = 1",
        'q = """\nselect 1\n"""\n    return q\n\ny',
        'q = """\nselect 1\n"""\n    return q',
    ),
    ("one-line", "total = ‸+ tax\n", "price * amount \n    x", "price * amount "),
    ("one-line", "def f(‸) -> int:\n    return 1\n", "a, b\n", "a, b"),
    ("suffix-lines", "def f(x):\n    if x:\n        ‸\n    return 1\n", "y = 2\n    return 1\n", "y = 2"),
    ("suffix-lines", "a = 1\n‸\nc = 3\n", "b = 2\nc = 3\nd = 4", "b = 2"),
    ("echo", "import os\nimport sys\n‸\n", "import os\nimport sys\n", ""),
    ("loop", "x = [\n    ‸\n]\n", "'aaa',\n    'aaa',\n    'aaa',", "'aaa',"),
    ("loop", "def t():\n    ‸\n", "a.go()\n    b.go()\n    a.go()\n    b.go()\n    a.go()", "a.go()\n    b.go()"),
    ("loop", "x = [\n    ‸\n]\n", "0,\n    0,\n    0,\n    0,\n    0,\n    0,", "0,\n    0,\n    0,\n    0,"),
    ("stutter", "TOOLS = [‸\n", '"verify", "verify", "verify", "verify", "verify"', '"verify", "verify", "verify",'),
    ("stutter", "def f(‸\n", "a: int, b: int, c: int, d: int", "a: int, b: int, c: int, d: int"),
    ("stutter", "x = (‸\n", "None, None, None)", "None, None, None)"),
    ("stutter", "ROW = [‸\n", "0, 0, 0, 0, 0, 0, 0, 0]", "0, 0, 0, 0, 0, 0, 0, 0]"),
    ("overlap", "total = ‸ + tax\n", "price + tax", "price"),
    ("overlap", "x = {‸: 1}\n", '"a":', '"a"'),
    ("overlap", 'x = ‸"\n', '"a"', '"a"'),
    ("column", "return ‸ \n", " x", "x"),
    ("column", "x = 1 ‸\n", " # one", " # one"),
    ("column", "def f():\n    ‸\n\ng()\n", "\n    return 1", "return 1"),
    ("column", "def f():\n    a = 1\n    ‸\n", "    return a\n", "return a"),
    ("column", "class A:\n    def f(self):\n    ‸\n", "    return 1", "    return 1"),
    ("column", "import os\n\n‸", "\n\n\ndef f(): ...", "\ndef f(): ..."),
    ("trailing", "def f():\n    ‸\n", "return 1  \n\n", "return 1"),
    ("trailing", "x = ‸b\n", "a + ", "a + "),
    ("control", "x = ‸\n", "1<|endoftext|>y", "1"),
    ("control", "# ends with <|endoftext|>\nEND = ‸\n", '"<|endoftext|>"', '"<|endoftext|>"'),
    ("control", "x = ‸\n", "1\ufffd", "1"),
    ("noise", "foo(a‸);\n", ");", ""),
    ("noise", "foo(a‸\n", ")", ")"),
    ("noise", "x\n‸\ny", "  \n ", ""),
    # JavaScript and TypeScript
    (
        "scope",
        "function f() {\n  ‸\n}\n",
        "const a = 1;\n  return a;\n}\n\nfunction g() {",
        "const a = 1;\n  return a;",
    ),
    ("scope", "function f() {\n  ‸\n", "return 1;\n}\n\nfunction g() {\n  return 2;\n}", "return 1;\n}"),
    ("scope", "function f() {\n  if (a) {\n    ‸\n}\n", "b();\n  }\n}\n", "b();\n  }"),
    ("scope", "const xs = ys.map(y => {\n  ‸\n});\nfoo();\n", "return y * 2;\n});\nbar();", "return y * 2;"),
    ("scope", "const s = ‸\n", "`a\n${b}\nc`;", "`a\n${b}\nc`;"),
    ("overlap", "let x: number = ‸;\n", "1;", "1"),
    # Go
    (
        "scope",
        "func f() error {\n\tif err != nil {\n\t\t‸\n\t}\n\treturn nil\n}\n",
        "return err\n\t}\n\treturn",
        "return err",
    ),
    (
        "tabs",
        "func f() {\n\tx := 1\n\t‸\n}\n",
        "for i := range xs {\n        foo(i)\n    }\n",
        "for i := range xs {\n\t\tfoo(i)\n\t}",
    ),
    # Java, C and C++, Rust
    ("scope", "class A {\n    int f() {\n        ‸\n    }\n}\n", "return 1;\n    }\n\n    int g() {\n", "return 1;"),
    (
        "scope",
        "int main(void) {\n    int x;\n‸\n    return x;\n}\n",
        "#ifdef DEBUG\n    x = 1;\n#endif\n}\n",
        "#ifdef DEBUG\n    x = 1;\n#endif",
    ),
    ("scope", "class A {\npublic:\n  void f() {\n    ‸\n  }\n};\n", "g();\n  }\n  void h() {", "g();"),
    (
        "scope",
        "void f()\n{\n    ‸\n}\n",
        "if (a)\n    {\n        b();\n    }\n}\n",
        "if (a)\n    {\n        b();\n    }",
    ),
    (
        "scope",
        "fn f<'a>(x: &'a str) -> Option<&'a str> {\n    ‸\n}\n",
        "match x {\n        _ => Some(x),\n    }\n}\n\nfn g() {}",
        "match x {\n        _ => Some(x),\n    }",
    ),
    # HTML and JSX
    ("one-line", "<ul>\n  <li>‸</li>\n</ul>\n", "One\n  <li>Two", "One"),
    ("overlap", "<ul>\n  <li>‸</li>\n</ul>\n", "One</li>", "One"),
    ("scope", "return (\n  <div>\n    ‸\n  </div>\n);\n", "<p>{name}</p>\n);\n}", "<p>{name}</p>"),
    ("suffix-lines", "return (\n  <div>\n    ‸\n  </div>\n);\n", "<p>{name}</p>\n  </div>", "<p>{name}</p>"),
    # YAML and Markdown
    (
        "scope",
        "jobs:\n  test:\n    ‸\n",
        "runs-on: x\n    steps:\n      - run: make\n  lint:\n    runs-on: x",
        "runs-on: x\n    steps:\n      - run: make",
    ),
    (
        "suffix-lines",
        "# Title\n\nThis‸\n\n## Next\n",
        " isn't long (or is it).\n\n## Next\n",
        " isn't long (or is it).",
    ),
]


@pytest.mark.parametrize(("rule", "file", "completion", "shown"), CASES)
def test_what_is_shown(rule: str, file: str, completion: str, shown: str) -> None:
    prefix, _, suffix = file.partition("‸")
    assert process(ALL, prefix, suffix, completion) == shown


@pytest.mark.parametrize(("rule", "file", "completion", "shown"), CASES)
def test_the_rule_is_what_does_it(rule: str, file: str, completion: str, shown: str) -> None:
    prefix, _, suffix = file.partition("‸")
    alone = process(without({*NAMES} - {rule, "trailing"}), prefix, suffix, completion)
    assert alone == shown


def test_a_line_that_the_token_limit_broke_off_is_dropped() -> None:
    around = ("def f():\n    ", "\n")
    assert process(ALL, *around, "a = 1\n    b = 2\n    c = fo", "length") == "a = 1\n    b = 2"
    assert process(ALL, *around, "a = 1\n    b = 2\n    c = fo") == "a = 1\n    b = 2\n    c = fo"
    assert process(ALL, *around, "value = compute(fir", "length") == "value = compute(fir"


WRITTEN = [json.loads(line) for line in Path(__file__).with_name("written.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", WRITTEN, ids=lambda case: case["rule"])
def test_what_a_model_wrote_in_this_repository(case: dict[str, str]) -> None:
    asked = case["prefix"], case["suffix"], case["written"], case["ending"]
    assert process(ALL, *asked) == case["shown"]
    assert process(without([case["rule"]]), *asked) != case["shown"]
