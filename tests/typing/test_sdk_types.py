"""The types that users of the SDK get, as mypy sees them."""

from __future__ import annotations

from pathlib import Path

from mypy import api

from support.source_tree import ROOT


def test_usage_has_the_types_it_says() -> None:
    """Results keep the function's type, wrong arguments are errors, and so is an ignore that finds nothing."""
    flags = ["--strict", "--warn-unused-ignores", "--config-file", str(ROOT / "pyproject.toml")]
    usage = Path(__file__).with_name("sdk_usage.py")
    output, problems, code = api.run([*flags, "--cache-dir", str(ROOT / ".mypy_cache"), str(usage)])
    assert (code, problems) == (0, ""), output
