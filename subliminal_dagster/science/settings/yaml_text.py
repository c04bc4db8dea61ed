"""YAML as a user means it.

Belongs here: reading YAML that a user wrote. Does not belong here: what a file's fields mean.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

# libyaml's parser is ten times faster, and not in every build of PyYAML.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# YAML 1.1 would read "no" as false, 010 as eight, 1_000 as a thousand and 12:30 as 750, and 1e-4 as a text.
_PLAIN = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:merge": (r"<<", "<"),
}

# No file name may hold the first, and no encoding writes the others.
NOT_TEXT = re.compile("[\0\ud800-\udfff]")


class _Loader(_Safe):
    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        first: dict[Any, int] = {}
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in first:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands in line {first[key.value]} and again in line {line}"
                    )
                first[key.value] = line
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found

    def construct_yaml_str(self, node: Any) -> str:
        text = str(self.construct_scalar(node))
        odd = NOT_TEXT.search(text)
        if odd:
            raise yaml.constructor.ConstructorError(
                None, None, f"line {node.start_mark.line + 1} holds {odd[0]!r}, which no text may hold"
            )
        return text

    def construct_yaml_float(self, node: Any) -> float:
        return float(self.construct_scalar(node).replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)
for _tag, (_pattern, _starts) in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list(_starts))


def load_yaml(text: str) -> Any:
    """What a YAML text says; raises yaml.YAMLError, also where a key is given twice.

    Numbers are decimal, with or without an exponent (1e-4), and only true and false are truth values; what else YAML
    1.1 would turn into one (010, 1_000, 12:30, yes) stays the text it is.
    """
    return yaml.load(text, _Loader)
