"""`pabtune report`: one page of what the other verbs left in a folder."""

from pathlib import Path
from typing import Any

import click

from pabtune.cli import options
from pabtune.cli.output import emit, say
from pabtune.records.errors import FileError
from pabtune.records.files import check_writable, write_atomically


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@options.out_option("The page (.html); default: report.html in FOLDER.", required=False)
@options.json_option
def command(folder: Path, out: Path | None, as_json: bool) -> None:
    """Write one page of HTML from what profile, search, evaluate and compare left in FOLDER.

    Files are known by what they say they are, not by their names; those of other kinds are left out. The page holds its
    pictures and videos, and works offline.
    """
    document = write_page(folder, out or folder / "report.html")
    say(f"report -> {document['report']}")
    if as_json:
        emit(document)


def write_page(folder: Path, out: Path) -> dict[str, Any]:
    """Writes the page of a folder and returns the document that `--json` prints.

    Raises:
        FileError: the folder holds nothing of pabtune, a file in it is broken, or the page has another ending or cannot be
            written.
    """
    from pabtune.report.page.folder import read_folder
    from pabtune.report.page.page import page_of
    from pabtune.report.page.rendering import as_html

    found = read_folder(folder, out)
    check_writable(out)
    if out.suffix != ".html":
        raise FileError(f"--out {out}: the name of the page must end in .html")
    page = page_of(found)
    content = as_html(page).encode()
    write_atomically(out, lambda partial: partial.write_bytes(content))
    return {
        "report": str(out),
        "bytes": len(content),
        "profiles": len(found.profiles),
        "policies": len(found.policies),
        "searches": len(found.searches),
        "evaluations": len(found.evaluations),
        "comparisons": len(found.comparisons),
        "videos": 2 * len(page.clips.pairs),
        "others": found.others,
    }
