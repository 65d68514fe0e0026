"""What a reader of a data set's own files says when they hold something else than the set writes.

Tables and JSON of strangers may hold any type at any place. A reader takes what it needs, and whatever goes wrong with
that names the file: one rule instead of a check at each place.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from scal3r_train.config import UserError

# What wrong types and numbers end in. No AssertionError: that is a mistake of ours.
WRONG_CONTENT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
LONGEST_REASON = 160
Reader = TypeVar("Reader", bound=Callable[..., Any])


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Turn what wrong content ends in into a UserError that names a file or folder."""
    try:
        yield
    except UserError:
        raise
    except WRONG_CONTENT as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:LONGEST_REASON]
        raise UserError(f"{path} is not as the data set writes it ({reason}); download it again") from None


def names_file(argument: str) -> Callable[[Reader], Reader]:
    """Decorate a reader, a generator too, whose UserErrors about wrong content name the file in an argument."""

    def decorated(reader: Reader) -> Reader:
        signature = inspect.signature(reader)

        @functools.wraps(reader)
        def read(*args: Any, **kwargs: Any) -> Any:
            with reading(signature.bind(*args, **kwargs).arguments[argument]):
                return reader(*args, **kwargs)

        @functools.wraps(reader)
        def read_on(*args: Any, **kwargs: Any) -> Any:
            found = reader(*args, **kwargs)
            path = signature.bind(*args, **kwargs).arguments[argument]
            while True:
                with reading(path):
                    try:
                        item = next(found)
                    except StopIteration:
                        return
                yield item  # outside: what the caller does with it is not about this file

        return read_on if inspect.isgeneratorfunction(reader) else read  # type: ignore[return-value]

    return decorated
