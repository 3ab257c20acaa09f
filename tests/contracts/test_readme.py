"""The README's tree names every source file."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tree_names_every_source_file():
    readme = (ROOT / "README.md").read_text()
    package = ROOT / "src" / "wan_alpha"
    named_by_folder = {"recipes"}
    files = [p for p in package.rglob("*.py") if not p.name.startswith("__") and p.parent.name not in named_by_folder]
    missing = [str(p.relative_to(package)) for p in files if p.name not in readme]
    assert not missing


def test_relative_links_lead_somewhere():

    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
