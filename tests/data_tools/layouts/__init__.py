"""Writers of data set layouts, one module per adapter and named like it, written from the sets' documentation.

Each has `write(folder, scene)`, which writes a `Miniature` as that set would publish it: its files, units, axes and
quirks. Optional: `scene()` makes the miniature that suits the set (a lens, a sky, ...; default `make_miniature()`),
`SCALE` is the set's length unit per metre of the miniature (default 1), `OPTIONS` are options for the adapter.
A writer never imports the adapter, nor anything of the library.
"""
