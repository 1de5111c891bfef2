"""Data frames in, values or a difference out, and a page of them: no params, no folder, no store."""
