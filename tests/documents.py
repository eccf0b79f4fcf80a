"""The fenced blocks of a document, how they are run, and the cells of its tables.

How a block is treated depends on its language and on the HTML comments above it:

- ``sh``: a new ``bash -euo pipefail`` in the folder of the run; files stay for later
  blocks, variables do not.
- ``python``: all blocks of a document share their names, like a notebook.
- ``yaml``: is parsed; with ``tts`` or ``tts_conf`` in it, the model is built.
- ``text`` and other data are shown only.
- ``<!-- slow -->``: the slow tests run it. ``<!-- not run: REASON -->``: nothing does.
- ``<!-- before``, lines of code, ``-->``: code that runs first and is not shown.

Run as a script, this file runs the blocks that it reads from its input as JSON.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

RUN = ("sh", "python", "yaml")
SHOWN = ("text", "bibtex", "csv", "html", "json")
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<language>[^`]*)$")
COMMENT = re.compile(r"<!--(?P<text>.*?)-->", re.DOTALL)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        document: Where it stands, relative to the checkout.
        line: Of its first line of code.
        language: Of its fence.
        code: What stands in it.
        before: Code that runs first and is not shown.
        slow: It takes minutes.
        reason: Why it is not run; empty if it is.
    """

    document: str
    line: int
    language: str
    code: str
    before: str = ""
    slow: bool = False
    reason: str = ""

    @property
    def place(self) -> str:
        """Name the document and the line."""
        return f"{self.document}:{self.line}"

    @property
    def is_run(self) -> bool:
        """Whether anything runs it."""
        return self.language in RUN and not self.reason


def read_blocks(root: Path, document: str) -> list[Block]:
    """Read the blocks of a document.

    Args:
        root: The checkout.
        document: Path of the document in it.

    Raises:
        ValueError: A fence without an end, or a comment that is no mark of a block.
    """
    lines = (root / document).read_text(encoding="utf-8").splitlines()
    blocks, number, text = [], 0, ""
    while number < len(lines):
        fence = FENCE.match(lines[number])
        number += 1
        if fence is None:
            text += lines[number - 1] + "\n"
            continue
        start, end = number, f"{fence['indent']}{fence['fence']}"
        while number < len(lines) and lines[number].rstrip() != end:
            number += 1
        if number == len(lines):
            raise ValueError(f"{document}:{start}: this fence has no end")
        code = [line.removeprefix(fence["indent"]) for line in lines[start:number]]
        block = Block(document, start + 1, fence["language"].strip(), "\n".join(code))
        blocks.append(block._replace(**_marks(block.place, text)))
        number, text = number + 1, ""
    return blocks


def _marks(place: str, text: str) -> dict:
    """Read the comments that a text ends in."""
    marks: dict[str, str | bool] = {}
    while text.rstrip().endswith("-->"):
        *_, comment = COMMENT.finditer(text)
        mark = comment["text"].strip()
        name, _, rest = mark.partition("\n" if mark.startswith("before") else ":")
        if name == "slow" and not rest:
            marks["slow"] = True
        elif name == "not run" and rest.strip():
            marks["reason"] = rest.strip()
        elif name.strip() == "before" and rest.strip():
            marks["before"] = rest
        else:
            raise ValueError(f"{place}: '<!-- {mark} -->' is no mark of a block")
        text = text[: comment.start()]
    return marks


def visible_text(root: Path, document: str) -> str:
    """Return a document without its blocks and comments."""
    text = (root / document).read_text(encoding="utf-8")
    text = re.sub(r"^( *)(```+).*?^\1\2 *$", "", text, flags=re.DOTALL | re.MULTILINE)
    return COMMENT.sub("", text)


def cells_of(text: str) -> list[list[str]]:
    """Return the cells of all lines of Markdown tables."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def run_blocks(blocks: list[Block]) -> None:
    """Run blocks of sh and Python one after the other in the current folder."""
    names = {"__name__": "__main__"}
    for block in blocks:
        print(f"---- {block.place}", flush=True)
        if block.language == "python":
            # The numbers of lines in a traceback are those of the document.
            for code, above in ((block.before, 0), (block.code, block.line - 1)):
                exec(compile("\n" * above + code, block.document, "exec"), names)
            continue
        script = f"{block.before}\n{block.code}\n"
        # -c rather than standard input, which a command might read.
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], stdin=subprocess.DEVNULL
        )
        if ended.returncode != 0:
            sys.exit(f"{block.place} ended with exit code {ended.returncode}")


if __name__ == "__main__":
    run_blocks([Block(*block) for block in json.load(sys.stdin)])
