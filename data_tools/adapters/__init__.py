"""One file a data set: from its folder as published to records of an index; nothing is copied.

To add one: write NAME.py with `index(source) -> Iterator[SequenceRecord]` (tum.py is an example with options, towns.py
without), list it in data_tools/registry.py, describe it in docs/data/NAME.md, and write its layout in miniature as an
independent writer in tests/data_tools/layouts/NAME.py.
"""
