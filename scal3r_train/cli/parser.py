"""How commands are declared: one-line complaints, a help that ends in an example, `key=value` changes."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from scal3r_train.notes import printable

Handler = Callable[[argparse.Namespace], int | None]
if TYPE_CHECKING:  # what `add_subparsers` returns has no public name and is generic for the type checker only
    Commands: TypeAlias = argparse._SubParsersAction["OneLineErrorParser"]


class OneLineErrorParser(argparse.ArgumentParser):
    """A parser whose complaints are one line on stderr and exit code 2, like every other user's mistake."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint and leave."""
        self.exit(2, f"{printable(f'scal3r: error: {message}; see `{self.prog} --help`')}\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse with this parser's flags first.

        argparse gives a positional of any number nothing, and refuses its values, when a flag stands before them.
        """
        given = list(sys.argv[1:] if args is None else args)
        flags = {name for action in self._actions if action.const is True for name in action.option_strings}
        ordered = [*(word for word in given if word in flags), *(word for word in given if word not in flags)]
        return super().parse_known_args(ordered, namespace)


def add_command(
    commands: "Commands", name: str, handler: Handler, summary: str, example: str
) -> argparse.ArgumentParser:
    """Add the command `name`, run by `handler`, with a help that ends in an example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=handler)
    return parser


def add_overrides(parser: argparse.ArgumentParser, text: str = "changes to the recipe, dotted paths") -> None:
    """Accept any number of `key.path=value` after the other arguments; `text` says what they change."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=text)
