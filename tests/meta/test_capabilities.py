"""The capability table in docs/meta.md is what the backends do."""

from pathlib import Path

import pytest
from capabilities import table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "meta.md"


@pytest.mark.filterwarnings("ignore")
def test_the_table_of_the_page_is_true():
    assert table() in PAGE.read_text(encoding="utf-8")
