"""YAML as people write it, in which every key stands once: what is written below would replace it without a word.

Keeps: keys that are laid over those of a merge (``<<``) are no second ones (``tests/test_keys.py``).
"""

from typing import Any

import yaml

from mobilevd.errors import RecipeError

MERGE = "tag:yaml.org,2002:merge"


def load(text: str | bytes, where: str) -> Any:
    """The values of a YAML text. Errors: RecipeError for a key that stands twice, with its lines; yaml.YAMLError."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except _TwiceError as error:
        raise RecipeError("A key is written twice", got=str(error), allowed="each key once", where=where) from None
    finally:
        loader.dispose()


class _TwiceError(Exception):
    pass


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """As the library composes it. Errors: _TwiceError."""
        node, lines = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise _TwiceError(f"{key.value}, in line {lines[name]} and again in line {line}")
            if key.tag != MERGE:
                lines[name] = line
        return node
