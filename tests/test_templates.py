"""HTML templates: values are escaped, missing ones are errors."""

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from webui.templates import render

EVIL = "<b title='x\"'>"


def test_values_are_escaped_once_and_markup_is_kept():
    note = render("messages", "note", EVIL)
    assert note == '<p class="note">&lt;b title=&#39;x&#34;&#39;&gt;</p>'
    table = render("tables", "table", ["A"], [[note], [EVIL]])
    assert table.count(note) == 1 and table.count("&lt;b title") == 2 and "<b" not in table


def test_a_missing_value_is_an_error():
    with pytest.raises(UndefinedError):
        render("messages", "note")


def test_nothing_to_say_is_an_empty_string():
    assert render("messages", "unmatched", [], []) == Markup("")
