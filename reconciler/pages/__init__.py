"""The pages people look at, made from values: `serve` shows them as they are now, `report` writes them down.

Links are relative and the same in both, so a page works at an address, below a sub-path and from a file.
"""
