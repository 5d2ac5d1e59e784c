"""Writes src/formats/entities.c: HTML's named character references, and those that ftfy also knows in capitals.

Needs ftfy: python tests/reference/make_entities.py
"""
import html.entities
import pathlib

from ftfy.chardata import HTML_ENTITIES

OUT = pathlib.Path(__file__).resolve().parents[2] / "src" / "formats" / "entities.c"


def literal(text):
    """C text of ASCII alone; three-digit octal escapes cannot swallow what follows."""
    return "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\' else "\\%03o" % b for b in text.encode())


def table(declaration, pairs):
    lines, line = [], "   "
    for name, value in sorted(pairs, key=lambda pair: pair[0].encode()):
        item = ' {"%s", "%s"},' % (name, literal(value))
        if len(line) + len(item) > 124:
            lines.append(line)
            line = "   "
        line += item
    return "%s = {\n%s\n};\n" % (declaration, "\n".join(lines + [line]))


names = html.entities.html5
capitals = {entity[1:]: value for entity, value in HTML_ENTITIES.items() if entity[1:] not in names}
different = {name: value for name, value in capitals.items() if names[name.lower()] != value}

OUT.write_text("""/* HTML 5's named character references. Made by tests/reference/make_entities.py. */
#include "formats/text_parts.h"

/* clang-format off */
%s
const size_t zoe_entity_count = sizeof zoe_entities / sizeof *zoe_entities;

%s
const size_t zoe_entity_capital_count = sizeof zoe_entity_capitals / sizeof *zoe_entity_capitals;
/* clang-format on */
""" % (table("const zoe_entity zoe_entities[]", names.items()),
       table("const zoe_entity zoe_entity_capitals[]", different.items())))
