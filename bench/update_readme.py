"""Writes the measured table into README.md between two marker comments: `python -m bench.update_readme`."""

import argparse
import shutil
from pathlib import Path

from .record import Record
from .report import markdown

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def replace_between_markers(text: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """`text` with everything between the two markers replaced by `table`."""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected one {begin} and, after it, one {end}")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def update(readme: Path, record: Record) -> None:
    text = readme.read_text(encoding="utf-8")
    readme.write_text(replace_between_markers(text, markdown(record)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.update_readme", description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS / "latest.json", help="the record to write from")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args()
    record = Record.load(options.json)
    update(options.readme, record)
    if options.readme == ROOT / "README.md":  # the record and picture behind the table are kept beside it
        for kept in (options.json, options.json.with_suffix(".png")):
            if kept.exists() and kept.stem != "README":
                shutil.copyfile(kept, RESULTS / f"README{kept.suffix}")


if __name__ == "__main__":
    main()
